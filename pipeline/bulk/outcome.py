"""How far a bulk run has come in this process, and the errors that it has met."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MOST_PATTERNS = 1000


class Cause(NamedTuple):
    """A kind of error.

    Attributes:
        stage: Stage that failed.
        error_class: Class of the error.
        pattern: Message with 0 for numbers and without the name of the image, which differ from image to image; empty
            for the messages that come after `MOST_PATTERNS` others.
    """

    stage: str
    error_class: str
    pattern: str

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Cause":
        """Return the cause of an error row of the table `images`."""
        pattern = re.sub(r"\d+", "0", row["error_message"].replace(row["image_id"], ""))
        return cls(row["error_stage"], row["error_class"], pattern)


@dataclass
class Causes:
    """Errors by cause, with an example of each.

    Attributes:
        counts: Number of images by cause.
        examples: Name and message of one of these images by cause.
    """

    counts: Counter[Cause] = field(default_factory=Counter)
    examples: dict[Cause, str] = field(default_factory=dict)

    def add(self, cause: Cause, count: int, example: str) -> Cause:
        """Count images that failed for the same cause, and return the cause for which they count."""
        if cause not in self.counts and len(self.counts) >= MOST_PATTERNS:
            cause = cause._replace(pattern="")
        self.counts[cause] += count
        self.examples.setdefault(cause, example)
        return cause

    def add_row(self, row: dict[str, Any]) -> Cause:
        """Count an error row of the table `images`, and return the cause for which it counts."""
        return self.add(Cause.of(row), 1, f"{row['image_id']}: {row['error_message']}")

    def add_all(self, causes: Iterable[dict[str, Any]]) -> None:
        """Add what `most_common` has returned elsewhere."""
        for one in causes:
            self.add(Cause(one["stage"], one["class"], one["pattern"]), one["count"], one["example"])

    def most_common(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Return the most frequent causes as `stage`, `class`, `pattern`, `count` and `example`."""
        return [
            {"stage": cause.stage, "class": cause.error_class, "pattern": cause.pattern, "count": count}
            | {"example": self.examples[cause]}
            for cause, count in self.counts.most_common(limit)
        ]


@dataclass
class Outcome:
    """The progress of a run; it is filled in while the run goes on.

    Attributes:
        run: Folder of the run; None until it is known.
        run_id: Name of the run.
        images: Images of the plan.
        written: Images whose rows are written, by earlier processes too.
        errors: Errors among the images that this process has written.
        seen: Images that this process has written.
        causes: The causes of these errors.
    """

    run: str | None = None
    run_id: str | None = None
    images: int = 0
    written: int = 0
    errors: int = 0
    seen: int = 0
    causes: Causes = field(default_factory=Causes)

    def add(self, shard: dict[str, Any]) -> None:
        """Take in a written shard, as `ShardWriter.write` describes it."""
        self.written += shard["images"]
        self.seen += shard["images"]
        self.errors += shard["errors"]
        self.causes.add_all(shard["causes"])


def causes_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the causes of the errors among rows of the table `images`; see `Causes.most_common`."""
    causes = Causes()
    for row in rows:
        if row["status"] == "error":
            causes.add_row(row)
    return causes.most_common()
