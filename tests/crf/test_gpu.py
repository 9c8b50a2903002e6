"""The dense CRF in PyTorch against the compiled one, on batches, on unusual input, and within its memory bound.

It runs on a CPU here. `test_dense` and `test_modes` compare it with the slow references and test its modes.
"""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.crf_scenes import STRIDE, draw
from pipeline.crf import CRFParams, Mode, crf_of_scores, dense_crf, gpu
from pipeline.crf.gpu import score_map
from pipeline.crf.gpu.inference import bilateral_features
from pipeline.crf.gpu.kernel import kernel_between
from pipeline.crf.gpu.lattice import PIECE, build_lattice
from pipeline.crf.gpu.memory import bytes_needed
from pipeline.models.upsampling import upsample
from tests.support import crf_oracles as oracle

PARAMS = CRFParams(sigma_alpha=20, sigma_beta=8)
CASES = {
    "smooth": CRFParams(sigma_alpha=67, sigma_beta=3, w1=4),
    "middle": CRFParams(sigma_alpha=49, sigma_beta=5, w1=5),
    "coarse": CRFParams(sigma_alpha=80, sigma_beta=13, w1=10),
}


def scenes(count: int, *, present: int = 3, classes: int = 9) -> tuple[Tensor, Tensor]:
    """Return drawn images uint8 [images, 61, 90, 3] and score maps float16 [images, classes, 8, 12].

    The image at index i has some of i + `present` classes.
    """
    drawn = [draw(90, 61, classes=classes, present=present + i, seed=i) for i in range(count)]
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in drawn]))
    return pixels, torch.from_numpy(np.stack([scene.scores for scene in drawn])).half()


@pytest.mark.parametrize("params", CASES.values(), ids=CASES)
def test_equals_the_compiled_exact_mode(params: CRFParams) -> None:
    """Both round differently, and over ten steps a difference grows: 3e-4 at most on nine larger images."""
    scene = draw(200, 150, classes=12, present=5, seed=1)
    full = upsample(torch.from_numpy(scene.scores)[None], (150, 200), stride=STRIDE)
    probabilities = torch.softmax(full[0], dim=0).numpy()
    labels, q = (
        [
            implementation(scene.pixels, probabilities=probabilities, params=params, output=output)
            for implementation in (dense_crf, on_cpu)
        ]
        for output in ("labels", "probabilities")
    )
    assert (probabilities.argmax(axis=0) != labels[0]).mean() > 0.01, "the CRF changes labels"
    assert (labels[1] != labels[0]).mean() <= 1e-5
    assert np.abs(q[1] - q[0]).max() <= 1e-3


def on_cpu(*args, **kwargs) -> np.ndarray:
    return gpu.dense_crf(*args, **kwargs, device="cpu")


@pytest.mark.parametrize("mode", ["exact", "pruned"])
def test_a_batch_is_its_images_bit_by_bit_and_so_is_a_repetition(mode: Mode) -> None:
    """The images keep different numbers of classes; one has stopped changing earlier than the others."""
    pixels, scores = scenes(5)
    options: dict[str, Any] = {
        "stride": STRIDE,
        "params": PARAMS.model_copy(update={"stop_below": 0.003}),
        "mode": mode,
    }
    together = [q for _, q in logits_of(pixels, scores, options)]
    again = [q for _, q in logits_of(pixels, scores, options)]
    assert all(torch.equal(a, b) for a, b in zip(together, again, strict=True))
    assert len(together) == (1 if mode == "exact" else 2), "groups of images with equally many lanes"
    for images, q in logits_of(pixels, scores, options):
        for i, one in zip(images.tolist(), q, strict=True):
            ((_, alone),) = logits_of(pixels[i : i + 1], scores[i : i + 1], options)
            assert torch.equal(alone[0], one)
    labels = gpu.refine_batch(pixels, scores, **options)
    few = gpu.refine_batch(pixels, scores, **options, max_bytes=2 * bytes_needed(61, 90, 9))
    assert torch.equal(few, labels), "two images at a time"
    singles = [gpu.crf_of_scores(p, s, **options, device="cpu").labels for p, s in zip(pixels, scores, strict=True)]
    np.testing.assert_array_equal(labels, np.stack(singles))


