"""The cases: a certification problem, an inner optimiser, and the point where a hypergradient is taken.

Two points: in the middle of training, where nothing is at rest and the optimiser's state is not zero, for what is differentiated through
steps; and at a minimum, for implicit hypergradients, which are the derivative of F(w*(l), l) there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.inner import begin, detached, run
from metabench.certify.problem import CertificationProblem
from metabench.certify.problems import (
    ExampleWeights,
    Initialisation,
    LearningRates,
    LearningRatesAtTheEnd,
    Logistic,
    PenaltiesAndRate,
    Quadratic,
    Ridge,
    ScaledStart,
    TanhNetwork,
)
from metabench.certify.references import Minimum, minimise, objective, through_last_steps
from metabench.core import InnerState, MetaRole, Target, Tree, Window, tree
from metabench.core.lazy import torch

MAIN_OPTIMISERS = ("sgd", "momentum", "adam")
ALL_OPTIMISERS = ("sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop")


@dataclass(frozen=True, eq=False)
class Case:
    """A problem and a place to take its hypergradient. `minimum` is set where the place is one."""

    problem: CertificationProblem
    state: InnerState
    meta: Tree
    windows: tuple[Window, ...]
    minimum: Minimum | None = None

    @property
    def window(self) -> Window:
        """The window of methods that need but one."""
        return self.windows[0]

    @property
    def inner_steps(self) -> int:
        """K."""
        return len(self.window.inner)

    @functools.cached_property
    def end(self) -> InnerState:
        """Where plain training over the window ends."""
        return run(self.problem, detached(begin(self.problem, self.state, self.meta)), self.meta, self.window.inner)

    @functools.cached_property
    def objective(self) -> float:
        """The window's outer objective in plain training."""
        return objective(self.problem, self.state, self.window)(self.meta)

    @functools.cached_property
    def implicit(self) -> Tree:
        """The derivative of F at the minimum."""
        outer = self.window.outer[-1]
        assert self.minimum is not None and outer is not None
        return self.minimum.implicit(self.meta, outer)

    def through_last_steps(self, steps: int) -> Tree:
        """Return the derivative through the last `steps` steps of the window, those before held fixed."""
        if steps not in self._through:
            self._through[steps] = through_last_steps(self.problem, self.state, self.meta, self.window, steps)
        return self._through[steps]

    @functools.cached_property
    def _through(self) -> dict[int, Tree]:
        return {}

    @functools.cached_property
    def text(self) -> str:
        """The case in words: what sets it apart."""
        problem = self.problem
        return ", ".join(
            filter(
                None,
                (
                    problem.name,
                    problem.optimiser_name,
                    f"K={self.inner_steps}",
                    "at a minimum" if self.minimum else "",
                    "one dimension" if problem.features == 1 else "",
                    f"scale {problem.scale:g}" if problem.scale != 1 else "",
                    f"weight decay {problem.weight_decay:g}" if problem.weight_decay else "",
                ),
            )
        )

    @functools.cached_property
    def traits(self) -> dict[str, Any]:
        """What tells cases apart when some fail."""
        return {
            "dimension": "one" if tree.count(self.state.params) == 1 else "several",
            "scale": self.problem.scale,
            "inner steps": self.inner_steps,
            "weight decay": self.problem.weight_decay,
            "optimiser": self.problem.optimiser_name,
            "problem": self.problem.name,
        }


def cases(target: Target) -> tuple[Case, ...]:
    """Return the cases on which a method of this target is judged; what was worked out for them is kept."""
    return _cases(target is Target.IMPLICIT)


@functools.cache
def _cases(at_minimum: bool) -> tuple[Case, ...]:
    return tuple(_grid(at_minimum))


def _grid(at_minimum: bool) -> Iterator[Case]:
    for kind, optimisers, settings in _GRID:
        has_minimum = not kind.roles & {MetaRole.UPDATE, MetaRole.START}
        for optimiser in optimisers:
            for setting in settings:
                # AdamW's decay is apart from the gradient: there is no loss that training minimises, and no minimum.
                decoupled = optimiser == "adamw" and "weight_decay" in setting
                if at_minimum and has_minimum and not decoupled:
                    yield settled(kind(optimiser, **setting))
                else:
                    yield moving(kind(optimiser, **setting))


_GRID: tuple[tuple[type[CertificationProblem], tuple[str, ...], tuple[dict[str, Any], ...]], ...] = (
    (Quadratic, MAIN_OPTIMISERS, ({},)),
    (Ridge, MAIN_OPTIMISERS, ({}, {"features": 1}, {"scale": 0.1}, {"inner_steps": 1})),
    (Ridge, ALL_OPTIMISERS, ({"weight_decay": 0.2},)),
    (Logistic, MAIN_OPTIMISERS, ({},)),
    (TanhNetwork, ALL_OPTIMISERS, ({},)),
    (ExampleWeights, MAIN_OPTIMISERS, ({},)),
    (LearningRates, ALL_OPTIMISERS, ({},)),
    (LearningRatesAtTheEnd, MAIN_OPTIMISERS, ({},)),
    (PenaltiesAndRate, MAIN_OPTIMISERS, ({},)),
    (Initialisation, MAIN_OPTIMISERS, ({}, {"inner_steps": 1})),
    (ScaledStart, MAIN_OPTIMISERS, ({},)),
)


def moving(problem: CertificationProblem, windows: int = 1) -> Case:
    """Return the case of a run in its middle: after one window of plain training."""
    state, meta = problem.initial_state()
    stream = problem.windows()
    state = run(problem, detached(begin(problem, state, meta)), meta, next(stream)[0].inner)
    return Case(problem, state, meta, tuple(next(stream)[0] for _ in range(windows)))


def settled(problem: CertificationProblem) -> Case:
    """Return the case at a minimum of the loss on one batch, where steps on that batch lead nowhere."""
    params, meta = problem.initial()
    drawn = next(problem.windows())[0]
    batch, outer = drawn.inner[0], drawn.outer[-1]
    assert outer is not None
    minimum = minimise(problem, params, meta, batch, problem.weight_decay)
    state = InnerState(minimum.params, _at_rest(problem, minimum.params))
    return Case(problem, state, meta, (Window.ending_in((batch,) * problem.setting.inner_steps, outer),), minimum)


def _at_rest(problem: CertificationProblem, params: Tree) -> dict[str, Tree]:
    """Return the optimiser's state after a long run that has come to rest: no momentum, and second moments that are not zero.

    With second moments of zero an adaptive step has a slope of learning rate / eps, and no step map would contract.
    """
    state = problem.optimiser.init(params)
    if "second" in state:
        state["second"] = tree.tree_map(lambda leaf: torch.full_like(leaf, 0.05), params)
    if "step" in state:
        state["step"] = {"count": torch.tensor(50.0, dtype=torch.float64)}
    return state
