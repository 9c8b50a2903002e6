"""The dense CRF against slow reference implementations, its symmetries, and its error messages.

Nearly all tests run on both implementations: the compiled one and that in PyTorch, here on a CPU.

Numerical bounds: the references compute in float64, so the differences are float32 rounding, of the same order on every
instruction set: at most 3e-6 where measured. TOLERANCE leaves a factor of 60 for other orders of summation.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from pipeline.crf import CRFParams, dense_crf, gpu
from tests.support import crf_oracles as oracle
from tests.support.crf_oracles import assert_best, scene

TOLERANCE = 2e-4

IMPLEMENTATIONS = {"numba": dense_crf, "torch": partial(gpu.dense_crf, device="cpu")}
both = pytest.mark.parametrize("crf", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)


def reference(
    image: np.ndarray,
    probabilities: np.ndarray,
    params: CRFParams,
    *,
    exact: bool = False,
    mu: np.ndarray | None = None,
) -> np.ndarray:
    """Return Q [classes, height, width] from kernels as matrices, of the lattice or exact."""
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


@both
@pytest.mark.parametrize(
    ("classes", "normalisation"), [(2, "symmetric"), (8, "before"), (9, "after"), (21, "none"), (21, "symmetric")]
)
def test_equals_the_reference_lattice(crf: Callable, classes: int, normalisation: str) -> None:
    image, probabilities = scene(classes=classes)
    params = CRFParams(
        w1=0.05 if normalisation == "none" else 4, w2=0.05 if normalisation == "none" else 3, sigma_alpha=9,
        sigma_beta=12, sigma_gamma=2, steps=5, normalisation=normalisation,
    )  # fmt: skip
    expected = reference(image, probabilities, params)
    found = crf(image, probabilities=probabilities, params=params, output="probabilities")
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert_best(crf(image, probabilities=probabilities, params=params), expected, tolerance=TOLERANCE)


@both
@pytest.mark.parametrize("channels", [None, 1, 9])
def test_images_with_any_number_of_channels(crf: Callable, channels: int | None) -> None:
    """With nine channels the lattice's keys do not fit 64 bits and are hashed."""
    _, probabilities = scene(10, 12)
    shape = (10, 12) if channels is None else (10, 12, channels)
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.float64)
    params = CRFParams(sigma_beta=60, steps=3)
    found = crf(image, probabilities=probabilities, params=params, output="probabilities")
    np.testing.assert_allclose(found, reference(image, probabilities, params), atol=TOLERANCE)
    labels = crf(image, probabilities=probabilities, params=params)
    assert labels.shape == (10, 12)
    assert labels.dtype == np.int32


@both
def test_is_close_to_the_sum_over_all_pairs(crf: Callable) -> None:
    """The lattice only approximates a Gaussian, but nearly all labels are those of the exact mean field."""
    image, probabilities = scene(24, 30, classes=4)
    params = CRFParams(sigma_alpha=12, sigma_beta=20)
    expected = reference(image, probabilities, params, exact=True)
    found = crf(image, probabilities=probabilities, params=params)
    assert (found != expected.argmax(axis=0)).mean() < 0.02
    assert (probabilities.argmax(axis=0) != expected.argmax(axis=0)).mean() > 0.2, "the CRF changes labels"


@both
@pytest.mark.parametrize("kind", ["factors", "matrix"])
def test_label_compatibility(crf: Callable, kind: str) -> None:
    image, probabilities = scene(12, 16, classes=9)
    rng = np.random.default_rng(1)
    factors, penalties = rng.uniform(0.2, 2, 9), rng.uniform(0, 1.5, (9, 9))
    compatibility = tuple(factors.tolist()) if kind == "factors" else tuple(map(tuple, penalties.tolist()))
    params = CRFParams(sigma_alpha=9, sigma_beta=12, sigma_gamma=2, steps=5, compatibility=compatibility)
    expected = reference(image, probabilities, params, mu=-np.diag(factors) if kind == "factors" else penalties)
    found = crf(image, probabilities=probabilities, params=params, output="probabilities")
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@both
def test_more_classes_than_fit_the_registers(crf: Callable) -> None:
    image, probabilities = scene(10, 12, classes=70)
    params = CRFParams(sigma_alpha=9, sigma_beta=12, sigma_gamma=2, steps=3)
    found = crf(image, probabilities=probabilities, params=params, output="probabilities")
    np.testing.assert_allclose(found, reference(image, probabilities, params), atol=TOLERANCE)
    _, thousand = scene(10, 12, classes=1000)
    labels = crf(image, probabilities=thousand, params=params)
    assert_best(labels, reference(image, thousand, params), tolerance=TOLERANCE)


@both
def test_stopping_early_equals_fewer_steps(crf: Callable) -> None:
    """The second step changes few labels, so it is the last; the third Q is its result."""
    image, probabilities = scene()
    found, expected = (
        crf(image, probabilities=probabilities, params=CRFParams(**options), output="probabilities")
        for options in ({"stop_below": 0.99}, {"steps": 3})
    )
    np.testing.assert_array_equal(found, expected)


