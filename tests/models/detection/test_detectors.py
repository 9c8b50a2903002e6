"""Properties of every detector: sizes, images without boxes or proposals, gradients, parameters, stored stages."""

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from pipeline.models import configure, count_parameters
from pipeline.models.detection import DETECTORS, fast_rcnn
from pipeline.models.detection.boxes import Selection, encode
from pipeline.models.detection.detector import DetectionNetwork, Target
from pipeline.models.detection.fast_rcnn import FastRCNN, FastRCNNOutput, fast_rcnn_loss
from pipeline.models.detection.inputs import scaled_boxes, with_short_side
from pipeline.models.detection.staged import StagedNetwork
from pipeline.models.detection.yolo import YOLO
from pipeline.models.pretrained import load_pretrained
from tests.support.boxes import random_boxes

CLASSES = 3
# Options that make a detector small; SSD has none.
SMALL: dict[str, dict[str, Any]] = {
    "rcnn": {"width": 0.05, "crop": 100, "regions": 8, "chunk": 3},
    "sppnet": {"width": 0.05, "scales": (160, 300), "regions": 8},
    "fast_rcnn": {"width": 0.05, "short_side": 96, "longest_side": 160, "regions": 8},
    "yolo": {"width": 0.05, "grid": 3, "batch_norm": True},
    "faster_rcnn": {"short_side": 64, "longest_side": 96},
}
NAMES = [name for name in DETECTORS if "vgg16" not in name or name == "fast_rcnn_vgg16"]
OURS = [name for name in NAMES if name not in ("faster_rcnn", "ssd")]
ALL = Selection(score=-1e9, iou=0.5, limit=1000)

# Trainable parameters; comments give figures of others.
COUNTS = {
    "rcnn_alexnet": 57_089_877,
    "sppnet_vgg16": 121_729_045,
    "fast_rcnn_vgg16": 134_674_341,
    "yolo": 271_703_550,
    "yolo_fast": 45_089_374,
    "faster_rcnn": 41_449_656,
    "ssd": 26_285_486,
}


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def small(name: str, **options: Any) -> DetectionNetwork:
    family = next((f for f in SMALL if name.startswith(f)), "")
    network = configure(name, SMALL.get(family, {}) | options).build(CLASSES)
    assert isinstance(network, DetectionNetwork)
    return network


def scene() -> tuple[list[Tensor], list[Target], list[Tensor]]:
    """Images of different sizes: with boxes, without boxes, without proposals."""
    rng = np.random.default_rng(0)
    images = [torch.randn(3, 100, 140), torch.randn(3, 90, 100), torch.randn(3, 101, 99)]
    boxes = [torch.tensor([[10.0, 10, 60, 70], [50, 20, 130, 90]]), torch.zeros(0, 4), torch.tensor([[5.0, 5, 95, 95]])]
    labels = [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.long), torch.tensor([1])]
    near = boxes[0].repeat(6, 1) + torch.from_numpy(rng.integers(-9, 9, (12, 4)))
    proposals = [near, torch.from_numpy(random_boxes(rng, 10, side=89, least=4)).float(), torch.zeros(0, 4)]
    return images, [Target(*pair) for pair in zip(boxes, labels, strict=True)], proposals


@pytest.mark.parametrize("name", NAMES)
def test_learns_and_detects_whatever_the_images_have(name: str) -> None:
    images, targets, proposals = scene()
    model = small(name)
    model.train()
    losses = model.losses(images, targets, proposals, rng=np.random.default_rng(0))
    torch.stack(list(losses.values())).sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trained) > 0.8 * len(trained)
    assert all(p.grad.isfinite().all() for p in trained if p.grad is not None)
    model.eval()
    with torch.inference_mode():
        found = model.detect(images, proposals, selection=ALL)
        again = model.detect(images, proposals, selection=ALL)
        default = model.detect(images, proposals)
    assert len(found) == len(default) == 3
    for image, output, repeated in zip(images, found, again, strict=True):
        assert output.boxes.shape == (len(output.scores), 4)
        assert ((output.labels >= 0) & (output.labels < CLASSES)).all()
        assert (output.scores.diff() <= 0).all()
        assert (output.boxes[:, :2] >= 0).all()
        assert (output.boxes[:, 2] <= image.shape[2] + 1e-3).all()
        assert (output.boxes[:, 3] <= image.shape[1] + 1e-3).all()
        for column, other in zip(output, repeated, strict=True):
            torch.testing.assert_close(column, other, rtol=0, atol=0)
    if DETECTORS[name].takes_proposals:
        assert len(found[0].boxes) > 0
        assert len(found[2].boxes) == 0


