"""Grids of options to choose from, as a suite writes them: 'optimiser = *, rate {1e-4 to 10 in 16}'."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metabench.core.errors import MetabenchError, unknown

Number = int | float
Point = tuple[int, ...]
"""A point of a grid: for each of its axes the place of a value."""

POINTS = 1000
"""The most points that a grid may have."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_SPREAD = re.compile(r"(\S+)\s+to\s+(\S+)\s+in\s+(\S+)")
_DECADES = 2
"""Values that span as many ask for a logarithmic axis."""


@dataclass(frozen=True)
class Axis:
    """A number that is tuned: its name, and its values in ascending order."""

    name: str
    values: tuple[Number, ...]

    @property
    def log(self) -> bool:
        """Whether the values ask for a logarithmic axis."""
        return self.values[0] > 0 and self.values[-1] >= 10**_DECADES * self.values[0]

    def at_edge(self, place: int) -> bool:
        """Tell whether a value is the least or the greatest: a better one may lie beyond."""
        return place in (0, len(self.values) - 1)


@dataclass(frozen=True)
class Template:
    """An option and how its value is made: texts, None where the option's own value stands, and axes."""

    option: str
    pieces: tuple[str | Axis | None, ...]

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes in it."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Axis))

    def value(self, numbers: Sequence[Number], own: Any) -> Any:
        """Return the option's value with a number for each axis: the number itself where it is the whole value, otherwise a text."""
        if len(self.pieces) == 1 and self.axes:
            return numbers[0]
        left = iter(numbers)
        return "".join(
            f"{next(left):g}" if isinstance(piece, Axis) else str(own) if piece is None else piece
            for piece in self.pieces
        )


@dataclass(frozen=True)
class Grid:
    """Options of a problem, each with values to choose from."""

    templates: tuple[Template, ...]

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes of the grid, in the order in which they are written."""
        return tuple(axis for template in self.templates for axis in template.axes)

    def points(self) -> Iterator[Point]:
        """Yield every point of the grid."""
        return itertools.product(*(range(len(axis.values)) for axis in self.axes))

    def numbers(self, point: Point) -> dict[str, Number]:
        """Return the value of each axis at a point."""
        return {axis.name: axis.values[place] for axis, place in zip(self.axes, point, strict=True)}

    def options(self, point: Point, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return every option at a point: those of the grid changed, the others their `own`.

        Raises:
            MetabenchError: the grid is over an option that there is not; the nearest one is named.
        """
        changed = dict(own)
        numbers = iter(self.numbers(point).values())
        for template in self.templates:
            if template.option not in own:
                raise unknown("option to tune", template.option, own)
            of_it = list(itertools.islice(numbers, len(template.axes)))
            changed[template.option] = template.value(of_it, own[template.option])
        return changed


def read_grid(text: str) -> Grid:
    """Return the grid that a text describes: 'OPTION = VALUE', several separated by semicolons. An empty text is a grid without options.

    Braces in a value hold what it is chosen from: '{1e-4 to 10 in 16}' are 16 numbers, each the same multiple of the one before it, and
    '{0.8, 0.9, 0.95}' are three. `*` stands for the option's own value. An axis is called what stands before its braces.

    Raises:
        MetabenchError: a part is no option with a value, has no braces, or braces hold something else; the part is named.
    """
    parts = [part for part in text.split(";") if part.strip()]
    templates = _told_apart([_template(part.strip(), text) for part in parts])
    twice = [name for name, count in Counter(one.option for one in templates).items() if count > 1]
    if twice:
        raise MetabenchError(f"the grid '{text}' has the option '{twice[0]}' twice")
    grid = Grid(templates)
    count = math.prod(len(axis.values) for axis in grid.axes)
    if count > POINTS:
        raise MetabenchError(f"the grid '{text}' has {count:,} points: expected at most {POINTS:,}")
    return grid


def _template(part: str, text: str) -> Template:
    option, equals, value = (word.strip() for word in part.partition("="))
    if not equals or not re.fullmatch(r"\w+", option):
        raise MetabenchError(
            f"the grid '{text}': '{part}' is no option with a value, as 'rate = {{1e-4 to 10 in 16}}' is"
        )
    pieces: list[str | Axis | None] = []
    end = 0
    for found in _BRACES.finditer(value):
        before = value[end : found.start()]
        pieces += [*_texts(before), _axis(before.rpartition(",")[2].strip(" *") or option, found[1], text)]
        end = found.end()
    pieces += _texts(value[end:])
    if not end:
        raise MetabenchError(f"the grid '{text}': '{part}' has no values to choose from in braces, as {{0.8, 0.9}}")
    return Template(option, tuple(pieces))


def _texts(text: str) -> Iterator[str | None]:
    """Yield a text in pieces, None where the option's own value stands."""
    for place, piece in enumerate(text.split("*")):
        if place:
            yield None
        if piece:
            yield piece


def _axis(name: str, inside: str, text: str) -> Axis:
    """Return the axis of what braces hold."""
    spread = _SPREAD.fullmatch(inside.strip())
    words = list(spread.groups()) if spread else inside.split(",")
    try:
        numbers = [_number(word) for word in words]
    except ValueError:
        raise MetabenchError(
            f"the grid '{text}': {{{inside}}} holds no numbers: expected '1e-4 to 10 in 16', or numbers separated by commas"
        ) from None
    if spread:
        first, last, count = numbers
        if not 0 < first < last or not isinstance(count, int) or not 2 <= count <= POINTS:
            raise MetabenchError(
                f"the grid '{text}': {{{inside}}} is no spread of numbers: expected 'LEAST to GREATEST in COUNT', all above 0"
            )
        # Rounded to what a text of the value has, so that the value in the row is the one that was used.
        numbers = [float(f"{first * (last / first) ** (place / (count - 1)):g}") for place in range(count)]
    if len(set(numbers)) < max(2, len(numbers)):
        raise MetabenchError(f"the grid '{text}': {{{inside}}} needs two different values or more, none of them twice")
    return Axis(name, tuple(sorted(numbers)))


def _number(word: str) -> Number:
    try:
        return int(word)
    except ValueError:
        value = float(f"{float(word):g}")
        if not math.isfinite(value):
            raise
        return value


def _told_apart(templates: Sequence[Template]) -> tuple[Template, ...]:
    """Return the templates with axes of different names: those that share one are called after their option, too."""
    names = Counter(axis.name for one in templates for axis in one.axes)
    for one in templates:
        repeated = [name for name, count in Counter(axis.name for axis in one.axes).items() if count > 1]
        if repeated:
            raise MetabenchError(
                f"the option '{one.option}' of a grid has two axes '{repeated[0]}': put a word before each"
            )

    def named(template: Template, piece: str | Axis | None) -> str | Axis | None:
        if isinstance(piece, Axis) and names[piece.name] > 1:
            return Axis(f"{template.option} {piece.name}", piece.values)
        return piece

    return tuple(Template(one.option, tuple(named(one, piece) for piece in one.pieces)) for one in templates)
