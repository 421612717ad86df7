"""Implicit differentiation by a Neumann series whose Hessian products are each on another batch of the window."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.derivatives import Recorded, by_segments
from metabench.autodiff.gradients import outer_gradient
from metabench.autodiff.inner import begun, run
from metabench.autodiff.optimisers import decay_of
from metabench.autodiff.traced.flat_graph import unseen
from metabench.core import (
    Cost,
    Diverged,
    Hypergradient,
    InnerState,
    Problem,
    Target,
    Tree,
    Window,
    method,
    option,
    tree,
)
from metabench.core.lazy import torch
from metabench.core.support import refuse_earlier_outer_losses, refuse_update_and_start_alone

RANDOM, SUM = "random", "sum"


@dataclass(frozen=True)
class Options:
    """Options of `ift_stochastic`."""

    steps: int = option(10, minimum=1, help="N, terms of the series")
    scale: float = option(0.1, above=0, help="alpha: the series converges where every batch's eigenvalues lie in (0, 2/alpha)")
    truncation: str = option(
        RANDOM,
        choices=(RANDOM, SUM),
        help="one term drawn at random, times N, which takes N / 2 products on average; or all terms, by N - 1",
    )


@method(
    title="implicit differentiation by products on single batches",
    order=135,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 1", hvps="at most steps - 1, + 1 mixed product", memory="O(|w| + |activations|)", affine_from=2),
    citation="ghadimi2018approximation ji2021bilevel",
    options=Options,
    stochastic=True,
)
def ift_stochastic(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) alpha N prod_{j <= p} (I - alpha H_j) dF/dw at w_K, p drawn from 0 to N - 1. Ghadimi & Wang 2018.

    H_j is d2f/dw2 at w_K on a batch of the window, from the one before the last backwards and around, plus the inner optimiser's coupled
    weight decay; the mixed product is on the last. Over independent batches, and p, the mean of the product is the truncated series of
    the mean Hessian, which is why each has a batch of its own; a window has K of them, and more products repeat them. With `truncation:
    sum` all N terms are added, as in stocBiO (Ji et al. 2021, section 3.2): no number is then drawn.

    The diagnostic `products` counts Hessian products.

    Raises:
        Unsupported: a minimum of the inner loss does not depend on the meta-parameters, outer losses are due before the window's end, or
            the inner optimiser minimises no loss (AdamW with decay).
        Diverged: a term is not finite.
    """
    refuse_update_and_start_alone(problem, "a minimum of the inner loss does not depend on them")
    outer = refuse_earlier_outer_losses(window, "the minimum has no steps before it")
    decay, meta, last = decay_of(problem.optimiser), tree.detach(meta), options.steps - 1
    if options.truncation == RANDOM:
        # Outside of a prediction's fake tensors: the number decides what is computed.
        with unseen():
            last = int(torch.randint(options.steps, (), generator=generator, device=generator.device))
    after = run(problem, begun(problem, state, meta), meta, window.inner)
    params, due = after.params, outer_gradient(problem, after.params, meta, outer)
    derivatives = by_segments(problem, params, meta, window.inner[-1]) or Recorded(problem)
    term = total = due.params
    for j in range(last):
        batch = window.inner[(len(window.inner) - 2 - j) % len(window.inner)]
        into = tree.scale(decay, term)
        image, _ = derivatives.products(params, meta, batch, term, into=into, mixed=False)
        term = tree.add_scaled(term, -options.scale, image)
        if not tree.all_finite(term):
            raise Diverged(f"term {j + 1} of the series is not finite: is the scale {options.scale} too large?")
        total = tree.add(total, term)
    solution = tree.scale(options.scale, total) if options.truncation == SUM else tree.scale(options.scale * options.steps, term)
    _, mixed = derivatives.products(params, meta, window.inner[-1], solution, into=None, mixed=True)
    return Hypergradient(tree.subtract(due.meta, mixed), after, due.loss, {"products": float(last)})
