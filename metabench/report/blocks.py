"""What a section consists of: sentences, notes, figures, tables, facts and texts to copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from matplotlib.figure import Figure as Canvas

from metabench.report.figure import Figure
from metabench.report.tables.table import Table


@dataclass(frozen=True)
class Sentence:
    """A sentence of the answer; names in backquotes. about: its subject, a word or two."""

    text: str
    about: str = ""


@dataclass(frozen=True)
class Note:
    """A remark; names in backquotes. warns: whether readers must know it before they compare anything."""

    text: str
    warns: bool = False


@dataclass(frozen=True)
class Facts:
    """(name, value) pairs under a heading, folded away if there is one. anchor: of the element, empty for none."""

    pairs: Sequence[tuple[str, str]]
    title: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Source:
    """A text to copy: a configuration, BibTeX. about: a few words beside its title. folded: whether it is shown only on request."""

    title: str
    text: str
    about: str = ""
    folded: bool = True


@dataclass(frozen=True)
class Drawing:
    """A figure that draws itself: one that is not made of panels, or a user's own.

    Attributes:
        name: of its files.
        draw: returns it as a Matplotlib figure; the same rows give the same figure.
        csv: its data; empty for none.
        shown: whether it is in the page, and not in files only.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Canvas]
    csv: str = ""
    shown: bool = True


Block: TypeAlias = Sentence | Note | Facts | Source | Drawing | Figure | Table
