"""pydensecrf, the peer of our dense CRF.

pydensecrf does not build any more; its fork pydensecrf2 does: `pip install cython setuptools wheel`, then
`pip install --no-build-isolation pydensecrf2`.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.crf.params import CRFParams


def has_pydensecrf() -> bool:
    """Whether pydensecrf can be imported."""
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError:
        return False
    return True


def pydensecrf(pixels: NDArray[np.uint8], probabilities: NDArray[np.float32], params: CRFParams) -> NDArray[np.float32]:
    """Return the probabilities [classes, height, width] that pydensecrf infers."""
    from pydensecrf.densecrf import DenseCRF2D

    classes, height, width = probabilities.shape
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(-np.log(np.maximum(probabilities, 1e-8)).reshape(classes, -1))
    crf.addPairwiseGaussian(sxy=params.sigma_gamma, compat=params.w2)
    crf.addPairwiseBilateral(sxy=params.sigma_alpha, srgb=params.sigma_beta, rgbim=pixels, compat=params.w1)
    return np.array(crf.inference(params.steps)).reshape(classes, height, width)


def pydensecrf_labels(
    pixels: NDArray[np.uint8], probabilities: NDArray[np.float32], params: CRFParams
) -> NDArray[np.intp]:
    """Return the labels [height, width] that pydensecrf infers."""
    return pydensecrf(pixels, probabilities, params).argmax(axis=0)
