"""The classes of a data set: names, colours, ignore index, and how stored label values map to them."""

import itertools
import re
from functools import cached_property
from typing import Annotated

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.data.images import default_palette, pack_rgb
from pipeline.errors import UserError, first_problem, one_line
from pipeline.storage import read_text

Colour = tuple[
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
]

OTHERS = "others"  # key of `values` for all values that it does not list
MOST_SHOWN = 8  # values in a message
INVALID = -(2**31)  # index of stored values that are neither a class nor ignored


class Classes(BaseModel):
    """The content of a class file (YAML).

    Label maps hold class indices 0..K-1 or the ignore index, unless `values` maps other numbers to classes, as in
    `{0: background, 1-255: person}` or `{0: background, others: person}` for masks of numbered objects. RGB label maps
    hold the `colours`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...] = Field(
        min_length=1, max_length=1000, description="class names in the order of the class indices"
    )
    colours: tuple[Colour, ...] = Field(
        default=(), description="[r, g, b] of each class (default: a generated palette)"
    )
    ignore_index: int = Field(default=255, description="label value of ignored pixels; not one of 0..K-1")
    ignore_colour: Colour | None = Field(default=None, description="colour of ignored pixels in RGB label maps")
    values: dict[int | str, str] | None = Field(
        default=None,
        description="class name or 'ignore' for each stored value, range of values ('1-255') or 'others' (all other "
        "values), if label maps hold numbers other than class indices; a single value precedes a range",
    )

    @field_validator("values")
    @classmethod
    def _stored_values(cls, values: dict[int | str, str] | None) -> dict[int | str, str] | None:
        """Write the keys in one form: numbers as integers, the rest as `1-255` and `others`."""
        if values is None:
            return None
        tidy = {_tidy(key): name for key, name in values.items()}
        ranges = sorted(_bounds(key) for key in tidy if isinstance(key, str) and key != OTHERS)
        for first, second in itertools.pairwise(ranges):
            if second[0] <= first[1]:
                raise ValueError(f"the ranges {first[0]}-{first[1]} and {second[0]}-{second[1]} overlap")
        return tidy

    @model_validator(mode="after")
    def _consistent(self) -> "Classes":
        count = len(self.names)
        if 0 <= self.ignore_index < count:
            raise ValueError(f"ignore_index {self.ignore_index} is the class '{self.names[self.ignore_index]}'")
        if self.colours and len(self.colours) != count:
            raise ValueError(f"{count} names but {len(self.colours)} colours")
        if len(set(self.colours)) != len(self.colours) or self.ignore_colour in self._colours():
            raise ValueError("two classes (or a class and ignore) have the same colour")
        slugs = self.slugs
        for slug in slugs:
            if slugs.count(slug) > 1:
                raise ValueError(f"two class names give the same column name '{slug}'")
        unknown = sorted(set((self.values or {}).values()) - {*self.names, "ignore"})
        if unknown:
            raise ValueError(f"values: {', '.join(unknown)}: neither a class name nor 'ignore'")
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Classes) and self.model_dump() == other.model_dump()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def slugs(self) -> list[str]:
        """The class names as column names: lower case, with underscores for everything but letters and digits."""
        return [re.sub(r"\W+", "_", name.strip().lower()) for name in self.names]

    def _colours(self) -> tuple[Colour, ...]:
        return self.colours or tuple(map(tuple, default_palette(len(self)).tolist()))

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """The colours of the classes, uint8 [classes, 3]."""
        return np.array(self.colours, np.uint8) if self.colours else default_palette(len(self))

    @cached_property
    def colour_of(self) -> dict[str, Colour]:
        """The colour of each class by its name."""
        return {name: (int(r), int(g), int(b)) for name, (r, g, b) in zip(self.names, self.palette, strict=True)}

    @cached_property
    def _table(self) -> dict[int, int]:
        """Class index or ignore index of each stored value."""
        index = {name: i for i, name in enumerate(self.names)} | {"ignore": self.ignore_index}
        if self.values is not None:
            table: dict[int, int] = {}
            for key, name in self.values.items():
                if isinstance(key, str) and key != OTHERS:
                    low, high = _bounds(key)
                    table |= dict.fromkeys(range(low, high + 1), index[name])
            table |= {key: index[name] for key, name in self.values.items() if isinstance(key, int)}
        else:
            table = {i: i for i in range(len(self))} | {self.ignore_index: self.ignore_index}
        table |= {int(pack_rgb(colour)): i for i, colour in enumerate(self.palette)}
        if self.ignore_colour is not None:
            table[int(pack_rgb(np.array(self.ignore_colour)))] = self.ignore_index
        return table

    def index(self, raw: NDArray[np.int32]) -> NDArray[np.int32]:
        """Map stored values to class indices; those that `values` does not list are `others`, if it names them.

        Args:
            raw: Stored values of any shape; see `images.decode_raw_label`.

        Returns:
            int32 of the same shape: 0..K-1, the ignore index, or `INVALID`.
        """
        if raw.size == 0 or (raw.min() >= 0 and raw.max() <= np.iinfo(np.uint16).max):
            return self._lookup[raw]
        # There are too many colours for a lookup table, but a label map holds few of them.
        values, positions = np.unique(raw, return_inverse=True)
        mapped = np.array([self._table.get(int(v), self._others) for v in values], np.int32)
        return mapped[positions].reshape(raw.shape)

    @cached_property
    def _others(self) -> int:
        """Index of the stored values that are not in `_table`."""
        name = (self.values or {}).get(OTHERS)
        if name is None:
            return INVALID
        return self.ignore_index if name == "ignore" else self.names.index(name)

    @cached_property
    def _lookup(self) -> NDArray[np.int32]:
        """`_table` as an array with an entry for every 16-bit value."""
        lookup = np.full(np.iinfo(np.uint16).max + 1, self._others, np.int32)
        for value, index in self._table.items():
            if 0 <= value < len(lookup):
                lookup[value] = index
        return lookup

    def unknown(self, raw: NDArray[np.int32]) -> dict[str, int]:
        """Count the pixels of each stored value that `index` maps to `INVALID`.

        Returns:
            Pixel counts by value, formatted by `format_label_value`.
        """
        if self._others != INVALID:
            return {}
        values, counts = np.unique(raw, return_counts=True)
        return {
            format_label_value(int(v)): int(n) for v, n in zip(values, counts, strict=True) if int(v) not in self._table
        }

    def explain_unknown(self, raw: NDArray[np.int32]) -> str:
        """Return a clause about the stored values that are no class, with the line of the class file that lists them.

        Args:
            raw: Stored values of a label map; some of them are no class.
        """
        unknown = self.unknown(raw)
        shown = ", ".join(f"{value} ({count} pixels)" for value, count in list(unknown.items())[:MOST_SHOWN])
        more = f" and {len(unknown) - MOST_SHOWN} more values" if len(unknown) > MOST_SHOWN else ""
        return f"values outside the classes: {shown}{more}. {self.advice(raw)}"

    def advice(self, raw: NDArray[np.int32]) -> str:
        """Return a sentence with the line of the class file that would list all of these stored values."""
        if all(value.startswith("#") for value in self.unknown(raw)):
            return "Give the colour of each class in the line 'colours' of the class file"
        known: dict[int | str, str] = dict(self.values) if self.values is not None else dict(enumerate(self.names))
        if self.values is None and len(self) == 2:  # the usual case: background, and objects with a number each
            line = flow({0: self.names[0], OTHERS: self.names[1]})
            return f"If every value but 0 is '{self.names[1]}', add to the class file: values: {line}"
        if self.values is None and self.ignore_index >= 0:
            known[self.ignore_index] = "ignore"
        return f"To ignore them, add to the class file: values: {flow(known | {OTHERS: 'ignore'})}"


def _tidy(key: int | str) -> int | str:
    text = str(key).strip()
    if re.fullmatch(r"-?\d+", text):  # the keys of a card's JSON are texts
        return int(text)
    if text.lower() in ("others", "all others"):
        return OTHERS
    match = re.fullmatch(r"(\d+) *(?:-|–|\.\.) *(\d+)", text)
    if match is None:
        raise ValueError(f"'{key}' is neither a value, nor a range such as 1-255, nor 'others'")
    low, high = int(match[1]), int(match[2])
    if not low <= high <= np.iinfo(np.uint16).max:
        raise ValueError(f"'{key}' is no range of values from 0 to {np.iinfo(np.uint16).max}")
    return f"{low}-{high}"


def _bounds(key: int | str) -> tuple[int, int]:
    """Return the first and the last value of a range."""
    low, _, high = str(key).partition("-")
    return int(low), int(high)


def flow(content: object) -> str:
    """Return YAML in one line, for messages."""
    return yaml.safe_dump(content, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True).strip()


def format_label_value(raw: int) -> str:
    """Format a stored value for users: `17` for an index, `#aabbcc` for a colour."""
    return f"#{raw & 0xFFFFFF:06x}" if raw >> 24 == 1 else str(raw)


def classes_like(url: str | None, known: Classes, *, owner: str) -> Classes:
    """Return the classes to read labels with: known ones, or those of a class file with the same names.

    Args:
        url: The class file; None for the known classes.
        known: The classes of a model or a run.
        owner: What the known classes belong to, for the error message: "model" or "run".

    Raises:
        UserError: The class file cannot be used, or has other names.
    """
    if url is None:
        return known
    classes = load_classes(url)
    if classes.names != known.names:
        raise UserError(
            f"class file {url} does not fit the {owner}: it has {len(classes)} classes "
            f"({', '.join(classes.names[:5])}, …), the {owner} has {len(known)} ({', '.join(known.names[:5])}, …)"
        )
    return classes


def with_background(classes: Classes) -> Classes:
    """Return the classes of masks made from a classifier's maps: 'background', and then the classifier's classes.

    The background is black. If one of the classes is black already, all colours come from the generated palette.

    Raises:
        UserError: The classifier has a class 'background' itself.
    """
    if "background" in classes.slugs:
        raise UserError(
            "the model has a class 'background', which masks add themselves; train the classifier with another "
            "name for it (--classes)"
        )
    black = (0, 0, 0)
    colours = [tuple(colour) for colour in classes.palette.tolist()]
    names = ("background", *classes.names)
    return Classes(names=names, colours=() if black in colours else (black, *colours))


def load_classes(url: str) -> Classes:
    """Read a class file.

    Raises:
        UserError: The file is missing, is no YAML, or is inconsistent.
    """
    text = read_text(url, noun="class file")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"class file {url}: no valid YAML ({one_line(error)})") from None
    if isinstance(content, list):
        content = {"names": content}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"class file {url}: expected 'names: [...]', found {type(content).__name__}")
    try:
        return Classes(**content)
    except ValidationError as error:
        raise UserError(f"class file {url}: {first_problem(error)}") from None
