"""Sliding windows: where they lie, that they show no seams, their memory, and batches of them."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.data.preprocessing import Preprocessing, Windows
from pipeline.models.layers import SegmentationOutput
from pipeline.predict.device import NotFiniteError
from pipeline.predict.segmenter import Prediction, Segmenter
from pipeline.predict.windows import lay_out
from tests.support.networks import narrow

CPU = torch.device("cpu")


class Local(nn.Module):
    """A network with random weights: strided convolutions down to its output stride, then dilated ones.

    A unit depends on the pixels up to `reach` away from its own.
    """

    def __init__(self, stride: int, *, rates: tuple[int, ...] = (1,), classes: int = 3):
        super().__init__()
        self.output_stride = stride
        self.reach = 1
        layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
        jump = 1
        while jump < stride:
            layers += [nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()]
            self.reach += jump
            jump *= 2
        for rate in rates:
            layers += [nn.Conv2d(8, 8, 3, padding=rate, dilation=rate), nn.ReLU()]
            self.reach += rate * stride
        self.layers = nn.Sequential(*layers, nn.Conv2d(8, classes, 1))
        torch.manual_seed(stride)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores."""
        return SegmentationOutput(self.layers(images))


class Checked(nn.Module):
    """A network at stride 4 that records the shape of every batch."""

    output_stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> SegmentationOutput:
        self.shapes.append(tuple(images.shape))
        height, width = images.shape[2:]
        return SegmentationOutput(F.avg_pool2d(F.pad(images, (0, -width % 4, 0, -height % 4)), 4))


def balanced(network: Local, pixels: np.ndarray) -> Local:
    """Shift the scores so that no class dominates the image."""
    with torch.no_grad():
        images = torch.from_numpy((pixels / 255).astype(np.float32)).permute(2, 0, 1)[None]
        network.layers[-1].bias -= network(images).logits.mean(dim=(0, 2, 3))
    return network


