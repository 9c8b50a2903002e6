"""Micro-batches, the input, labels, confidence and entropy of a segmenter, and devices with little memory."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.data.preprocessing import Preprocessing, TTAOptions, Windows
from pipeline.models import configure
from pipeline.models.layers import SegmentationOutput
from pipeline.models.upsampling import upsample
from pipeline.predict.batches import micro_batches
from pipeline.predict.device import NotFiniteError, normalise
from pipeline.predict.segmenter import Segmenter
from tests.support.argmax import assert_argmax

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def network(name: str = "deeplabv3_resnet18", num_classes: int = 5) -> Any:
    torch.manual_seed(0)
    model = configure(name, {"width": 0.125}).build(num_classes)
    for layer in ("score", "score_pool4", "score_pool3"):  # FCN initialises these with zeros
        if hasattr(model, layer):
            nn.init.normal_(getattr(model, layer).weight, std=0.1)
    return model.eval()


def pictures(count: int, height: int = 37, width: int = 50) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def segmenter(model: nn.Module, **options: Any) -> Segmenter:
    return Segmenter(model, preprocessing=PREPROCESSING, device=CPU, **options)


def upsampled_scores(model: Any, images: list[np.ndarray]) -> Tensor:
    with torch.inference_mode():
        logits = model(normalise(torch.from_numpy(np.stack(images)), PREPROCESSING)).logits
        return upsample(logits, images[0].shape[:2], stride=model.output_stride)


class Scores(nn.Module):
    """A network at stride 2 with the same given scores for all pixels."""

    output_stride = 2
    scores: Tensor

    def __init__(self, *scores: float):
        super().__init__()
        self.register_buffer("scores", torch.tensor(scores, dtype=torch.float32))

    def forward(self, images: Tensor) -> SegmentationOutput:
        height, width = (-(-n // 2) for n in images.shape[-2:])
        return SegmentationOutput(self.scores[None, :, None, None].expand(len(images), -1, height, width))


class SmallMemory(Scores):
    """A network for at most `room` images at a time, whose labels tell bright pixels from dark ones."""

    def __init__(self, room: int):
        super().__init__(0.0, 0.0)
        self.room = room
        self.batches: list[int] = []
        self.failed = 0

    def forward(self, images: Tensor) -> SegmentationOutput:
        if len(images) > self.room:
            self.failed += 1
            raise torch.OutOfMemoryError("out of memory")
        self.batches.append(len(images))
        bright = images[:, :1, ::2, ::2]
        return SegmentationOutput(torch.cat([-bright, bright], dim=1))


# --- micro-batches


def test_micro_batches_contain_each_image_once_by_shape_and_within_budget() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 6, (rng.integers(0, 40), 2)) * rng.integers(1, 50)
        shapes = [(int(h), int(w), 3) for h, w in sizes]
        budget = int(rng.integers(1, 20_000))
        batches = list(micro_batches(shapes, max_pixels=budget))
        assert sorted(i for batch in batches for i in batch) == list(range(len(shapes)))
        for batch in batches:
            assert len({shapes[i] for i in batch}) == 1
            height, width, _ = shapes[batch[0]]
            assert len(batch) == 1 or len(batch) * height * width <= budget


def test_micro_batches_fill_the_budget() -> None:
    shapes = [(10, 10, 3), (5, 20, 3)] * 7
    batches = list(micro_batches(shapes, max_pixels=399))
    assert batches == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11], [12], [13]]


def test_an_image_beyond_the_budget_is_alone_in_its_batch() -> None:
    assert list(micro_batches([(100, 100)] * 2, max_pixels=1)) == [[0], [1]]


# --- input


def test_normalise_follows_its_formula() -> None:
    (picture,) = pictures(1, 3, 4)
    found = normalise(torch.from_numpy(picture[None]), PREPROCESSING)
    expected = (picture / 255.0 - np.array(PREPROCESSING.mean)) / np.array(PREPROCESSING.std)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), expected.transpose(2, 0, 1), atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


# --- segmentation


# One network for each output stride and each way to reach it.
@pytest.mark.parametrize(
    "name", ["fcn32s", "fcn16s", "fcn8s", "deeplabv3_resnet18", "deeplabv3_resnet50", "segnet", "unet"]
)
def test_labels_are_the_argmax_of_the_upsampled_scores(name: str) -> None:
    model = network(name)
    images = pictures(2)
    mean, std = (torch.tensor(v)[:, None, None] for v in (PREPROCESSING.mean, PREPROCESSING.std))
    with torch.inference_mode():
        batch = torch.stack([(torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std for image in images])
        logits = model(batch).logits
        full = upsample(logits, (37, 50), stride=model.output_stride)
    p = torch.softmax(logits.double(), dim=1)
    for i, found in enumerate(segmenter(model)(images)):
        assert found.labels.dtype == np.uint8
        assert found.labels.shape == (37, 50)
        assert_argmax(found.labels, full[i], margin=1e-3, share=0.95)
        assert found.confidence == pytest.approx(float(p[i].amax(dim=0).mean()), abs=1e-5)
        assert found.entropy == pytest.approx(float(-(p[i] * p[i].log()).sum(dim=0).mean()), abs=1e-5)
    assert len(np.unique(full.argmax(dim=1))) > 1  # a single class would make the test trivial


@pytest.mark.parametrize("name", ["fcn8s", "deeplabv3_resnet18"])
def test_a_batch_has_the_same_results_as_its_images_alone(name: str) -> None:
    model = network(name)
    segment = segmenter(model)
    images = pictures(5)
    scores = upsampled_scores(model, images)
    together = segment(images)
    assert len(together) == 5
    for i, one in enumerate(together):
        (alone,) = segment([images[i]])
        assert_argmax(one.labels, scores[i], margin=1e-3, share=0.95)
        assert_argmax(alone.labels, scores[i], margin=1e-3, share=0.95)
        assert one.confidence == pytest.approx(alone.confidence, abs=1e-5)
        assert one.entropy == pytest.approx(alone.entropy, abs=1e-5)
    assert together[0].confidence != together[1].confidence


def test_images_may_be_views() -> None:
    segment = segmenter(network())
    (image,) = pictures(1, 32, 48)
    view = image[::-1].swapaxes(0, 1)
    np.testing.assert_array_equal(segment([view])[0].labels, segment([view.copy()])[0].labels)


@pytest.mark.parametrize("name", ["fcn8s", "deeplabv3_resnet18"])
def test_bfloat16_gives_nearly_the_results_of_float32(name: str) -> None:
    """bfloat16 has 8 significant bits; the largest margin of a changed label was 0.02 standard deviations."""
    model, images = network(name), pictures(2)
    scores = upsampled_scores(model, images)
    exact, rough = segmenter(model)(images), segmenter(model, dtype="bfloat16")(images)
    for i in range(2):
        assert_argmax(rough[i].labels, scores[i], margin=0.1, share=0.5)
        assert rough[i].confidence == pytest.approx(exact[i].confidence, abs=0.02)


@pytest.mark.parametrize("scores", [(0, 0, 0), (1, 2, 3), (0, 0, 1000), (-1e4, 1e4, 0), (5, 5, 5)])
def test_confidence_and_entropy_of_known_scores(scores: tuple[float, ...]) -> None:
    (found,) = segmenter(Scores(*scores))(pictures(1))
    weights = [math.exp(s - max(scores)) for s in scores]
    p = [w / sum(weights) for w in weights]
    assert found.confidence == pytest.approx(max(p), rel=1e-5)
    assert found.entropy == pytest.approx(-sum(q * math.log(q) for q in p if q), abs=1e-5)
    assert (found.labels == scores.index(max(scores))).all()


def test_confidence_and_entropy_stay_within_their_bounds() -> None:
    rng = np.random.default_rng(0)
    for spread in (0, 1e-3, 1, 10, 1e3, 1e30):
        (found,) = segmenter(Scores(*(rng.normal(size=7) * spread)))(pictures(1, 9, 9))
        assert 1 / 7 - 1e-6 <= found.confidence <= 1 + 1e-6
        assert -1e-6 <= found.entropy <= math.log(7) + 1e-6


@pytest.mark.parametrize(("count", "dtype"), [(256, np.uint8), (257, np.uint16), (300, np.uint16)])
def test_the_dtype_of_the_labels_fits_the_classes(count: int, dtype: type) -> None:
    (found,) = segmenter(Scores(*range(count)))(pictures(1, 4, 5))
    assert found.labels.dtype == dtype
    assert (found.labels == count - 1).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    model = network()
    with torch.no_grad():
        model.classifier[4].weight[0, 0, 0, 0] = value
    with pytest.raises(NotFiniteError, match="not finite"):
        segmenter(model)(pictures(2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(NotFiniteError):
        segmenter(Scores(0.0, value, 1.0))(pictures(1))


# --- devices with little memory


@pytest.mark.parametrize(("count", "room"), [(1, 1), (5, 1), (7, 2), (8, 3), (4, 9)])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(count: int, room: int) -> None:
    model = SmallMemory(room)
    images = [np.full((4, 6, 3), 255 * (i % 2), np.uint8) for i in range(count)]
    found = segmenter(model)(images)
    assert [int(one.labels[0, 0]) for one in found] == [i % 2 for i in range(count)]
    assert sum(model.batches) == count


def test_the_size_of_the_batches_that_fit_is_remembered() -> None:
    model = SmallMemory(3)
    segment = segmenter(model)
    segment(pictures(8, 4, 6))
    failed = model.failed
    assert failed > 0
    segment(pictures(8, 4, 6))
    segment(pictures(4, 8, 6))  # of twice the size
    assert model.failed == failed
    assert model.batches[-8:-4] == [2, 2, 2, 2]
    assert model.batches[-4:] == [1, 1, 1, 1]


def test_batches_of_the_size_that_fits_count_as_full() -> None:
    """Only full batches are compiled and recorded, and no later batch has the size that did not fit."""
    segment = segmenter(SmallMemory(4), batch_pixels=8 * 4 * 6)
    full: list[int] = []
    compute = segment._full_outputs

    def counted(batch: Tensor) -> tuple[Tensor, ...]:
        full.append(len(batch))
        return compute(batch)

    segment._full_outputs = counted
    segment(pictures(8, 4, 6))
    segment(pictures(7, 4, 6))
    assert full == [8, 4, 4, 4]  # the first did not fit, and 3 remained of the last


def test_a_window_that_does_not_fit_raises() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        segmenter(SmallMemory(0))(pictures(3, 4, 6))


def test_an_image_that_does_not_fit_is_segmented_in_windows() -> None:
    """The network sees single pixels, so the labels are those of the whole image."""

    class FewPixels(SmallMemory):
        def forward(self, images: Tensor) -> SegmentationOutput:
            if images.shape[2] * images.shape[3] > 64 * 64:
                self.failed += 1
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(images)

    model = FewPixels(2)
    images = pictures(2, 100, 130)
    expected = [segmenter(SmallMemory(2))([image])[0] for image in images]
    found = segmenter(model, windows=Windows(size=64, overlap=32), batch_pixels=4 * 64 * 64)(images)
    for one, other in zip(found, expected, strict=True):
        assert (one.labels != other.labels).mean() < 1e-3  # near ties
        assert one.confidence == pytest.approx(other.confidence, abs=1e-6)
    assert model.failed > 0
    assert max(model.batches) == 2  # batches of windows are halved too


def test_segmenting_records_no_gradients() -> None:
    model = network()
    segmenter(model)(pictures(1))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(buffer.grad_fn is None for buffer in model.buffers())


@pytest.mark.parametrize("tta", [TTAOptions(), TTAOptions(flip=True)], ids=["plain", "tta"])
def test_a_batch_is_one_graph_for_the_compiler(tta: TTAOptions) -> None:
    network = configure("unet", {"width": 0.125}).build(3).eval()
    device = torch.device("cpu")
    segmenter = Segmenter(network, preprocessing=Preprocessing(), device=device, dtype="bfloat16", tta=tta)
    with torch.inference_mode():
        batch = torch.randint(256, (2, 32, 48, 3), dtype=torch.uint8)
        compiled = torch.compile(segmenter._outputs, backend="eager", fullgraph=True)  # raises at a break
        for ours, expected in zip(compiled(batch), segmenter._outputs(batch), strict=True):
            torch.testing.assert_close(ours, expected)


def test_threads_share_no_weights_that_one_of_them_has_cast() -> None:
    """They would drop them while another thread, which compiles, waits for the same lock: for ever."""
    shared = []

    class Network(nn.Module):
        output_stride = 1

        def forward(self, x: Tensor) -> SegmentationOutput:
            shared.append(torch.is_autocast_cache_enabled())
            return SegmentationOutput(x)

    segmenter = Segmenter(Network(), preprocessing=Preprocessing(), device=torch.device("cpu"), dtype="bfloat16")
    segmenter([np.zeros((4, 4, 3), np.uint8)])
    assert shared == [False]
    assert torch.is_autocast_cache_enabled()
