"""A method: a function that returns a hypergradient, and the declaration of what it estimates and costs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import InnerState, Tree, Window


class Target(str, Enum):
    """What a hypergradient estimates. K inner steps of the step map Phi lead from w_0 to w_K; F is the outer loss, f the inner."""

    UNROLLED = "unrolled"
    """dF(w_K(l), l)/dl through all K steps."""
    TRUNCATED = "truncated"
    """The same through the last k steps, those before taken as constant."""
    ONE_STEP = "one_step"
    """The same through the last step only."""
    IMPLICIT = "implicit"
    """dF/dl - (d2f/dl dw) (d2f/dw2)^-1 dF/dw at w_K, as if w_K were a minimum of f."""
    SMOOTHED = "smoothed"
    """The gradient of the outer objective smoothed by noise."""
    NONE = "none"
    """Nothing: the meta-parameters stay."""


@dataclass(frozen=True)
class Cost:
    """What one hypergradient over K inner steps costs beyond the outer gradient, in the field's terms.

    Counts are formulas in K and the method's options, as text ("K", "copies + 1"); `memory` is an order ("O(K |activations|)").
    """

    gradients: str = "0"
    hvps: str = "0"
    jvps: str = "0"
    forwards: str = "0"
    memory: str = "O(|w|)"


@dataclass(frozen=True)
class Hypergradient:
    """What a method returns.

    Attributes:
        meta: the hypergradient, a tree with the names and shapes of the meta-parameters.
        state: the inner state after the window's K steps, detached.
        outer_loss: the window's outer objective at the iterates, a float.
        diagnostics: numbers worth keeping (residuals, number of solver steps).
    """

    meta: Tree
    state: InnerState
    outer_loss: float
    diagnostics: dict[str, float] = field(default_factory=dict)


class HypergradientFunction(Protocol):
    """The signature of every method. All arguments are read, none is changed."""

    def __call__(
        self, problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
    ) -> Hypergradient: ...


@dataclass(frozen=True)
class NoOptions:
    """The options of a method or problem that has none."""


@dataclass(frozen=True)
class Method:
    """A hypergradient method: its function, and what it declares.

    Attributes:
        name: the word in a suite.
        title: one line for tables.
        function: the method itself.
        target: what it estimates.
        exact: whether it equals that target up to rounding.
        cost: see `Cost`.
        citation: BibTeX of the paper.
        options: frozen dataclass of its options.
        stochastic: whether it draws from the generator.
        module: the Python module that holds it.
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
    module: str = ""

    def __call__(
        self, problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
    ) -> Hypergradient:
        """Return the hypergradient of `window` from `state`."""
        return self.function(problem, state, meta, window, options, generator)


def method(
    *,
    title: str,
    target: Target,
    exact: bool,
    cost: Cost,
    citation: str,
    options: type = NoOptions,
    stochastic: bool = False,
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
            citation=inspect.cleandoc(citation),
            options=options,
            stochastic=stochastic,
            module=module.__name__ if module else "",
        )

    return declare
