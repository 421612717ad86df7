"""The first-order hypergradient: inner gradients count as constants."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.gradients import inner_gradient, outer_gradient
from metabench.autodiff.inner import begun, step
from metabench.autodiff.optimisers import translates
from metabench.autodiff.unrolled.sweep import pull_start, pull_update, sweep_back
from metabench.autodiff.unrolled.updates import through_updates
from metabench.core import (
    Batch,
    Cost,
    Hypergradient,
    InnerState,
    MetaRole,
    Problem,
    Target,
    Tree,
    Unsupported,
    Window,
    method,
    option,
    tree,
)
from metabench.core.lazy import torch


@dataclass(frozen=True)
class Options:
    """Options of `first_order`."""

    recompute: bool = option(
        False,
        help="where the update is learned or decays: recompute each update in the backward pass instead of keeping its graph",
    )


@method(
    title="first order: inner gradients count as constants",
    order=100,
    target=Target.UNROLLED,
    exact=False,
    cost=Cost(
        gradients="K, or with recompute 2 K where the update is learned or decays",
        memory="O(|w| + |activations|), or O(K |update| + |activations|) where the update is learned or decays, with recompute O(K |w|)",
        affine_from=2,
    ),
    citation="finn2017model andrychowicz2016learning",
    options=Options,
)
def first_order(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl with every second-order term dropped: df/dw counts as a constant in every step.

    For initial parameters that is dF/dw_K, pulled back through the start: first-order MAML, Finn et al. 2017, section 5.2. For learned
    updates the backward pass goes through the updates and their slots and not through the gradients that they read: Andrychowicz et al.
    2016, section 2.1; so does that to initial parameters that the optimiser decays. If the outer loss reads the meta-parameters, its
    direct derivative is included. Their effect in the inner loss is not: the first-order variant of DARTS, in which the same parameters
    enter both losses, is this direct part.

    Raises:
        Unsupported: the meta-parameters enter the inner loss alone.
    """
    del generator
    if not problem.roles & {MetaRole.OUTER_LOSS, MetaRole.UPDATE, MetaRole.START}:
        raise Unsupported("the meta-parameters enter the inner loss alone: its first-order part is zero")
    decays = MetaRole.START in problem.roles and not translates(problem.optimiser)
    if MetaRole.UPDATE in problem.roles or decays:
        if options.recompute:
            return sweep_back(problem, state, meta, window, _update_alone)
        return through_updates(problem, state, meta, window)
    meta = tree.detach(meta)
    current = begun(problem, state, meta)
    cotangent, total, value = tree.zeros_like(current.params), tree.zeros_like(meta), 0.0
    for inner, outer in zip(window.inner, window.outer, strict=True):
        current = step(problem, current, meta, inner)
        if outer is not None:
            due = outer_gradient(problem, current.params, meta, outer)
            value += due.loss
            total, cotangent = tree.add(total, due.meta), tree.add(cotangent, due.params)
            del due
    if MetaRole.START in problem.roles:
        total = tree.add(total, pull_start(problem, state, meta, cotangent))
    return Hypergradient(total, current, value)


def _update_alone(
    problem: Problem,
    state: InnerState,
    meta: Tree,
    batch: Batch,
    cotangent: InnerState,
    through: bool,
    gradient: Tree | None,
) -> tuple[InnerState, Tree]:
    """Pull a step back through its update, the inner gradient that it reads taken as constant."""
    if gradient is None:
        gradient = inner_gradient(problem, state.params, meta, batch)
    direct, share, _ = pull_update(problem, gradient, state, meta, cotangent, through)
    return direct, share
