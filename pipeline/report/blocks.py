"""The parts that pages consist of. They hold values and no HTML; the template of the same name shows each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 200  # of a table
MOST_TEXT = 300  # characters of a cell
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Headline:
    """A number that stands large at the top of a page.

    Attributes:
        label: Name of the number.
        value: The number as text.
        note: Smaller text below it.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    template: ClassVar[str] = "text"

    text: str


@dataclass(frozen=True)
class Table:
    """A table. Numbers are formatted and stand on the right; rows after `MOST_ROWS` are only counted.

    Attributes:
        headings: Heading of each column.
        rows: Values of each row; None means undefined.
    """

    template: ClassVar[str] = "table"

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, table: "pa.Table") -> "Table":
        """Return all columns of an Arrow table."""
        return cls(table.column_names, [list(row.values()) for row in table.slice(0, MOST_ROWS + 1).to_pylist()])

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers."""
        columns = ([row[i] for row in self.shown if row[i] is not None] for i in range(len(self.headings)))
        return [bool(some) and all(isinstance(value, int | float) for value in some) for some in columns]

    @property
    def shown(self) -> Sequence[Sequence[Any]]:
        """The rows that the page shows."""
        return self.rows[:MOST_ROWS]

    @property
    def is_cut(self) -> bool:
        """Whether there are more rows than the page shows."""
        return len(self.rows) > MOST_ROWS


@dataclass(frozen=True)
class Facts:
    """Names with values."""

    template: ClassVar[str] = "facts"

    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """A bar of a bar chart.

    Attributes:
        label: Name of the bar.
        values: Value of each series, 0..1; None if it is undefined.
        texts: Texts in the columns on the right.
        colour: Colour of the square beside the name.
    """

    label: str
    values: Sequence[float | None]
    texts: Sequence[str] = ()
    colour: Colour | None = None


@dataclass(frozen=True)
class Bars:
    """A table whose rows have horizontal bars.

    Attributes:
        label: Heading of the names.
        series: Name of each series of values.
        bars: The rows; those after `MOST_ROWS` are only counted.
        headings: Headings of the columns on the right.
    """

    template: ClassVar[str] = "bars"

    label: str
    series: Sequence[str]
    bars: Sequence[Bar]
    headings: Sequence[str] = ()

    @property
    def shown(self) -> Sequence[Bar]:
        """The rows that the page shows."""
        return self.bars[:MOST_ROWS]

    @property
    def is_cut(self) -> bool:
        """Whether there are more rows than the page shows."""
        return len(self.bars) > MOST_ROWS


@dataclass(frozen=True)
class Matrix:
    """A table whose cells are coloured by their share.

    Attributes:
        rows: What the rows are.
        columns: What the columns are.
        names: Names of the columns and rows.
        shares: Share of its row of each cell, 0..1; rows of None are empty.
    """

    template: ClassVar[str] = "matrix"

    rows: str
    columns: str
    names: Sequence[str]
    shares: Sequence[Sequence[float] | None]


@dataclass(frozen=True)
class Beside:
    """Tables side by side, where there is room."""

    template: ClassVar[str] = "beside"

    blocks: "Sequence[Table | Matrix]"


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name in the legend, and its points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart of lines.

    Attributes:
        title: Heading above the chart, which names the vertical axis.
        lines: The lines.
        x_label: Name of the horizontal axis.
        y_max: Upper end of the vertical axis, which begins at 0; by default that of the largest value.
        x_max: Upper end of the horizontal axis from 0; by default, it spans the points.
        log: Whether the horizontal axis is logarithmic.
        whole: Whether the horizontal axis counts something, so that only whole numbers are marked on it.
    """

    template: ClassVar[str] = "chart"

    title: str
    lines: Sequence[Line]
    x_label: str
    y_max: float | None = None
    x_max: float | None = None
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Charts:
    """Charts side by side."""

    template: ClassVar[str] = "charts"

    charts: Sequence[Chart]


@dataclass(frozen=True)
class Picture:
    """An embedded PNG with its description."""

    template: ClassVar[str] = "picture"

    png: bytes
    description: str


@dataclass(frozen=True)
class GalleryBox:
    """A box on a picture.

    Attributes:
        corners: Left, top, right and bottom as shares of the picture's width and height.
        colour: Colour of its outline.
        text: Text beside it.
        name: Class that it belongs to.
    """

    corners: Sequence[float]
    colour: Colour
    text: str
    name: str


@dataclass(frozen=True)
class Card:
    """An image of a gallery.

    Attributes:
        title: Name of the image.
        note: Text below the name.
        size: Width and height in pixels.
        images: Encoded pictures by the name of the layer; `picture` is a JPEG, the others are PNGs.
        boxes: Boxes by the name of the layer.
        names: Classes that the image shows.
    """

    title: str
    note: str
    size: tuple[int, int]
    images: Mapping[str, bytes]
    boxes: Mapping[str, Sequence[GalleryBox]] = field(default_factory=dict)
    names: Sequence[str] = ()


@dataclass(frozen=True)
class View:
    """A way to look at the cards of a gallery.

    Attributes:
        name: Name on its button.
        layers: Names of the layers that it shows, from below.
        opacity: Opacity of the layers above the first one.
    """

    name: str
    layers: Sequence[str]
    opacity: float = 1.0


@dataclass(frozen=True)
class Gallery:
    """Images in groups, with a button for each view and each class.

    Attributes:
        groups: Cards by heading.
        views: The views; the first one is shown.
        legend: Colour of each class that occurs.
    """

    template: ClassVar[str] = "gallery"

    groups: Mapping[str, Sequence[Card]]
    views: Sequence[View]
    legend: Mapping[str, Colour] = field(default_factory=dict)


Block = Text | Table | Facts | Bars | Matrix | Beside | Chart | Charts | Picture | Gallery


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        title: Its heading.
        blocks: Its parts.
        note: How to read it.
    """

    title: str
    blocks: Sequence[Block]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: Its title.
        kind: What it reports on.
        subtitle: Line below the title.
        headlines: Numbers at the top.
        sections: The sections.
    """

    title: str
    kind: str
    subtitle: str = ""
    headlines: Sequence[Headline] = ()
    sections: Sequence[Section] = ()


def flattened(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options by their dotted names; those that are not set are left out."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        elif value not in (None, "", [], {}):
            flat[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat
