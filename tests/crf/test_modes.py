"""Everything beyond the plain mean field: pruned and fast modes, score maps, tiles, settling and working memory.

Every mode is compared with the exact mode on the same machine. Tests of what both implementations promise, the compiled
one and that in PyTorch, run on both. Different code rounds differently, so labels are
compared by the probabilities they have in the exact mode, or a small share of them may differ.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pipeline.crf import CRFParams, Mode, crf_of_scores, dense_crf, filtering, gpu, inference
from pipeline.crf.dense import image_tiles
from pipeline.crf.mean_field import Settling
from pipeline.crf.memory import kept_buffers
from pipeline.crf.pruning import choose_classes, choose_sides
from pipeline.crf.rows import best_classes, empty_rows
from pipeline.crf.samples import equal_squares, mixed_squares
from pipeline.crf.tiles import tiles
from pipeline.crf.warm import warm
from pipeline.models.upsampling import upsample
from tests.support.crf_oracles import assert_best, scene

STRIDE = 8
PARAMS = CRFParams(sigma_alpha=20, sigma_beta=8)
ROUNDING = 1e-4  # bound on differences of probabilities between two ways to compute the same; 1e-5 where measured


class CRF(NamedTuple):
    """An implementation of the dense CRF."""

    dense: Callable
    of_scores: Callable


NUMBA = CRF(dense_crf, crf_of_scores)
TORCH = CRF(partial(gpu.dense_crf, device="cpu"), partial(gpu.crf_of_scores, device="cpu"))
both = pytest.mark.parametrize("crf", [NUMBA, TORCH], ids=["numba", "torch"])


def street(height: int = 90, width: int = 132, *, classes: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth image of three regions and the scores of a network for them and nine other classes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    region = (x + 0.3 * y > width / 2) * 1 + ((x - 40) ** 2 + (y - 40) ** 2 < 400) * 1
    colours = np.array([[200, 90, 40], [50, 120, 180], [90, 160, 70]])[region]
    image = gaussian_filter(colours + rng.normal(0, 6, colours.shape), (0.7, 0.7, 0)).clip(0, 255).astype(np.uint8)
    coarse = region[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    coarse = np.pad(coarse, [(0, -(-n // STRIDE) - m) for n, m in zip(image.shape, coarse.shape, strict=False)], "edge")
    scores = np.stack([gaussian_filter(rng.normal(0, 3, coarse.shape), 1) for _ in range(classes)])
    for k in range(3):
        scores[3 * k + 1] += gaussian_filter(6.0 * (coarse == k), 0.8)
    return image, scores.astype(np.float16)


def probabilities_of(scores: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the softmax of the upsampled scores."""
    full = upsample(torch.from_numpy(scores.astype(np.float32))[None], (shape[0], shape[1]), stride=STRIDE)
    return torch.softmax(full[0], dim=0).numpy()


@both
@pytest.mark.parametrize("seed", range(3))
def test_a_score_map_gives_the_labels_of_its_probabilities(crf: CRF, seed: int) -> None:
    """The bounds on the shares are five times what was measured for fast mode; in pruned mode no label differed."""
    image, scores = street(seed=seed)
    probabilities = probabilities_of(scores, image.shape)
    before = probabilities.argmax(axis=0)
    exact = crf.dense(image, probabilities=probabilities, params=PARAMS)
    q = crf.dense(image, probabilities=probabilities, params=PARAMS, output="probabilities")
    assert_best(exact, q, tolerance=ROUNDING)
    assert (exact != before).mean() > 0.01, "the CRF changes labels"
    shares: dict[Mode, float] = {"exact": 0, "pruned": 5e-4, "fast": 5e-3}
    for mode, share in shares.items():
        found = crf.of_scores(image, scores, stride=STRIDE, params=PARAMS, mode=mode)
        dense = crf.dense(image, probabilities=probabilities, params=PARAMS, mode=mode)
        for labels in (found.labels, dense):
            if mode == "exact":
                assert_best(labels, q, tolerance=ROUNDING)
            else:
                assert (labels != exact).mean() <= share
        # Near-ties between interpolated scores may have another best class.
        assert abs(found.changed - np.count_nonzero(found.labels != before)) <= 1e-3 * exact.size