@pytest.mark.parametrize("name", OURS)
def test_detections_do_not_depend_on_the_other_images_of_a_batch_of_one_size(name: str) -> None:
    model = small(name).double().eval()
    images = [torch.randn(3, 96, 128, dtype=torch.float64) for _ in range(2)]
    proposals = [torch.from_numpy(random_boxes(np.random.default_rng(i), 8, side=96, least=8)) for i in range(2)]
    with torch.inference_mode():
        both = model.detect(images, proposals, selection=ALL)
        alone = [model.detect([i], [p], selection=ALL)[0] for i, p in zip(images, proposals, strict=True)]
    for one, other in zip(both, alone, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_boxes_and_losses_keep_the_precision_of_float32_under_autocast(name: str) -> None:
    images, targets, _ = scene()
    image = torch.randn(3, 600, 801)
    proposals = torch.tensor([[301.0, 201, 700, 555], [333, 7, 777, 99]])
    model = small(name)
    if isinstance(model, FastRCNN):
        nn.init.zeros_(model.box.weight)  # so that it keeps the proposals
    model.loosen(score=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(images[:2], targets[:2], rng=np.random.default_rng(0))
        with torch.inference_mode():
            half = model.eval().detect([image], [proposals], selection=ALL)[0]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert half.boxes.dtype == half.scores.dtype == torch.float32
    if DETECTORS[name].takes_proposals:
        assert set(half.boxes[:, 0].tolist()) == {301.0, 333.0}  # 301 is no number of bfloat16
    if name not in OURS:
        assert (half.boxes != half.boxes.bfloat16()).any()


@pytest.mark.parametrize("name", ["rcnn_alexnet", "sppnet_alexnet", "fast_rcnn_alexnet"])
def test_proposals_outside_the_image_are_dropped_and_others_clipped(name: str) -> None:
    model = small(name).eval()
    image = torch.randn(3, 90, 100)
    strange = torch.tensor(
        [[-50.0, -50, 40, 40], [200, 200, 300, 300], [60, 60, 20, 80], [10, 10, 10, 50], [0, 0, 500, 80]]
    )
    with torch.inference_mode():
        found = model.detect([image], [strange], selection=ALL)[0]
        clipped = model.detect([image], [torch.tensor([[0, 0, 40, 40], [0, 0, 100, 80]])], selection=ALL)[0]
    torch.testing.assert_close(found.boxes, clipped.boxes)
    torch.testing.assert_close(found.scores, clipped.scores)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (2500, 3)])
@pytest.mark.parametrize("name", OURS)
def test_images_of_any_size_and_shape(name: str, size: tuple[int, int]) -> None:
    model = small(name, longest_side=640) if name.startswith("sppnet") else small(name)
    if isinstance(model, YOLO):
        model.get_parameter(f"head.{len(model.head) - 1}.bias").data.fill_(0.5)  # untrained, its boxes have no area
    height, width = size
    boxes = torch.tensor([[0.0, 0, width, height]])
    with torch.inference_mode():
        found = model.eval().detect([torch.randn(3, *size)], [boxes], selection=ALL)[0]
    assert len(found.boxes) > 0
    assert found.scores.isfinite().all()
    assert (found.boxes[:, 2:] <= torch.tensor([width, height])).all()


@pytest.mark.parametrize("name", ["rcnn_resnet50", "sppnet_alexnet", "fast_rcnn_alexnet"])
def test_a_batch_without_any_region_has_a_loss_of_zero(name: str) -> None:
    model = small(name)
    nothing = [Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]
    losses = model.losses([torch.randn(3, 90, 100)], nothing, [torch.zeros(0, 4)], rng=np.random.default_rng())
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.item() == 0.0


@pytest.mark.parametrize("name", ["rcnn_alexnet", "sppnet_alexnet"])
def test_features_of_a_region_do_not_depend_on_the_other_regions(name: str) -> None:
    model = small(name).double().eval()
    assert isinstance(model, StagedNetwork)
    image = torch.randn(3, 300, 400, dtype=torch.float64)
    # SPPNet takes the second one from its smaller scale, which it computes first.
    regions = torch.tensor([[10.0, 10, 60, 90], [0, 0, 400, 300], [99, 60, 390, 300], [300, 200, 380, 290]]).double()
    with torch.inference_mode():
        together = model.features(image, regions)
        alone = [model.features(image, region[None]) for region in regions]
    for found, expected in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(expected), rtol=1e-9, atol=1e-12)
        assert len(found.unique(dim=0)) == 4


