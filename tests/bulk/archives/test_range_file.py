"""Reading parts of a stored file: the right bytes, in few requests."""

import random

import pytest

from pipeline import storage
from pipeline.bulk.archives import range_file
from pipeline.bulk.archives.range_file import LARGEST, NEAR, SMALLEST, RangeFile


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all requests that the test makes, as if the local file lay on an object store."""
    sizes: list[int] = []
    read_range = storage.read_range

    def counting(url: str, start: int, end: int) -> bytes:
        sizes.append(end - start)
        return read_range(url, start, end)

    monkeypatch.setattr(range_file.storage, "read_range", counting)
    monkeypatch.setattr(range_file.storage, "is_local", lambda url: False)
    return sizes


def test_any_part_has_its_bytes(tmp_path):
    rng = random.Random(0)
    data = rng.randbytes(300_000)
    (tmp_path / "x").write_bytes(data)
    file = RangeFile(str(tmp_path / "x"), len(data))
    for _ in range(500):
        start, length = rng.randrange(-1, 310_000) % 310_000, rng.choice([0, 1, 512, 20_000, 400_000])
        assert file.read_at(start, length) == data[start : start + length]


def test_near_places_are_read_through_in_few_requests(tmp_path, requests):
    size = 64 * 2**20
    with (tmp_path / "x").open("wb") as handle:
        handle.truncate(size)
    file = RangeFile(str(tmp_path / "x"), size)
    for place in range(0, size, NEAR // 8):
        assert len(file.read_at(place, 512)) == 512
    assert len(requests) < 2 * size // LARGEST
    assert sum(requests) <= size


def test_distant_places_are_read_in_small_requests(tmp_path, requests):
    size = 64 * 2**20
    with (tmp_path / "x").open("wb") as handle:
        handle.truncate(size)
    file = RangeFile(str(tmp_path / "x"), size)
    places = range(0, size, 2 * NEAR)
    for place in places:
        file.read_at(place, 512)
        file.read_at(place + 512, 1024)  # an extended header and the one after it
    assert requests == [SMALLEST] * len(places)
