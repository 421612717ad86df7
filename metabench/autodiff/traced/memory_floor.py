"""The analytic floor of mixed mode's memory: what the algorithm must hold in any implementation."""

from __future__ import annotations

from metabench.autodiff.inner import leaves_of
from metabench.autodiff.traced.chain import Chain
from metabench.core.errors import Unsupported
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import InnerState, Tree, Window


def mixed_mode_floor(problem: Problem, state: InnerState, meta: Tree, window: Window) -> int | None:
    """Return the bytes that mixed mode with rematerialised segments allocates at its peak; None without segments that can be traced.

        T (|w| + |s|) + (T - 1) |w| + 2 |w| + |s| + max_i (2 A_i + 2 sum_{j <= i} |hidden_j|)

    In the backward pass of the last step these are alive: the T states that the run has reached (|s|: the optimiser's slots), the inner
    gradients except the one just used, and the cotangents of w, of s and of the inner gradient. In segment i there are also the boundaries
    up to it and A_i, which a first-order backward pass of the segment reads, each with its tangent. The state that the window starts from
    is given and does not count. A program may do slightly better if it does not need all that a segment reads at once.
    """
    chain = Chain(problem, "inner", block_remat=False)
    if not problem.inner_segments():
        return None
    inside = boundaries = 0
    try:
        for handed_on, read in chain.kept_bytes(state.params, meta, window.inner[0]):
            if chain.untraced:
                return None
            boundaries += handed_on
            inside = max(inside, boundaries + read)
    except Unsupported:  # an operation without the derivatives that mixed mode needs: it has no floor there
        return None
    sizes = [sum(_bytes(leaf) for leaf in leaves.values()) for leaves in leaves_of(state)]
    params, slots = sizes[0], sum(sizes[1:])
    steps = len(window.inner)
    return (2 * steps + 1) * params + (steps + 1) * slots + 2 * inside


def _bytes(leaf: torch.Tensor) -> int:
    return leaf.numel() * leaf.element_size()
