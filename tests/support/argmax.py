"""Comparison of labels with scores that are rounded differently from machine to machine."""

import numpy as np
from torch import Tensor


def assert_argmax(labels: np.ndarray, scores: Tensor, *, margin: float, share: float) -> None:
    """Assert that labels [height, width] are the argmax of scores [classes, height, width], except for near ties.

    Rounding, which depends on the instruction set and the batch size, may change the label of a pixel if its two
    largest scores are close.

    Args:
        labels: The labels.
        scores: The scores.
        margin: Smallest difference of the two largest scores that counts, in standard deviations of the scores.
        share: Smallest share of the pixels that must count.
    """
    first, second = scores.topk(2, dim=0).values
    clear = (first - second > margin * scores.std()).numpy()
    np.testing.assert_array_equal(labels[clear], scores.argmax(dim=0).numpy()[clear])
    assert clear.mean() >= share
