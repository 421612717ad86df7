"""Forward mode: the run carries the derivative of the inner state along every meta-parameter."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.unrolled.forward_mode import forward_hypergradient
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method, option
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
    return forward_hypergradient(problem, state, meta, window, most=options.most, together=options.together)[0]
