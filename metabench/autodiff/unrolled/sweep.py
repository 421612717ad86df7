"""The hypergradient of a window: through the recorded graph, or by a backward sweep over its steps.

The sweep carries cotangents a_k of the inner state. With the outer loss due at w_{k+1} added first,
    a_k = (dPhi_k / d state)^T a_{k+1},     dF/dl += (dPhi_k / dl)^T a_{k+1} + direct terms.
Methods differ in how they form the two products of a step (its pullback), and in what they keep of the run (the schedule).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from metabench.autodiff.derivatives import Derivatives, Recorded
from metabench.autodiff.gradients import filled, gradients, reached
from metabench.autodiff.inner import begin, detached, leaves_of, recorded_step, updated, with_leaves
from metabench.autodiff.parts import Part, parts_of, shared_slots
from metabench.autodiff.simulated import repeated
from metabench.autodiff.unrolled.checkpoint_schedules import Schedule, every_state
from metabench.autodiff.unrolled.trajectory import Trajectory, Visit
from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.method import Hypergradient
from metabench.core.problem import MetaRole, Problem
from metabench.core.types import Batch, InnerState, Tree, Window

Pullback: TypeAlias = Callable[
    [Problem, InnerState, Tree, Batch, InnerState, bool, "Tree | None"], tuple[InnerState, Tree]
]
"""(problem, state_k, meta, batch_k, a_{k+1}, through, gradient) -> (a_k, the step's share of dF/dl).

Slots that a_{k+1} lacks have no cotangent yet: zero. `through` says whether a_k is wanted; if not, an empty state takes its place, and
nothing is computed that only a_k needs. The first step of a window is such a step, unless its start depends on l. `gradient` is df/dw at
state_k where the sweep has kept it.
"""


def through_graph(problem: Problem, state: InnerState, meta: Tree, window: Window) -> Hypergradient:
    """Return the exact hypergradient of the window by reverse mode through the recorded run of all its steps."""
    meta = tree.leaves_for_grad(meta)
    with torch.enable_grad():
        current = begin(problem, state, meta)
        objective = next(iter(meta.values())).new_zeros(())
        for inner, outer in zip(window.inner, window.outer, strict=True):
            current = recorded_step(problem, current, meta, inner)
            if outer is not None:
                objective = objective + problem.outer_loss(current.params, meta, outer)
        final, value = detached(current), float(objective.detach())
        del current
        (hypergradient,) = gradients(objective, [meta])
    return Hypergradient(hypergradient, final, value)


def sweep_back(
    problem: Problem,
    state: InnerState,
    meta: Tree,
    window: Window,
    pullback: Pullback,
    schedule: Schedule = every_state,
    *,
    derivatives: Derivatives | None = None,
    save_inner_grads: bool = False,
    trajectory: Trajectory | None = None,
) -> Hypergradient:
    """Return the hypergradient of the window, one step's graph at a time. It is exact if the pullback is.

    Args:
        pullback: how one step is pulled back.
        schedule: which states of the run are kept for the backward pass; the others are recomputed.
        derivatives: how the gradients of the run and of the outer losses are computed; recorded by autograd unless given.
        save_inner_grads: whether the inner gradient at a kept state is kept too, for the pullback.
        trajectory: where kept states are stored; on the device unless given.
    """
    meta = tree.detach(meta)
    start = state
    first_order = derivatives or Recorded(problem)
    ahead = _Run(
        problem,
        meta,
        window,
        first_order,
        schedule,
        save_inner_grads,
        Trajectory() if trajectory is None else trajectory,
    )
    with torch.no_grad():
        ahead.kept.keep(0, Visit(detached(begin(problem, state, meta)), None))
    # The way back begins at the step before the last outer loss due; no state after it is needed again.
    last = max(k for k, outer in enumerate(window.outer) if outer is not None)
    visit = ahead.reach(last)
    ahead.kept.keep(last, visit)
    state = ahead.step(last, visit.state)
    del visit
    final = state
    for k in range(last + 1, len(window.inner)):
        slope = first_order.inner(final.params, meta, window.inner[k])
        final = updated(problem, slope, final, meta, spent=k > last + 1)

    # The cotangent is held by this list alone and taken out of it, so that a pullback can let go of it in its middle; so is the gradient.
    held, value = [InnerState({}, {})], 0.0
    total = tree.zeros_like(meta)
    for k in reversed(range(last + 1)):
        # `state` is state_{k+1} here: the outer loss due after step k is added before the step is pulled back.
        if (outer := window.outer[k]) is not None:
            due = first_order.outer(state.params, meta, outer)
            value += due.loss
            total = tree.add(total, due.meta)
            after = held.pop()
            held.append(InnerState(tree.add(after.params, due.params) if after.params else due.params, after.optimiser))
            del due, after
        # state_{k+1} is let go of before state_k is run.
        del state
        state, *gradient = ahead.reach(k)
        ahead.kept.drop(k)
        through = k > 0 or MetaRole.START in problem.roles
        cotangent, share = repeated(
            (pullback.__qualname__, through),
            partial(_pulled, pullback, problem, through),
            [state, meta, window.inner[k], gradient.pop(), held.pop()],
        )
        held.append(cotangent)
        del cotangent
        total = tree.add(total, share)
    if MetaRole.START in problem.roles:
        total = tree.add(total, pull_start(problem, start, meta, held[0].params))
    return Hypergradient(total, final, value)


def _pulled(pullback: Pullback, problem: Problem, through: bool, given: list[Any]) -> tuple[InnerState, Tree]:
    state, meta, batch = given[:3]
    # The gradient and the cotangent are taken out, for the pullback alone.
    cotangent, gradient = [given.pop()], [given.pop()]
    return pullback(problem, state, meta, batch, cotangent.pop(), through, gradient.pop())


@dataclass
class _Run:
    """The inner run of a window, of which some states are kept."""

    problem: Problem
    meta: Tree
    window: Window
    derivatives: Derivatives
    schedule: Schedule
    save_inner_grads: bool
    kept: Trajectory

    def reach(self, last: int) -> Visit:
        """Return state `last`, run from the nearest earlier state kept; keep the states on the way that the schedule names."""
        first = self.kept.last()
        if first == last:
            return self.kept.at(last)
        keep = {*self.schedule(first, last, len(self.kept) - 1)}
        state = self.kept.at(first).state
        for k in range(first, last):
            # Where states are kept one after another the way back comes next, and wants their gradients.
            held = k in keep or k == first
            state = self.step(k, state, save=k + 1 in keep and held, spent=not held)
            if k + 1 in keep:
                self.kept.keep(k + 1, Visit(state, None))
        return Visit(state, None)

    def step(self, k: int, state: InnerState, save: bool = True, spent: bool = False) -> InnerState:
        """Return state k+1 from `state`, which is state k; keep the gradient with it if `save` asks for it. `spent` as in `updated`."""
        save = save and self.save_inner_grads
        given = [state, self.meta, self.window.inner[k]]
        if not spent:
            gradient, after = repeated(("step", save), partial(self._moved, save), given)
        else:  # `state` itself becomes the next one, so nothing stands for it
            gradient, after = self._moved(save, given, spent=True)
        if save:
            self.kept.keep(k, Visit(state, gradient))
        return after

    def _moved(self, save: bool, given: list[Any], spent: bool = False) -> tuple[Tree | None, InnerState]:
        state, meta, batch = given
        gradient = self.derivatives.inner(state.params, meta, batch)
        after = updated(self.problem, gradient, state, meta, spent=spent)
        return gradient if save else None, after


def recomputed_step(
    problem: Problem,
    state: InnerState,
    meta: Tree,
    batch: Batch,
    cotangent: InnerState,
    through: bool,
    gradient: Tree | None = None,
) -> tuple[InnerState, Tree]:
    """Pull a step back by recording it again: reverse over reverse. The gradient is recorded too, even if it is known."""
    del gradient
    before, variables = _recorded(state) if through else (state, [])
    meta = tree.leaves_for_grad(meta)
    with torch.enable_grad():
        outputs, weights = _paired(recorded_step(problem, before, meta, batch), cotangent)
        *pulled, share = gradients(outputs, [*variables, meta], weights)
    return with_leaves(state, pulled) if through else InnerState({}, {}), share


def split_step(derivatives: Derivatives) -> Pullback:
    """Return how to pull a step back, treating its inner gradient as an argument of the update. Kemaev et al. 2025, equation 4.

    state_{k+1} = Upsilon(g, state_k, l) with g = df/dw. A VJP of Upsilon, which is cheap, gives the direct shares and the cotangent c
    of g; second-order products give the shares of g: (d2f/dw2) c and (d2f/dl dw) c.
    """

    def pull(
        problem: Problem,
        state: InnerState,
        meta: Tree,
        batch: Batch,
        cotangent: InnerState,
        through: bool,
        gradient: Tree | None,
    ) -> tuple[InnerState, Tree]:
        if gradient is None:
            gradient = derivatives.inner(state.params, meta, batch)
        direct, share, of_gradient = pull_update(problem, gradient, state, meta, cotangent, through)
        del gradient, cotangent
        mixed = MetaRole.INNER_LOSS in problem.roles
        if not through and not mixed:
            return direct, share
        params, slots = direct.params if through else None, direct.optimiser
        del direct
        hessian, of_meta = derivatives.products(state.params, meta, batch, of_gradient, into=params, mixed=mixed)
        return InnerState(hessian, slots), tree.add(share, of_meta) if mixed else share

    return pull


def pull_update(
    problem: Problem, gradient: Tree, state: InnerState, meta: Tree, cotangent: InnerState, through: bool
) -> tuple[InnerState, Tree, Tree]:
    """Return the VJP of the inner update: its direct shares for the state (empty if not `through`) and for l, and the cotangent of g.

    Of a large model it is taken for a part of the parameters at a time, where the update allows it. The slots of `cotangent` are consumed.
    """
    parts, meta = parts_of(problem.optimiser, state.params), tree.leaves_for_grad(meta)
    if len(parts) == 1:
        # As it is: of an optimiser that does not say it is leafwise, a slot may have other names than the parameters.
        pulled, share, of_gradient = _pull_part(problem, gradient, state, meta, cotangent, through)
        return pulled, filled(share, meta), of_gradient
    like, shared = state.params, shared_slots(state.optimiser, state.params)
    weights = shared_slots(cotangent.optimiser, like)
    # A leaf of a slot that is cut was made here, a step later: the cotangent of this step takes its place.
    whole = InnerState({}, {slot: _cut_leaves(cotangent.optimiser.get(slot, {}), parts) for slot in state.optimiser})
    share, of_gradient = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for part in parts:
        pulled, of_meta, of_part = _pull_part(
            problem,
            part.of(gradient, like),
            part.of_state(state, like, shared),
            meta,
            part.of_state(cotangent, like, weights),
            through,
        )
        weights = {}  # the cotangent of what parts share is pulled back once
        share = add_present(share, of_meta)
        part.put(of_gradient, of_part, like)
        if through:
            part.put(whole.params, pulled.params, like)
            for slot, leaves in pulled.optimiser.items():
                part.put(whole.optimiser[slot], leaves, like)
                shares = {name: leaf for name, leaf in leaves.items() if name not in like}
                whole.optimiser[slot] = add_present(whole.optimiser[slot], shares)
    return whole if through else InnerState({}, {}), filled(share, meta), of_gradient


def _cut_leaves(leaves: Tree, parts: list[Part]) -> Tree:
    return {name: leaves[name] for part in parts if part.rows for name in part.names if name in leaves}


def add_present(total: Tree, more: Tree) -> Tree:
    """Return the sum of two trees, of which either may lack leaves."""
    return total | {name: total[name] + leaf if name in total else leaf for name, leaf in more.items()}


def _pull_part(
    problem: Problem, gradient: Tree, state: InnerState, meta: Tree, cotangent: InnerState, through: bool
) -> tuple[InnerState, Tree, Tree]:
    """Return the same for a part of the parameters. `meta` has leaves for a gradient; the share has those that the part depends on."""
    before, variables = _recorded(state) if through else (state, [])
    gradient = tree.leaves_for_grad(gradient)
    with torch.enable_grad():
        after = InnerState(*problem.optimiser.update(gradient, before.params, before.optimiser, meta))
        outputs, weights = _paired(after, cotangent)
        *found, share, of_gradient = reached(outputs, [*variables, meta, gradient], weights)
    pulled = [filled(one, variable) for one, variable in zip(found, variables, strict=True)]
    return with_leaves(state, pulled) if through else InnerState({}, {}), share, filled(of_gradient, gradient)


def _recorded(state: InnerState) -> tuple[InnerState, list[Tree]]:
    """Return the state as variables of a derivative, and its trees."""
    variables = [tree.leaves_for_grad(leaves) for leaves in leaves_of(state)]
    return with_leaves(state, variables), variables


def _paired(after: InnerState, cotangent: InnerState) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the leaves of a state that have a cotangent, and those cotangents."""
    pairs = [(after.params, cotangent.params)]
    pairs += [(after.optimiser[slot], leaves) for slot, leaves in cotangent.optimiser.items()]
    names = [(values[name], weights[name]) for values, weights in pairs for name in weights]
    return [value for value, _ in names], [weight for _, weight in names]


def pull_start(problem: Problem, state: InnerState, meta: Tree, cotangent: Tree) -> Tree:
    """Return (d start / dl)^T cotangent, where the window's run starts from `state`; the cotangent is of the parameters."""
    meta = tree.leaves_for_grad(meta)
    with torch.enable_grad():
        started = problem.start(state.params, meta)
        (share,) = gradients(list(started.values()), [meta], list(cotangent.values()))
    return share