@pytest.mark.parametrize("name", OURS)
def test_the_losses_of_the_parts_of_a_batch_add_up(name: str) -> None:
    """Each image has its own randomness, and weighs as much as any other, however many regions it has."""
    images, targets, proposals = scene()
    model = small(name, **({"batch_norm": False} if name.startswith("yolo") else {})).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    # Fast R-CNN fills up small images of a batch, which changes the features near their border, so sizes are equal.
    images = [torch.randn(3, 100, 140, dtype=torch.float64) for _ in images]

    def losses(*part: int) -> dict[str, Tensor]:
        rng = [np.random.default_rng([7, i]) for i in part]
        some = [images[i] for i in part], [targets[i] for i in part], [proposals[i].double() for i in part]
        return model.losses(*some, rng=rng)

    together, first, rest = losses(0, 1, 2), losses(0), losses(1, 2)
    for term, value in together.items():
        torch.testing.assert_close((first[term] + 2 * rest[term]) / 3, value, rtol=1e-9, atol=1e-12)
    assert sum(value.item() for value in together.values()) > 0


def test_only_the_layers_after_the_pyramid_of_sppnet_learn() -> None:
    images, targets, proposals = scene()
    model = small("sppnet_alexnet")
    model.losses(images, targets, proposals, rng=np.random.default_rng(0))["classes"].backward()
    learned = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert learned == {"fc6", "fc7", "score"}


