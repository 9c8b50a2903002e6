"""What helper processes make of an image for a detector, and whose fault it is when that fails."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.bulk.detection import prepared
from pipeline.bulk.detection.prepared import PreparedImage, prepare_image
from pipeline.bulk.fetch import Fetched, Fetching, Prepare, Wanted, fetch_images
from pipeline.bulk.planned_image import Source
from pipeline.data.preprocessing import ProposalOptions
from pipeline.data.proposals import propose
from pipeline.errors import UserError

OPTIONS = ProposalOptions(limit=50)


def prepare(pixels: np.ndarray) -> PreparedImage:
    return prepare_image(pixels, longest_side=64, proposals=OPTIONS)


def fetched(folder: Path, prepare: Prepare) -> Fetched:
    """An image of two colours, 128 pixels wide and 96 high, as a helper process fetches it."""
    pixels = np.full((96, 128, 3), 30, np.uint8)
    pixels[20:70, 40:100] = 220
    Image.fromarray(pixels).save(folder / "a.png")
    file = folder / "a.png"
    planned = {"image_id": "a.png", "uri": str(file), "bytes": file.stat().st_size, "row": -1}
    image = planned | {"truth": None, "etag": None, "mtime": None}
    how = Fetching(Source(str(folder), 0.0), prepare, keep_pixels=False, max_pixels=10**6)
    (one,) = fetch_images([Wanted(image)], ThreadPoolExecutor(1), how)
    return one


def test_a_large_image_is_reduced_and_its_proposals_are_those_of_the_reduced_one(tmp_path: Path) -> None:
    one = fetched(tmp_path, prepare)
    assert (one.height, one.width, one.failure) == (96, 128, None)
    assert isinstance(one.prepared, PreparedImage)
    assert one.prepared.shape == (48, 64, 3)
    assert one.prepared.proposals is not None
    np.testing.assert_array_equal(one.prepared.proposals, propose(one.prepared.pixels, OPTIONS))
    assert one.prepared.propose_ms is not None
    assert 0 < one.prepared.propose_ms < one.decode_ms  # type: ignore[operator]


def test_a_failing_search_is_a_stage_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no graph fits")

    monkeypatch.setattr(prepared, "propose", fail)
    failure = fetched(tmp_path, prepare).failure
    assert failure is not None
    assert (failure.stage, failure.error_class) == ("propose", "MemoryError")
    assert "no graph fits" in failure.message


def test_a_missing_package_is_no_fault_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("proposals need OpenCV's contributed modules")

    monkeypatch.setattr(prepared, "propose", fail)
    with pytest.raises(UserError, match="contributed modules"):
        fetched(tmp_path, prepare)
