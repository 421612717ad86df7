"""A method: a function that returns a hypergradient, and the declaration of what it estimates and costs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.registry import Declarable
from metabench.core.types import InnerState, Tree, Window


class Target(str, Enum):
    """What a hypergradient estimates. K inner steps of the step map Phi lead from w_0 to w_K; F is the outer loss, f the inner."""

    UNROLLED = "unrolled"
    """dF(w_K(l), l)/dl through all K steps."""
    TRUNCATED = "truncated"
    """The same through the last k steps; the earlier ones are constant."""
    ONE_STEP = "one_step"
    """The same through the last step only."""
    IMPLICIT = "implicit"
    """dF/dl - (d2f/dl dw) (d2f/dw2)^-1 dF/dw at w_K, as if w_K were a minimum of f."""
    MINIMUM = "minimum"
    """dF(w*(l), l)/dl at the minimum w* of f near w_K, which a run of any length approaches: the implicit one there."""
    SMOOTHED = "smoothed"
    """The gradient of the window's outer objective, smoothed by Gaussian noise on the meta-parameters."""
    PERSISTENT = "persistent"
    """The gradient of the sum of all windows' outer objectives, smoothed by fresh Gaussian noise for each window."""
    CARRIED = "carried"
    """dF(w_K, l)/dl through all steps of the inner run so far, those of earlier windows at the meta-parameters that they were taken at."""
    NONE = "none"
    """Nothing: the meta-parameters do not change."""

    @property
    def of_minimum(self) -> bool:
        """Whether it is about a minimum of f, which forgets the run that led there."""
        return self in (Target.IMPLICIT, Target.MINIMUM)


class Keeps(str, Enum):
    """How long what a method keeps in `InnerState.memory` stays."""

    INNER_RUN = "inner_run"
    """Until another inner run begins, which finds an empty memory."""
    META_RUN = "meta_run"
    """While meta-parameters are trained: a run that begins finds what the one before it left, at the same place in the list of tasks."""


@dataclass(frozen=True)
class Cost:
    """What one hypergradient over K inner steps costs beyond the outer gradient, in the field's terms.

    Counts are formulas in K and the method's options, as text ("K", "copies + 1"); `memory` is an order ("O(K |activations|)").
    `affine_from`, a number or a function of the options, is the K from which each further step adds the same bytes and operations: a long
    run is then predicted from three short ones. None where that is not so, as with checkpoints at every sqrt(K)-th step.
    """

    gradients: str = "0"
    hvps: str = "0"
    jvps: str = "0"
    forwards: str = "0"
    memory: str = "O(|w|)"
    affine_from: int | Callable[[Any], int | None] | None = None


@dataclass(frozen=True)
class Curvature:
    """What a solver's theory needs of the Hessian of the training objective: its dimension and extreme eigenvalues."""

    dimension: int
    smallest: float
    largest: float


@dataclass(frozen=True)
class Limit:
    """Where an approximate method reaches its target, and what it equals elsewhere. `metabench certify` checks both.

    Attributes:
        options: from the curvature of the inner loss to the options under which theory bounds the relative error by `tolerance`;
            a list of option sets where several must hold (with a solver's scale at 1 and at 0.1, say). None where there is no such limit.
        tolerance: that bound, for well-conditioned problems in float64.
        budget: the option with which the error falls: number of solver steps, rank, width of a difference. Empty if there is none.
        values: of that option, for the curve of error against budget; the other options are the first set of `options`,
        curve: except for these: a limit's other options may hide the effect of the budget.
        at_minimum: whether an implicit method reaches its target at a minimum of the inner loss alone. One that solves with the Hessian
            reaches it wherever w_K is.
        formula: (case, options, generator) -> the hypergradient as a vector in the order of the meta-parameters, implemented independently
            in dense algebra: what the method equals at any options, the defaults first. In the limit every mistake may vanish. `case` is a
            `metabench.certify.Case`: `case.expansion` holds both losses to second order at w_K.
    """

    options: Callable[[Curvature], dict[str, Any] | list[dict[str, Any]]] | None = None
    tolerance: float = 1e-8
    budget: str = ""
    values: tuple[float, ...] = ()
    curve: Mapping[str, Any] = field(default_factory=dict)
    at_minimum: bool = False
    formula: Callable[[Any, Any, torch.Generator], torch.Tensor] | None = None

    def option_sets(self, curvature: Curvature) -> list[dict[str, Any]]:
        """Return the option sets that must hold."""
        found = [] if self.options is None else self.options(curvature)
        return found if isinstance(found, list) else [found]


@dataclass(frozen=True)
class Mean:
    """The mean of a method that draws. `metabench certify` checks the mean of many draws against it, by Student's t.

    Attributes:
        value: (case, options) -> the expected hypergradient as a vector, in the order of the meta-parameters; `case` as in `Limit.formula`.
        options: the option sets under which it holds; {} is the defaults.
        draws: how many are averaged.
    """

    value: Callable[[Any, Any], torch.Tensor]
    options: tuple[Mapping[str, Any], ...] = ({},)
    draws: int = 1000