@pytest.mark.parametrize("name", ["rcnn_alexnet", "sppnet_resnet18"])
def test_svms_and_regressors_take_over_once_they_are_stored(name: str) -> None:
    images, _, proposals = scene()
    model = small(name).eval()
    assert isinstance(model, StagedNetwork)
    with torch.inference_mode():
        before = model.detect(images[:1], proposals[:1], selection=ALL)[0]
        pooled, hidden = model.features(images[0], proposals[0])
    assert ((before.scores >= 0) & (before.scores <= 1)).all()
    weights, biases = torch.randn(CLASSES, model.hidden_features), torch.randn(CLASSES)
    corrections = 0.001 * torch.randn(CLASSES, 4, model.pooled_features)
    model.set_svms(weights, biases, scale=0.5)
    model.set_regressors(corrections, torch.zeros(CLASSES, 4))
    restored = small(name).eval()
    restored.load_state_dict(model.state_dict())
    with torch.inference_mode():
        found = restored.detect(images[:1], proposals[:1], selection=ALL._replace(iou=1.0))[0]
    label = int(found.labels[0])
    scores = 0.5 * hidden @ weights[label] + biases[label]
    assert found.scores[0].item() == pytest.approx(scores.max().item(), rel=1e-4)
    best = int(scores.argmax())
    delta = encode(found.boxes[0], proposals[0][best])
    torch.testing.assert_close(delta, corrections[label] @ pooled[best], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", COUNTS)
def test_numbers_of_parameters(name: str) -> None:
    with torch.device("meta"):
        assert count_parameters(configure(name, {}).build(20)) == COUNTS[name]


def test_numbers_of_parameters_agree_with_published_ones() -> None:
    published = torchvision.models
    with torch.device("meta"):
        # A softmax over 999 classes and the background is that of a classifier of ImageNet.
        alexnet, vgg = (count_parameters(configure(f"rcnn_{n}", {}).build(999)) for n in ("alexnet", "vgg16"))
        ssd = count_parameters(configure("ssd", {}).build(90))
        faster = configure("faster_rcnn", {}).build(90)
    assert alexnet == published.AlexNet_Weights.IMAGENET1K_V1.meta["num_params"]
    assert vgg == published.VGG16_Weights.IMAGENET1K_V1.meta["num_params"]
    assert ssd == published.detection.SSD300_VGG16_Weights.COCO_V1.meta["num_params"]
    # Its published weights have fixed batch normalisation, which has no parameters.
    normalisation = sum(count_parameters(m) for m in faster.modules() if isinstance(m, nn.BatchNorm2d))
    weights = published.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    assert count_parameters(faster) - normalisation == weights.meta["num_params"]


@pytest.mark.parametrize(("name", "classifier"), [("fast_rcnn_alexnet", "alexnet"), ("fast_rcnn_vgg16", "vgg16")])
def test_torchvisions_classifiers_fill_all_layers_but_the_last(name: str, classifier: str) -> None:
    with torch.device("meta"):
        checkpoint = getattr(torchvision.models, classifier)(weights=None).state_dict()
        model = configure(name, {}).build(CLASSES)
    report = load_pretrained(model, checkpoint)
    assert {n.split(".")[0] for n in report.fresh} == {"score", "box"}
    assert set(report.unused) == {"classifier.6.weight", "classifier.6.bias"}


@pytest.mark.parametrize(
    ("name", "classifier", "fresh"),
    [("faster_rcnn", "resnet50", {"fpn", "rpn", "roi_heads"}), ("ssd", "vgg16", {"extra", "scale_weight", "head"})],
)
def test_torchvisions_detectors_start_from_its_classifiers_or_from_themselves(
    name: str, classifier: str, fresh: set[str]
) -> None:
    with torch.device("meta"):
        checkpoint = getattr(torchvision.models, classifier)(weights=None).state_dict()
        model, other = configure(name, {}).build(CLASSES), configure(name, {}).build(90)
    parts = {n.split(".")[2 if ".backbone." in n else 1] for n in load_pretrained(model, checkpoint).fresh}
    assert parts == fresh
    theirs = {name.removeprefix("network."): tensor for name, tensor in other.state_dict().items()}
    report = load_pretrained(model, theirs)
    assert len(report.loaded) > 0.8 * len(theirs)
    assert all(".head." in n or ".box_predictor." in n for n in report.fresh)


def test_the_multi_task_loss_equals_a_loop() -> None:
    output = FastRCNNOutput(
        torch.randn(6, CLASSES + 1, dtype=torch.float64), torch.randn(6, CLASSES, 4, dtype=torch.float64)
    )
    labels = torch.tensor([0, 3, 2, 3, 1, 3])
    targets = torch.randn(6, 4, dtype=torch.float64) * 0.2
    weights = torch.tensor([0.5, 0.1, 0.2, 0.1, 0.05, 0.05], dtype=torch.float64)
    classes = boxes = 0.0
    rows = zip(*output, labels.tolist(), targets.tolist(), weights.tolist(), strict=True)
    for logits, deltas, label, target, weight in rows:
        classes -= (logits[label] - logits.exp().sum().log()).item() * weight
        if label < CLASSES:
            for found, wanted, scale in zip(deltas[label].tolist(), target, (0.1, 0.1, 0.2, 0.2), strict=True):
                x = abs(found - wanted / scale)
                boxes += (0.5 * x**2 if x < 1 else x - 0.5) * weight
    found = {name: value.item() for name, value in fast_rcnn_loss(output, labels, targets, weights).items()}
    assert found == pytest.approx({"classes": classes, "boxes": boxes}, rel=1e-12)


def test_sizes_of_the_image_and_its_boxes() -> None:
    assert with_short_side((480, 640), 600, 1000) == (600, 800)
    assert with_short_side((300, 900), 600, 1000) == (333, 1000)
    assert with_short_side((1, 3000), 600, 1000) == (1, 1000)
    boxes = scaled_boxes(torch.tensor([[10.0, 20, 30, 40]]), (100, 200), (200, 100))
    assert boxes.tolist() == [[5, 40, 15, 80]]


def test_what_no_detector_has_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'detr'; there are .*, rcnn_alexnet, "):
        configure("detr", {})
    with pytest.raises(ValueError, match=r"model 'yolo' has no option 'cells'; there are .*grid"):
        configure("yolo", {"cells": 3})
    with pytest.raises(ValueError, match="model 'ssd', option 'width'"):
        configure("ssd", {"width": 0.5})


def test_regions_that_are_computed_a_few_at_a_time_score_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("fast_rcnn_alexnet").double().eval()
    images = [torch.randn(3, 96, 128, dtype=torch.float64) for _ in range(2)]
    proposals = [torch.from_numpy(random_boxes(np.random.default_rng(i), 11, side=96, least=8)) for i in range(2)]
    with torch.inference_mode():
        whole = model.score_boxes(images, proposals)
        monkeypatch.setattr(fast_rcnn, "CHUNK", 4)
        parts = model.score_boxes(images, proposals)
    for one, other in zip(whole, parts, strict=True):
        assert one.scores.shape == (11, CLASSES)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "most"), [("ssd", 200), ("faster_rcnn", 100)])
def test_torchvisions_own_choice_can_be_loosened(name: str, most: int) -> None:
    options = {"short_side": 64, "longest_side": 96} if name == "faster_rcnn" else {}
    network: Any = configure(name, options).build(3).eval()
    images = [torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0))]
    with torch.inference_mode():
        own = len(network.score_boxes(images)[0].scores)
        network.loosen()
        assert len(network.score_boxes(images)[0].scores) == own <= most
        network.loosen(score=0.0, iou=1.0, limit=100_000)
        loose = len(network.score_boxes(images)[0].scores)
        network.loosen(score=0.9, iou=0.1, limit=1)  # a stricter choice is made afterwards
        assert len(network.score_boxes(images)[0].scores) == loose
    assert loose > most
