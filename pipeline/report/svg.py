"""The geometry of line charts, which the template `chart.html` writes as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.blocks import Chart

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
MOST_POINTS = 300  # of a line; others are left out evenly


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in units of the drawing, and its text."""

    place: float
    text: str


@dataclass(frozen=True)
class Path:
    """A line of a chart: its name, its points in units of the drawing, and whether they are drawn as dots."""

    name: str
    points: Sequence[tuple[float, float]]
    is_dotted: bool


@dataclass(frozen=True)
class Drawing:
    """A chart in units of its drawing.

    Attributes:
        x_ticks: Marks on the horizontal axis.
        y_ticks: Marks on the vertical axis.
        paths: The lines.
    """

    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    paths: Sequence[Path]


def draw_chart(chart: Chart) -> Drawing:
    """Lay out a chart on `WIDTH` x `HEIGHT` units."""
    points = [point for line in chart.lines for point in line.points if all(map(math.isfinite, point))]
    xs = [x for x, _ in points] or [0.0]
    y_max = chart.y_max or max([y for _, y in points] + [0.0]) or 1.0
    low, high = (0.0, chart.x_max) if chart.x_max else (min(xs), max(xs))
    if chart.log:
        low, high = math.log10(max(low, 1e-9)), math.log10(max(high, 1e-9))
    span = (high - low) or 1.0

    def across(x: float) -> float:
        value = math.log10(max(x, 1e-9)) if chart.log else x
        return round(LEFT + (value - low) / span * (WIDTH - LEFT - RIGHT), 1)

    def up(y: float) -> float:
        return round(HEIGHT - BOTTOM - min(y / y_max, 1.0) * (HEIGHT - TOP - BOTTOM), 1)

    if chart.log:
        marks = [10.0**k for k in range(math.ceil(low), math.floor(high) + 1)]
    else:
        marks = nice_ticks(low, high, whole=chart.whole)
    paths = []
    for line in chart.lines:
        finite = [(across(x), up(y)) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]
        paths.append(Path(line.name, _thinned(finite), is_dotted=len(finite) <= 24))
    return Drawing(
        [Tick(across(x), _short(x)) for x in marks],
        [Tick(up(y), _short(y)) for y in nice_ticks(0, y_max) if y <= y_max * 1.0001],
        paths,
    )


def nice_ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Return about `count` round numbers from `low` to `high`, without fractions if they are to be `whole`."""
    raw = (high - low) / count
    if raw < max(1e-300, 1e-9 * abs(high)):  # nothing, or what floating point cannot divide
        return [low]
    digits = math.floor(math.log10(raw))
    power = 10.0**digits
    steps = [power * factor for factor in (1, 2, 2.5, 5, 10)]
    step = next(step for step in [*steps, 1] if step >= raw * 0.999 and (not whole or step == round(step)))
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 2 - digits) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return points
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(i * step)] for i in range(MOST_POINTS)]


def _short(value: float) -> str:
    if value and abs(value) >= 10_000:
        return f"{value / 1000:,g}k" if abs(value) < 1e6 else f"{value / 1e6:,g}M"
    return f"{value:g}"
