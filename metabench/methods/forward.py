"""Forward mode: the run carries the derivative of the inner state along every meta-parameter."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.gradients import outer_gradient
from metabench.autodiff.inner import begun, leaves_of, with_leaves
from metabench.autodiff.unrolled.forward_mode import pulled_by_tangents, start_tangents, step_with_tangents
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
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
    """Options of `forward`."""

    most: int = option(1000, minimum=1, help="most meta-parameters that it accepts: each costs one JVP per step")
    together: int = option(
        32,
        minimum=1,
        help="JVPs in one vectorised pass (torch.func); losses that torch.func.vmap refuses take one at a time",
    )


@method(
    title="forward mode",
    order=50,
    target=Target.UNROLLED,
    exact=True,
    cost=Cost(jvps="K |l| (of the step map)", memory="O(|l| |w| + together |activations|)", affine_from=2),
    citation="franceschi2017forward",
    options=Options,
    variants=({"together": 1}, {"together": 2}),
)
def forward(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w_K(l), l)/dl by the tangents of the inner state. Franceschi et al. 2017, section 3.2 and algorithm 2.

    The state includes the optimiser's slots. Nothing of a step outlives it: memory does not grow with K. The diagnostic `together` says
    how many JVPs a pass carried.

    Raises:
        Unsupported: there are more than `most` meta-parameters, or an operation of the inner step has no forward-mode derivative.
    """
    del generator
    if (size := tree.count(meta)) > options.most:
        raise Unsupported(
            f"there are {size:,} meta-parameters, and forward mode takes at most {options.most:,} (option 'most'): "
            "each has a tangent as large as the inner state"
        )
    meta = tree.tree_map(torch.Tensor.contiguous, tree.detach(meta))
    current = begun(problem, state, meta)
    # Tangents are dense, and torch asks a value to be laid out as its tangent is: expanded parameters are not.
    current = with_leaves(current, [tree.tree_map(torch.Tensor.contiguous, leaves) for leaves in leaves_of(current)])
    tangents = start_tangents(problem, state, current, meta)
    total, value, together = tree.zeros_like(meta), 0.0, options.together
    for inner, outer in zip(window.inner, window.outer, strict=True):
        current, together = step_with_tangents(problem, current, tangents, meta, inner, together)
        if outer is not None:
            due = outer_gradient(problem, current.params, meta, outer)
            value += due.loss
            total = tree.add(total, tree.add(due.meta, pulled_by_tangents(tangents, due.params, meta)))
            del due
    return Hypergradient(total, current, value, {"together": float(together)})
