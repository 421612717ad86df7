"""Labels in the page: a class for each, which gives table rows, marks and the legend its colour and shape; and what a column sorts by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape

from markupsafe import Markup
from matplotlib.path import Path as Outline

from metabench.report.palette import MARKERS, LabelStyle, marker_outline
from metabench.report.tables.table import Cell

_NUMBER = re.compile(r"[-+−]?\d[\d\u202f]*(\.\d+)?")


class Names:
    """The classes of a page's labels. Two figures may give one label different styles: each pair has a class of its own."""

    def __init__(self, styles: Mapping[str, LabelStyle]) -> None:
        self._classes: dict[tuple[str, LabelStyle], str] = {}
        self._styles = styles
        for label, style in styles.items():
            self.of(label, style)

    def of(self, label: str, style: LabelStyle | None = None) -> str:
        """Return a label's class; empty for one that has no style. style: if not that of the suite."""
        style = style or self._styles.get(label)
        return self._classes.setdefault((label, style), f"s{len(self._classes)}") if style else ""

    def css(self) -> Markup:
        """Return a rule for each class, after the outline of each marker."""
        outlines = "".join(f'--k{place}:path("{_clip(marker)}");' for place, marker in enumerate(MARKERS))
        rules = "".join(
            f".{name}{{--c:var(--{style.name});--k:var(--k{MARKERS.index(style.marker)})}}"
            for (_, style), name in self._classes.items()
        )
        return Markup(f":root{{{outlines}}}{rules}")


def _clip(marker: Outline) -> str:
    """Return a marker's outline in a box of 12 pixels, with whole tenths of pixels."""
    return re.sub(r"-?\d+\.?\d*", lambda number: f"{6 + float(number.group()):.1f}".removesuffix(".0"), marker_outline(marker))


def code_names(sentence: str) -> Markup:
    """Return a sentence with names in backquotes as HTML."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(sentence)))


def sort_keys(cells: Iterable[Cell]) -> list[str]:
    """Return for each cell of a column what the page sorts by: empty if the text's own number will do in every one of them."""
    listed = list(cells)
    read = [_NUMBER.match(cell.text) for cell in listed]
    pairs = [
        (float(cell.sort), float(found.group().replace("−", "-").replace("\u202f", "")))
        for cell, found in zip(listed, read, strict=True)
        if isinstance(cell.sort, int | float) and found and not (cell.label or cell.badges or cell.bars)
    ]
    by_value, by_text = sorted(pairs), sorted(pairs, key=lambda pair: (pair[1], pair[0]))
    absent = all(not found for cell, found in zip(listed, read, strict=True) if cell.sort is None)
    present = sum(cell.sort is not None for cell in listed)
    if all(cell.sort == cell.text for cell in listed) or (absent and by_value == by_text and len(pairs) == present):
        return [""] * len(listed)
    return ["" if cell.sort is None else _key(cell.sort) for cell in listed]


def _key(sort: float | str) -> str:
    return sort if isinstance(sort, str) else f"{sort:.6g}"