@both
def test_threads_do_not_disturb_each_other(crf: Callable) -> None:
    scenes = [scene(40, 50, classes=classes, seed=classes) for classes in (3, 5, 9, 17)]
    alone = [crf(image, probabilities=p, output="probabilities") for image, p in scenes]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda s: crf(s[0], probabilities=s[1], output="probabilities"), scenes * 4))
    for i, found in enumerate(parallel):
        np.testing.assert_array_equal(found, alone[i % 4])


EXAMPLES = settings(max_examples=15, deadline=None, derandomize=True)
SEEDS = strategies.integers(0, 2**16)
WIDTHS = {"sigma_alpha": strategies.floats(2, 60), "sigma_beta": strategies.floats(2, 60)}


@both
@EXAMPLES
@given(seed=SEEDS, order=strategies.permutations(range(5)), **WIDTHS)
def test_permuting_the_classes_permutes_the_result(crf: Callable, seed, order, sigma_alpha, sigma_beta) -> None:
    """A sum of the classes in another order rounds differently.

    The softmax changes by at most half of a change of its logits, so with w1 + w2 = 2 a step does not amplify errors:
    after ten steps they are ten times those of one, float32 rounding and the settling's 1e-5.
    """
    image, probabilities = scene(seed=seed)
    params = CRFParams(w1=1, w2=1, sigma_alpha=sigma_alpha, sigma_beta=sigma_beta)
    found = crf(image, probabilities=probabilities, params=params, output="probabilities")
    permuted = crf(image, probabilities=probabilities[order], params=params, output="probabilities")
    np.testing.assert_allclose(permuted, found[order], atol=TOLERANCE)
    unary = crf(image, unary=3 - np.log(probabilities), params=params, output="probabilities")
    np.testing.assert_allclose(unary, found, atol=TOLERANCE)


@both
@EXAMPLES
@given(seed=SEEDS, axis=strategies.sampled_from([0, 1]), **WIDTHS)
def test_flipping_the_image_flips_the_result(crf: Callable, seed, axis, sigma_alpha, sigma_beta) -> None:
    """The labels differ only where the lattice's simplices lie differently: 2% at most where measured."""
    image, probabilities = scene(32, 40, seed=seed)
    params = CRFParams(sigma_alpha=sigma_alpha, sigma_beta=sigma_beta)
    found = crf(image, probabilities=probabilities, params=params)
    flipped = crf(np.flip(image, axis), probabilities=np.flip(probabilities, axis + 1), params=params)
    assert (np.flip(flipped, axis) != found).mean() < 0.06


@both
@EXAMPLES
@given(seed=SEEDS, steps=strategies.integers(0, 4))
def test_without_weights_it_returns_the_probabilities(crf: Callable, seed, steps) -> None:
    """The logarithm has an error of 3e-7 and the exponential of 2e-7, far below the bound."""
    image, probabilities = scene(seed=seed)
    params = CRFParams(w1=0, w2=0, steps=steps)
    found = crf(image, probabilities=probabilities, params=params, output="probabilities")
    np.testing.assert_allclose(found, probabilities, rtol=1e-4, atol=1e-7)


@both
def test_on_a_constant_image_both_kernels_are_the_same(crf: Callable) -> None:
    """Only their lattices differ: 0.5% of the labels where measured."""
    _, probabilities = scene(classes=3)
    image = np.full((17, 22, 3), 77, np.uint8)
    bilateral = crf(image, probabilities=probabilities, params=CRFParams(w1=3, sigma_alpha=4, w2=0, steps=3))
    spatial = crf(image, probabilities=probabilities, params=CRFParams(w1=0, w2=3, sigma_gamma=4, steps=3))
    assert (bilateral != spatial).mean() < 0.03


@both
def test_read_only_and_strided_arrays(crf: Callable) -> None:
    image, probabilities = scene()
    expected = crf(image, probabilities=probabilities)
    wide_image, strided = np.repeat(image, 2, axis=1), np.asfortranarray(probabilities)
    wide_image.flags.writeable = strided.flags.writeable = False
    np.testing.assert_array_equal(crf(wide_image[:, ::2], probabilities=strided), expected)


@both
@pytest.mark.parametrize(
    ("image", "options", "message"),
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
        (
            np.full((4, 5), 200),  # float32 cannot place it in the lattice, although all colours are the same
            {"unary": np.ones((2, 4, 5)), "params": CRFParams(sigma_beta=1e-6)},
            "take a larger width",
        ),
        (np.zeros((40, 50)), {"unary": np.ones((2, 40, 50)), "max_bytes": 2**18}, "50x40, is too large"),
        (np.zeros((4, 5, 3)), {"unary": np.ones((1001, 4, 5))}, "1 to 1000 classes"),
    ],
)
def test_invalid_input_is_refused(crf: Callable, image: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crf(image, **options)
