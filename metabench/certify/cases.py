"""The cases: a certification problem, an inner optimiser, and the point where a hypergradient is taken.

Two points: in the middle of training, where nothing is at rest, batches differ and the optimiser's state is not zero; and at a minimum,
for implicit hypergradients, which are the derivative of F(w*(l), l) there.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from metabench.certify.learned_updates import LearnedUpdate
from metabench.certify.problem import SCHEDULED, CertificationProblem
from metabench.certify.problems import (
    ExampleWeights,
    Layouts,
    Logistic,
    ManyWeights,
    PenaltiesAndRate,
    Quadratic,
    Ridge,
    ScaledStart,
)
from metabench.certify.references import Expansion, Minimum, expand, minimise, through_last_steps
from metabench.certify.scheduled_rates import LearnedSchedule, ScheduledLearningRates, ScheduledRate
from metabench.certify.shared_roles import LinearIMAML, SharedRoles, TiedStart
from metabench.certify.tanh_networks import Initialisation, LearningRates, TanhNetwork
from metabench.certify.training import Trained, train
from metabench.core import Batch, InnerState, Target, Tree, Window, tree
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
    def trained(self) -> Trained:
        """Plain training over the window."""
        return train(self.problem, self.state, self.meta, self.window)

    @property
    def end(self) -> InnerState:
        """Where plain training over the window ends: (w_K, s_K)."""
        return self.trained.end

    @property
    def before(self) -> InnerState:
        """The state before the last step: (w_{K-1}, s_{K-1})."""
        return self.trained.states[-2]

    @property
    def outer_batch(self) -> Batch:
        """The batch of the outer loss that is due at the window's end."""
        batch = self.window.outer[-1]
        assert batch is not None
        return batch

    @functools.cached_property
    def expansion(self) -> Expansion:
        """Both losses to second order at w_K, the inner one on the window's last batch and with the optimiser's weight decay, dense."""
        decay = self.problem.weight_decay
        return expand(self.problem, self.end.params, self.meta, self.window.inner[-1], self.outer_batch, decay)

    @functools.cached_property
    def implicit(self) -> Tree:
        """The implicit hypergradient: the derivative of F at the minimum; elsewhere, as if w_K were one, by a dense solve."""
        if self.minimum is not None:
            return self.minimum.implicit(self.meta, self.outer_batch)
        at = self.expansion
        return tree.unflatten(at.implicit(torch.linalg.solve(at.hessian, at.outer_w)), self.meta)

    @functools.cached_property
    def at_minimum(self) -> Tree | None:
        """The implicit hypergradient at the minimum near w_K, on the window's last batch; None where the search finds none."""
        if self.minimum is not None:
            return self.implicit
        try:
            found = minimise(self.problem, self.end.params, self.meta, self.window.inner[-1], self.problem.weight_decay)
        except ValueError:
            return None
        return found.implicit(self.meta, self.outer_batch)

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
                    f"outer losses: {problem.due}" if problem.due != "end" else "",
                    f"F times {problem.outer_scale:g}" if getattr(problem, "outer_scale", 1) != 1 else "",
                    "idle parameters" if getattr(problem, "idle", False) else "",
                ),
            )
        )

    @functools.cached_property
    def demands(self) -> frozenset[str]:
        """What a library may have no answer for, as `Peer.declines` names it."""
        problem = self.problem
        found = {problem.optimiser_name, *(role.value for role in problem.roles)}
        if not isinstance(problem.learning_rate(), float):
            found.add("varying rate")
        if any(batch is not None for batch in self.window.outer[:-1]):
            found.add("earlier outer losses")
        if getattr(problem, "idle", False):
            found.add("idle parameters")
        if any(leaf.dim() == 0 for leaf in self.state.params.values()):
            found.add("scalar parameters")
        return frozenset(found)

    @functools.cached_property
    def traits(self) -> dict[str, Any]:
        """What tells cases apart when some fail."""
        return {
            "dimension": "one" if tree.count(self.state.params) == 1 else "several",
            "scale": self.problem.scale,
            "inner steps": self.inner_steps,
            "weight decay": self.problem.weight_decay,
            "optimiser": self.problem.optimiser_name,
            "outer losses": self.problem.due,
            "problem": self.problem.name,
        }


def moving(problem: CertificationProblem, windows: int = 1) -> Case:
    """Return the case of a run in its middle: after one window of plain training."""
    state, meta = problem.initial_state()
    stream = problem.windows()
    state = train(problem, state, meta, next(stream)[0]).end
    return Case(problem, state, meta, tuple(next(stream)[0] for _ in range(windows)))


def settled(problem: CertificationProblem) -> Case:
    """Return the case at a minimum of the loss on one batch, where steps on that batch lead nowhere."""
    params, meta = problem.beginning()
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


@functools.cache
def cases(target: Target) -> tuple[Case, ...]:
    """Return the cases on which a method of this target is judged; what was worked out for them is kept."""
    return tuple(_implicit_cases() if target.of_minimum else map(moving, _moving_problems()))


