"""Evolution strategies: the gradient of the smoothed outer objective from differences of whole windows."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.differences import PairedMean
from metabench.autodiff.inner import trained
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method, option, tree
from metabench.core.lazy import torch
from metabench.core.randomness import perturbation


@dataclass(frozen=True)
class Options:
    """Options of `es`.

    No paper has settings for all problems. A width of 0.1 is what Vicol et al. 2021 use to learn schedules of learning rates; the
    relative standard error is about sqrt(|l| / N), so 16 pairs suit about ten meta-parameters.
    """

    pairs: int = option(16, minimum=1, help="N, antithetic pairs of perturbed windows")
    sigma: float = option(0.1, above=0, help="standard deviation of the perturbation of the meta-parameters")


@method(
    title="ES: evolution strategies on the window's objective",
    order=190,
    target=Target.SMOOTHED,
    exact=False,
    cost=Cost(gradients="(2 N + 1) K", forwards="2 N + 1", memory="O(|w| + |l| + |activations|)", affine_from=2),
    citation="salimans2017evolution",
    options=Options,
    stochastic=True,
)
def es(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return 1/(2 sigma N) sum_i (F(l + sigma e_i) - F(l - sigma e_i)) e_i, F the window's objective. Salimans et al. 2017, section 2.

    The noise e_i is Gaussian, in pairs of opposite signs, as in the paper's section 2.1. The mean is an unbiased estimate of the
    gradient of E[F(l + sigma e)], for meta-parameters in any role: it needs only plain inner training from the given state, one run at a
    time. The state and outer loss returned are those of the unperturbed run.

    `spread` is the standard error of the mean over its norm: above 1 the direction is meaningless. It is undefined for one pair.
    """
    mean = PairedMean(meta, options.pairs)
    for _ in range(options.pairs):
        noise = perturbation(meta, "gaussian", generator)
        above = trained(problem, state, tree.add_scaled(meta, options.sigma, noise), window)[1]
        below = trained(problem, state, tree.add_scaled(meta, -options.sigma, noise), window)[1]
        mean.add((above - below) / (2 * options.sigma), noise)
    state, objective = trained(problem, state, meta, window)
    return Hypergradient(mean.value, state, objective, mean.spread())