def diagonal(height: int, width: int) -> np.ndarray:
    """Return a noisy image with an edge from corner to corner."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 60, (height, width, 3))
    return np.clip(100 + 40 * (y * width > x * height)[:, :, None] + noise, 0, 255).astype(np.uint8)


def segment(model: nn.Module, pixels: np.ndarray, windows: Windows | None = None, **options: Any) -> Prediction:
    plain = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))
    (found,) = Segmenter(model, preprocessing=plain, device=CPU, windows=windows, **options)([pixels])
    return found


# --- layout


@pytest.mark.parametrize("stride", [1, 2, 8, 32, 64])
@pytest.mark.parametrize(("size", "overlap"), [(64, 0), (64, 32), (96, 32), (256, 96), (1024, 256), (1024, 512)])
def test_windows_cover_an_axis_and_their_weights_add_up_to_1(stride: int, size: int, overlap: int) -> None:
    for length in [*range(1, 300, 7), 512, 1000, 1024, 1025, 5000]:
        spans = lay_out(length, Windows(size=size, overlap=overlap), stride=stride)
        units = -(-length // stride)
        assert spans[0].start == spans[0].first == 0
        assert spans[-1].stop == spans[-1].end == units
        total = torch.zeros(units)
        for span in spans:
            assert span.start * stride % 32 == 0
            assert 0 < span.stop - span.start <= -(-size // max(32, stride)) * max(32, stride) // stride
            weights = span.weights(total)
            assert (weights > 0).all()
            total[span.first : span.end + span.fade_out] += weights
        torch.testing.assert_close(total, torch.ones(units))
        margin = overlap // stride // 4
        for one, other in itertools.pairwise(spans):
            assert one.end == other.first
            assert other.start + margin <= other.first
            assert one.end + one.fade_out <= min(one.stop - margin, other.end)


def test_there_are_no_more_windows_than_needed() -> None:
    for length in range(1, 2000, 13):
        spans = lay_out(length, Windows(size=256, overlap=64), stride=8)
        assert 256 + (len(spans) - 2) * (256 - 64) < length or len(spans) == 1


@pytest.mark.parametrize("options", [{"size": 100}, {"size": 32, "overlap": 0}, {"overlap": 16}, {"size": 448}])
def test_windows_that_are_off_the_grid_or_do_not_advance_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Windows(**options)


# --- seams


@pytest.mark.parametrize(
    ("stride", "rates", "side", "overlap", "size"),
    [
        (1, (1, 2, 4, 8), 160, 64, (333, 450)),
        (8, (1, 2), 256, 128, (333, 450)),
        (32, (1,), 512, 256, (1100, 1301)),
    ],
)
def test_a_network_that_sees_no_further_than_the_margins_shows_no_seams(
    stride: int, rates: tuple[int, ...], side: int, overlap: int, size: tuple[int, int]
) -> None:
    """Windows without overlap change 2% or more of the labels around their seams."""
    network, windows = Local(stride, rates=rates), Windows(above=1, size=side, overlap=overlap)
    assert network.reach <= windows.overlap // 4
    pixels = diagonal(*size)
    whole = segment(balanced(network, pixels), pixels, keep_scores=True)
    assert np.bincount(whole.labels.ravel()).min() > 0.1 * whole.labels.size

    found = segment(network, pixels, windows, keep_scores=True)
    assert (found.labels != whole.labels).mean() < 1e-4
    assert found.confidence == pytest.approx(whole.confidence, abs=1e-5)
    assert found.entropy == pytest.approx(whole.entropy, abs=1e-5)
    assert whole.scores is not None
    assert found.scores is not None
    assert found.scores.dtype == np.float16
    np.testing.assert_allclose(found.scores, whole.scores, atol=5e-3)

    tiles = Windows(above=1, size=side, overlap=0)
    hard = segment(network, pixels, tiles)
    around = np.zeros(size, bool)
    for axis in (0, 1):
        for span in lay_out(size[axis], tiles, stride=stride)[1:]:
            seam = span.first * stride
            np.moveaxis(around, axis, 0)[seam - 32 : seam + 32] = True
    assert (hard.labels != whole.labels)[around].mean() > 0.02


def test_poolings_divide_windows_as_they_divide_the_whole_image() -> None:
    """U-Net pools four times and sees 92 pixels in each direction; its scores have the resolution of the image."""
    network = narrow("unet", num_classes=3).eval()
    pixels = diagonal(901, 75)
    whole = segment(network, pixels)
    found = segment(network, pixels, Windows(above=1, size=768, overlap=384))
    assert len(np.unique(whole.labels)) == 3
    assert (found.labels != whole.labels).mean() < 1e-4
    assert found.entropy == pytest.approx(whole.entropy, abs=1e-5)


def test_blending_hides_most_of_what_reaches_beyond_the_margins() -> None:
    network = Local(1, rates=(1, 2, 4, 8))
    pixels = diagonal(333, 450)
    whole = segment(balanced(network, pixels), pixels).labels
    differing = {}
    for overlap in (0, 32):
        windows = Windows(above=1, size=160, overlap=overlap)
        differing[overlap] = (segment(network, pixels, windows).labels != whole).mean()
    assert network.reach > 32 // 4
    assert differing[32] < differing[0] / 10


@pytest.mark.parametrize("stride", [1, 8, 32])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (63, 65), (128, 128), (129, 500), (411, 97)])
def test_images_of_any_size_are_segmented_in_windows(stride: int, size: tuple[int, int]) -> None:
    network = Local(stride, rates=())
    pixels = diagonal(*size)
    whole = segment(network, pixels, keep_scores=True)
    found = segment(network, pixels, Windows(above=1, size=256, overlap=128), keep_scores=True)
    assert found.labels.shape == size
    assert found.labels.dtype == np.uint8
    assert whole.scores is not None
    assert found.scores is not None
    assert found.scores.shape == whole.scores.shape
    assert (found.labels != whole.labels).mean() < 1e-3
    assert found.confidence == pytest.approx(whole.confidence, abs=1e-5)


def test_an_image_is_segmented_in_windows_above_the_limit_only() -> None:
    model = Checked()
    windows = Windows(above=100 * 200, size=64, overlap=32)
    segment(model, diagonal(100, 200), windows)
    assert model.shapes == [(1, 3, 100, 200)]
    segment(model, diagonal(100, 201), windows)
    assert max(shape[2] * shape[3] for shape in model.shapes[1:]) == 64 * 64


def test_a_score_that_is_not_finite_is_refused_in_any_window() -> None:
    class Broken(Checked):
        def forward(self, images: Tensor) -> SegmentationOutput:
            logits = super().forward(images).logits
            return SegmentationOutput(torch.where(logits > 0.99, torch.inf, logits))

    pixels = np.zeros((200, 200, 3), np.uint8)
    windows = Windows(above=1, size=64, overlap=32)
    segment(Broken(), pixels, windows)
    pixels[150:158, 100:108, 1] = 255
    with pytest.raises(NotFiniteError):
        segment(Broken(), pixels, windows)


# --- batches and memory


def test_windows_of_one_shape_share_batches_within_the_budget() -> None:
    model = Checked()
    segment(model, diagonal(200, 500), Windows(above=1, size=64, overlap=32), batch_pixels=5 * 64 * 64)
    columns, rows = len(lay_out(500, Windows(size=64, overlap=32), stride=4)), 6
    assert columns == 15
    assert len(lay_out(200, Windows(size=64, overlap=32), stride=4)) == rows
    assert sum(shape[0] for shape in model.shapes) == rows * columns
    assert {shape[0] for shape in model.shapes if shape[2:] == (64, 64)} == {5, 4}  # 14 whole windows in a row
    assert all(shape[0] * shape[2] * shape[3] <= 5 * 64 * 64 for shape in model.shapes)


class Largest(TorchDispatchMode):
    """Records the largest number of values that an operation returned."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.values = max(self.values, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("stride", [1, 8])
def test_the_memory_does_not_grow_with_the_height_of_an_image(stride: int) -> None:
    """The image itself and its labels are NumPy arrays, which are not counted."""
    model = Local(stride, classes=7)
    windows = Windows(above=1, size=64, overlap=32)
    largest = {}
    for height in (200, 2000):
        with Largest() as mode:
            segment(model, diagonal(height, 300), windows, batch_pixels=1)
        largest[height] = mode.values
    assert largest[2000] == largest[200]
    band = 7 * (32 // 2 // stride + 1) * -(-300 // stride)
    assert largest[2000] <= max(band, 8 * (64 + stride) ** 2)
