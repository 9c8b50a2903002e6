"""Which classes of an image matter."""

import numpy as np
from numpy.typing import NDArray


def likely_classes(given: NDArray, *, probabilities: bool) -> NDArray[np.intp]:
    return np.arange(len(given))