@dataclass(frozen=True)
class Peer:
    """Another library, which computes what a method returns. The method asks it and corrects nothing: a row says what the library computes.

    Attributes:
        library: its name and release.
        instead: in one line, what it computes where that is not what the method is to estimate; empty where it is. Certificates, and
            reports of runs with the method, say so. A formula (`Limit.formula`) checks that line.
        declines: what it cannot be asked for, though the target exists there: names of inner optimisers ('adamw'), values of `MetaRole`,
            'varying rate', 'earlier outer losses', 'scalar parameters', 'idle parameters' (the inner loss does not use them). It then has
            to refuse; metabench's own methods answer wherever their target exists.
    """

    library: str
    instead: str = ""
    declines: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Hypergradient:
    """What a method returns.

    Attributes:
        meta: the hypergradient, a tree with the names and shapes of the meta-parameters.
        state: the inner state after the window's K steps, detached.
        outer_loss: the window's outer objective at the iterates, a float.
        diagnostics: floats worth keeping (residuals, number of solver steps).
        answer: the parameters that the method itself proposes, shaped as the inner parameters, where it moves a second point; the
            problem evaluates them beside those at the end of the inner run.
    """

    meta: Tree
    state: InnerState
    outer_loss: float
    diagnostics: dict[str, float] = field(default_factory=dict)
    answer: Tree | None = None


class HypergradientFunction(Protocol):
    """The signature of every method. It reads its arguments and changes none of them."""

    def __call__(
        self, problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
    ) -> Hypergradient: ...


@dataclass(frozen=True)
class NoOptions:
    """The options of a method or problem that has none."""


@dataclass(frozen=True)
class Method(Declarable):
    """A hypergradient method: its function, and what it declares.

    Attributes:
        name: the word in a suite.
        title: one line for tables.
        function: the method itself.
        target: what it estimates.
        exact: whether it equals that target up to rounding.
        cost: see `Cost`.
        citation: key of the paper in `references.bib`, or several separated by spaces, or BibTeX.
        options: frozen dataclass of its options.
        stochastic: whether it draws from the generator.
        limit: where it reaches its target and what it equals, if it is not exact and such a limit or formula exists.
        mean: of its draws, if it draws and theory gives their mean.
        variants: option sets, besides the defaults and every choice, under which a certificate runs an exact method.
        keeps: how long its memory stays.
        peer: the library that computes it, for a method that only asks one.
        module: the Python module that holds it.
        order: its place in tables, ascending; methods without one follow by name.
    """

    name: str
    title: str
    function: HypergradientFunction
    target: Target
    exact: bool
    cost: Cost
    citation: str
    options: type = NoOptions
    stochastic: bool = False
    limit: Limit | None = None
    mean: Mean | None = None
    variants: tuple[dict[str, Any], ...] = ()
    keeps: Keeps = Keeps.INNER_RUN
    peer: Peer | None = None
    module: str = ""
    order: float = math.inf

    def __call__(
        self, problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
    ) -> Hypergradient:
        """Return the hypergradient of `window` from `state`."""
        return self.function(problem, state, meta, window, options, generator)

    def entered(self, problem: Problem, window: Window, last: InnerState | None) -> tuple[Problem, InnerState]:
        """Return the problem and the inner state that the method is given for a window.

        `last` is the state after the window before it at the same place in the list of tasks; None before the first. They are those of
        `Problem.entered`, with the memory that the method keeps while meta-parameters are trained; raises as that.
        """
        entered, state = problem.entered(window, last)
        if self.keeps is Keeps.META_RUN and last is not None:
            state = replace(state, memory=last.memory)
        return entered, state


def method(
    *,
    title: str,
    target: Target,
    exact: bool,
    cost: Cost,
    citation: str,
    options: type = NoOptions,
    stochastic: bool = False,
    limit: Limit | None = None,
    mean: Mean | None = None,
    variants: tuple[dict[str, Any], ...] = (),
    keeps: Keeps = Keeps.INNER_RUN,
    peer: Peer | None = None,
    order: float = math.inf,
) -> Callable[[HypergradientFunction], Method]:
    """Declare a function to be a method; its name is the function's."""

    def declare(function: HypergradientFunction) -> Method:
        name = function.__name__  # type: ignore[attr-defined]
        module = inspect.getmodule(function)
        return Method(
            name=name,
            title=title,
            function=function,
            target=target,
            exact=exact,
            cost=cost,
            citation=citation,
            options=options,
            stochastic=stochastic,
            limit=limit,
            mean=mean,
            variants=variants,
            keeps=keeps,
            peer=peer,
            module=module.__name__ if module else "",
            order=order,
        )

    return declare
