"""Images come from the helper processes in order, each once, whatever their sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.bulk.fetch import ENOUGH_PIXELS, Wanted
from pipeline.bulk.image_worker import start_helpers
from pipeline.bulk.loader import Loader
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import SegmentationRun
from pipeline.card import Card
from pipeline.data.classes import Classes


@pytest.fixture
def pool():
    card = Card(architecture="unet", options={}, classes=Classes(names=("a", "b")))
    config = SegmentConfig(model="-", images="-", output="-", max_image_pixels=3_000_000)
    pool = start_helpers(SegmentationRun(config, card, card.classes), 2)
    yield pool
    pool.close()


def wanted(folder: Path, sizes: list[tuple[int, int]], **changes: Any) -> list[Wanted]:
    """Images whose colour is their number."""
    found = []
    for i, (width, height) in enumerate(sizes):
        file = folder / f"{i}.png"
        Image.new("RGB", (width, height), (i, 0, 0)).save(file)
        row = {"image_id": file.name, "uri": str(file), "truth": None, "bytes": file.stat().st_size, "row": -1}
        row |= {"etag": "", "mtime": ""}
        found.append(Wanted(row | changes))
    return found


def test_small_images_come_in_order(pool, tmp_path):
    sizes = [(1 + i % 7, 5) for i in range(50)]
    found = list(Loader(pool).load(wanted(tmp_path, sizes)))
    assert [one.image_id for one in found] == [f"{i}.png" for i in range(50)]
    for i, one in enumerate(found):
        assert isinstance(one.prepared, np.ndarray)
        assert one.prepared.shape == (5, 1 + i % 7, 3)
        assert (one.prepared[..., 0] == i).all()


def test_images_that_fill_a_call_come_once_each(pool, tmp_path):
    """A call ends early at `ENOUGH_PIXELS`; the images that it leaves out are asked for again."""
    side = int((ENOUGH_PIXELS / 2) ** 0.5) + 1
    found = list(Loader(pool).load(wanted(tmp_path, [(side, side)] * 17)))
    assert [one.image_id for one in found] == [f"{i}.png" for i in range(17)]
    assert [int(one.prepared[0, 0, 0]) for one in found if isinstance(one.prepared, np.ndarray)] == list(range(17))


def test_failures_keep_their_place(pool, tmp_path):
    images = wanted(tmp_path, [(4, 4), (2000, 2000), (4, 4), (4, 4)])
    (tmp_path / "2.png").write_bytes(b"no image".ljust(images[2].image["bytes"]))
    (tmp_path / "3.png").unlink()
    found = list(Loader(pool).load(images))
    assert [one.failure and (one.failure.stage, one.failure.error_class) for one in found] == [
        None,
        ("decode", "ImageError"),
        ("decode", "ImageError"),
        ("fetch", "FileNotFoundError"),
    ]
    assert found[0].sha256 is not None
    np.testing.assert_array_equal(found[0].prepared, np.zeros((4, 4, 3)))
