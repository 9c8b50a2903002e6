"""Class files are checked, and stored values map to the same indices as in a plain loop."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.data.classes import INVALID, Classes, format_label_value, load_classes, with_background
from pipeline.data.images import default_palette, pack_rgb
from pipeline.errors import UserError

Load = Callable[[str | bytes], Classes]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that writes a class file and reads it."""

    def load_text(text: str | bytes) -> Classes:
        path = tmp_path / "classes.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_classes(str(path))

    return load_text


def by_loop(classes: Classes, raw: np.ndarray) -> list[int]:
    """Map stored values to indices one by one, using only the fields of the class file."""
    result = []
    for value in raw.ravel().tolist():
        colour = ((value >> 16) & 255, (value >> 8) & 255, value & 255)
        if value >> 24 == 1:
            if colour == classes.ignore_colour:
                result.append(classes.ignore_index)
            else:
                colours = [tuple(c) for c in classes.palette.tolist()]
                result.append(colours.index(colour) if colour in colours else INVALID)
        elif classes.values is not None:
            name = classes.values.get(value)
            if name is None:
                result.append(INVALID)
            else:
                result.append(classes.names.index(name) if name in classes.names else classes.ignore_index)
        elif 0 <= value < len(classes.names) or value == classes.ignore_index:
            result.append(value)
        else:
            result.append(INVALID)
    return result


# --- class files


def test_all_fields_of_a_class_file_are_read(load: Load) -> None:
    classes = load(
        "names: [background, sea lion]\ncolours: [[0, 0, 0], [1, 2, 3]]\nignore_index: 7\n"
        "ignore_colour: [224, 224, 192]\nvalues: {7: background, 8: sea lion, 0: ignore}\n"
    )
    assert classes.names == ("background", "sea lion")
    assert classes.palette.tolist() == [[0, 0, 0], [1, 2, 3]]
    assert classes.ignore_index == 7
    assert classes.ignore_colour == (224, 224, 192)
    assert classes.values == {7: "background", 8: "sea lion", 0: "ignore"}
    assert len(classes) == 2


def test_a_bare_list_of_names_is_a_class_file(load: Load) -> None:
    classes = load("- road\n- sky\n")
    assert classes.names == ("road", "sky")
    assert classes.ignore_index == 255
    np.testing.assert_array_equal(classes.palette, default_palette(2))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("names: [a, b, a]", "same column name 'a'"),
        ("names: [traffic light, b, Traffic-Light]", "same column name 'traffic_light'"),
        ("names: [a, b]\ncolours: [[0, 0, 0]]", "2 names but 1 colours"),
        ("names: [a, b]\ncolours: [[1, 2, 3], [1, 2, 3]]", "same colour"),
        ("names: [a, b]\ncolours: [[1, 2, 3], [4, 5, 6]]\nignore_colour: [4, 5, 6]", "same colour"),
        ("names: [a]\nignore_colour: [230, 57, 57]", "same colour"),  # the first colour of the generated palette
        ("names: [a, b]\ncolours: [[1, 2, 256], [4, 5, 6]]", "colours.0.2"),
        ("names: [a, b]\ncolours: [[1, 2], [4, 5, 6]]", "colours.0.2"),
        ("names: [a, b]\nignore_index: 1", "ignore_index 1 is the class 'b'"),
        ("names: [a, b]\nvalues: {0: a, 1: c, 2: ignored}", "values: c, ignored: neither a class name nor 'ignore'"),
        (
            "names: [a, b]\nvalues: {zero: a}",
            "values: 'zero' is neither a value, nor a range such as 1-255, nor 'others'",
        ),
        ("names: []", "names"),
        ("names: abc", "names"),
        ("names: [a, 1]", "names.1"),
        ("names: [a]\ncolors: [[1, 2, 3]]", "colors"),
        ("colours: [[1, 2, 3]]", "names"),
        ("names: [a, b", "no valid YAML"),
        ("a\x00b", "no valid YAML"),
        ("just words", "found str"),
        ("", "expected 'names: [...]'"),
        ("0: a\n1: b", "names"),
        (b"\xff\xfe\x00names", "cannot read the class file"),
    ],
)
def test_an_inconsistent_class_file_is_refused_in_one_line(
    load: Load, tmp_path: Path, text: str | bytes, problem: str
) -> None:
    with pytest.raises(UserError) as caught:
        load(text)
    message = str(caught.value)
    assert problem in message
    assert str(tmp_path / "classes.yaml") in message
    assert "\n" not in message