def logits_of(pixels: Tensor, scores: Tensor, options: dict) -> list[tuple[Tensor, Tensor]]:
    unary = score_map.Unary(scores.float(), options["stride"])
    found = score_map.infer(pixels, unary, params=options["params"], mode=options["mode"])
    return [(images, marginals.logits) for images, marginals in found]


def test_pruning_keeps_the_classes_that_the_compiled_one_keeps() -> None:
    pixels, scores = scenes(3)
    for image, one in zip(pixels, scores, strict=True):
        options: dict[str, Any] = {"stride": STRIDE, "params": PARAMS, "mode": "pruned"}
        compiled = crf_of_scores(image, one, **options)
        found = gpu.crf_of_scores(image, one, **options, device="cpu")
        assert (found.labels != compiled.labels).mean() <= 1e-3
        assert abs(found.changed - compiled.changed) <= 1e-3 * found.labels.size
        full = torch.softmax(upsample(one[None].float(), (61, 90), stride=STRIDE)[0], dim=0).numpy()
        kept = [
            {int(c) for c in range(9) if crf(image, probabilities=full, params=PARAMS, mode="pruned",
                                             output="probabilities")[c].any()}
            for crf in (dense_crf, on_cpu)
        ]  # fmt: skip
        assert kept[0] == kept[1]
        assert len(kept[0]) < 9


def test_more_samples_share_a_point_than_one_piece_holds() -> None:
    """All samples of a constant image lie in a few simplices; sums of sums are those of the matrices."""
    image = np.full((30, 40, 3), 77, np.uint8)
    image[0, 0] = 10
    features = bilateral_features(torch.from_numpy(image)[None], 1, 400, 30)
    lattice = build_lattice(features)
    assert len(lattice.splat_order) / lattice.points > 2 * PIECE
    assert int(lattice.pieces.offsets.diff().max()) == PIECE
    assert len(lattice.pieces.order) > lattice.points
    values = torch.rand(1200, 3, generator=torch.Generator().manual_seed(0))
    kernel = kernel_between(features, pixels=1, weight=1, normalisation="symmetric")
    expected = oracle.normalised(oracle.lattice_matrix(oracle.features_of(image, 400, 30)), "symmetric")
    np.testing.assert_allclose(kernel(values[None])[0], expected @ values.double().numpy(), rtol=1e-5)


@pytest.mark.parametrize(("channels", "is_hashed"), [(3, False), (9, True)])
def test_the_images_of_a_batch_have_no_connections(channels: int, is_hashed: bool) -> None:
    """Equal images at different places of a batch have points of their own, with exact and with hashed keys."""
    image = torch.randint(0, 255, (1, 6, 7, channels), generator=torch.Generator().manual_seed(0))
    sigma = 0.5 if is_hashed else 20.0
    one, three = (build_lattice(bilateral_features(image.float().repeat(n, 1, 1, 1), 1, 5, sigma)) for n in (1, 3))
    assert three.points == 3 * one.points
    for i in range(3):
        own = three.vertices[i * 42 : (i + 1) * 42]
        others = torch.cat([three.vertices[: i * 42], three.vertices[(i + 1) * 42 :]])
        assert not torch.isin(own, others).any()
        for table, single in zip(three.neighbours, one.neighbours, strict=True):
            assert (table[own.unique().long()] != three.points).sum() == (single[: one.points] != one.points).sum()


