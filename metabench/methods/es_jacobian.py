"""ESJ: the Jacobian of the inner run by differences of runs, the outer gradient by backpropagation."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.differences import PairedMean
from metabench.autodiff.gradients import OuterGradient, outer_gradient
from metabench.autodiff.inner import begun, step
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
from metabench.core.randomness import perturbation

_DIGITS = 10
"""Times the rounding of the meta-parameters that a difference has to be wide."""


@dataclass(frozen=True)
class Options:
    """Options of `es_jacobian`."""

    draws: int = option(1, minimum=1, help="perturbed runs, whose terms are averaged")
    mu: float = option(0.01, above=0, help="width of the differences in the meta-parameters")
    noise: str = option("gaussian", choices=("sign", "gaussian"), help="of a perturbation's entries")


@method(
    title="ESJ: the inner run's Jacobian by evolution strategies",
    order=195,
    target=Target.UNROLLED,
    exact=False,
    cost=Cost(gradients="(draws + 1) K", memory="O(|w| + |l| + |activations|)", affine_from=2),
    citation="sow2022convergence",
    options=Options,
    stochastic=True,
)
def es_jacobian(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl + mean_j u_j <(w_K(l + mu u_j) - w_K(l)) / mu, dF/dw>. Sow et al. 2022, algorithm 1.

    dF/dw and the direct dF/dl are those at w_K; where outer losses are due on the way, each has a term. No second derivative is
    taken. As mu tends to zero this tends to the `forward_gradient` of the same draws, with a direct term that is not projected;
    the mean then is the unrolled hypergradient.

    `spread` is the standard error of the mean of the differences over its norm, undefined for one draw.

    Raises:
        Unsupported: mu is below ten times the rounding of the meta-parameters.
    """
    meta = tree.detach(meta)
    largest = max(float(leaf.abs().max()) for leaf in meta.values() if leaf.numel())
    rounding = largest * torch.finfo(next(iter(meta.values())).dtype).eps
    if options.mu < _DIGITS * rounding:
        raise Unsupported(
            f"the width mu = {options.mu:g} is below {_DIGITS} times the rounding of the meta-parameters, {rounding:.1g}: a difference "
            "would tell nothing"
        )
    due: list[tuple[Tree, OuterGradient]] = []
    current = begun(problem, state, meta)
    for inner, outer in zip(window.inner, window.outer, strict=True):
        current = step(problem, current, meta, inner)
        if outer is not None:
            due.append((current.params, outer_gradient(problem, current.params, meta, outer)))
    mean = PairedMean(meta, options.draws)
    for _ in range(options.draws):
        noise = perturbation(meta, options.noise, generator)  # type: ignore[arg-type]
        moved, slope, reached = tree.add_scaled(meta, options.mu, noise), 0.0, 0
        other = begun(problem, state, moved)
        for inner, outer in zip(window.inner, window.outer, strict=True):
            other = step(problem, other, moved, inner)
            if outer is not None:
                params, gradient = due[reached]
                slope += float(tree.dot(tree.subtract(other.params, params), gradient.params)) / options.mu
                reached += 1
        mean.add(slope, noise)
    total = mean.value
    for _, gradient in due:
        total = tree.add(total, gradient.meta)
    return Hypergradient(total, current, sum(gradient.loss for _, gradient in due), mean.spread())
