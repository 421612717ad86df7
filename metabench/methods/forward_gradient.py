"""Forward gradients: slopes along random directions, each a tangent through the inner run."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.differences import PairedMean
from metabench.autodiff.unrolled.forward_mode import run_along
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
    Mean,
    Problem,
    Target,
    Tree,
    Window,
    method,
    option,
    tree,
)
from metabench.core.lazy import torch
from metabench.core.randomness import perturbation


@dataclass(frozen=True)
class Options:
    """Options of `forward_gradient`.

    With signs the variance of one draw is (|l| - 1) |g|^2, with Gaussian noise (|l| + 1) |g|^2: signs are the default. For a relative
    error below one there have to be about as many draws as meta-parameters, and `forward` is exact with as many.
    """

    draws: int = option(1, minimum=1, help="directions, whose terms are averaged")
    noise: str = option("sign", choices=("sign", "gaussian"), help="of a direction's entries")
    together: int = option(32, minimum=1, help="JVPs in one vectorised pass (torch.func), as of `forward`")


@method(
    title="forward gradient: slopes along random directions",
    order=64,
    target=Target.UNROLLED,
    exact=False,
    cost=Cost(jvps="draws K (of the step map)", memory="O(draws (|w| + |l|) + together |activations|)", affine_from=2),
    citation="baydin2022gradients shen2024memory",
    options=Options,
    stochastic=True,
    mean=Mean(
        lambda case, options: tree.flatten(case.through_last_steps(case.inner_steps)),
        ({"draws": 64, "together": 64}, {"draws": 64, "together": 64, "noise": "gaussian"}),
        100,
    ),
)
def forward_gradient(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return the mean over draws of (g . v) v, g the unrolled hypergradient. Baydin et al. 2022, definition 1.

    g . v is the slope of the window's outer objective along v: one tangent, pushed through the K steps. The mean is g, for
    directions of independent entries with mean zero and variance one. Memory grows with neither K nor |l|, beyond l itself. For
    hyperparameters: Shen et al. 2024.

    `spread` is the standard error of the mean over its norm, undefined for one draw.

    Raises:
        Unsupported: an operation of the inner step has no forward-mode derivative.
    """
    drawn = [perturbation(meta, options.noise, generator) for _ in range(options.draws)]  # type: ignore[arg-type]
    stacked = {name: torch.stack([one[name] for one in drawn]) for name in meta}
    found = run_along(
        problem,
        state,
        meta,
        window,
        lambda rows: {name: leaf[rows] for name, leaf in stacked.items()},
        options.draws,
        options.together,
    )
    mean = PairedMean(meta, options.draws)
    for slope, direction in zip(found.slopes.tolist(), drawn, strict=True):
        mean.add(slope + float(tree.dot(found.direct, direction)), direction)
    diagnostics = mean.spread() | {"together": float(found.together)}
    return Hypergradient(mean.value, found.state, found.outer_loss, diagnostics)
