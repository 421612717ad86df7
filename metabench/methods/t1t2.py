"""One-step hypergradient: the last inner step is differentiated, the parameters before it are constant."""

from __future__ import annotations

from typing import Any

from metabench.autodiff.derivatives import by_segments
from metabench.autodiff.unrolled.last_step import before_last
from metabench.autodiff.unrolled.sweep import split_step, sweep_back, through_graph
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method
from metabench.core.lazy import torch
from metabench.core.support import refuse_earlier_outer_losses, refuse_start


@method(
    title="T1-T2: one differentiated inner step",
    order=70,
    target=Target.ONE_STEP,
    exact=True,
    cost=Cost(gradients="K", hvps="1 mixed product", memory="O(|w| + |activations|)", affine_from=2),
    citation="luketina2016scalable",
)
def t1t2(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - lr (d2f/dl dw) dF/dw, written for SGD; for any optimiser, through its last update. Luketina et al. 2016, equation 5.

    If the problem offers segments, the step is pulled back in mixed mode, in the memory of one segment.

    Raises:
        Unsupported: the meta-parameters are the start of the inner run, or outer losses are due before its end.
    """
    del options, generator
    refuse_start(problem, "one step does not reach them")
    refuse_earlier_outer_losses(window, "one step reaches the last alone")
    state = before_last(problem, state, meta, window)
    if derivatives := by_segments(problem, state.params, meta, window.inner[-1]):
        return sweep_back(
            problem,
            state,
            meta,
            window.last(1),
            split_step(derivatives),
            derivatives=derivatives,
            save_inner_grads=True,
        )
    return through_graph(problem, state, meta, window.last(1))
