"""A kind of experiment: what is done with each cell, and what its rows say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from metabench.core.method import Method, NoOptions
from metabench.core.problem import Problem
from metabench.core.registry import Declarable

Stage: TypeAlias = "Callable[[Any], Iterator[Mapping[str, Any]]]"
"""From what is measured, a `metabench.stages.subject.Subject`, to columns of its row, some at a time.

What was yielded stays in the row if the stage fails later."""


@dataclass(frozen=True)
class Part:
    """What is computed for a cell and seed before the cell runs, in a job of its own: shared weights, a round of an island.

    Cells of other options share it if they agree in problem, method and `settings`.

    Attributes:
        name: within the cell and seed; letters, digits and hyphens.
        settings: the options of the kind on which it depends, values of JSON.
        needs: names of the parts that it reads, which stand before it.
        picks: registries with names in them, whose source it depends on besides what the kind imports.
    """

    name: str
    settings: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    picks: tuple[tuple[Any, str], ...] = ()


@dataclass(frozen=True)
class Kind(Declarable):
    """A kind of experiment. A module of `metabench.kinds`, a plugin or an installed package declares one.

    Attributes:
        name: the word in a suite.
        title: one line for listings.
        stages: what runs for each seed, in this order.
        columns: the columns that they may fill, besides a message and those of `well_posed`.
        trains: whether meta-parameters are trained: it takes the key `outer_steps`, and its rows have a quality.
        trains_none: whether that holds for a method without hypergradients, too, whose inner runs go on; otherwise its cells have 0 outer
            steps.
        partner: the kind of experiment that repeats its timed part in another process (`Cell.replicate`); empty where nothing is timed.
        curves: the curves that its rows have besides the problem's own, by name, with a line each.
        options: frozen dataclass of its options.
        check: raises MetabenchError where these options do not suit a problem and a method, given the problem's class, its options and the
            method; None: they suit all.
        prepares: from these options to the parts that each cell and seed needs, those that others need first; None: there are none.
        prepare: from what is measured and the name of a part, computes it, into the folder `subject.prepared[name]`.
        hypergradients: from these options, those of the problem, the outer steps and the tasks of each, how many hypergradients a seed
            takes besides those that are measured, for predictions; None: one for each task of each outer step.
        order: its place in listings, ascending; kinds without one follow by name.
        module: the module that declares it, `__name__`: its source is part of the code hash.
    """

    name: str
    title: str
    stages: tuple[Stage, ...]
    columns: tuple[str, ...]
    trains: bool = False
    trains_none: bool = True
    partner: str = ""
    curves: Mapping[str, str] = field(default_factory=dict)
    options: type = NoOptions
    check: Callable[[Any, type[Problem], Mapping[str, Any], Method], None] | None = None
    prepares: Callable[[Any], Sequence[Part]] | None = None
    prepare: Callable[[Any, str], None] | None = None
    hypergradients: Callable[[Any, Mapping[str, Any], int, int], int] | None = None
    order: float = math.inf
    module: str = ""
