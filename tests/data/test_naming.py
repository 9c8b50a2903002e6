"""Label maps of many naming styles find their images, and where none does, the message names the option that would."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.datasets import pair
from pipeline.data.naming import LabelNames, proposal
from pipeline.errors import UserError
from pipeline.training.segmentation.config import InspectConfig, Split, TrainConfig
from pipeline.training.segmentation.inspection import format_inspection, inspect
from pipeline.training.segmentation.task import segmentation_task

STYLES = {
    "penn-fudan": ("FudanPed{}", "FudanPed{}_mask"),
    "gt": ("{}", "{}_gt"),
    "camvid": ("0001TP_{}", "0001TP_{}_L"),
    "dashes": ("seq-1/img-{}", "seq-1/img-{}-seg"),
    "cityscapes": ("aachen/aachen_{}_leftImg8bit", "aachen/aachen_{}_gtFine_labelIds"),
    "images with an ending": ("{}_rgb", "{}"),
    "a dot": ("{}", "{}.mask"),
    "a beginning": ("{}", "gt_{}"),
    "a beginning in folders": ("seq-1/{}", "seq-1/mask-{}"),
    "two beginnings": ("image_{}", "mask_{}"),
    "images with a beginning": ("rgb_{}", "{}"),
}
OTHERS = ("color", "instanceIds")  # further files of Cityscapes for each image


def draw(folder: Path, key: str) -> None:
    path = folder / f"{key}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)


def options_of(advice: str, group: str = "") -> LabelNames:
    """The options that an advice names, read as a user would copy them."""
    words = advice.removeprefix("; with ").split()
    values = {words[i]: words[i + 1] for i in range(0, len(words), 2) if words[i].startswith("--")}
    names = {f"--{group}{name.replace('_', '-')}": name for name in LabelNames.model_fields}
    return LabelNames(**{names[flag]: value for flag, value in values.items()})


@pytest.mark.parametrize("style", STYLES)
def test_the_advice_pairs_all_images(style, tmp_path):
    image, label = STYLES[style]
    numbers = [f"{i:05d}" for i in range(8, 13)]
    for number in numbers:
        draw(tmp_path / "images", image.format(number))
        draw(tmp_path / "labels", label.format(number))
        if style == "cityscapes":
            for other in OTHERS:
                draw(tmp_path / "labels", label.format(number).replace("labelIds", other))
    images, labels = str(tmp_path / "images"), str(tmp_path / "labels")
    unpaired = pair(images, labels, group="train.")
    assert unpaired.samples == []
    assert unpaired.advice.endswith("5 of 5 have one")
    paired = pair(images, labels, names=options_of(unpaired.advice, "train."))
    assert [(s.image, s.label) for s in paired.samples] == [
        (f"{images}/{image.format(n)}.png", f"{labels}/{label.format(n)}.png") for n in numbers
    ]
    assert (paired.without_label, paired.without_image, paired.advice) == ([], [], "")


def test_images_and_label_maps_in_one_folder(tmp_path):
    for number in range(3):
        draw(tmp_path, f"{number}")
        draw(tmp_path, f"{number}_L")
    draw(tmp_path, "alone")
    with pytest.raises(UserError, match=r"--label-suffix or --label-prefix; with --label-suffix _L 3 of 4 have one"):
        pair(str(tmp_path), str(tmp_path))
    paired = pair(str(tmp_path), str(tmp_path), names=LabelNames(label_suffix="_L"))
    assert [s.key for s in paired.samples] == ["0", "1", "2"]
    assert paired.without_label == ["alone"]


def test_two_kinds_of_files_in_one_folder_are_told_apart_by_globs(tmp_path):
    for number in range(3):
        draw(tmp_path / "a", f"{number}")
        Image.new("RGB", (4, 4)).save(tmp_path / "a" / f"{number}.jpg")
    with pytest.raises(UserError, match=r"two files have the key 'a/0'.* name one kind by a glob: '.*/\*\*/\*\.png'"):
        pair(str(tmp_path), str(tmp_path))
    samples = pair(f"{tmp_path}/**/*.jpg", f"{tmp_path}/**/*.png").samples
    assert [Path(s.image).suffix + Path(s.label).suffix for s in samples] == [".jpg.png"] * 3
    assert [s.key for s in samples] == ["a/0", "a/1", "a/2"]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["a", "b"], ["x", "y"]),
        (["a", "b"], ["a", "b"]),
        (["1", "10", "100", "3"], ["1", "10", "100", "3"]),
        ([], ["a"]),
    ],
)
def test_nothing_is_proposed_that_pairs_no_more(images, labels):
    assert proposal(images, labels, names=LabelNames()) == ""


@pytest.mark.parametrize(
    ("label", "option"),
    [
        ("IMG {}_mask", "--label-suffix _mask"),
        ("gt_IMG {}", "--label-prefix gt_"),
        ("IMG {} seg", "--label-suffix ' seg'"),
    ],
)
def test_a_beginning_that_all_files_share_makes_no_image_its_own_label_map(label, option):
    """Cameras begin all names alike, and one folder has images and label maps; one image has no label map."""
    images, labels = [f"IMG {i}" for i in range(9)], [label.format(i) for i in range(8)]
    for files in (images + labels, labels):
        advice = proposal(images if files is labels else files, files, names=LabelNames())
        assert advice == f"; with {option} 8 of 9 have one"


def test_advice_that_is_followed_is_not_given_again():
    images, names = [f"IMG {i}" for i in range(9)], LabelNames(label_prefix="gt_")
    assert proposal(images, [*images, *(f"gt_IMG {i}" for i in range(8))], names=names) == ""


def test_names_that_begin_alike_are_not_confused():
    """Image 1 is not that of label map 10_mask."""
    numbers = [str(i) for i in range(120)]
    advice = proposal(numbers, [f"{n}_mask" for n in numbers], names=LabelNames())
    assert advice == "; with --label-suffix _mask 120 of 120 have one"


def test_label_maps_with_a_beginning_in_the_folder_of_the_images(tmp_path):
    for number in range(3):
        draw(tmp_path, f"{number}")
        draw(tmp_path, f"gt_{number}")
    with pytest.raises(UserError, match=r"or --label-prefix; with --label-prefix gt_ 3 of 3 have one"):
        pair(str(tmp_path), str(tmp_path))
    paired = pair(str(tmp_path), str(tmp_path), names=LabelNames(label_prefix="gt_"))
    assert [s.key for s in paired.samples] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("rule", "label", "image"),
    [
        ({"label_prefix": "gt_"}, "a/gt_b", "a/b"),
        ({"label_prefix": "gt_"}, "gt_a/b", None),
        ({"label_prefix": "gt_", "label_suffix": "_m"}, "gt_b_m", "b"),
        ({"label_prefix": "gt_", "label_suffix": "_m"}, "gt_b", None),
        ({"label_prefix": "mask_", "image_prefix": "image_", "image_suffix": "_x"}, "a/mask_1", "a/image_1_x"),
    ],
)
def test_the_key_of_the_image_of_a_label_map(rule, label, image):
    assert LabelNames(**rule).image_key(label) == image


@pytest.mark.parametrize(("images", "labels"), [("*.jpg", ""), ("", "*_mask.png"), ("*.jpg", "*_mask.png")])
def test_no_image_of_a_glob_is_its_own_label_map(tmp_path, images, labels):
    for i in range(3):
        draw(tmp_path, f"{i}_mask")
        draw(tmp_path, f"{i}")
        (tmp_path / f"{i}.png").rename(tmp_path / f"{i}.jpg")
    places = [f"{tmp_path}/{glob}".rstrip("/") for glob in (images, labels)]
    unpaired = pair(places[0], places[1], group="train.")
    assert unpaired.samples == []
    assert unpaired.advice == "; with --train.label-suffix _mask 3 of 3 have one"
    paired = pair(places[0], places[1], names=options_of(unpaired.advice, "train."))
    assert [sample.label for sample in paired.samples] == [f"{tmp_path}/{i}_mask.png" for i in range(3)]


@pytest.mark.parametrize(("image", "label"), [("one/{}", "one/{}_mask"), ("images/{}", "masks/{}_mask")])
def test_train_and_validate_give_the_same_advice(tmp_path, image, label):
    for i in range(3):
        draw(tmp_path, image.format(i))
        draw(tmp_path, label.format(i))
    (tmp_path / "classes.yaml").write_text("names: [a, b]")
    images, labels = (str((tmp_path / key).parent) for key in (image, label))
    split = Split(images=images, labels=labels)
    places = {"train": split, "val": split, "classes": f"{tmp_path}/classes.yaml", "output": "o"}
    with pytest.raises(UserError) as of_training:
        segmentation_task(TrainConfig(model="unet", **places))
    config = InspectConfig(images=images, labels=labels, classes=f"{tmp_path}/classes.yaml")
    try:
        found, classes = inspect(config)
        said = format_inspection(found, classes, show=0)
    except UserError as error:
        said = str(error)
    advice = "; with --label-suffix _mask 3 of 3 have one"
    assert advice in said
    assert str(of_training.value).endswith(advice.replace("--", "--train."))
