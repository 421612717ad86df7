"""A section of the report: figures, tables and sentences of its own, found like everything that a user brings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metabench.core.errors import MetabenchError
from metabench.core.registry import Declarable, Found, Registry
from metabench.report.entries import Suite
from metabench.report.panel import Figure
from metabench.report.style import LabelStyle
from metabench.report.table import Table


def _suite_styles(suite: Suite) -> Mapping[str, LabelStyle]:
    return suite.styles


def _nothing(suite: Suite) -> tuple[()]:
    return ()


def _no(suite: Suite) -> bool:
    return False


@dataclass(frozen=True)
class Section(Declarable):
    """A section of the page, with its figures and tables as files. A suite for which it has neither does not show it.

    Attributes:
        name: of the section: letters, digits, '_' and '-'; also its anchor in the page.
        title: its heading.
        figures: from the suite to its figures, each with a name of its own.
        tables: from the suite to its tables.
        sentences: (subject, sentence) pairs for the answer at the head of the page; names in backquotes.
        leads: whether its sentences come first, because the suite asks this section's question.
        styles: of what its figures show, by label.
        subtitle: a few words beside the heading.
        order: its place, ascending; sections without one follow by name.
        module: the module that declares it, `__name__`.
    """

    name: str
    title: str
    figures: Callable[[Suite], Sequence[Figure]] = _nothing
    tables: Callable[[Suite], Sequence[Table]] = _nothing
    sentences: Callable[[Suite], Sequence[tuple[str, str]]] = _nothing
    leads: Callable[[Suite], bool] = _no
    styles: Callable[[Suite], Mapping[str, LabelStyle]] = _suite_styles
    subtitle: Callable[[Suite], str] = lambda suite: ""
    order: float = math.inf
    module: str = ""


def _check(section: Section, name: str) -> None:
    for part in ("figures", "tables", "sentences", "leads", "styles", "subtitle"):
        if not callable(getattr(section, part)):
            raise MetabenchError(f"section '{name}': {part} is {getattr(section, part)!r}, expected a function of the suite")


SECTIONS: Registry[Section] = Registry(
    sort="section of the report",
    kind=Section,
    package="metabench.report.sections",
    group="metabench.sections",
    name=lambda section, stem: section.name,
    check=_check,
    hint="name a metabench.report.section.Section",
)


def sections(suite: Suite) -> Found[Section]:
    """Return the sections by name: the package's, those of installed packages, and those of the suite's plugins.

    Of the plugins, those are looked at that are there and name a `Section`: the others declare methods or problems, which import torch.
    """
    files = [Path(path) for path in suite.config.get("plugins") or []]
    return SECTIONS([path for path in files if path.is_file() and "Section" in path.read_text(encoding="utf-8", errors="replace")])
