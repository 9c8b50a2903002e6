"""Durations and sizes as people write them."""

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.units import Duration, Size, format_bytes, format_duration, parse_bytes, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("6h", 21600), ("1.5h", 5400), ("1h30m", 5400), ("30d", 2592000), ("2w", 1209600)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "6 h", "6h ", "h6", "6q", "-6h", "6h30", "1..5h"])
def test_texts_that_are_no_duration(text):
    with pytest.raises(ValueError, match="expected a duration such as 90m, 6h or 30d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1000", 1000),
        ("7B", 7),
        ("500GiB", 500 * 2**30),
        ("2TB", 2 * 10**12),
        ("1.5 KiB", 1536),
        ("1MB", 10**6),
    ],
)
def test_sizes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "5G", "5gib", "5iB", "-1GiB", "1 000"])
def test_texts_that_are_no_size(text):
    with pytest.raises(ValueError, match="expected a size such as 500GiB or 2TB"):
        parse_bytes(text)


def test_fields_take_texts_and_numbers():
    class Options(BaseModel):
        time: Duration
        size: Size

    assert Options.model_validate({"time": "2m", "size": "1KiB"}) == Options(time=120, size=1024)
    for wrong in ({"time": "0s", "size": 1}, {"time": 1, "size": -1}, {"time": "soon", "size": 1}):
        with pytest.raises(ValidationError):
            Options.model_validate(wrong)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (3600, "1 h"), (11100, "3 h 5 min"), (172800, "2 d"),
     (187200, "2 d 4 h"), (3600 * 24 * 30, "30 d")],
)  # fmt: skip
def test_durations_are_shown_with_two_units(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**30, "5.0 GiB"), (2**52, "4096.0 TiB")]
)
def test_sizes_are_shown_in_binary_units(count, text):
    assert format_bytes(count) == text
