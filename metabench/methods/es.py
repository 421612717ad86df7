"""Evolution strategies: the gradient of the smoothed outer objective from differences of whole windows."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.differences import PairedMean
from metabench.autodiff.inner import trained
from metabench.autodiff.together import HELP, pairs_together, train_particles
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
    together: int = option(0, minimum=0, help=HELP)


@method(
    title="ES: evolution strategies on the window's objective",
    order=190,
    target=Target.SMOOTHED,
    exact=False,
    cost=Cost(
        gradients="(2 N + 1) K", forwards="2 N + 1", memory="O(together (|w| + |l| + |activations|))", affine_from=2
    ),
    citation="salimans2017evolution",
    options=Options,
    stochastic=True,
)
def es(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return 1/(2 sigma N) sum_i (F(l + sigma e_i) - F(l - sigma e_i)) e_i, F the window's objective. Salimans et al. 2017, section 2.

    The noise e_i is Gaussian, in pairs of opposite signs, as in the paper's section 2.1. The mean is an unbiased estimate of the
    gradient of E[F(l + sigma e)], for meta-parameters in any role: it needs only plain inner training from the given state. The state and
    outer loss returned are those of the unperturbed run.

    `spread` is the standard error of the mean over its norm: above 1 the direction is meaningless. It is undefined for one pair.
    """
    mean, together, done = PairedMean(meta, options.pairs), pairs_together(options.together, options.pairs, state), 0
    while done < options.pairs:
        noises = [perturbation(meta, "gaussian", generator) for _ in range(min(together, options.pairs - done))]
        metas = [tree.add_scaled(meta, sign * options.sigma, noise) for noise in noises for sign in (1, -1)]
        found, vectorised = train_particles(
            problem, lambda i: state, metas, window, together > 1, lambda i, after: None
        )
        for noise, above, below in zip(noises, found[::2], found[1::2], strict=True):
            mean.add((above - below) / (2 * options.sigma), noise)
        done, together = done + len(noises), together if vectorised else 1
    state, objective = trained(problem, state, meta, window)
    return Hypergradient(mean.value, state, objective, mean.spread())