@pytest.mark.parametrize("mode", ["exact", "pruned"])
def test_unusual_images(mode: Mode) -> None:
    """One pixel, one class, a constant image, equal scores, grey and float pixels."""
    ones: dict[str, Any] = {"stride": 1, "params": PARAMS, "mode": mode}
    pixel = torch.zeros(2, 1, 1, 3, dtype=torch.uint8)
    assert gpu.refine_batch(pixel, torch.tensor([[0.0, 1], [1, 0]])[:, :, None, None], **ones).flatten().tolist() == [
        1,
        0,
    ]
    constant = torch.full((1, 40, 50, 3), 9, dtype=torch.uint8)
    assert not gpu.refine_batch(constant, torch.ones(1, 1, 40, 50), **ones).any()
    assert not gpu.refine_batch(constant, torch.zeros(1, 4, 40, 50), **ones).any(), "the first of equal classes"
    random = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(1)).half()
    for image in (constant, constant[..., :1], torch.rand(1, 40, 50, 1) * 255):
        expected = crf_of_scores(image[0], random[0], **ones).labels
        assert (gpu.refine_batch(image, random, **ones)[0].numpy() != expected).mean() < 0.01


def test_strided_tensors() -> None:
    pixels, scores = scenes(2)
    options: dict[str, Any] = {"stride": STRIDE, "params": PARAMS}
    expected = gpu.refine_batch(pixels, scores, **options)
    wide = pixels.repeat_interleave(2, dim=2)[:, :, ::2]
    last = scores.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(gpu.refine_batch(wide, last, **options), expected)


def test_large_images_of_a_batch_are_refined_in_the_tiles_of_the_compiled_one(monkeypatch) -> None:
    pixels, scores = scenes(2)
    params, limit = CRFParams(sigma_alpha=4, sigma_beta=8, sigma_gamma=2), 2**20
    options: dict[str, Any] = {"stride": STRIDE, "params": params, "mode": "exact"}
    whole = gpu.refine_batch(pixels, scores, **options)
    monkeypatch.setattr(score_map, "MAX_BYTES", limit)
    tiled = gpu.refine_batch(pixels, scores, **options)
    assert 0 < (tiled != whole).float().mean() < 0.01
    for image, one, labels in zip(pixels, scores, tiled, strict=True):
        np.testing.assert_array_equal(labels, crf_of_scores(image, one, **options, max_bytes=limit).labels)


def test_one_image_of_a_batch_that_cannot_be_refined_is_refused() -> None:
    pixels = torch.zeros(2, 20, 30, 3, dtype=torch.uint8)
    scores = torch.rand(2, 2, 3, 4)
    options: dict[str, Any] = {"stride": STRIDE, "params": CRFParams(sigma_beta=1e-6)}
    assert gpu.refine_batch(pixels, scores, **options).shape == (2, 20, 30)
    pixels[1] = 200
    with pytest.raises(ValueError, match="take a larger width"):
        gpu.refine_batch(pixels, scores, **options)
    scores[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="scores: NaN or infinity"):
        gpu.refine_batch(pixels, scores, **options)
    with pytest.raises(ValueError, match=r"expected \[classes, 3, 4\]"):
        gpu.refine_batch(pixels, scores[:, :, :2], **options)


@pytest.mark.parametrize(("classes", "channels", "mode"), [(3, 3, "exact"), (21, 3, "pruned"), (5, 9, "exact")])
def test_memory_stays_within_the_bound(classes: int, channels: int, mode: str) -> None:
    """On noise, whose pixels share no lattice points, in a process of its own."""
    code = f"""
import torch
from benchmarks.measure import peak_growth
from pipeline.crf import CRFParams, gpu
from pipeline.crf.gpu.memory import bytes_needed

def refine(height, width):
    pixels = torch.randint(0, 256, (1, height, width, {channels}), dtype=torch.uint8)
    scores = torch.randn(1, {classes}, -(-height // 8), -(-width // 8)).half()
    return lambda: gpu.refine_batch(pixels, scores, stride=8, params=CRFParams(), mode="{mode}")

torch.set_num_threads(1)
refine(40, 50)()
print(peak_growth(refine(150, 200)) / bytes_needed(150, 200, {classes}, {channels}))
"""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # then what is freed does not count any more
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, env=environment)
    assert 0.3 < float(result.stdout) < 1