def test_a_missing_class_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the class file .*nowhere.yaml: it does not exist"):
        load_classes(str(tmp_path / "nowhere.yaml"))


def test_at_most_a_thousand_classes_are_allowed(load: Load) -> None:
    names = [f"class {i}" for i in range(1001)]
    assert len(load(f"names: {names[:1000]}\nignore_index: 65535")) == 1000
    with pytest.raises(UserError, match=r"names: .*1000 items"):
        load(f"names: {names}\nignore_index: 65535")


def test_the_ignore_index_may_follow_the_last_class() -> None:
    classes = Classes(names=("a", "b"), ignore_index=2)
    assert classes.index(np.array([0, 1, 2, 3], np.int32)).tolist() == [0, 1, 2, INVALID]


def test_slugs_are_column_names() -> None:
    assert Classes(names=("Sea Lion", "T-shirt/top", " Ñandú ")).slugs == ["sea_lion", "t_shirt_top", "ñandú"]


def test_classes_are_compared_by_their_fields_even_after_use() -> None:
    first, second, other = Classes(names=("a", "b")), Classes(names=("a", "b")), Classes(names=("a", "c"))
    for classes in (first, second, other):
        classes.index(np.zeros((1, 1), np.int32))
    assert first == second
    assert first != other


# --- stored values to indices


def packed(*colours: list[int]) -> np.ndarray:
    return pack_rgb(np.array(colours))


INDEXED = Classes(names=("a", "b", "c"))
NEGATIVE_IGNORE = Classes(names=("a", "b", "c"), ignore_index=-1)
HIGH_IGNORE = Classes(names=("a", "b", "c"), ignore_index=65535)
COLOURED = Classes(
    names=("a", "b", "c"), colours=((0, 0, 0), (128, 0, 0), (255, 255, 255)), ignore_colour=(224, 224, 192)
)
MAPPED = Classes(names=("a", "b", "c"), values={0: "ignore", 7: "a", 26: "c", 255: "b", 65535: "a", 70_000: "b"})
BLACK_IS_IGNORED = Classes(names=("a", "b"), ignore_colour=(0, 0, 0))
ALL = [INDEXED, NEGATIVE_IGNORE, HIGH_IGNORE, COLOURED, MAPPED, BLACK_IS_IGNORED]

