"""Reptile: the displacement of inner training takes the place of the hypergradient of initial parameters."""

from __future__ import annotations

from typing import Any

from metabench.autodiff.inner import begun, run_with_outer_losses
from metabench.core import (
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
    tree,
)
from metabench.core.lazy import torch


@method(
    title="Reptile: start minus end of the inner run",
    order=110,
    target=Target.UNROLLED,
    exact=False,
    cost=Cost(gradients="K", memory="O(|w| + |activations|)", affine_from=2),
    citation="nichol2018first",
)
def reptile(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
) -> Hypergradient:
    """Return w_0 - w_K pulled back through the start: for learned initial parameters, w_0 - w_K itself. Nichol et al. 2018, algorithm 1.

    Its length is that of K inner steps, not of a gradient: with an outer learning rate e, SGD does the paper's
    w_0 <- w_0 + e (w_K - w_0). No outer loss is differentiated; its value is returned.

    Raises:
        Unsupported: the meta-parameters, or some of them, are not initial parameters.
    """
    del options, generator
    if MetaRole.START not in problem.roles:
        raise Unsupported(
            "the meta-parameters are not the initial parameters of the inner run, and Reptile moves only those"
        )
    meta = tree.detach(meta)
    started = begun(problem, state, meta)
    ended, value = run_with_outer_losses(problem, started, meta, window.inner, window.outer)
    return Hypergradient(_pulled(problem, state, meta, tree.subtract(started.params, ended.params)), ended, value)


def _pulled(problem: Problem, state: InnerState, meta: Tree, way: Tree) -> Tree:
    """Return (d start / dl)^T way; raise Unsupported for a meta-parameter that the start does not read."""
    meta = tree.leaves_for_grad(meta)
    with torch.enable_grad():
        started = problem.start(tree.detach(state.params), meta)
    learned = [name for name, leaf in started.items() if leaf.requires_grad]
    outputs, weights = [started[name] for name in learned], [way[name] for name in learned]
    found = (
        torch.autograd.grad(outputs, list(meta.values()), weights, allow_unused=True) if learned else [None] * len(meta)
    )
    if unread := [name for name, leaf in zip(meta, found, strict=True) if leaf is None]:
        raise Unsupported(f"the meta-parameters {unread} are not initial parameters, and Reptile moves only those")
    return {name: leaf for name, leaf in zip(meta, found, strict=True) if leaf is not None}
