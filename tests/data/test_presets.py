"""Small folders drawn in the layout of each public data set are read with their classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline.bulk.segmentation.config import EvaluateConfig, SegmentConfig
from pipeline.commands import load
from pipeline.data import datasets, presets
from pipeline.data.classes import load_classes
from pipeline.errors import UserError
from pipeline.training.segmentation.config import InspectConfig, TrainConfig

COUNTS = {"voc": 21, "cityscapes": 19, "ade20k": 150, "camvid": 11, "coco-stuff": 171}
# Published values of a few classes, and values that are ignored.
VALUES = {
    "voc": ({0: "background", 15: "person", 20: "tvmonitor"}, [255]),
    "cityscapes": ({7: "road", 24: "person", 33: "bicycle"}, [0, 1, 4, 9, 16, 29, 30]),
    "ade20k": ({1: "wall", 13: "person", 21: "car", 150: "flag"}, [0]),
    "camvid": ({0: "Sky", 8: "Car", 10: "Bicyclist"}, [11]),
    "coco-stuff": ({0: "person", 12: "stop sign", 89: "toothbrush", 91: "banner", 181: "wood"}, [255]),
}
PLACES = {  # image, label map and list of the first and the second split
    "voc": ("JPEGImages/2007_{i}.jpg", "SegmentationClass/2007_{i}.png", "ImageSets/Segmentation/{split}.txt"),
    "cityscapes": (
        "leftImg8bit/{split}/bonn/bonn_{i}_leftImg8bit.png",
        "gtFine/{split}/bonn/bonn_{i}_gtFine_labelIds.png",
        None,
    ),
    "ade20k": ("images/{long}/ADE_{i}.jpg", "annotations/{long}/ADE_{i}.png", None),
    "camvid": ("{split}/seq_{i}.png", "{split}annot/seq_{i}.png", None),
    "coco-stuff": ("images/{split}2017/{i}.jpg", "annotations/{split}2017/{i}.png", None),
}


def draw(name: str, root: Path) -> None:
    """Draw two splits of two images each, whose label maps have the values of `VALUES`."""
    image, label, listed = PLACES[name]
    known, ignored = VALUES[name]
    values = np.array([[*known, *ignored]] * 4, np.uint8)
    for first, (split, long) in enumerate((("train", "training"), ("val", "validation"))):
        keys = []
        for i in (2 * first, 2 * first + 1):
            names = {"split": split, "long": long, "i": i}
            for place, pixels in ((image, np.zeros((*values.shape, 3), np.uint8)), (label, values)):
                file = root / place.format(**names)
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
            keys.append(Path(image.format(**names)).stem)
            if name == "cityscapes":  # its other files for an image
                Image.fromarray(values).save(root / label.format(**names).replace("labelIds", "instanceIds"))
        if listed:
            file = root / listed.format(split=split)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(keys) + "\n")


def train_config(name: str, root: Path, **options) -> TrainConfig:
    return TrainConfig(model="fcn8s", output=str(root / "model"), dataset=name, root=str(root), **options)


@pytest.mark.parametrize("name", PLACES)
def test_a_split_has_its_images_and_its_classes(name, tmp_path):
    draw(name, tmp_path)
    config = train_config(name, tmp_path)
    classes = load_classes(config.classes)
    assert len(classes) == COUNTS[name]
    known, ignored = VALUES[name]
    found = []
    for split in (config.train, config.val):
        keys = datasets.read_list(split.list) if split.list else None
        pairing = datasets.pair(split.images, split.labels, keys=keys, names=split)
        assert (len(pairing.samples), pairing.without_label) == (2, [])
        found += [sample.image for sample in pairing.samples]
        _, labels = datasets.read_sample(pairing.samples[0], classes)
        assert [classes.names[k] for k in labels[0, : len(known)]] == list(known.values())
        assert (labels[0, len(known) :] == classes.ignore_index).all()
        assert labels.shape[1] == len(known) + len(ignored)
    assert len(set(found)) == 4


@pytest.mark.parametrize("name", PLACES)
def test_the_other_commands_take_the_same_places(name, tmp_path):
    train = train_config(name, tmp_path)
    named = {"dataset": name, "root": str(tmp_path), "split": "train"}
    inspect = InspectConfig(**named)
    assert (inspect.images, inspect.labels, inspect.list) == (train.train.images, train.train.labels, train.train.list)
    assert inspect.classes == train.classes
    scored = EvaluateConfig(run="/run", **named)
    assert (scored.labels, scored.label_suffix, scored.classes) == (
        train.train.labels,
        train.train.label_suffix,
        train.classes,
    )
    bulk = {"model": "/model", "output": "/out", **named}
    if train.train.list:
        with pytest.raises(ValidationError, match="has its splits in lists of names"):
            SegmentConfig(**bulk)
        bulk["images"] = "/list.txt"
    segment = SegmentConfig(**bulk)
    assert segment.labels == train.train.labels
    assert segment.images == bulk.get("images", train.train.images)
    without = SegmentConfig(
        model="/model",
        output="/out",
        images=segment.images,
        labels=segment.labels,
        label_suffix=segment.label_suffix,
        image_suffix=segment.image_suffix,
        classes=segment.classes,
    )
    assert segment.deciding_options() == without.deciding_options()  # the same run


def test_given_options_precede_the_preset(tmp_path):
    config = train_config("camvid", tmp_path, val={"images": "/other"}, classes="/my.yaml")
    assert config.val.images == "/other"
    assert config.val.labels == str(tmp_path / "valannot")
    assert config.classes == "/my.yaml"
    assert config.train.images == str(tmp_path / "train")


@pytest.mark.parametrize("missing", ["ImageSets/Segmentation/val.txt", "SegmentationClass", "JPEGImages"])
def test_a_missing_place_is_named_with_what_the_preset_expects(missing, tmp_path):
    draw("voc", tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    arguments = ["--dataset", "voc", "--root", str(tmp_path), "--split", "val"]
    with pytest.raises(UserError) as found:
        load("validate").main(arguments)
    text = str(found.value)
    assert text.startswith("--dataset voc expects the ")
    assert f"of the split 'val' in {tmp_path / missing}, which does not exist" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "voc"], "--dataset and --root belong together"),
        (["--root", "/data"], "--dataset and --root belong together"),
        (["--dataset", "voc", "--root", "/data", "--split", "test"], "voc has no split 'test'; it has train, val"),
        (["--dataset", "imagenet", "--root", "/data"], "--dataset: Input should be 'voc'"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as found:
        load("validate").main(arguments)
    assert "\n" not in str(found.value)


def test_a_preset_for_each_class_file():
    folder = Path(presets.class_file("voc")).parent
    assert {path.stem for path in folder.glob("*.yaml")} == set(presets.PRESETS)
