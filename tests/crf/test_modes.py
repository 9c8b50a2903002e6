"""What is not the plain mean field: pruned and fast modes, score maps, tiles; each against the exact mode."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pipeline.crf import CRFParams, crf_of_scores, dense_crf, filtering, inference, memory
from pipeline.crf.mean_field import Settling
from pipeline.crf.pruning import choose, sides_of
from pipeline.crf.rows import best_classes, empty_rows
from pipeline.crf.samples import equal_squares, squares
from pipeline.crf.tiles import tiles
from pipeline.crf.warm import warm
from pipeline.models.upsampling import upsample
from tests.support.crf_oracles import scene

STRIDE = 8
PARAMS = CRFParams(sigma_alpha=20, sigma_beta=8)


def street(height: int = 90, width: int = 132, *, classes: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture of three regions, and the scores of a network that knows nine classes more."""
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


def probabilities_of(scores: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    full = upsample(torch.from_numpy(scores.astype(np.float32))[None], size[:2], stride=STRIDE)
    return torch.softmax(full[0], dim=0).numpy()


@pytest.mark.parametrize(("mode", "bound"), [("exact", 0), ("pruned", 5e-4), ("fast", 5e-3)])
def test_a_score_map_gives_what_its_probabilities_give(mode: str, bound: float) -> None:
    for seed in range(3):
        image, scores = street(seed=seed)
        probabilities = probabilities_of(scores, image.shape)
        exact = dense_crf(image, probabilities=probabilities, params=PARAMS)
        found = crf_of_scores(image, scores, stride=STRIDE, params=PARAMS, mode=mode)
        dense = dense_crf(image, probabilities=probabilities, params=PARAMS, mode=mode)
        assert (dense != exact).mean() <= bound
        assert (found.labels != exact).mean() <= bound
        assert found.changed == np.count_nonzero(found.labels != probabilities.argmax(axis=0))
        assert found.changed > 0.01 * exact.size, "the CRF has work to do here"


def test_pruning_keeps_the_weight_of_what_it_leaves_out() -> None:
    """Many improbable classes together: without them the softmax, and so the labels, would be others."""
    image, two = scene(64, 80, classes=2)
    rng = np.random.default_rng(0)
    many = rng.dirichlet(np.full(40, 2.0), (64, 80)).transpose(2, 0, 1)
    probabilities = np.concatenate([0.7 * two, 0.3 * many]).astype(np.float32)
    params = CRFParams(w1=1, w2=1, sigma_alpha=20, sigma_beta=12)
    exact = dense_crf(image, probabilities=probabilities, params=params)
    assert set(np.unique(exact)) <= {0, 1}
    pruned, only_two = (
        dense_crf(image, probabilities=p, params=params, mode=mode, output="probabilities")[:2]
        for p, mode in ((probabilities, "pruned"), (two, "exact"))
    )
    expected = dense_crf(image, probabilities=probabilities, params=params, output="probabilities")[:2]
    assert np.abs(pruned - expected).mean() < 0.1 * np.abs(only_two - expected).mean()
    assert (pruned.argmax(axis=0) != exact).mean() < 1e-3


@pytest.mark.parametrize("mode", ["pruned", "fast"])
def test_energies_give_what_their_probabilities_give(mode: str) -> None:
    image, scores = street()
    probabilities = probabilities_of(scores, image.shape)
    told = {"params": PARAMS, "mode": mode, "output": "probabilities"}
    expected = dense_crf(image, probabilities=probabilities, **told)
    assert (expected == 0).all(axis=(1, 2)).any(), "a class is left out"
    found = dense_crf(image, unary=2 - np.log(probabilities.astype(np.float64)), **told)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_which_classes_are_kept() -> None:
    coarse = np.array([[0.9, 0.1], [0.05, 0.88], [0.09, 0.009], [0.02, 0.031]], np.float32)
    kept, rest = choose(coarse, np.array([5000, 4999, 0, 1]))
    assert kept.tolist() == [0, 1]
    masses = coarse[2:].mean(axis=1)
    assert rest == pytest.approx((masses**2).sum() / masses.sum() ** 2)
    assert choose(coarse, np.array([5000, 4000, 0, 1000]))[0].tolist() == [0, 1, 3], "it wins pixels"


@pytest.mark.parametrize("smallest", [False, True])
def test_the_best_classes(smallest: bool) -> None:
    given = np.random.default_rng(0).normal(size=(7, 9001, 1)).astype(np.float32)
    winners = given.argmin(axis=0) if smallest else given.argmax(axis=0)
    found = best_classes(given, smallest=smallest)
    np.testing.assert_array_equal(found, winners)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (36, 41), (70, 66)])
