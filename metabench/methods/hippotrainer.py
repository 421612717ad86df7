"""Hypergradients by the library hippotrainer, `hyper_grad` of three of its classes: what it computes, as it is.

Training to w_K is the problem's own: hippotrainer has no differentiable step. A `Peer` says where a class is not what it is named after;
`metabench.certify.libraries` has the formula that it equals instead. `hyper_grad` raises where F does not use a meta-parameter, as in most
problems: it is given F + 0 sum(l). Its `DRMAD` raises, and is no method here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metabench.autodiff.inner import begun, run
from metabench.autodiff.optimisers import decay_of
from metabench.autodiff.peers import pinned, recipe, refusing, tree_module
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
    Limit,
    Peer,
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
from metabench.core.support import refuse_earlier_outer_losses, refuse_update_and_start, refuse_update_and_start_alone

LIBRARY = "hippotrainer 1.0.0"
SEES = "a minimum of the inner loss does not depend on them"


def _at_the_end(
    problem: Problem, state: InnerState, meta: Tree, window: Window, name: str, rate: float = 1.0, **options: Any
) -> Hypergradient:
    """Return `hyper_grad` of the class `name` at w_K, f on the window's last batch.

    rate: the learning rate of the optimiser that the class is given.

    Raises:
        Unsupported: hippotrainer is not installed; outer losses are due before the window's end; or it raises, as where a loss does not use
            a parameter.
    """
    package = pinned("hippotrainer")
    due = refuse_earlier_outer_losses(window, "hippotrainer has one, at the end")
    final = run(problem, begun(problem, state, meta), meta, window.inner)
    module, leaves = tree_module(final.params), tree.detach(meta)
    optimiser = torch.optim.SGD(module.parameters(), lr=rate)
    trainer = getattr(package, name)(leaves, model=module, optimizer=optimiser, **options)
    with torch.enable_grad():
        for leaf in leaves.values():
            leaf.requires_grad_()
        inner = problem.inner_loss(module(), leaves, window.inner[-1])
        outer = problem.outer_loss(module(), leaves, due)
        value = float(outer.detach())
        unused = torch.stack([0 * leaf.sum() for leaf in leaves.values()]).sum().to(outer.dtype)
        with refusing("hippotrainer"):
            found = trainer.hyper_grad(inner, outer + unused)
    meta_gradient = {name: gradient.detach().clone() for name, gradient in zip(meta, found, strict=True)}
    return Hypergradient(meta_gradient, final, value)


@method(
    title="T1-T2 by the library hippotrainer",
    order=250,
    target=Target.ONE_STEP,
    exact=False,
    cost=Cost(gradients="K + 2", hvps="1 mixed product", memory="O(|w| + |activations|)", affine_from=2),
    citation="luketina2016scalable",
    peer=Peer(
        LIBRARY,
        "dF/dl - (d2f/dl dw) dF/dw at w_K, not w_(K-1), and without the learning rate: the identity for H",
        declines=frozenset({"update"}),
    ),
    limit=Limit(lambda curvature: {}),
)
def hippo_t1t2(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) dF/dw at w_K by hippotrainer's `T1T2`. Luketina et al. 2016 have it at w_(K-1), times the learning rate.

    Raises:
        Unsupported: hippotrainer is not installed; the meta-parameters enter the inner update or the start; outer losses are due before the
            window's end; or a loss does not use a parameter.
    """
    del options, generator
    refuse_update_and_start(problem, "hippotrainer differentiates the inner loss")
    return _at_the_end(problem, state, meta, window, "T1T2")


@dataclass(frozen=True)
class Terms:
    """Options of `hippo_neumann`."""

    num_terms: int = option(1, minimum=1, help="terms of the series after the first")


@method(
    title="implicit differentiation with a Neumann series by the library hippotrainer",
    order=251,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 2", hvps="num_terms + 1 mixed product", memory="O(|w| + |activations|)", affine_from=2),
    citation="lorraine2020optimizing",
    options=Terms,
    peer=Peer(
        LIBRARY,
        "from the second term on, a sum that is multiplied by the learning rate again at every term; and for H without the inner "
        "optimiser's weight decay",
        declines=frozenset({"scheduled", "varying rate"}),
    ),
    limit=Limit(lambda curvature: {"num_terms": 2000}, tolerance=1e-6, budget="num_terms", values=(1, 2, 5, 10, 20)),
)
def hippo_neumann(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Terms, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) p at w_K by hippotrainer's `Neumann`, a the learning rate. Lorraine et al. 2020, algorithm 3.

    v = p = dF/dw; at each term v <- v - a H v, p <- a (p + v). With one term that is the series.

    Raises:
        Unsupported: hippotrainer is not installed; a minimum of f does not depend on the meta-parameters; outer losses are due before
            the window's end; the inner optimiser is none of torch.optim, its weight decay is decoupled, or its rate is learned or
            scheduled; or a loss does not use a parameter.
    """
    del generator
    refuse_update_and_start_alone(problem, SEES)
    decay_of(problem.optimiser)
    words = recipe(problem.optimiser, state.optimiser, meta, "hippotrainer")
    rate = words.rate(next(iter(state.params)))
    if words.apart or words.varies or not isinstance(rate, float | int):
        raise Unsupported("the learning rate is learned or scheduled, and hippotrainer's series has one number")
    return _at_the_end(problem, state, meta, window, "Neumann", rate, num_terms=options.num_terms)


@dataclass(frozen=True)
class Gradients:
    """Options of `hippo_hoag`."""

    epsilon: float = option(1e-4, minimum=0, help="squared residual at which the solver stops, absolute")
    cg_max_iter: int = option(10, minimum=1, help="most conjugate gradient steps")


@method(
    title="HOAG by the library hippotrainer",
    order=252,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="2K + 2", hvps="cg_max_iter + 1 mixed product", memory="O(|w| + |activations|)", affine_from=2),
    citation="pedregosa2016hyperparameter",
    options=Gradients,
    peer=Peer(
        LIBRARY,
        "a solution to an absolute 1e-4 of the squared residual, zero where dF/dw is below; 1e-8 added to what it divides by; and for H "
        "without the inner optimiser's weight decay",
        declines=frozenset({"scalar parameters"}),
    ),
    limit=Limit(
        lambda curvature: {"epsilon": 1e-20, "cg_max_iter": 3 * curvature.dimension},
        tolerance=1e-6,
        budget="cg_max_iter",
        values=(1, 2, 3, 4, 6, 8),
    ),
)
def hippo_hoag(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Gradients, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) x at w_K by hippotrainer's `HOAG`, H x = dF/dw by conjugate gradients. Pedregosa 2016, algorithm 1.

    Raises:
        Unsupported: hippotrainer is not installed; a minimum of f does not depend on the meta-parameters; outer losses are due before
            the window's end; or the inner optimiser's weight decay is decoupled.
    """
    del generator
    refuse_update_and_start_alone(problem, SEES)
    decay_of(problem.optimiser)
    return _at_the_end(problem, state, meta, window, "HOAG", epsilon=options.epsilon, cg_max_iter=options.cg_max_iter)
