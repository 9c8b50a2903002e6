"""How far a bulk run has come in this process, and the errors that it has met."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Cause(NamedTuple):
    """A kind of error: the stage that failed, and the class of the error."""

    stage: str
    error_class: str


@dataclass
class Causes:
    """Errors by cause, with an example of each.

    Attributes:
        counts: Number of images by cause.
        examples: Message of one of these images by cause.
    """

    counts: Counter[Cause] = field(default_factory=Counter)
    examples: dict[Cause, str] = field(default_factory=dict)

    def add(self, stage: str, error_class: str, count: int, message: str) -> None:
        """Count images that failed for the same cause."""
        cause = Cause(stage, error_class)
        self.counts[cause] += count
        self.examples.setdefault(cause, message)

    def most_common(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Return the most frequent causes as `stage`, `class`, `count` and `example`."""
        return [
            {"stage": stage, "class": kind, "count": count, "example": self.examples[Cause(stage, kind)]}
            for (stage, kind), count in self.counts.most_common(limit)
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
        for cause in shard["causes"]:
            self.causes.add(cause["stage"], cause["class"], cause["count"], cause["example"])


def causes_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the causes of the errors among rows of the table `images`; see `Causes.most_common`."""
    causes = Causes()
    for row in rows:
        if row["status"] == "error":
            causes.add(row["error_stage"], row["error_class"], 1, f"{row['image_id']}: {row['error_message']}")
    return causes.most_common()
