"""Reverse mode through the last steps only."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.inner import begun, run_with_outer_losses
from metabench.autodiff.unrolled.sweep import through_graph
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
)
from metabench.core.lazy import torch
from metabench.core.support import refuse_start


@dataclass(frozen=True)
class Options:
    """Options of `truncated`."""

    steps: int = option(
        5, minimum=1, help="k, the number of last inner steps differentiated; all of them if K is smaller"
    )


@method(
    title="truncated reverse mode",
    order=60,
    target=Target.TRUNCATED,
    exact=True,
    cost=Cost(gradients="K", hvps="k", memory="O(k |activations|)", affine_from=lambda options: options.steps + 2),
    citation="shaban2019truncated",
    options=Options,
    variants=({"steps": 1}, {"steps": 2}, {"steps": 3}),
)
def truncated(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return the exact hypergradient of the last k steps, the state before them held constant. Shaban et al. 2019, section 2.3.

    Outer losses due before those steps count in the objective but are constant.

    Raises:
        Unsupported: the meta-parameters are the start of the inner run and k < K, or no outer loss is due in the last k steps: the
            truncated gradient would be zero.
    """
    del generator
    before = len(window.inner) - min(options.steps, len(window.inner))
    if before == 0:
        return through_graph(problem, state, meta, window)
    refuse_start(problem, "the last steps do not reach them")
    if all(batch is None for batch in window.outer[before:]):
        raise Unsupported(f"no outer loss is due in the last {options.steps} steps")
    state = begun(problem, state, meta)
    state, earlier = run_with_outer_losses(problem, state, meta, window.inner[:before], window.outer[:before])
    result = through_graph(problem, state, meta, window.last(options.steps))
    return Hypergradient(result.meta, result.state, earlier + result.outer_loss)
