"""Optimisers whose meta-parameters are learned: what declares one, and how an option names it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metabench.core.declarations import check_citation, check_fields
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.method import NoOptions
from metabench.core.options import build
from metabench.core.problem import InnerOptimiser
from metabench.core.registry import Declarable, Registry, pick
from metabench.core.types import Tree


@dataclass(frozen=True)
class LearnedOptimiser(Declarable):
    """An inner optimiser with meta-parameters of its own.

    The update may say, as attributes: `leafwise`, each tensor's update depends on no other; `coordinatewise`, so does each coordinate's,
    and leaves of slots begin with the parameter's shape; `translates`, the parameters' own values do not count; and
    `numbers_per_coordinate`, how many numbers it keeps for a coordinate until its derivative is taken, by which large updates are cut.

    Attributes:
        name: the word in a problem's option `optimiser`.
        title: one line for listings.
        make: from its options to the pure update, whose `meta` is a tree as `draw` returns it.
        draw: from its options and a generator to the initial meta-parameters, in float64 on the CPU.
        citation: key of the paper in `references.bib`, or several separated by spaces, or BibTeX.
        options: frozen dataclass of its options.
        order: its place in listings.
    """

    name: str
    title: str
    make: Callable[[Any], InnerOptimiser]
    draw: Callable[[Any, torch.Generator], Tree]
    citation: str
    options: type = NoOptions
    order: float = math.inf

    @property
    def module(self) -> str:
        """The module that declares it."""
        return self.make.__module__


def check_learned_optimiser(optimiser: LearnedOptimiser, name: str) -> None:
    """Raise MetabenchError if a learned optimiser's declaration cannot be listed or made."""
    what = f"learned optimiser '{name}'"
    check_fields(optimiser, {"title": (str,), "citation": (str,), "options": (type,), "order": (int, float)}, what)
    check_citation(optimiser.citation, what)
    for part in ("make", "draw"):
        if not callable(getattr(optimiser, part)):
            raise MetabenchError(f"{what}: {part} is {getattr(optimiser, part)!r}, expected a function")


LEARNED_OPTIMISERS: Registry[LearnedOptimiser] = Registry(
    sort="learned optimiser",
    kind=LearnedOptimiser,
    package="metabench.learned.optimisers",
    group="metabench.learned_optimisers",
    name=lambda optimiser, stem: optimiser.name,
    check=check_learned_optimiser,
    hint="name a metabench.learned.declared.LearnedOptimiser",
)


@dataclass(frozen=True)
class Chosen:
    """A learned optimiser with its options."""

    optimiser: LearnedOptimiser
    options: Any

    def make(self) -> InnerOptimiser:
        """Return the pure update."""
        return self.optimiser.make(self.options)

    def draw(self, stream: torch.Generator) -> Tree:
        """Return the initial meta-parameters, in float64 on the CPU."""
        return self.optimiser.draw(self.options, stream)


def read_optimiser(text: str) -> Chosen:
    """Return the learned optimiser that a text names: 'lstm', or with options 'lstm, gain 0.1, input log'.

    An option's name may consist of several words: 'adam, learning rate 0.1'.

    Raises:
        MetabenchError: there is no such optimiser or option, or an option has no value or a wrong one.
    """
    name, *parts = (part.strip() for part in text.split(","))
    declared = pick("learned optimiser", name, LEARNED_OPTIMISERS.loaded())
    values: dict[str, Any] = {}
    for part in parts:
        words, _, value = part.rpartition(" ")
        if not words:
            raise MetabenchError(
                f"learned optimiser '{text}': '{part}' names no option with a value, as 'gain 0.1' does"
            )
        values["_".join(words.split())] = _read(value)
    return Chosen(declared, build(declared.options, values, f"learned optimiser '{name}'"))


def _read(value: str) -> Any:
    """Return a value as YAML would read a word: an integer, a number, true or false, or the word."""
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
