"""Runs of every kind, which the tests query."""

import shutil
from pathlib import Path

import pytest

from tests.support.detections import CLASSES, save_fitted_detector, write_pictures
from tests.support.whole_runs import detect, in_this_process, localize, save_classifier, save_segmenter, segment


@pytest.fixture(scope="session")
def queried(scenes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `masks`, two nights of a segmentation; `boxes`, a detection; and `found`, a localization."""
    folder = tmp_path_factory.mktemp("queried")
    model = save_segmenter(folder, scenes)
    shutil.copytree(f"{scenes}/val", folder / "night")
    copied = sorted((folder / "night/images").iterdir())[0]
    shutil.copy(copied, copied.with_name(f"copy{copied.suffix}"))
    shutil.copy(next((folder / "night/labels").glob(f"{copied.stem}.*")), folder / "night/labels/copy.png")
    for broken in Path(scenes, "night/images").glob("broken*"):
        shutil.copy(broken, folder / "night/images")
    write_pictures(folder / "pictures", count=6)
    save_fitted_detector(str(folder / "detector"), folder / "pictures")
    with in_this_process():
        for name, data, crf in (("2026-11-25", f"{scenes}/train", False), ("2026-11-26", str(folder / "night"), True)):
            images, labels, output = f"{data}/images", f"{data}/labels", str(folder / "masks")
            segment(model=model, images=images, labels=labels, output=output, run_id=name, crf=crf)
        pictures, boxes = str(folder / "pictures/images"), str(folder / "pictures/boxes.csv")
        detect(model=str(folder / "detector"), images=pictures, truth=boxes, output=str(folder / "boxes"))
        localize(
            model=save_classifier(folder, CLASSES),
            images=pictures,
            truth=boxes,
            output=str(folder / "found"),
            min_probability=0.2,
            mask="threshold",
        )
    return folder