def _moving_problems() -> Iterator[CertificationProblem]:
    """Yield the problems of hypergradients that are differentiated through steps: first what tells most.

    Between them they vary what a method may depend on: every optimiser, with and without decay; K from 1 to 12, below, at and above the
    defaults of the package's methods; each role, each pair of roles in one tensor, and all four; outer losses at the end, after every
    step, after some, and after the first alone; starts that hand a meta-parameter on, or one tensor twice; frozen and moving slots. Any
    two of these meet in some case.
    """
    yield TanhNetwork("momentum")
    yield SharedRoles("adam", ("inner_loss", "outer_loss", "update", "start"), inner_steps=3, due="every")
    yield LearningRates("adam", due="every")
    yield TanhNetwork(SCHEDULED, inner_steps=7)
    yield SharedRoles("sgd", ("inner_loss", "start"), inner_steps=1)
    yield from (
        Ridge(o, **s) for s in ({}, {"features": 1}, {"scale": 0.1}, {"inner_steps": 1}) for o in MAIN_OPTIMISERS
    )
    yield from (Ridge(o, inner_steps=1) for o in ("nesterov", "rmsprop", SCHEDULED))
    yield Ridge("adamw", inner_steps=1, weight_decay=0.2)
    yield from (Ridge(o, weight_decay=0.2) for o in ALL_OPTIMISERS)
    yield from (Ridge(o, inner_steps=k) for o, k in (("momentum", 12), ("nesterov", 17)))
    yield Ridge("momentum", inner_steps=6, weight_decay=0.2, due="every")
    yield Ridge("adam", inner_steps=10, weight_decay=0.2, due="gaps")
    yield Ridge("adamw", inner_steps=9, weight_decay=0.2, due="early")
    yield from (
        Ridge(o, inner_steps=k, due=due)
        for o, k, due in (("sgd", 4, "gaps"), ("adamw", 6, "gaps"), ("nesterov", 4, "early"), (SCHEDULED, 3, "early"))
    )
    yield from (Ridge(o, outer_scale=scale) for o, scale in (("sgd", 1e-6), ("adam", 1e6)))
    yield from (Quadratic(o, inner_steps=k, due=due) for o, k, due in (("sgd", 4, "end"), ("nesterov", 6, "gaps")))
    yield from (Logistic(o, inner_steps=k) for o, k in (("adam", 5), ("rmsprop", 2)))
    yield from (TanhNetwork(o) for o in ("sgd", "nesterov", "adam", "adamw", "rmsprop"))
    yield from (
        TanhNetwork(o, inner_steps=6, due=due) for o, due in (("momentum", "gaps"), ("adam", "early"), ("sgd", "every"))
    )
    yield from (ExampleWeights(o, inner_steps=k) for o, k in (("momentum", 4), ("adam", 2)))
    yield from (LearningRates(o, due="every") for o in ("sgd", "momentum", "nesterov", "adamw", "rmsprop"))
    yield from (LearningRates(o) for o in ("momentum", "adam"))
    yield LearningRates(SCHEDULED, inner_steps=5, due="gaps")
    yield LearningRates("sgd", inner_steps=3, due="early")
    yield LearningRates("rmsprop", inner_steps=9, due="early")
    yield from (LearningRates(o, weight_decay=0.2) for o in ("momentum", "adamw"))
    yield from (PenaltiesAndRate(o) for o in MAIN_OPTIMISERS)
    yield from (ScheduledRate(o) for o in ALL_OPTIMISERS)
    yield ScheduledRate("momentum", inner_steps=7, weight_decay=0.2, due="every")
    yield from (ScheduledLearningRates(o) for o in MAIN_OPTIMISERS)
    yield from (LearnedSchedule(o, due=due) for o, due in (("sgd", "end"), ("momentum", "every"), ("adam", "gaps")))
    yield from (LearnedSchedule(o, inner_steps=k) for o, k in (("sgd", 1), ("nesterov", 9), ("rmsprop", 3), ("adamw", 2)))
    yield from (Initialisation(o, inner_steps=k) for o, k in (("sgd", 4), ("momentum", 1), ("adam", 4)))
    yield Initialisation("momentum", inner_steps=5, due="early")
    yield from (Initialisation(o, weight_decay=0.2) for o in ("sgd", "adam"))
    yield from (
        SharedRoles(o, roles, inner_steps=3, weight_decay=decay, idle=True)
        for o, roles, decay in (
            ("momentum", ("inner_loss", "outer_loss"), 0.2),
            ("adam", ("outer_loss", "update"), 0.0),
            ("nesterov", ("inner_loss", "start"), 0.2),
            ("rmsprop", ("outer_loss", "update"), 0.0),
        )
    )
    yield from (ScaledStart(o, inner_steps=k) for o, k in (("sgd", 9), ("momentum", 4), ("adam", 2), ("rmsprop", 5)))
    yield from (
        SharedRoles(o, roles, inner_steps=k, weight_decay=decay, due=due)
        for (o, k, decay, due), roles in zip(
            (
                ("momentum", 4, 0.2, "end"),
                ("nesterov", 3, 0.0, "end"),
                ("adam", 2, 0.0, "end"),
                ("rmsprop", 4, 0.0, "gaps"),
                ("adamw", 3, 0.2, "end"),
                ("momentum", 5, 0.0, "every"),
            ),
            itertools.combinations(("inner_loss", "outer_loss", "update", "start"), 2),
            strict=True,
        )
    )
    yield SharedRoles(SCHEDULED, ("inner_loss", "outer_loss", "update", "start"), inner_steps=5, due="gaps")
    yield from (
        SharedRoles(SCHEDULED, ("outer_loss", "update"), inner_steps=k, due=due)
        for k, due in ((1, "end"), (10, "every"))
    )
    yield from (LinearIMAML(o, inner_steps=k) for o, k in (("sgd", 4), ("adam", 3)))
    yield from (TiedStart(o, inner_steps=k) for o, k in (("sgd", 1), ("adam", 3)))
    yield from (Layouts(o, inner_steps=k, scale=0.2) for o, k in (("momentum", 3), ("adam", 2)))
    yield ManyWeights("sgd", inner_steps=2)
    yield from (LearnedUpdate(o, inner_steps=3, due="every") for o in ("lstm", "mlp"))