def test_squares_cover_the_image_once(size: tuple[int, int]) -> None:
    height, width = size
    mixed = np.random.default_rng(0).choice([1, 2, 4], (-(-height // 4), -(-width // 4))).astype(np.int32)
    mixed[height // 4 :] = mixed[:, width // 4 :] = 1  # where the edge cuts
    for samples in (equal_squares(height, width, 1), squares(height, width, mixed)):
        assert (samples.sides**2).sum() == height * width
        numbers = samples.paint(np.arange(len(samples.ys)))
        np.testing.assert_array_equal(np.bincount(numbers.ravel()), samples.sides**2)
        np.testing.assert_array_equal(numbers[samples.ys, samples.xs], np.arange(len(samples.ys)))
    few = equal_squares(height, width, 4)
    assert len(few.ys) == len(range(2, height, 4)) * len(range(2, width, 4))


def test_squares_grow_with_the_distance_from_what_is_not_settled() -> None:
    raw = np.zeros((50, 64), np.int32)
    raw[:, 48:] = 1
    raw[9, 13] = 1  # in the block of row 2, column 3
    few = equal_squares(50, 64, 4)
    coarse = np.full((2, len(few.ys)), 0.001)
    coarse[raw[few.ys + 2, few.xs + 2], np.arange(len(few.ys))] = 0.999
    coarse[0, (few.ys // 4 == 9) & (few.xs // 4 == 4)] = 0.9
    sides = sides_of(few, coarse, raw)
    assert sides.shape == (13, 16)
    assert sides[2, 3] == 1, "a pixel of another class"
    assert (np.delete(sides[1:4, 2:5].ravel(), 4) == 2).all(), "which its neighbours see"
    assert (sides[8:11, 3:6] == 1).all(), "not sure, and so is nothing beside it"
    assert (sides[:, 11:13] == 1).all(), "an edge between classes"
    assert (sides[12] == 1).all(), "cut by the image's edge"
    assert sides[5, 10:].tolist() == [2, 1, 1, 2, 2, 4]
    assert sides[6, 8] == sides[11, 0] == 4
    assert set(np.unique(sides)) == {1, 2, 4}


def test_pixels_that_have_settled_are_left_alone_and_nothing_changes(monkeypatch) -> None:
    image, scores = street(200, 240)
    probabilities = probabilities_of(scores, image.shape)
    told = {"probabilities": probabilities, "params": PARAMS, "output": "probabilities"}
    visits = []

    def spy(scores, blocks, *rest):
        visits.append(len(blocks))
        return step(scores, blocks, *rest)

    step = filtering.step
    monkeypatch.setattr(filtering, "step", spy)
    found = dense_crf(image, **told)
    assert len(visits) == PARAMS.steps - 1
    assert visits[-1] < 0.5 * visits[0] == 0.5 * 200 * 240 / 16
    monkeypatch.setitem(inference.SETTLING, "exact", Settling(0, 1e9))
    expected = dense_crf(image, **told)
    assert visits[-1] == visits[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(axis=0), expected.argmax(axis=0))


def test_results_outlive_the_next_image() -> None:
    """Working memory is used again."""
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


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (33, 35), (70, 41)])
@pytest.mark.parametrize("mode", ["exact", "pruned", "fast"])
def test_images_of_any_size(size: tuple[int, int], mode: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    scores = np.random.default_rng(1).normal(size=(12, -(-size[0] // STRIDE), -(-size[1] // STRIDE)))
    found = crf_of_scores(image, scores, stride=STRIDE, mode=mode)
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


@pytest.mark.parametrize("mode", ["exact", "pruned", "fast"])
def test_what_lies_in_the_memory_is_not_seen(mode: str) -> None:
    image, scores = street(67, 73)
    told = {"probabilities": probabilities_of(scores, image.shape), "params": PARAMS, "mode": mode}
    results = []
    for byte in (0, 0, 0xFF):  # not-a-number as float32, -1 as an integer; the first round only makes the memory
        for kept in memory._kept.arrays.values():
            kept.fill(byte)
        results.append(dense_crf(image, **told, output="probabilities"))
    np.testing.assert_array_equal(results[2], results[1])
    assert np.isfinite(results[1]).all()


def test_an_image_too_large_for_the_memory_goes_in_tiles() -> None:
    image, scores = street(180, 260)
    params = CRFParams(sigma_alpha=8, sigma_beta=8)
    whole = crf_of_scores(image, scores, stride=STRIDE, params=params, mode="exact")
    tiled = crf_of_scores(image, scores, stride=STRIDE, params=params, mode="exact", max_bytes=5 * 2**20)
    assert 0 < (tiled.labels != whole.labels).mean() < 0.002, "near the whole image's, and not the same code"
    assert abs(tiled.changed - whole.changed) < 0.002 * image.size
    probabilities = probabilities_of(scores, image.shape)
    told = {"probabilities": probabilities, "params": params, "max_bytes": 5 * 2**20}
    np.testing.assert_array_equal(
        dense_crf(image, **told, output="probabilities").argmax(axis=0), dense_crf(image, **told)
    )


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((3, 2, 3)), r"expected \[classes, 3, 4\]"),
        (np.full((3, 3, 4), np.nan), "scores: NaN or infinity"),
    ],
)
def test_what_it_refuses(scores: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crf_of_scores(np.zeros((20, 30, 3), np.uint8), scores, stride=STRIDE)


def test_warming_up_runs_every_width_that_can_occur(monkeypatch, tmp_path) -> None:
    """A run of 20 classes may keep 5, 12 or all."""
    widths = []

    def spy(samples, order, **told):
        rows = empty_rows(samples, order, **told)
        widths.append(rows.width)
        return rows

    monkeypatch.setattr("pipeline.crf.score_map.empty_rows", spy)
    monkeypatch.setattr("pipeline.crf.warm._folder", lambda: tmp_path)
    warm.__wrapped__(classes=20, params=CRFParams(), mode="pruned")
    assert set(widths) == {8, 16, 24}
    assert [path.name for path in tmp_path.glob("warm-*-pruned-20-symmetric")], "the next process need not wait"