@both
def test_pruning_keeps_the_weight_of_the_pruned_classes(crf: CRF) -> None:
    """Many improbable classes matter together: without them the softmax and 2% of the labels would change."""
    image, two = scene(64, 80, classes=2)
    rng = np.random.default_rng(0)
    many = rng.dirichlet(np.full(40, 2.0), (64, 80)).transpose(2, 0, 1)
    probabilities = np.concatenate([0.7 * two, 0.3 * many]).astype(np.float32)
    params = CRFParams(w1=1, w2=1, sigma_alpha=20, sigma_beta=12)
    exact = crf.dense(image, probabilities=probabilities, params=params)
    assert set(np.unique(exact)) <= {0, 1}
    cases: list[tuple[np.ndarray, Mode]] = [(probabilities, "pruned"), (two, "exact")]
    pruned, only_two = (
        crf.dense(image, probabilities=p, params=params, mode=mode, output="probabilities")[:2] for p, mode in cases
    )
    expected = crf.dense(image, probabilities=probabilities, params=params, output="probabilities")[:2]
    assert np.abs(pruned - expected).mean() < 0.1 * np.abs(only_two - expected).mean()
    assert (pruned.argmax(axis=0) != exact).mean() < 1e-3


@both
@pytest.mark.parametrize("mode", ["pruned", "fast"])
def test_energies_give_the_result_of_their_probabilities(crf: CRF, mode: str) -> None:
    """A few samples may differ by more than rounding if a probability lies at one of the modes' thresholds."""
    image, scores = street()
    probabilities = probabilities_of(scores, image.shape)
    options: dict[str, Any] = {"params": PARAMS, "mode": mode, "output": "probabilities"}
    expected = crf.dense(image, probabilities=probabilities, **options)
    assert (expected == 0).all(axis=(1, 2)).any(), "a class is pruned"
    found = crf.dense(image, unary=2 - np.log(probabilities.astype(np.float64)), **options)
    assert (np.abs(found - expected) > ROUNDING).mean() < 0.01


def test_kept_classes() -> None:
    coarse = np.array([[0.9, 0.1], [0.05, 0.88], [0.09, 0.009], [0.02, 0.031]], np.float32)
    kept, rest_factor = choose_classes(coarse, np.array([5000, 4999, 0, 1]))
    assert kept.tolist() == [0, 1]
    masses = coarse[2:].mean(axis=1)
    assert rest_factor == pytest.approx((masses**2).sum() / masses.sum() ** 2, rel=1e-5)
    assert choose_classes(coarse, np.array([5000, 4000, 0, 1000]))[0].tolist() == [0, 1, 3], "it wins pixels"


@pytest.mark.parametrize("smallest", [False, True])
def test_best_classes(smallest: bool) -> None:
    planes = np.random.default_rng(0).normal(size=(7, 9001, 1)).astype(np.float32)
    expected = planes.argmin(axis=0) if smallest else planes.argmax(axis=0)
    np.testing.assert_array_equal(best_classes(planes, smallest=smallest), expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (36, 41), (70, 66)])