def _implicit_cases() -> Iterator[Case]:
    """Yield the cases of implicit hypergradients: at minima; in mid-training of convex losses, each step on its own batch; refusals."""
    yield from (settled(Ridge(o)) for o in MAIN_OPTIMISERS)
    yield from (
        moving(Ridge(o, inner_steps=k, weight_decay=0.1)) for o, k in (("sgd", 4), ("momentum", 1), ("adam", 12))
    )
    # Gradients so small that what an optimiser adds to them counts.
    yield from (moving(Ridge(o, inner_steps=2, scale=1e-5)) for o in ("adam", "rmsprop"))
    yield from (moving(Logistic(o, inner_steps=k)) for o, k in (("sgd", 1), ("nesterov", 3), ("rmsprop", 5)))
    yield from (moving(ExampleWeights(o, inner_steps=k)) for o, k in (("momentum", 3), ("adam", 2)))
    yield moving(SharedRoles("sgd", ("inner_loss", "outer_loss"), inner_steps=2, scale=0.5))
    yield moving(Layouts("momentum", inner_steps=2))
    yield moving(SharedRoles("adam", ("inner_loss", "outer_loss"), inner_steps=2, weight_decay=0.2, idle=True))
    yield from (moving(Ridge("sgd", inner_steps=2, outer_scale=scale)) for scale in (1e-6, 1e6))
    yield moving(Ridge("momentum", inner_steps=2, features=17, weight_decay=0.1))
    yield from (
        settled(Ridge(o, **s)) for s in ({"features": 1}, {"scale": 0.1}, {"inner_steps": 1}) for o in MAIN_OPTIMISERS
    )
    yield from (settled(Ridge(o, weight_decay=0.2)) for o in ALL_OPTIMISERS if o != "adamw")
    # As in implicit MAML: a minimum forgets its start, and sees the same meta-parameters in the loss.
    yield moving(SharedRoles("momentum", ("inner_loss", "start"), inner_steps=3, weight_decay=0.1))
    yield moving(LinearIMAML("adam", inner_steps=3))
    # Every window begins at l: so many steps end at the minimum.
    yield settled(LinearIMAML(inner_steps=80))
    yield moving(SharedRoles("sgd", ("outer_loss", "start"), inner_steps=2))
    # Its decay is apart from the gradient: there is no loss that training minimises, and no minimum.
    yield moving(Ridge("adamw", weight_decay=0.2))
    yield from (settled(Quadratic(o)) for o in MAIN_OPTIMISERS)
    yield from (settled(Logistic(o)) for o in MAIN_OPTIMISERS)
    yield from (settled(TanhNetwork(o)) for o in (*ALL_OPTIMISERS, SCHEDULED))
    yield from (settled(ExampleWeights(o)) for o in MAIN_OPTIMISERS)
    # A rate that falls never rests: the fixed point is that of the step at the rate where the window ends.
    yield from (settled(ScheduledRate(o, decay_steps=90)) for o in ("sgd", "momentum"))
    for problem in (
        LearnedSchedule("sgd"),
        LearningRates("adam", due="every"),
        LearningRates("sgd"),
        PenaltiesAndRate("momentum"),
        Initialisation("sgd"),
        ScaledStart("adam"),
        SharedRoles("sgd", ("inner_loss", "start")),
        SharedRoles("sgd", ("inner_loss", "start"), alone=True),
        TanhNetwork("sgd", due="gaps"),
    ):
        yield moving(problem)
