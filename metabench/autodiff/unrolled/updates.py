"""Reverse mode through the updates of a run alone: the inner gradients that they read are constants."""

from __future__ import annotations

from metabench.autodiff.gradients import filled, inner_gradient, outer_gradient, reached
from metabench.autodiff.inner import begun, detached
from metabench.autodiff.parts import Part, parts_of, put_shared, shared_slots
from metabench.autodiff.unrolled.sweep import add_present, pull_start
from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.method import Hypergradient
from metabench.core.problem import MetaRole, Problem
from metabench.core.types import InnerState, Tree, Window


def through_updates(problem: Problem, state: InnerState, meta: Tree, window: Window) -> Hypergradient:
    """Return the hypergradient of the window with df/dw constant in every step, by one backward pass through the recorded updates.

    Only updates are recorded, those of a large model part by part: each part of the parameters has a graph of its own.
    """
    began = begun(problem, state, meta)
    # Variables only where their cotangent is wanted: that of the start is pulled back through it at the end.
    learns_start = MetaRole.START in problem.roles
    start = tree.leaves_for_grad(began.params) if learns_start else began.params
    given, meta = tree.detach(meta), tree.leaves_for_grad(meta)
    chains = [_Chain(part, began, start) for part in parts_of(problem.optimiser, start)]
    last = max(k for k, outer in enumerate(window.outer) if outer is not None)
    current, total, value = began.params, tree.zeros_like(given), 0.0
    for k, (inner, outer) in enumerate(zip(window.inner, window.outer, strict=True)):
        gradient = inner_gradient(problem, current, given, inner)
        current = {}
        for chain in chains:
            chain.step(problem, gradient, meta, recorded=k <= last)
            chain.part.put(current, tree.detach(chain.state.params), start)
        if outer is not None:
            due = outer_gradient(problem, current, given, outer)
            value, total = value + due.loss, tree.add(total, due.meta)
            for chain in chains:
                chain.owe(due.params)
            del due
    shared = shared_slots(began.optimiser, start)
    final = InnerState(current, {slot: dict(leaves) for slot, leaves in shared.items()})
    of_start = dict[str, torch.Tensor]()
    for chain in chains:
        for slot, leaves in chain.state.optimiser.items():
            chain.part.put(final.optimiser[slot], tree.detach(leaves), start)
        put_shared(final.optimiser, chain.state.optimiser, shared)
        share, of_part = chain.pull([meta, start if learns_start else {}])
        total = add_present(total, share)
        of_start = add_present(of_start, of_part)
    if learns_start:
        total = tree.add(total, pull_start(problem, state, given, filled(of_start, start)))
    return Hypergradient(total, detached(final), value)


class _Chain:
    """The updates of a part of the parameters, recorded one after another."""

    def __init__(self, part: Part, began: InnerState, start: Tree) -> None:
        self.part, self._start = part, start
        with torch.enable_grad():
            self.state = part.of_state(InnerState(start, began.optimiser), start, shared_slots(began.optimiser, start))
        self._outputs: list[torch.Tensor] = []
        self._weights: list[torch.Tensor] = []

    def step(self, problem: Problem, gradient: Tree, meta: Tree, recorded: bool) -> None:
        """Update the part by its share of the gradient."""
        state = self.state
        with torch.set_grad_enabled(recorded):
            moved = problem.optimiser.update(self.part.of(gradient, self._start), state.params, state.optimiser, meta)
        self.state = InnerState(*moved)

    def owe(self, cotangent: Tree) -> None:
        """Take the cotangent of the parameters after the last step so far."""
        weights = self.part.of(cotangent, self._start)
        self._outputs += [self.state.params[name] for name in weights]
        self._weights += weights.values()

    def pull(self, variables: list[Tree]) -> list[Tree]:
        """Return the gradients that reach each of `variables`; the graph is let go of."""
        found = reached(self._outputs, variables, self._weights)
        self.state, self._outputs, self._weights = detached(self.state), [], []
        return found
