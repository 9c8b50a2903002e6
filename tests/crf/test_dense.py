"""The dense CRF against slow oracles, its symmetries, and what it refuses."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from pipeline.crf.dense import dense_crf
from pipeline.crf.params import CRFParams
from tests.support import crf_oracles as oracle
from tests.support.crf_oracles import scene


def reference(
    image: np.ndarray,
    probabilities: np.ndarray,
    params: CRFParams,
    *,
    exact: bool = False,
    mu: np.ndarray | None = None,
) -> np.ndarray:
    classes, height, width = probabilities.shape
    matrix = oracle.exact_kernel if exact else oracle.lattice_matrix
    kernels = [
        (params.w1, matrix(oracle.features_of(image, params.sigma_alpha, params.sigma_beta))),
        (params.w2, matrix(oracle.features_of(image, params.sigma_gamma))),
    ]
    q = oracle.mean_field(
        np.log(probabilities.reshape(classes, -1).astype(np.float64)),
        [(w, oracle.normalised(k, params.normalisation)) for w, k in kernels],
        steps=params.steps,
        compatibility=mu,
    )
    return q.reshape(classes, height, width)


@pytest.mark.parametrize(
    ("classes", "normalisation"), [(2, "symmetric"), (8, "before"), (9, "after"), (21, "none"), (21, "symmetric")]
)
def test_equals_the_lattice_in_dictionaries(classes: int, normalisation: str) -> None:
    image, probabilities = scene(classes=classes)
    params = CRFParams(
        w1=0.05 if normalisation == "none" else 4, w2=0.05 if normalisation == "none" else 3, sigma_alpha=9,
        sigma_beta=12, sigma_gamma=2, steps=5, normalisation=normalisation,
    )  # fmt: skip
    expected = reference(image, probabilities, params)
    found = dense_crf(image, probabilities=probabilities, params=params, output="probabilities")
    np.testing.assert_allclose(found, expected, atol=2e-4)
    labels = dense_crf(image, probabilities=probabilities, params=params)
    assert np.array_equal(labels, expected.argmax(axis=0))


def test_comes_close_to_the_sum_over_all_pairs() -> None:
    """The lattice is a rough Gaussian; its labels are nearly those of the exact mean field."""
    image, probabilities = scene(24, 30, classes=4)
    params = CRFParams(sigma_alpha=12, sigma_beta=20)
    expected = reference(image, probabilities, params, exact=True)
    found = dense_crf(image, probabilities=probabilities, params=params)
    assert (found != expected.argmax(axis=0)).mean() < 0.02
    assert (probabilities.argmax(axis=0) != expected.argmax(axis=0)).mean() > 0.2, "the CRF has work to do here"


@pytest.mark.parametrize("kind", ["factors", "matrix"])
def test_compatibility_of_labels(kind: str) -> None:
    image, probabilities = scene(12, 16, classes=9)
    rng = np.random.default_rng(1)
    factors, penalties = rng.uniform(0.2, 2, 9), rng.uniform(0, 1.5, (9, 9))
    given = tuple(factors.tolist()) if kind == "factors" else tuple(map(tuple, penalties.tolist()))
    params = CRFParams(sigma_alpha=9, sigma_beta=12, sigma_gamma=2, steps=5, compatibility=given)
    expected = reference(image, probabilities, params, mu=-np.diag(factors) if kind == "factors" else penalties)
    found = dense_crf(image, probabilities=probabilities, params=params, output="probabilities")
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_more_classes_than_fit_the_registers() -> None:
    image, probabilities = scene(10, 12, classes=70)
    params = CRFParams(sigma_alpha=9, sigma_beta=12, sigma_gamma=2, steps=3)
    found = dense_crf(image, probabilities=probabilities, params=params, output="probabilities")
    np.testing.assert_allclose(found, reference(image, probabilities, params), atol=2e-4)
    _, thousand = scene(10, 12, classes=1000)
    labels = dense_crf(image, probabilities=thousand, params=params)
    assert np.array_equal(labels, reference(image, thousand, params).argmax(axis=0))


def test_stopping_early_is_taking_fewer_steps() -> None:
    """Two steps settle the labels of all but a few pixels; the last message is sliced after that."""
    image, probabilities = scene()
    found, expected = (
        dense_crf(image, probabilities=probabilities, params=CRFParams(**told), output="probabilities")
        for told in ({"stop_below": 0.99}, {"steps": 3})
    )
    np.testing.assert_array_equal(found, expected)


def test_threads_do_not_disturb_each_other() -> None:
    scenes = [scene(40, 50, classes=classes, seed=classes) for classes in (3, 5, 9, 17)]
    alone = [dense_crf(image, probabilities=p, output="probabilities") for image, p in scenes]
    with ThreadPoolExecutor(4) as pool:
        several = list(pool.map(lambda s: dense_crf(s[0], probabilities=s[1], output="probabilities"), scenes * 4))
    for i, found in enumerate(several):
        np.testing.assert_array_equal(found, alone[i % 4])


CALM = settings(max_examples=15, deadline=None, derandomize=True)
SEEDS = strategies.integers(0, 2**16)
WIDTHS = {"sigma_alpha": strategies.floats(2, 60), "sigma_beta": strategies.floats(2, 60)}


@CALM
@given(seed=SEEDS, order=strategies.permutations(range(5)), **WIDTHS)
def test_permuting_the_classes_permutes_the_result(seed, order, sigma_alpha, sigma_beta) -> None:
    image, probabilities = scene(seed=seed)
    told = {"params": CRFParams(sigma_alpha=sigma_alpha, sigma_beta=sigma_beta), "output": "probabilities"}
    found = dense_crf(image, probabilities=probabilities, **told)
    permuted = dense_crf(image, probabilities=probabilities[order], **told)
    np.testing.assert_allclose(permuted, found[order], atol=1e-4)
    unary = dense_crf(image, unary=3 - np.log(probabilities), **told)
    np.testing.assert_allclose(unary, found, atol=1e-4)


@CALM
@given(seed=SEEDS, axis=strategies.sampled_from([0, 1]), **WIDTHS)
def test_flipping_flips_the_result(seed, axis, sigma_alpha, sigma_beta) -> None:
    """But for where the lattice's cells lie."""
    image, probabilities = scene(32, 40, seed=seed)
    params = CRFParams(sigma_alpha=sigma_alpha, sigma_beta=sigma_beta)
    found = dense_crf(image, probabilities=probabilities, params=params)
    flipped = dense_crf(np.flip(image, axis), probabilities=np.flip(probabilities, axis + 1), params=params)
    assert (np.flip(flipped, axis) != found).mean() < 0.06


