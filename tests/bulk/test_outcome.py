"""Errors by cause: which belong together, and that causes counted apart add up."""

from typing import Any

import pytest

from pipeline.bulk import outcome
from pipeline.bulk.limits import check_error_rate
from pipeline.bulk.outcome import Causes, Outcome, causes_of
from pipeline.errors import TooManyErrors


def row(image_id: str, message: str, *, kind: str = "ImageError") -> dict[str, Any]:
    error = {"error_stage": "decode", "error_class": kind, "error_message": message}
    return {"image_id": image_id, "status": "error"} | error


EMPTY = [row(f"{i}.png", "the file is empty") for i in range(3)]
CUT = [row(f"{i}.png", f"{i}.png is cut off at byte {100 + i}") for i in range(5)]


def test_errors_of_one_class_are_told_apart_by_message_without_numbers_and_names() -> None:
    found = causes_of(EMPTY + CUT)
    assert [(cause["count"], cause["example"]) for cause in found] == [
        (5, "0.png: 0.png is cut off at byte 100"),
        (3, "0.png: the file is empty"),
    ]


def test_causes_of_shards_add_up() -> None:
    total = Causes()
    for shard in (EMPTY[:2] + CUT[:1], CUT[1:], EMPTY[2:]):
        total.add_all(causes_of(shard))
    assert total.most_common() == causes_of(CUT + EMPTY)


def test_messages_beyond_the_limit_count_for_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "MOST_PATTERNS", 2)
    found = causes_of([row("x.png", f"message {letter}") for letter in "abcde"])
    assert [(cause["pattern"], cause["count"]) for cause in found] == [("", 3), ("message a", 1), ("message b", 1)]


def test_a_run_with_too_many_errors_names_the_most_frequent_message() -> None:
    run = Outcome()
    rows = EMPTY * 10 + CUT * 20
    run.add({"images": 130, "errors": len(rows), "causes": causes_of(rows)})
    with pytest.raises(TooManyErrors, match=r"; 100 of them in decode with ImageError, such as 0\.png: 0\.png is cut"):
        check_error_rate(run, 0.5)
