"""A section of the report, found like everything that a user brings: a function from the results to parts, each a heading and its blocks.

Tables, figures and the page walk one list, `contents`. A new section is a file in `report/sections`, or in a plugin, and edits nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from metabench.core.errors import MetabenchError
from metabench.core.registry import Declarable, Found, Registry
from metabench.report.blocks import Block, Note
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Task


@dataclass(frozen=True)
class Part:
    """A heading of the page with its blocks.

    Attributes:
        name: letters, digits, '.', '_' and '-'; its anchor in the page.
        title: its heading.
        blocks: what it consists of, in order.
        subtitle: a few words beside the heading.
        about: a line below it.
        folded: whether the page shows it only on request.
    """

    name: str
    title: str
    blocks: Sequence[Block]
    subtitle: str = ""
    about: str = ""
    folded: bool = False


def _no_headline(suite: Suite) -> str:
    return ""


def _no_curve(suite: Suite, task: Task, name: str) -> bool:
    return False


@dataclass(frozen=True)
class Section(Declarable):
    """A section of the report.

    Attributes:
        name: letters, digits, '_' and '-'.
        title: for messages; the headings are those of its parts.
        parts: from the suite to its parts; none where the suite has nothing for it.
        headline: the sentence at the head of the page if the suite asks this section's question, otherwise empty; names in backquotes.
        draws: whether it draws a task's curves by this name; these have no figure of their own in the section of their problem.
        order: its place, ascending; sections without one follow by name.
        module: the module that declares it, `__name__`.
    """

    name: str
    title: str
    parts: Callable[[Suite], Iterable[Part]]
    headline: Callable[[Suite], str] = _no_headline
    draws: Callable[[Suite, Task, str], bool] = _no_curve
    order: float = math.inf
    module: str = ""


def _check(section: Section, name: str) -> None:
    for part in ("parts", "headline"):
        if not callable(getattr(section, part)):
            raise MetabenchError(
                f"section '{name}': {part} is {getattr(section, part)!r}, expected a function of the suite"
            )


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
    return SECTIONS(
        [path for path in files if path.is_file() and "Section" in path.read_text(encoding="utf-8", errors="replace")]
    )


@functools.lru_cache(maxsize=1)
def contents(suite: Suite) -> Sequence[Part]:
    """Return the parts of every section, in their order. In place of one that raises stands why."""
    return [part for section in sections(suite).values() for part in _parts(section, suite)]


def _parts(section: Section, suite: Suite) -> list[Part]:
    try:
        found = list(section.parts(suite))
    except Exception as error:  # A section may be anybody's: whatever it does, the rest of the report is made.
        why = f"The section '{section.name}' could not be made: {type(error).__name__}: {error}"
        return [Part(section.name, section.title, [Note(why, warns=True)])]
    try:
        section.headline(suite)
    except Exception as error:
        why = f"The headline of the section '{section.name}' could not be made: {type(error).__name__}: {error}"
        found.append(Part(f"{section.name}-headline", section.title, [Note(why, warns=True)]))
    return found


def headline(suite: Suite) -> str:
    """Return the sentence at the head of the page: that of the last section whose question the suite asks, the answer's own if of none."""
    for section in reversed(sections(suite).values()):
        try:
            if text := section.headline(suite):
                return text
        except Exception:  # `contents` says why in its place.
            continue
    return ""
