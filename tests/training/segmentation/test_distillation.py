"""Learning from a teacher: its loss by hand, its own state, and bundles that cannot teach."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline import models
from pipeline.bundle import save_bundle
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import ClassifierInput, Preprocessing
from pipeline.errors import UserError
from pipeline.predict.device import normalise
from pipeline.training.learner import Learner
from pipeline.training.segmentation.config import TrainConfig
from pipeline.training.segmentation.distillation import (
    Teacher,
    check_teacher,
    distillation_losses,
    load_teacher,
)
from pipeline.training.segmentation.task import SegmentationObjective

CLASSES = Classes(names=("sky", "road", "car"))
IGNORE = 255
CPU = torch.device("cpu")


def network(name: str = "deeplabv3_resnet18", **options: Any) -> Any:
    """A small network with random weights."""
    return models.configure(name, {"width": 0.125} | options).build(3)


def configuration(**changes: Any) -> TrainConfig:
    split = {"images": "/images", "labels": "/labels"}
    options = {"model": "deeplabv3_resnet18", "model_options": {"width": 0.125}, "train": split, "val": split}
    return TrainConfig.model_validate(options | {"classes": "/c.yaml", "output": "/out"} | changes)


def scores(seed: int, stride: int) -> Tensor:
    return torch.randn(2, 3, 32 // stride, 48 // stride, generator=torch.Generator().manual_seed(seed)).double() * 3


def labels_of_halves() -> Tensor:
    """Labels [2, 32, 48] of which the right half is ignored."""
    labels = torch.randint(0, 3, (2, 32, 48), generator=torch.Generator().manual_seed(2))
    labels[..., 24:] = IGNORE
    return labels


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_losses_are_the_divergences_of_the_pixels(temperature):
    student, teacher, labels = scores(0, 8), scores(1, 8), labels_of_halves()
    losses = distillation_losses(student, teacher, labels, ignore_index=IGNORE, strides=(8, 8), temperature=temperature)
    p, q = (
        (F.interpolate(scores, size=(32, 48), mode="bilinear", align_corners=False) / temperature).softmax(1)
        for scores in (teacher, student)
    )
    expected = temperature**2 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(losses[..., :24], expected[..., :24])
    assert losses[..., 24:].count_nonzero() == 0


def test_equal_scores_cost_nothing_whatever_the_strides():
    """Constant maps are equal at any resolution."""
    constant = scores(0, 8)[:, :, :1, :1]
    losses = distillation_losses(
        constant.expand(2, 3, 4, 6),
        constant.expand(2, 3, 32, 48),
        labels_of_halves(),
        ignore_index=IGNORE,
        strides=(8, 1),
        temperature=2.0,
    )
    assert losses.abs().max() < 1e-12


def test_a_teacher_sees_pixels_as_it_was_trained_on():
    ours, theirs = Preprocessing(), Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    trained = network().eval()
    pixels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    teacher = Teacher(trained, taught=ours, own=theirs)
    torch.testing.assert_close(
        teacher(normalise(pixels, ours)), trained(normalise(pixels, theirs)).logits, atol=1e-4, rtol=1e-4
    )


def test_a_step_leaves_the_teacher_as_it_is_and_moves_the_student_towards_it():
    """At weight 1 labels do not count, so the student's scores come closer to the teacher's whatever the labels say."""
    torch.manual_seed(0)
    teacher = Teacher(network(), taught=Preprocessing(), own=Preprocessing())
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    config = configuration(loss={"teacher_weight": 1.0}, optimiser={"lr": 0.05})
    student = network()
    objective = SegmentationObjective(config, ignore_index=IGNORE, stride=student.output_stride, teacher=teacher)
    learner = Learner(student, config=config, objective=objective, num_classes=3, steps=30, device=CPU)
    pixels = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    labels = torch.zeros(4, 64, 64, dtype=torch.int64)
    losses = [float(learner.step(pixels, labels, step=step)) for step in range(30)]
    assert losses[-1] < losses[0] / 2
    assert not teacher.network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not any("teacher" in name for name in learner.state_dict()["network"])


def test_the_share_of_the_teacher_is_its_weight():
    torch.manual_seed(0)
    student = network()
    teacher = Teacher(network(), taught=Preprocessing(), own=Preprocessing())
    weights = torch.tensor([1.0, 2.0, 0.5])
    images, labels = torch.randn(2, 3, 32, 48), labels_of_halves()

    def loss(weight: float) -> float:
        config = configuration(loss={"teacher_weight": weight})
        objective = SegmentationObjective(
            config, ignore_index=IGNORE, stride=student.output_stride, class_weights=weights, teacher=teacher
        )
        output = objective.module(student.eval())(images)
        return objective(output, labels, totals=objective.totals(labels), progress=0.0).item()

    assert loss(0.25) == pytest.approx(0.75 * loss(0.0) + 0.25 * loss(1.0), rel=1e-5)
    assert loss(0.0) != pytest.approx(loss(1.0), rel=0.01)


def test_a_bundle_teaches_what_it_predicts(tmp_path):
    trained = network("unet")
    card = Card(architecture="unet", options={"width": 0.125}, classes=CLASSES)
    save_bundle(str(tmp_path / "unet"), trained, card)
    check_teacher(str(tmp_path / "unet"), CLASSES)
    teacher = load_teacher(str(tmp_path / "unet"), taught=Preprocessing(), device=CPU)
    images = torch.randn(1, 3, 40, 56)
    torch.testing.assert_close(teacher(images), trained.eval()(images).logits)


def test_bundles_that_cannot_teach_are_refused(tmp_path):
    save_bundle(
        str(tmp_path / "segmenter"),
        network(),
        Card(architecture="deeplabv3_resnet18", options={"width": 0.125}, classes=CLASSES),
    )
    with pytest.raises(UserError, match=r"its classes are sky, road, car; those of --classes are road, sky, car"):
        check_teacher(str(tmp_path / "segmenter"), Classes(names=("road", "sky", "car")))
    save_bundle(
        str(tmp_path / "classifier"),
        models.configure("alexnet_cam", {"width": 0.125}).build(3),
        Card(
            architecture="alexnet_cam",
            options={"width": 0.125},
            classes=CLASSES,
            classifier=ClassifierInput(size=(64, 64), multi_label=False),
        ),
    )
    with pytest.raises(UserError, match="alexnet_cam learns classification; give the bundle of a segmentation network"):
        check_teacher(str(tmp_path / "classifier"), CLASSES)