RAW = {
    "uint8": np.array([[0, 1, 2, 3, 7], [26, 128, 254, 255, 0]], np.int32),
    "uint16": np.array([[0, 1, 2, 255], [256, 65534, 65535, 26]], np.int32),
    "colours": packed(
        [0, 0, 0], [128, 0, 0], [255, 255, 255], [224, 224, 192], [0, 0, 1], [0, 0, 2], [255, 0, 0], [230, 57, 57]
    ),
    "65536": np.array([0, 65535, 65536], np.int32),
    "wide": np.array([0, 7, 65535, 65536, 70_000, 2**24 - 1], np.int32),
    "negative": np.array([0, 1, -1, -2, -65536, -70_000, -(2**31)], np.int32),
    "negative and wide": np.array([0, -1, -70_000, 70_000, 65535], np.int32),
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
@pytest.mark.parametrize(
    "classes", ALL, ids=["indexed", "ignore -1", "ignore 65535", "coloured", "mapped", "black ignored"]
)
def test_index_agrees_with_a_plain_loop(classes: Classes, raw: np.ndarray) -> None:
    found = classes.index(raw)
    assert found.dtype == np.int32
    assert found.shape == raw.shape
    assert found.ravel().tolist() == by_loop(classes, raw)


@pytest.mark.parametrize("classes", [INDEXED, COLOURED, MAPPED], ids=["indexed", "coloured", "mapped"])
def test_index_of_random_maps_agrees_with_a_plain_loop(classes: Classes) -> None:
    rng = np.random.default_rng(0)
    for raw in (rng.integers(0, 256, (20, 30)), pack_rgb(rng.choice([0, 128, 255], (20, 30, 3)))):
        assert classes.index(raw.astype(np.int32)).ravel().tolist() == by_loop(classes, raw)


def test_index_of_an_empty_map_is_empty() -> None:
    assert INDEXED.index(np.zeros((0, 4), np.int32)).shape == (0, 4)


def test_index_does_not_modify_its_argument() -> None:
    raw = RAW["uint8"].copy()
    MAPPED.index(raw)
    np.testing.assert_array_equal(raw, RAW["uint8"])


def test_indices_are_not_mistaken_for_colours() -> None:
    blue_one = Classes(names=("a", "b"), colours=((0, 0, 1), (0, 0, 0)))
    assert blue_one.index(np.array([0, 1], np.int32)).tolist() == [0, 1]
    assert blue_one.index(packed([0, 0, 0], [0, 0, 1])).tolist() == [1, 0]


@pytest.mark.parametrize("rest", ["1-255", "1 - 255", "1..255"])
def test_a_range_of_values_is_a_class(load: Load, rest: str) -> None:
    """A single value precedes the range, and a card's JSON, whose keys are texts, gives the same classes."""
    classes = load(f"names: [bg, person]\nvalues: {{0: bg, {rest}: person, 200: ignore}}\n")
    raw = np.array([[0, 1, 2, 199], [200, 201, 255, 256]], np.int32)
    assert classes.index(raw).tolist() == [[0, 1, 1, 1], [255, 1, 1, INVALID]]
    assert classes.unknown(raw) == {"256": 1}
    again = Classes.model_validate_json(classes.model_dump_json())
    assert again == classes
    assert again.index(raw).tolist() == classes.index(raw).tolist()


@pytest.mark.parametrize("word", ["others", "all others", "Others"])
@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_all_other_values_are_a_class(load: Load, word: str, raw: np.ndarray) -> None:
    classes = load(f"names: [bg, fg]\ncolours: [[0, 0, 0], [1, 1, 1]]\nvalues: {{0: bg, 7: ignore, {word}: fg}}\n")
    known = {0: 0, 7: 255, 1 << 24: 0, 0x1010101: 1}
    assert classes.index(raw).ravel().tolist() == [known.get(value, 1) for value in raw.ravel().tolist()]
    assert classes.unknown(raw) == {}


@pytest.mark.parametrize(
    ("classes", "stored", "line"),
    [
        (Classes(names=("bg", "person")), [0, 1, 2, 3], "values: {0: bg, others: person}"),
        (INDEXED, [0, 1, 2, 3, 255], "values: {0: a, 1: b, 2: c, 255: ignore, others: ignore}"),
        (MAPPED, [0, 7, 9], "values: {0: ignore, 7: a, 26: c, 255: b, 65535: a, 70000: b, others: ignore}"),
    ],
)
def test_the_message_about_unlisted_values_has_the_line_that_lists_them(
    classes: Classes, stored: list[int], line: str
) -> None:
    raw = np.array([stored], np.int32)
    message = classes.explain_unknown(raw)
    assert message.endswith(line)
    assert "\n" not in message
    described = Classes(names=classes.names, **yaml.safe_load(line))
    assert described.unknown(raw) == {}


def test_the_message_about_unlisted_colours_names_the_line_for_colours() -> None:
    message = COLOURED.explain_unknown(packed([0, 10, 255], [0, 0, 0]))
    assert message.startswith("values outside the classes: #000aff (1 pixels). Give the colour of each class")


# --- unknown values


def test_unknown_counts_values_that_the_class_file_lacks() -> None:
    raw = np.array([[0, 3, 3], [255, 2, 1000]], np.int32)
    assert INDEXED.unknown(raw) == {"3": 2, "1000": 1}
    assert MAPPED.unknown(raw) == {"2": 1, "3": 2, "1000": 1}


def test_unknown_formats_colours_in_hexadecimal() -> None:
    raw = packed([128, 0, 0], [0, 10, 255], [0, 10, 255], [0, 0, 0])
    assert COLOURED.unknown(raw) == {"#000aff": 2}


def test_unknown_formats_negative_values_as_numbers() -> None:
    assert INDEXED.unknown(np.array([0, -1, -1], np.int32)) == {"-1": 2}


@pytest.mark.parametrize("classes", ALL)
@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_unknown_counts_exactly_the_invalid_pixels_of_index(classes: Classes, raw: np.ndarray) -> None:
    assert sum(classes.unknown(raw).values()) == by_loop(classes, raw).count(INVALID)


@pytest.mark.parametrize(
    ("raw", "expected"), [(0, "0"), (65535, "65535"), (1 << 24, "#000000"), (0x1ABCDEF, "#abcdef")]
)
def test_format_label_value(raw: int, expected: str) -> None:
    assert format_label_value(raw) == expected


# --- background


def test_with_background_adds_a_black_class() -> None:
    found = with_background(Classes(names=("cat", "dog"), colours=((1, 2, 3), (4, 5, 6))))
    assert found.names == ("background", "cat", "dog")
    assert found.palette.tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert len(with_background(Classes(names=("night",), colours=((0, 0, 0),))).palette) == 2
    with pytest.raises(UserError, match="has a class 'background'"):
        with_background(Classes(names=("background", "dog")))
