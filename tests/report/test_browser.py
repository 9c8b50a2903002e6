"""The pages in headless Chromium: quiet, hostile names inert, buttons that change what is shown, phones, dark mode."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.bulk.comparison.page import write_comparison
from pipeline.data.classes import Classes
from tests.support.finished import draw_images, segmented

HOSTILE = ["<img src=x onerror=hit=1>", "\"'><svg onload=hit=1>", "{{ 7*7 }}<script>hit=1<!--"]
CAR = (230, 190, 50)
CLASSES = Classes(names=("sky", "<script>hit=1</script>\"'&", "car"), colours=((100, 160, 220), (120, 120, 120), CAR))

STILL = {"name": "prefers-reduced-motion", "value": "reduce"}  # screenshots do not wait for animations


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a run with label maps and CRF, and that of its comparison with another one, with hostile names."""
    folder = tmp_path_factory.mktemp("pages")
    draw_images(folder, [*HOSTILE, *(f"scene{i:02}" for i in range(40))])
    (folder / "images" / "<b>broken<b>.png").write_bytes(b"no picture")
    earlier = segmented(folder, "<i>earlier", classes=CLASSES, crf=True)
    later = segmented(folder, "later", classes=CLASSES, error=0.4)
    write_comparison(earlier, later, str(folder / "comparison.html"))
    return {"run": Path(earlier, "report.html"), "comparison": folder / "comparison.html"}


def visit(browser: Any, page: Path, *, width: int = 1200, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, STILL]})
    browser.get(page.as_uri())


def press(browser: Any, text: str) -> None:
    (button,) = (one for one in browser.find_elements("css selector", ".gallery button") if one.text == text)
    browser.execute_script("arguments[0].click()", button)


def pane(browser: Any) -> np.ndarray:
    """The pixels of the first picture of the gallery."""
    element = browser.find_element("css selector", ".pane")
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")).astype(int)


def highlighted(browser: Any, name: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    script = "return document.querySelector('.gallery').dataset.highlighted"
    WebDriverWait(browser, 20).until(lambda one: one.execute_script(script) == name)


def share(pixels: np.ndarray, colour: tuple[int, ...]) -> float:
    return float((np.abs(pixels - colour).max(axis=2) <= 2).mean())


@pytest.mark.parametrize("name", ["run", "comparison"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_page_is_quiet_and_hostile_names_are_text(browser, pages, name, width):
    visit(browser, pages[name], width=width)
    for button in browser.find_elements("css selector", ".gallery button"):
        browser.execute_script("arguments[0].click()", button)
    assert browser.execute_script("return document.querySelectorAll('script').length") == 1
    assert browser.execute_script("return [typeof hit, document.querySelectorAll('[onerror],[onload]').length]") == [
        "undefined",
        0,
    ]
    text = browser.find_element("css selector", "body").text
    assert CLASSES.names[1] in text
    assert "<b>broken<b>.png" in text
    assert "<i>earlier" in text
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert all(url.startswith("data:") for url in loaded)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


def test_the_hostile_images_are_shown_by_their_names(browser, pages):
    visit(browser, pages["comparison"])
    cells = {cell.text for cell in browser.find_elements("css selector", "td")}
    visit(browser, pages["run"])
    titles = {title.text for title in browser.find_elements("css selector", ".card b")}
    assert {f"{name}.png" for name in HOSTILE} <= titles | cells


def test_a_view_changes_what_is_shown(browser, pages):
    visit(browser, pages["run"])
    seen = {}
    for view in ("Overlay", "Picture", "Truth", "Prediction"):
        press(browser, view)
        seen[view] = pane(browser)
    assert all((seen[a] != seen[b]).any() for a in seen for b in seen if a != b)
    assert share(seen["Truth"], (100, 160, 220)) > 0.2  # the sky, in its colour
    assert share(seen["Picture"], (100, 160, 220)) < 0.01
    press(browser, "Side by side")
    panes = browser.find_elements("css selector", ".card:first-of-type .pane small")
    assert [one.text for one in panes[:4]] == ["Overlay", "Picture", "Truth", "Prediction"]
    press(browser, "Truth")
    assert (pane(browser) == seen["Truth"]).all()


def test_a_class_is_shown_alone(browser, pages):
    visit(browser, pages["run"])
    press(browser, "Prediction")
    before = pane(browser)
    press(browser, "car")
    highlighted(browser, "car")
    alone = pane(browser)
    assert share(alone, CAR) == pytest.approx(share(before, CAR), abs=1e-3)
    assert share(alone, CAR) > 0
    assert share(before, (120, 120, 120)) > 0.1
    assert share(alone, (120, 120, 120)) == 0
    assert "pictures show car" in browser.find_element("css selector", ".found").text
    press(browser, "sky")
    highlighted(browser, "sky")
    assert share(pane(browser), CAR) == 0
    press(browser, "sky")
    highlighted(browser, "")
    assert (pane(browser) == before).all()


def test_dark_mode_is_dark(browser, pages):
    brightness = {}
    for dark in (False, True):
        visit(browser, pages["run"], dark=dark)
        browser.execute_script("scrollTo(0, 0)")
        pixels = np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L"))
        brightness[dark] = np.median(pixels)
    assert brightness[False] > 240
    assert brightness[True] < 40
