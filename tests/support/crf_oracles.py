"""Slow reference implementations of the dense CRF, written for reading and sharing no code with the fast one."""

import numpy as np
from scipy import sparse


def exact_kernel(features: np.ndarray) -> np.ndarray:
    """Return exp(-|f_i - f_j|² / 2) for all pairs of pixels, [pixels, pixels]."""
    squares = ((features[:, None] - features[None]) ** 2).sum(axis=-1)
    return np.exp(-squares / 2)


def lattice_matrix(features: np.ndarray) -> np.ndarray:
    """Return the filter of the permutohedral lattice as a matrix, slice · blur · splat, [pixels, pixels].

    The lattice points are the keys of a dictionary.
    """
    pixels, d = features.shape
    scale = np.array([np.sqrt(2 / 3) * (d + 1) / np.sqrt((i + 1) * (i + 2)) for i in range(d)])
    numbers: dict[tuple[int, ...], int] = {}
    rows, columns, values = [], [], []
    for p in range(pixels):
        f = features[p] * scale
        elevated = np.array([f[j:].sum() - (j * f[j - 1] if j else 0) for j in range(d + 1)])
        # The nearest remainder-0 point: round to multiples of d + 1, then adjust coordinates until they sum to 0.
        base = np.rint(elevated / (d + 1)).astype(int) * (d + 1)
        excess = base.sum() // (d + 1)
        order = np.argsort(-(elevated - base), kind="stable")  # largest residual first
        if excess > 0:
            base[order[d + 1 - excess :]] -= d + 1
        elif excess < 0:
            base[order[:-excess]] += d + 1
        order = np.argsort(-(elevated - base), kind="stable")
        residual = (elevated - base)[order] / (d + 1)
        # Vertex r has gone one step down in the r coordinates with the smallest residuals.
        weights = np.empty(d + 1)
        for r in range(d + 1):
            weights[r] = residual[d - r] - residual[d + 1 - r] if r else 1 + residual[d] - residual[0]
        for r in range(d + 1):
            vertex = base + r
            vertex[order[d + 1 - r :]] -= d + 1
            rows.append(numbers.setdefault(tuple(vertex), len(numbers)))
            columns.append(p)
            values.append(weights[r])
    splat = sparse.csr_matrix((values, (rows, columns)), (len(numbers), pixels))
    filtered = splat
    for j in range(d + 1):
        step = np.ones(d + 1, int)
        step[j] = -d
        blur = sparse.lil_matrix((len(numbers), len(numbers)))
        for vertex, i in numbers.items():
            blur[i, i] = 1
            for side in (step, -step):
                neighbour = numbers.get(tuple(np.add(vertex, side)))
                if neighbour is not None:
                    blur[i, neighbour] = 0.5
        filtered = blur.tocsr() @ filtered
    return np.asarray((splat.T @ filtered).todense()) / (1 + 2.0**-d)


def features_of(image: np.ndarray, sigma: float, sigma_colour: float | None = None) -> np.ndarray:
    """Return (x, y) / sigma and, with a width, the colours / sigma_colour, [pixels, d]."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    position = np.stack([x, y], axis=-1).reshape(-1, 2) / sigma
    if sigma_colour is None:
        return position
    return np.concatenate([position, image.reshape(height * width, -1) / sigma_colour], axis=1)


def normalised(kernel: np.ndarray, how: str) -> np.ndarray:
    """Return the kernel normalised by its row sums: "symmetric", "before", "after" or "none"."""
    sums = kernel.sum(axis=1)
    before = {"symmetric": sums**-0.5, "before": 1 / sums}.get(how, np.ones_like(sums))
    after = {"symmetric": sums**-0.5, "after": 1 / sums}.get(how, np.ones_like(sums))
    return after[:, None] * kernel * before[None]


def mean_field(
    log_p: np.ndarray,
    kernels: list[tuple[float, np.ndarray]],
    *,
    steps: int,
    compatibility: np.ndarray | None = None,
) -> np.ndarray:
    """Return Q [classes, pixels] after some mean-field steps.

    The energy of label l given the other pixels is -log p_l + sum over l' of mu(l, l') times the message of l'.

    Args:
        log_p: log-probabilities [classes, pixels].
        kernels: weights and normalised kernels [pixels, pixels].
        steps: number of steps.
        compatibility: mu [classes, classes]; Potts if None.
    """
    classes = len(log_p)
    mu = 1 - np.eye(classes) if compatibility is None else compatibility
    q = softmax(log_p)
    for _ in range(steps):
        message = sum(weight * q @ kernel.T for weight, kernel in kernels)
        q = softmax(log_p - mu @ message)
    return q


def softmax(x: np.ndarray) -> np.ndarray:
    """Return the softmax over the first axis."""
    e = np.exp(x - x.max(axis=0))
    return e / e.sum(axis=0)


def assert_best(labels: np.ndarray, probabilities: np.ndarray, *, tolerance: float) -> None:
    """Assert that labels [height, width] are best classes of probabilities [classes, height, width].

    If every probability has an error of at most the tolerance, the best class can only change to one whose probability
    is less by at most twice the tolerance.
    """
    chosen = np.take_along_axis(probabilities, labels[None], axis=0)[0]
    assert (probabilities.max(axis=0) - chosen).max() <= 2 * tolerance


def scene(height: int = 17, width: int = 22, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth image with an edge, and uncertain class probabilities that roughly follow it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    side = x + 0.3 * y > width / 2
    image = np.where(side[..., None], (200, 90, 40), (50, 120, 180)) + rng.normal(0, 8, (height, width, 3))
    logits = rng.normal(0, 1.5, (classes, height, width))
    logits[0] += 1.2 * side
    logits[1] += 1.2 * ~side
    return image.clip(0, 255).astype(np.uint8), softmax(logits).astype(np.float32)
