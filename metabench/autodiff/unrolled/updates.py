"""Reverse mode through the updates of a run alone: the inner gradients that they read are constants."""

from __future__ import annotations

from metabench.autodiff.gradients import filled, inner_gradient, outer_gradient, reached
from metabench.autodiff.inner import begun, detached
from metabench.autodiff.unrolled.sweep import pull_start
from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.method import Hypergradient
from metabench.core.problem import MetaRole, Problem
from metabench.core.types import InnerState, Tree, Window


def through_updates(problem: Problem, state: InnerState, meta: Tree, window: Window) -> Hypergradient:
    """Return the hypergradient of the window with df/dw constant in every step, by one backward pass through the recorded updates."""
    began = begun(problem, state, meta)
    # Variables only where their cotangent is wanted: that of the start is pulled back through it at the end.
    learns_start = MetaRole.START in problem.roles
    start = tree.leaves_for_grad(began.params) if learns_start else began.params
    given, meta = tree.detach(meta), tree.leaves_for_grad(meta)
    current, total, value = InnerState(start, began.optimiser), tree.zeros_like(given), 0.0
    outputs: list[torch.Tensor] = []
    weights: list[torch.Tensor] = []
    last = max(k for k, outer in enumerate(window.outer) if outer is not None)
    for k, (inner, outer) in enumerate(zip(window.inner, window.outer, strict=True)):
        gradient = inner_gradient(problem, tree.detach(current.params), given, inner)
        with torch.set_grad_enabled(k <= last):
            current = InnerState(*problem.optimiser.update(gradient, current.params, current.optimiser, meta))
        if outer is not None:
            due = outer_gradient(problem, tree.detach(current.params), given, outer)
            value, total = value + due.loss, tree.add(total, due.meta)
            outputs += [current.params[name] for name in due.params]
            weights += due.params.values()
    final = detached(current)
    del current
    share, of_start = reached(outputs, [meta, start if learns_start else {}], weights)
    total = tree.add(total, filled(share, given))
    if learns_start:
        total = tree.add(total, pull_start(problem, state, given, filled(of_start, start)))
    return Hypergradient(total, final, value)
