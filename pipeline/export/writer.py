"""What a format implements, and what it is told about the run."""

from typing import Any, NamedTuple, Protocol

from pipeline import storage
from pipeline.data.classes import Classes
from pipeline.export.config import ExportConfig
from pipeline.export.picture import Picture


class Export(NamedTuple):
    """What is exported, and to where.

    Attributes:
        config: Options of the export.
        classes: Classes of the masks or boxes.
        name: Name of the run.
        has_masks: Whether the run has masks; otherwise it has boxes.
    """

    config: ExportConfig
    classes: Classes
    name: str
    has_masks: bool

    def write(self, path: str, data: bytes) -> None:
        """Write a file below the output."""
        url = storage.join(self.config.output, path)
        with storage.friendly_errors(url, "cannot write"):
            storage.write_bytes(url, data)

    def place(self, picture: Picture) -> str:
        """Return the URL under which another tool opens the image."""
        return picture.uri if self.config.image_prefix is None else self.config.image_prefix + picture.image_id

    def kept(self, picture: Picture) -> list[dict[str, Any]]:
        """Return the boxes of an image with a sufficient score."""
        return [box for box in picture.boxes if box["score"] >= self.config.min_score]


class FormatWriter(Protocol):
    """Writes the images of a run in a format.

    Args:
        export: What is exported.

    Raises:
        UserError: The format cannot hold the classes.
    """

    def __init__(self, export: Export) -> None: ...

    def encode(self, picture: Picture) -> Any:
        """Encode an image, and write the files that are its own; called in several threads."""

    def add(self, picture: Picture, encoded: Any) -> None:
        """Take what `encode` returned, in the order of the images; called in one thread."""

    def finish(self) -> None:
        """Write what describes the whole export, after the last image."""

    def close(self) -> None:
        """Remove temporary files, in any case."""
