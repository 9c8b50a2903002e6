"""Recall of proposals against a loop over boxes and budgets."""

import numpy as np

from pipeline.metrics.boxes import pairwise_iou
from pipeline.metrics.matching import Truth
from pipeline.metrics.proposals import BUDGETS, IOUS, ProposalRecall, count_proposals
from tests.support.boxes import random_boxes

NONE = np.zeros((0, 4))


def test_recall_equals_a_loop_over_boxes() -> None:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(6):
        truth = random_boxes(rng, 5, least=15)
        shifted = truth[rng.permutation(5).repeat(8)] + rng.integers(-8, 9, (40, 4))
        boxes = np.concatenate([random_boxes(rng, 30, least=5), shifted])[rng.permutation(70)]
        images.append((boxes, Truth.of(truth, np.zeros(5), rng.random(5) < 0.3)))
    found = sum((count_proposals(b, t) for b, t in images), ProposalRecall.zeros())
    wanted = [(b, box) for b, t in images for box in t.boxes[~t.difficult]]
    for i, iou in enumerate(IOUS):
        for k, budget in enumerate(BUDGETS):
            hits = [any(pairwise_iou(p[None], box[None])[0, 0] >= iou for p in boxes[:budget]) for boxes, box in wanted]
            assert found.recall[i, k] == np.mean(hits)
    assert (found.positives, found.proposals, found.images) == (len(wanted), 6 * 70, 6)
    assert found.recall[0, -1] > found.recall[1, -1] > 0


def test_images_without_proposals_or_truth() -> None:
    truth = Truth.of(np.array([[0, 0, 9, 9]]), np.zeros(1))
    nothing = Truth.of(NONE, np.zeros(0))
    missed = count_proposals(NONE, truth)
    assert (missed.recall == 0).all()
    assert missed.without_proposals == 1
    assert np.isnan(count_proposals(truth.boxes, nothing).recall).all()
    both = missed + count_proposals(truth.boxes, truth)
    assert (both.recall == 0.5).all()
    assert np.isnan(ProposalRecall.zeros().recall).all()
