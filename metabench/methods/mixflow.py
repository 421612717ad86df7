"""Mixed mode: reverse over the steps, forward over reverse for the second-order products within a step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from metabench.autodiff.derivatives import OnFlatGraphs, Recorded
from metabench.autodiff.traced.execution import Execution
from metabench.autodiff.unrolled.checkpoint_schedules import every_state, square_root
from metabench.autodiff.unrolled.sweep import split_step, sweep_back
from metabench.autodiff.unrolled.trajectory import HostTrajectory
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Unsupported, Window, method, option
from metabench.core.lazy import torch


@dataclass(frozen=True)
class Options:
    """Options of `mixflow`."""

    mixed_mode: bool = option(
        True, help="second-order products forward over reverse, on flat graphs; off: recorded, reverse over reverse"
    )
    block_remat: bool = option(True, help="recompute the values of each segment of the model instead of keeping them")
    save_inner_grads: bool = option(
        True, help="keep the inner gradients for the backward pass, one tree per step, instead of recomputing them"
    )
    trajectory: str = option(
        "device",
        choices=("device", "host", "recompute"),
        help="states kept: all on the device, all in host memory, or about 2 sqrt(K) of them, the others recomputed",
    )
    compile: bool = option(False, help="run the flat graphs through torch.compile", execution=True)
    cuda_graphs: bool = option(False, help="capture the flat graphs as CUDA graphs", execution=True)


@method(
    title="MixFlow-MG: mixed-mode differentiation of the unrolled run",
    order=40,
    target=Target.UNROLLED,
    exact=True,
    cost=Cost(
        gradients="K",
        jvps="K (of the gradient)",
        memory="O(K |w| + |activations of a segment|)",
        affine_from=lambda options: None if options.trajectory == "recompute" else 2,
    ),
    citation="kemaev2025scalable",
    options=Options,
)
def mixflow(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w_K(l), l)/dl; no backward pass of an inner step is ever recorded. Kemaev et al. 2025, algorithm 2.

    The three switches of the paper's ablation (section 4) combine freely: second-order products forward over reverse; segments of the model
    recomputed (if the problem offers segments); inner gradients kept. Code that does not depend on values is traced once into flat graphs
    of torch operations. A segment whose control flow reads values is differentiated untraced, and counted by the diagnostic
    `untraced_segments`.

    Raises:
        Unsupported: an operation has no forward-mode derivative, or `cuda_graphs` without a CUDA device.
        MetabenchError: a compiled or captured graph does not agree with the plain one.
    """
    del generator
    if options.cuda_graphs and next(iter(state.params.values())).device.type != "cuda":
        raise Unsupported("CUDA graphs need a CUDA device")
    derivatives: Recorded | OnFlatGraphs = Recorded(problem, options.block_remat)
    if options.mixed_mode:
        derivatives = OnFlatGraphs(problem, options.block_remat, Execution(options.compile, options.cuda_graphs))
    found = sweep_back(
        problem,
        state,
        meta,
        window,
        split_step(derivatives),
        square_root(len(window.inner)) if options.trajectory == "recompute" else every_state,
        derivatives=derivatives,
        save_inner_grads=options.save_inner_grads,
        trajectory=HostTrajectory() if options.trajectory == "host" else None,
    )
    if isinstance(derivatives, OnFlatGraphs) and derivatives.untraced:
        found = dataclasses.replace(found, diagnostics={"untraced_segments": float(derivatives.untraced)})
    return found
