"""A detector on a device: batches, numbers that are no numbers, and what is counted."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.data.preprocessing import DetectorInput, Preprocessing, ProposalOptions
from pipeline.models import configure
from pipeline.models.detection import DETECTORS
from pipeline.models.detection.boxes import Selection
from pipeline.models.detection.detector import DetectionNetwork
from pipeline.predict.detector import Detections, Detector
from pipeline.predict.device import NotFiniteError
from tests.support.boxes import random_boxes

FAMILIES: dict[str, dict[str, Any]] = {
    "rcnn_alexnet": {"width": 0.05, "crop": 100, "chunk": 3},
    "sppnet_alexnet": {"width": 0.05, "scales": (96, 160)},
    "fast_rcnn_alexnet": {"width": 0.05, "short_side": 96, "longest_side": 160},
    "yolo_fast": {"width": 0.05, "grid": 3},
    "faster_rcnn": {"short_side": 64, "longest_side": 96},
    "ssd": {},
}
MANY = Selection(score=0.0, iou=0.5, limit=200)  # of an untrained network


def detector(name: str, *, selection: Selection | None = MANY) -> Detector:
    torch.manual_seed(0)
    model = configure(name, FAMILIES[name]).build(3)
    assert isinstance(model, DetectionNetwork)
    takes_proposals = DETECTORS[name].takes_proposals
    return Detector(
        model.eval(),
        detector_input=DetectorInput(proposals=ProposalOptions() if takes_proposals else None),
        preprocessing=Preprocessing(),
        device=torch.device("cpu"),
        selection=selection,
    )


def images_of(*sizes: tuple[int, int]) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    return images, [random_boxes(rng, 12, side=min(size), least=min(5, *size)).astype(np.float32) for size in sizes]


def found_in(ours: Detector, images: list[Any], proposals: list[Any]) -> list[Detections]:
    return ours(images, proposals if ours.detector_input.proposals else None)


@pytest.mark.parametrize("name", ["fast_rcnn_alexnet", "yolo_fast"])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(name: str) -> None:
    ours = detector(name)
    images, proposals = images_of(*[(96, 128)] * 5)
    expected = found_in(ours, images, proposals)
    score_boxes, sizes = ours.model.score_boxes, []

    def small(batch: Any, regions: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return score_boxes(batch, regions)

    ours.model.score_boxes = small  # type: ignore[method-assign, assignment]
    for one, other in zip(found_in(ours, images, proposals), expected, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, rtol=1e-3, atol=1e-2)
    assert sizes == [5, 3, 2, 2, 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_detections_do_not_depend_on_the_other_images(name: str) -> None:
    ours = detector(name)
    images, proposals = images_of((96, 128), (100, 80), (96, 128), (128, 96))
    together = found_in(ours, images, proposals)
    for image, boxes, one in zip(images, proposals, together, strict=True):
        (alone,) = found_in(ours, [image], [boxes])
        # Convolutions over batches of other sizes round differently in float32.
        np.testing.assert_array_equal(one.labels, alone.labels)
        np.testing.assert_allclose(one.scores, alone.scores, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(one.boxes, alone.boxes, rtol=1e-4, atol=1e-3)
        assert one.candidates == alone.candidates >= len(one.labels)
    assert sum(len(one.labels) for one in together) > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_score_that_is_no_number_is_an_error_and_not_an_empty_image(name: str) -> None:
    ours = detector(name)
    images, proposals = images_of((96, 128))
    assert len(found_in(ours, images, proposals)) == 1
    *_, weights = (p for n, p in ours.model.named_parameters() if p.dim() > 1 and not n.startswith(("svms", "regr")))
    with torch.no_grad():
        weights.fill_(torch.nan)
    with pytest.raises(NotFiniteError):
        found_in(ours, images, proposals)


@pytest.mark.parametrize("name", ["rcnn_alexnet", "sppnet_alexnet", "fast_rcnn_alexnet"])
def test_an_image_without_proposals_has_no_detections(name: str) -> None:
    images, proposals = images_of((96, 128), (96, 128))
    none = np.zeros((0, 4), np.float32)
    empty, other = found_in(detector(name), images, [none, proposals[1]])
    assert (len(empty.labels), empty.candidates) == (0, 0)
    assert len(other.labels) > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_of_one_pixel_has_a_defined_result(name: str) -> None:
    images, _ = images_of((1, 1))
    (found,) = found_in(detector(name), images, [np.array([[0, 0, 1, 1]], np.float32)])
    assert found.boxes.shape == (len(found.labels), 4)
    assert ((found.boxes >= 0) & (found.boxes <= 1)).all()


def test_the_choice_decides_what_is_a_candidate_and_what_is_kept() -> None:
    images, proposals = images_of((96, 128))
    (many,) = found_in(detector("fast_rcnn_alexnet"), images, proposals)
    assert (
        many.candidates
        == 12 * 3
        - sum(  # boxes times classes, but the empty ones
            1 for box in many.boxes if (box[2:] <= box[:2]).any()
        )
    )
    threshold = float(np.median(many.scores))
    (some,) = found_in(detector("fast_rcnn_alexnet", selection=MANY._replace(score=threshold)), images, proposals)
    assert 0 < some.candidates < many.candidates
    assert (some.scores > threshold).all()
    (few,) = found_in(detector("fast_rcnn_alexnet", selection=MANY._replace(limit=2)), images, proposals)
    np.testing.assert_array_equal(few.scores, many.scores[:2])
    assert few.candidates == many.candidates
