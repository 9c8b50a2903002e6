"""Mean-field inference on a batch of images (Krähenbühl & Koltun, NIPS 2011, algorithm 1).

    Q = softmax(scores)
    repeat `steps` times:  Q = softmax(scores + sum over kernels of w K Q)

Every step visits all samples: on a GPU, choosing those that have not settled would cost more than it saves. A step is a
few dozen launches, and the host waits for none of them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.crf.gpu.kernel import Kernel
from pipeline.crf.params import CRFParams


class Kernels(NamedTuple):
    """The kernels between the samples of a batch of images of one size.

    Attributes:
        bilateral: kernel between the samples of all images.
        spatial: kernel between the samples of one image, which is the same for all of them.
    """

    bilateral: Kernel
    spatial: Kernel

    def messages(self, q: Tensor) -> Tensor:
        """Return the sum of both filters' outputs, float32 [images, samples, lanes] like the input."""
        filtered = self.bilateral(q.reshape(1, -1, q.shape[2])).reshape(q.shape)
        return filtered.add_(self.spatial(q))


class Compatibility(NamedTuple):
    """The compatibility transform of the messages; with neither attribute it is Potts' model.

    Attributes:
        factors: float32 [images, lanes], factor of each lane's message.
        matrix: float32 [lanes, lanes], minus the penalties; a row is the neighbour's class.
    """

    factors: Tensor | None
    matrix: Tensor | None

    def __call__(self, messages: Tensor) -> Tensor:
        """Transform messages [images, samples, lanes]."""
        if self.matrix is not None:
            return messages @ self.matrix
        return messages if self.factors is None else messages.mul_(self.factors[:, None])


def mean_field(scores: Tensor, kernels: Kernels, compatibility: Compatibility, params: CRFParams) -> Tensor:
    """Return the logits of Q after the last step, float32 [images, samples, lanes].

    If `params.stop_below` is set, an image whose labels a step has hardly changed does one more step, and then stays as
    it is while the others continue.

    Args:
        scores: float32 [images, samples, lanes], log-probabilities up to a constant for each sample.
        kernels: kernels between the samples.
        compatibility: compatibility of the lanes.
        params: parameters of the CRF.
    """
    logits = scores
    labels = torch.full(scores.shape[:2], -1, device=scores.device)
    done = last = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    for _ in range(params.steps):
        following = compatibility(kernels.messages(torch.softmax(logits, dim=-1))).add_(scores)
        if not params.stop_below:
            logits = following
            continue
        logits = torch.where(done[:, None, None], logits, following)
        before, labels = labels, logits.argmax(dim=-1)
        done = last
        last = done | ((labels != before).sum(dim=1) < params.stop_below * labels.shape[1])
    return logits
