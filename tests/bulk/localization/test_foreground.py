"""The masks of `--foreground` find their images by name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.run import LocalizationRun
from pipeline.bulk.localization.truth import ImageTruth
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import ClassifierInput
from pipeline.errors import UserError

CARD = Card(
    architecture="resnet18_cam",
    options={},
    classes=Classes(names=("cat", "dog")),
    classifier=ClassifierInput(size=(64, 64), multi_label=True),
)
IDS = ["a/0001.jpg", "a/0002.jpg", "a/0003.jpg"]


def masks_of(folder: Path, mask: str, **names: str) -> list[str | None]:
    """The masks that the images find, where those of the first two have such a name."""
    (folder / "truth.csv").write_text("image,label\n" + "".join(f"{name},cat\n" for name in IDS))
    for image in IDS[:2]:
        path = folder / "masks" / f"{image[:2]}{mask.format(image[2:6])}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    config = LocalizeConfig(
        model="/m",
        images="/i",
        output="/o",
        truth=str(folder / "truth.csv"),
        foreground=str(folder / "masks"),
        foreground_names=names,
    )
    (truths,) = LocalizationRun(config, CARD).truth([IDS])
    return [ImageTruth.from_json(text).foreground for text in truths]


@pytest.mark.parametrize(
    ("mask", "names"),
    [("{}", {}), ("{}_mask", {"label_suffix": "_mask"}), ("gt_{}", {"label_prefix": "gt_"})],
)
def test_masks_are_found_by_their_names(mask, names, tmp_path):
    assert masks_of(tmp_path, mask, **names) == [
        *(f"{tmp_path}/masks/a/{mask.format(number)}.png" for number in ("0001", "0002")),
        None,
    ]


@pytest.mark.parametrize(("mask", "option"), [("{}_mask", "label-suffix _mask"), ("gt_{}", "label-prefix gt_")])
def test_where_no_mask_fits_the_message_names_the_option(mask, option, tmp_path):
    with pytest.raises(UserError) as error:
        masks_of(tmp_path, mask)
    assert str(error.value) == (
        f"no mask in {tmp_path}/masks has the name of an image; the first image is 'a/0001.jpg', the first mask "
        f"'a/{mask.format('0001')}'; with --foreground-names.{option} 2 of 3 have one"
    )