def test_squares_cover_the_image_once(size: tuple[int, int]) -> None:
    height, width = size
    sides = np.random.default_rng(0).choice([1, 2, 4], (-(-height // 4), -(-width // 4))).astype(np.int32)
    sides[height // 4 :] = sides[:, width // 4 :] = 1  # blocks that the image's edge cuts
    for samples in (equal_squares(height, width, 1), mixed_squares(height, width, sides)):
        assert (samples.sides**2).sum() == height * width
        numbers = samples.paint(np.arange(len(samples.ys)))
        np.testing.assert_array_equal(np.bincount(numbers.ravel()), samples.sides**2)
        np.testing.assert_array_equal(numbers[samples.ys, samples.xs], np.arange(len(samples.ys)))
    blocks = equal_squares(height, width, 4)
    assert len(blocks.ys) == len(range(2, height, 4)) * len(range(2, width, 4))


def test_squares_grow_with_the_distance_from_unclear_labels() -> None:
    before = np.zeros((50, 64), np.int32)
    before[:, 48:] = 1
    before[9, 13] = 1  # in the block of row 2, column 3
    blocks = equal_squares(50, 64, 4)
    coarse = np.full((2, len(blocks.ys)), 0.001)
    coarse[before[blocks.ys + 2, blocks.xs + 2], np.arange(len(blocks.ys))] = 0.999
    coarse[0, (blocks.ys // 4 == 9) & (blocks.xs // 4 == 4)] = 0.9
    sides = choose_sides(blocks, coarse, before)
    assert sides.shape == (13, 16)
    assert sides[2, 3] == 1, "a pixel of another class"
    assert (np.delete(sides[1:4, 2:5].ravel(), 4) == 2).all(), "its neighbours"
    assert (sides[8:11, 3:6] == 1).all(), "an unsure block and its neighbours"
    assert (sides[:, 11:13] == 1).all(), "an edge between classes"
    assert (sides[12] == 1).all(), "cut by the image's edge"
    assert sides[5, 10:].tolist() == [2, 1, 1, 2, 2, 4]
    assert sides[6, 8] == sides[11, 0] == 4
    assert set(np.unique(sides)) == {1, 2, 4}


def test_settled_pixels_are_skipped_and_the_result_stays(monkeypatch) -> None:
    image, scores = street(200, 240)
    options: dict[str, Any] = {
        "probabilities": probabilities_of(scores, image.shape),
        "params": PARAMS,
        "output": "probabilities",
    }
    visits = []
    mean_field_step = filtering.mean_field_step

    def counting_step(scores, groups, *rest):
        visits.append(len(groups))
        return mean_field_step(scores, groups, *rest)

    monkeypatch.setattr(filtering, "mean_field_step", counting_step)
    found = dense_crf(image, **options)
    assert len(visits) == PARAMS.steps - 1
    assert visits[0] == 200 * 240 / 16
    assert visits[-1] < 0.5 * visits[0]
    monkeypatch.setitem(inference.SETTLING, "exact", Settling(0, 1e9))
    expected = dense_crf(image, **options)
    assert visits[-1] == visits[0]
    np.testing.assert_allclose(found, expected, atol=ROUNDING)


def test_results_outlive_the_next_image() -> None:
    """Working memory is reused, but no result lies in it."""
    first, second = (street(64, 72, seed=seed) for seed in range(2))
    probabilities = probabilities_of(first[1], first[0].shape)
    results = [
        crf_of_scores(*first, stride=STRIDE, params=PARAMS).labels,
        dense_crf(first[0], probabilities=probabilities, params=PARAMS, output="probabilities"),
    ]
    copies = [result.copy() for result in results]
    crf_of_scores(*second, stride=STRIDE, params=PARAMS)
    dense_crf(second[0], probabilities=probabilities, params=PARAMS, output="probabilities")
    for result, copy in zip(results, copies, strict=True):
        np.testing.assert_array_equal(result, copy)


@pytest.mark.parametrize("mode", ["exact", "pruned", "fast"])
def test_the_result_does_not_depend_on_working_memory(mode: str) -> None:
    image, scores = street(67, 73)
    options: dict[str, Any] = {"probabilities": probabilities_of(scores, image.shape), "params": PARAMS, "mode": mode}
    results = []
    for byte in (0, 0, 0xFF):  # 0xFF: NaN as float32, -1 as an integer. The first round only allocates the memory.
        for buffer in kept_buffers():
            buffer.fill(byte)
        results.append(dense_crf(image, **options, output="probabilities"))
    np.testing.assert_array_equal(results[2], results[1])
    assert np.isfinite(results[1]).all()


@both
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (33, 35), (70, 41)])
@pytest.mark.parametrize("mode", ["exact", "pruned", "fast"])
def test_images_of_any_size(crf: CRF, size: tuple[int, int], mode: Mode) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    scores = np.random.default_rng(1).normal(size=(12, -(-size[0] // STRIDE), -(-size[1] // STRIDE)))
    found = crf.of_scores(image, scores, stride=STRIDE, mode=mode)
    assert found.labels.shape == size
    assert 0 <= found.labels.min() <= found.labels.max() < 12


def test_tiles_cover_an_image_once() -> None:
    for height, width, align in ((100, 90, 1), (333, 1000, 8), (64, 64, 16)):
        seen = np.zeros((height, width), int)
        for tile in tiles(height, width, max_pixels=8000, overlap=10, align=align):
            seen[tile.inner] += 1
            assert all(part.start % align == 0 for part in tile.outer)
            outer = np.zeros((height, width), bool)
            outer[tile.outer] = True
            assert outer.sum() <= 8000 + 2 * align * 100
            assert np.array_equal(
                np.argwhere(outer)[0] + [part.start for part in tile.kept], [p.start for p in tile.inner]
            )
        assert (seen == 1).all()


@both
def test_a_large_image_is_refined_in_tiles(crf: CRF) -> None:
    """At the seams 0.01% of the labels differ where measured."""
    image, scores = street(180, 260)
    params, max_bytes = CRFParams(sigma_alpha=8, sigma_beta=8), 5 * 2**20
    assert len(list(image_tiles(image.shape, params, classes=len(scores), max_bytes=max_bytes, align=STRIDE))) > 1
    whole = crf.of_scores(image, scores, stride=STRIDE, params=params, mode="exact")
    tiled = crf.of_scores(image, scores, stride=STRIDE, params=params, mode="exact", max_bytes=max_bytes)
    assert (tiled.labels != whole.labels).mean() < 0.002
    assert abs(tiled.changed - whole.changed) < 0.002 * image.size
    options: dict[str, Any] = {
        "probabilities": probabilities_of(scores, image.shape),
        "params": params,
        "max_bytes": max_bytes,
    }
    assert_best(crf.dense(image, **options), crf.dense(image, **options, output="probabilities"), tolerance=ROUNDING)


@both
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((3, 2, 3)), r"expected \[classes, 3, 4\]"),
        (np.full((3, 3, 4), np.nan), "scores: NaN or infinity"),
    ],
)
def test_invalid_scores_are_refused(crf: CRF, scores: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crf.of_scores(np.zeros((20, 30, 3), np.uint8), scores, stride=STRIDE)


def test_warming_up_runs_every_width_that_can_occur(monkeypatch, tmp_path) -> None:
    """A run with 20 classes can keep 5, 12, 19 or all of them: rows of 8, 16 or 24 lanes, with a rest lane or not."""
    widths = set()

    def recording_rows(*args, **kwargs):
        rows = empty_rows(*args, **kwargs)
        widths.add((rows.width, len(rows.kept) < rows.num_classes))
        return rows

    monkeypatch.setattr("pipeline.crf.score_map.empty_rows", recording_rows)
    warm(classes=20, params=CRFParams(), mode="pruned", folder=tmp_path)
    assert widths == {(8, True), (16, True), (24, True), (24, False)}
    assert list(tmp_path.glob("warm-*-pruned-20-symmetric")), "the marker that saves the next process from waiting"


@pytest.mark.parametrize("mode", get_args(Mode))
def test_nothing_is_compiled_after_warming_up(mode) -> None:
    """The reported time of the CRF would contain it: also not for read-only images, as other processes send them."""
    code = f"""
import numpy as np
from pipeline.crf import chains, features, filtering, lattice, normalisation, pruning, rows, samples, score_map
from pipeline.crf.params import CRFParams
from pipeline.crf.warm import warm

def compiled():
    modules = (chains, features, filtering, lattice, normalisation, pruning, rows, samples, score_map)
    found = {{f for m in modules for f in vars(m).values() if hasattr(f, "signatures")}}
    return {{f.py_func.__name__: len(f.signatures) for f in found}}

warm(classes=6, params=CRFParams(), mode={mode!r})
before = compiled()
image = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
image.setflags(write=False)
for kept in (1, 2, 6):
    scores = np.full((6, 15, 25), -9, np.float16)
    for c in range(kept):
        scores[c, :, c * 4 :] = 9 + c
    score_map.crf_of_scores(image, scores, stride=8, mode={mode!r})
after = compiled()
assert before == after, {{name: n for name, n in after.items() if n != before[name]}}
assert before["mean_field_step"] >= 1
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_parameters_are_imported_without_numba() -> None:
    """Every command line imports them for its options."""
    code = "import sys, pipeline.crf.params; print(*(m for m in ('numba', 'numpy') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "\n"
