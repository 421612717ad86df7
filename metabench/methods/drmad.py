"""DrMAD: reverse mode along the straight line between the ends of the inner run, of which no state is kept."""

from __future__ import annotations

from metabench.autodiff.gradients import OuterGradient, outer_gradient
from metabench.autodiff.inner import begun, leaves_of, step, with_leaves
from metabench.autodiff.unrolled.sweep import pull_start, recomputed_step
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
    MetaRole,
    Problem,
    Target,
    Tree,
    Window,
    method,
    tree,
)
from metabench.core.lazy import torch
from metabench.core.method import NoOptions


@method(
    title="DrMAD: reverse mode along a straight line",
    order=66,
    target=Target.UNROLLED,
    exact=False,
    cost=Cost(gradients="2 K", hvps="K, with mixed products", memory="O(|w| + |activations|)", affine_from=2),
    citation="fu2016drmad",
)
def drmad(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: NoOptions, generator: torch.Generator
) -> Hypergradient:
    """Return the unrolled hypergradient of a run that is taken to have gone straight from w_0 to w_K. Fu et al. 2016, algorithm 2.

    The backward sweep linearises step k at (1 - k/K) s_0 + (k/K) s_K, s the inner state: parameters and the optimiser's slots, of which
    the paper has the momentum alone. Outer losses due on the way are differentiated where the run was. It equals `unrolled` at K = 1, and
    where the step's derivatives do not depend on the state; elsewhere nothing bounds its error.

    Raises:
        Diverged: as the inner run.
    """
    del options, generator
    meta = tree.detach(meta)
    first = current = begun(problem, state, meta)
    due: dict[int, OuterGradient] = {}
    for k, (inner, outer) in enumerate(zip(window.inner, window.outer, strict=True)):
        current = step(problem, current, meta, inner)
        if outer is not None:
            due[k] = outer_gradient(problem, current.params, meta, outer)
    total, cotangent = tree.zeros_like(meta), InnerState({}, {})
    steps, starts = len(window.inner), MetaRole.START in problem.roles
    for k in reversed(range(max(due) + 1)):
        if k in due:
            slope = due[k].params
            params = tree.add(cotangent.params, slope) if cotangent.params else slope
            cotangent, total = InnerState(params, cotangent.optimiser), tree.add(total, due[k].meta)
        at = _between(first, current, k, steps)
        cotangent, share = recomputed_step(problem, at, meta, window.inner[k], cotangent, k > 0 or starts)
        total = tree.add(total, share)
    if starts:
        total = tree.add(total, pull_start(problem, state, meta, cotangent.params))
    return Hypergradient(total, current, sum(one.loss for one in due.values()))


def _between(first: InnerState, last: InnerState, k: int, steps: int) -> InnerState:
    """Return the state k of `steps` on the line. In this order of operations a count of steps stays whole."""
    return with_leaves(
        first,
        [
            {name: leaf + (after[name] - leaf) * k / steps for name, leaf in before.items()}
            for before, after in zip(leaves_of(first), leaves_of(last), strict=True)
        ],
    )