@CALM
@given(seed=SEEDS, steps=strategies.integers(0, 4))
def test_without_weights_it_returns_the_softmax(seed, steps) -> None:
    image, probabilities = scene(seed=seed)
    params = CRFParams(w1=0, w2=0, steps=steps)
    found = dense_crf(image, probabilities=probabilities, params=params, output="probabilities")
    np.testing.assert_allclose(found, probabilities, rtol=1e-4, atol=1e-7)


def test_a_constant_image_smooths_like_a_gaussian_alone() -> None:
    """The bilateral kernel of a constant image is the position's; both lattices then see the same distances."""
    _, probabilities = scene(classes=3)
    flat = np.full((17, 22, 3), 77, np.uint8)
    coloured = dense_crf(flat, probabilities=probabilities, params=CRFParams(w1=3, sigma_alpha=4, w2=0, steps=3))
    alone = dense_crf(flat, probabilities=probabilities, params=CRFParams(w1=0, w2=3, sigma_gamma=4, steps=3))
    assert (coloured != alone).mean() < 0.03


@pytest.mark.parametrize("channels", [None, 1, 4, 9])
def test_images_of_any_kind(channels: int | None) -> None:
    _, probabilities = scene()
    rng = np.random.default_rng(0)
    other = rng.integers(0, 256, (17, 22) if channels is None else (17, 22, channels)).astype(np.float64)
    labels = dense_crf(other, probabilities=probabilities)
    assert labels.shape == (17, 22)
    assert labels.dtype == np.int32


def test_read_only_and_strided_arrays() -> None:
    image, probabilities = scene()
    expected = dense_crf(image, probabilities=probabilities)
    wide_image, wide = np.repeat(image, 2, axis=1), np.asfortranarray(probabilities)
    wide_image.flags.writeable = wide.flags.writeable = False
    np.testing.assert_array_equal(dense_crf(wide_image[:, ::2], probabilities=wide), expected)


TWO, NARROW = CRFParams(compatibility=(1, 2)), CRFParams(sigma_beta=1e-6)


@pytest.mark.parametrize(
    ("image", "told", "message"),
    [
        (np.zeros((4, 5, 3)), {"probabilities": np.ones((2, 5, 4))}, r"expected \[classes, 4, 5\]"),
        (np.zeros((4, 5, 3)), {"probabilities": np.full((2, 4, 5), np.nan)}, "probabilities: NaN"),
        (np.zeros((4, 5, 3)), {"unary": np.full((2, 4, 5), np.inf)}, "unary: NaN or infinity"),
        (np.full((4, 5, 3), np.nan), {"unary": np.ones((2, 4, 5))}, "image: NaN"),
        (np.zeros((0, 5, 3)), {"unary": np.ones((2, 0, 5))}, "image: expected"),
        (np.zeros((4, 5, 3)), {}, "either"),
        (
            np.zeros((4, 5, 3)),
            {"unary": np.ones((3, 4, 5)), "params": CRFParams(compatibility=(1, 2))},
            "3 finite numbers",
        ),
        (
            np.mgrid[:4, :5][0],
            {"unary": np.ones((2, 4, 5)), "params": CRFParams(sigma_beta=1e-6)},
            "take a larger width",
        ),
        (np.zeros((40, 50)), {"unary": np.ones((2, 40, 50)), "max_bytes": 2**18}, "50x40, is too large"),
        (np.zeros((4, 5, 3)), {"unary": np.ones((1001, 4, 5))}, "1 to 1000 classes"),
    ],
)
def test_what_it_refuses(image: np.ndarray, told: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_crf(image, **told)
