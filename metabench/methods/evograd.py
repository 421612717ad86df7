"""EvoGrad: softmax-weighted perturbed copies of the parameters, first order only."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.gradients import gradients
from metabench.autodiff.inner import begin, detached, run
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
    MetaRole,
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

CITATION = """
    @inproceedings{bohdal2021evograd,
      title = {EvoGrad: Efficient Gradient-Based Meta-Learning and Hyperparameter Optimization},
      author = {Bohdal, Ondrej and Yang, Yongxin and Hospedales, Timothy},
      booktitle = {Advances in Neural Information Processing Systems},
      year = {2021}
    }
"""


@dataclass(frozen=True)
class Options:
    """Options of `evograd`; the defaults are those of the paper's experiments with networks."""

    copies: int = option(2, minimum=2, help="N, perturbed copies of the parameters")
    sigma: float = option(0.001, above=0, help="size of the perturbation")
    tau: float = option(0.05, above=0, help="temperature of the softmax over the copies' losses")
    noise: str = option(
        "sign",
        choices=("sign", "gaussian"),
        help="perturbations: signs of a Gaussian, as the paper's code, or Gaussian",
    )


@method(
    title="EvoGrad: weighted perturbed copies",
    target=Target.ONE_STEP,
    exact=False,
    cost=Cost(gradients="K", forwards="N", memory="O(N |w| + |activations|)"),
    citation=CITATION,
    options=Options,
    stochastic=True,
)
def evograd(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w*, l)/dl with w* = sum_k softmax(-f(w_k, l)/tau)_k w_k over copies w_k = w + sigma e_k. Bohdal et al. 2021, equations 4-7.

    The copies are made of the parameters before the last inner step, and their losses are taken on its batch. The path from l leads
    through the losses alone: the copies record no graph, so that their forward passes keep nothing that l does not touch.
    In expectation and to first order in sigma this is the one-step hypergradient with step size sigma^2/tau (1 - 1/N). The outer
    loss that is returned is F(w*, l).

    Raises:
        Unsupported: the meta-parameters enter the inner update or the start, or outer losses are due before the window's end.
    """
    if problem.roles & {MetaRole.UPDATE, MetaRole.START}:
        raise Unsupported(
            "the meta-parameters enter the inner update or the start, and EvoGrad sees the inner loss alone"
        )
    if any(batch is not None for batch in window.outer[:-1]):
        raise Unsupported("outer losses are due before the end of the window, and EvoGrad reaches the last alone")
    *before, last = window.inner
    state = run(problem, detached(begin(problem, state, meta)), meta, before)
    meta_leaves = tree.leaves_for_grad(meta)
    copies = [_perturbed(state.params, options, generator) for _ in range(options.copies)]
    with torch.enable_grad():
        losses = torch.stack([problem.inner_loss(copy, meta_leaves, last) for copy in copies])
        weights = torch.softmax(-losses / options.tau, dim=0)
        mixture = {name: sum(w * copy[name] for w, copy in zip(weights, copies, strict=True)) for name in state.params}
        objective = problem.outer_loss(mixture, meta_leaves, window.outer[-1])
        (hypergradient,) = gradients(objective, [meta_leaves])
    value = float(objective.detach())
    del copies, losses, weights, mixture, objective
    return Hypergradient(hypergradient, run(problem, state, meta, [last]), value)


def _perturbed(params: Tree, options: Options, generator: torch.Generator) -> Tree:
    def move(leaf: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype, device=leaf.device)
        return leaf + options.sigma * (noise.sign() if options.noise == "sign" else noise)

    return tree.tree_map(move, params)
