"""The architecture of a run: what is refused before any data are read."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.training.classification.config import TrainClassifierConfig
from pipeline.training.classification.task import classification_task
from pipeline.training.detection.config import TrainDetectorConfig
from pipeline.training.detection.task import detection_task
from pipeline.training.segmentation.config import TrainConfig
from pipeline.training.segmentation.task import segmentation_task

KINDS: dict[str, tuple[Any, Any, str]] = {
    "segmentation": (TrainConfig, segmentation_task, "labels"),
    "classification": (TrainClassifierConfig, classification_task, "labels"),
    "detection": (TrainDetectorConfig, detection_task, "boxes"),
}


def refusal(folder: Path, task: str, **options: Any) -> str:
    """Return the message for a run whose data and class file do not exist."""
    config_type, read, truth = KINDS[task]
    place = str(folder / "nowhere")
    split = {"images": place, truth: place}
    config = config_type(train=split, val=split, classes=f"{place}.yaml", output=str(folder / "out"), **options)
    with pytest.raises(UserError) as caught:
        read(config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("task", "model", "known", "unknown"),
    [
        ("segmentation", "unet", "fcn32s", "yolo"),
        ("classification", "resnet18_cam", "wrn_16_4", "unet"),
        ("detection", "yolo", "ssd", "unet"),
    ],
)
def test_a_wrong_model_is_refused_before_data_with_the_models_of_the_task(
    tmp_path: Path, task: str, model: str, known: str, unknown: str
) -> None:
    message = refusal(tmp_path, task, model="zzzzz")
    assert message.startswith("--model, --model-options: unknown model 'zzzzz'; there are ")
    names = message.partition("there are ")[2].split(", ")
    assert {model, known} <= set(names)
    assert unknown not in names
    assert f"is made for {'detection' if unknown == 'yolo' else 'segmentation'}; for {task} there are " in refusal(
        tmp_path, task, model=unknown
    )


def test_a_wrong_option_of_a_model_is_refused_before_data(tmp_path: Path) -> None:
    message = refusal(tmp_path, "segmentation", model="unet", model_options={"widht": 0.5})
    assert message == "--model, --model-options: model 'unet' has no option 'widht'; did you mean width?"
    message = refusal(tmp_path, "segmentation", model="unet_vald")
    assert message == "--model, --model-options: unknown model 'unet_vald'; did you mean unet_valid?"
