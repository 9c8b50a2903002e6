"""What a classifier says of an image in a run that localizes. Imports no PyTorch: helper processes read it too."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Located(NamedTuple):
    """The result for an image.

    Attributes:
        probabilities: float32 [classes].
        classes: Classes that have a map: those found, the most probable first, then those known to be there.
        found: How many of them were found.
        maps: Their raw maps, float32 [n, h, w], of the upright image.
    """

    probabilities: NDArray[np.float32]
    classes: list[int]
    found: int
    maps: NDArray[np.float32]
