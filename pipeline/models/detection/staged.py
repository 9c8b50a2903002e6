"""The stages that R-CNN and SPPNet share: fine-tuning with a softmax, then linear SVMs and box regressors.

    features of a region -> softmax, K + 1            stage 1, trained with the network and then left
                         -> K linear SVMs             stage 2, fitted to the network's features
    pooled features      -> 4 K linear regressors     stage 3, ridge regression

Stages 2 and 3 are fitted outside the network (`stages`), on features that `features` computes. `set_svms` and
`set_regressors` store their results in it, so that the weights of a trained detector are complete. Before, the softmax
scores the regions, and the regions are the boxes.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.detection.boxes import Selection, clip, decode
from pipeline.models.detection.detector import Randomness, ScoredBoxes, Target, generators
from pipeline.models.detection.inputs import at_least_float32, image_size, none
from pipeline.models.detection.region_network import RegionConfig, RegionNetwork, box_layer, usable
from pipeline.models.detection.sampling import FINE_TUNING, sample_regions

SVM_SELECTION = Selection(score=-1.0, iou=0.3)  # distances from the hyperplane, down to the negative margin
SOFTMAX_SELECTION = Selection(score=0.05, iou=0.3)


class RegionFeatures(NamedTuple):
    """The features of regions.

    Attributes:
        pooled: Last convolutional features, [regions, pooled_features], to which box regressors are fitted.
        hidden: Features that classify, [regions, hidden_features], to which the softmax and the SVMs are fitted.
    """

    pooled: Tensor
    hidden: Tensor


class StagedNetwork(RegionNetwork):
    """A region network with a softmax, SVMs and box regressors.

    Attributes:
        svm_scale: Factor of the features before the SVMs, which makes their mean norm a constant.
        svms_fitted: Whether the SVMs score the regions, bool [].
        regressors_fitted: Whether the regressors correct the boxes, bool [].
    """

    svm_scale: Tensor
    svms_fitted: Tensor
    regressors_fitted: Tensor

    def __init__(self, config: RegionConfig, *, num_classes: int, regions: int, bins: int | None = None):
        super().__init__(config, num_classes=num_classes, selection=SVM_SELECTION, bins=bins)
        self._rule = FINE_TUNING._replace(regions=regions)
        self.score = self.score_layer()
        self.svms = nn.Linear(self.hidden_features, num_classes).requires_grad_(False)
        self.regressors = box_layer(self.pooled_features, num_classes).requires_grad_(False)
        self.register_buffer("svm_scale", torch.ones(()))
        self.register_buffer("svms_fitted", torch.tensor(False))
        self.register_buffer("regressors_fitted", torch.tensor(False))

    @abstractmethod
    def features(self, image: Tensor, regions: Tensor) -> RegionFeatures:
        """Return the features of regions [n, 4], of positive area and within it, of an image [3, height, width]."""

    def set_svms(self, weights: Tensor, biases: Tensor, *, scale: float) -> None:
        """Store the SVMs, which score the regions from now on.

        Args:
            weights: [classes, hidden_features].
            biases: [classes].
            scale: Factor by which the features were multiplied before the fit.
        """
        self.svms.weight.copy_(weights)
        self.svms.bias.copy_(biases)
        self.svm_scale.fill_(scale)
        self.svms_fitted.fill_(True)

    def set_regressors(self, weights: Tensor, biases: Tensor) -> None:
        """Store the regressors, which correct the boxes from now on.

        Args:
            weights: [classes, 4, pooled_features], for targets of `boxes.encode`.
            biases: [classes, 4].
        """
        self.regressors.weight.copy_(weights.flatten(0, 1))
        self.regressors.bias.copy_(biases.flatten())
        self.regressors_fitted.fill_(True)

    def losses(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        proposals: Sequence[Tensor] | None = None,
        *,
        rng: Randomness,
    ) -> dict[str, Tensor]:
        """Return the loss "classes" of fine-tuning, the cross entropy of sampled regions; see `DetectionNetwork`."""
        # Workers wait for each other's gradients, so all weights that learn take part, even without a region.
        terms = [0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()]
        own = generators(rng, len(images))
        for image, target, boxes, some in zip(images, targets, proposals or none(images), own, strict=True):
            sample = sample_regions(
                usable(boxes, image_size(image)).numpy(force=True),
                target.boxes.numpy(force=True),
                target.labels.numpy(force=True),
                num_classes=self.num_classes,
                rule=self._rule,
                rng=some,
            )
            if len(sample.boxes):
                logits = self.score(self.features(image, torch.from_numpy(sample.boxes).to(image.device)).hidden)
                labels = torch.from_numpy(sample.labels).to(image.device)
                terms.append(F.cross_entropy(at_least_float32(logits), labels))
        return {"classes": torch.stack(terms).sum() / len(images)}

    @property
    def default_selection(self) -> Selection:
        """Scores above -1 if they are those of SVMs, and above 0.05 if they are probabilities."""
        return self.selection if self.svms_fitted else SOFTMAX_SELECTION

    def score_boxes(self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None) -> list[ScoredBoxes]:
        """Return the scored boxes in each image; see `DetectionNetwork.score_boxes`."""
        found = []
        for image, boxes in zip(images, proposals or none(images), strict=True):
            regions = usable(boxes, image_size(image)).to(image.device)
            scores, corrected = self._scored(image, regions)
            found.append(ScoredBoxes(clip(corrected, image_size(image)), scores))
        return found

    def _scored(self, image: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores [regions, classes] and the boxes [regions, classes or 1, 4] of an image's regions."""
        if len(regions) == 0:
            return regions.new_zeros(0, self.num_classes), regions[:, None]
        pooled, hidden = self.features(image, regions)
        probabilities = at_least_float32(self.score(hidden)).softmax(dim=1)[:, :-1]
        scores = at_least_float32(self.svms(hidden * self.svm_scale)) if self.svms_fitted else probabilities
        if not self.regressors_fitted:
            return scores, regions[:, None]
        deltas = at_least_float32(self.regressors(pooled)).unflatten(1, (self.num_classes, 4))
        return scores, decode(deltas, regions[:, None])
