"""EvoGrad: softmax-weighted perturbed copies of the parameters, first order only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from metabench.autodiff.gradients import gradients, outer_gradient
from metabench.autodiff.inner import step
from metabench.autodiff.unrolled.last_step import before_last
from metabench.core import Batch, Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method, option, tree
from metabench.core.lazy import torch
from metabench.core.randomness import perturbation
from metabench.core.support import refuse_earlier_outer_losses, refuse_update_and_start


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
    together: bool = option(
        False, help="compute the copies' losses in one vectorised call: N times the memory, fewer operations"
    )


@method(
    title="EvoGrad: weighted perturbed copies",
    order=180,
    target=Target.ONE_STEP,
    exact=False,
    cost=Cost(gradients="K + N (of l alone)", forwards="N", memory="O(|w| + N |l| + |activations|)", affine_from=2),
    citation="bohdal2021evograd",
    options=Options,
    stochastic=True,
)
def evograd(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w*, l)/dl with w* = sum_k p_k w_k, p = softmax(-f(w_k, l)/tau), w_k = w + sigma e_k. Bohdal et al. 2021, equations 4-7.

    The copies perturb the parameters before the last inner step, and their losses are on its batch. l acts through the losses
    alone, so that by the chain rule
        dF/dl + sum_k c_k df(w_k, l)/dl,    c_k = -(p_k / tau) (s_k - sum_j p_j s_j),    s_k = sigma <dF/dw*, e_k>
    is the hypergradient: no copy is differentiated, and none outlives its loss, since its noise is redrawn when needed.
    In expectation and to first order in sigma this is the one-step hypergradient with step size sigma^2/tau (1 - 1/N). The outer
    loss returned is F(w*, l).

    Raises:
        Unsupported: the meta-parameters enter the inner update or the start, or outer losses are due before the window's end.
    """
    refuse_update_and_start(problem, "EvoGrad differentiates the inner loss alone")
    outer = refuse_earlier_outer_losses(window, "EvoGrad differentiates the last alone")
    state, last = before_last(problem, state, meta, window), window.inner[-1]
    copies = _Copies(state.params, options, generator)
    losses, pull = (_together if options.together else _one_by_one)(problem, copies, meta, last, options.copies)
    weights = torch.softmax(-losses / options.tau, dim=0)
    due = outer_gradient(problem, copies.mixture(weights), meta, outer)
    along = copies.along(due.params)
    value, direct = due.loss, due.meta
    del due  # dF/dw* is as large as the parameters, and the last step follows
    shares = -weights / options.tau * (along - weights @ along)
    hypergradient = tree.add(direct, pull(shares))
    return Hypergradient(hypergradient, step(problem, state, meta, last), value)


class _Copies:
    """Perturbed copies w_k = w + sigma e_k. None is kept: the noise is redrawn from the same place in the stream, copy by copy."""

    def __init__(self, params: Tree, options: Options, generator: torch.Generator) -> None:
        self._params, self._options, self._first = params, options, generator
        self._begin = generator.get_state()

    def draw(self) -> Tree:
        """Return the next copy."""
        return self._moved(self._options.sigma, self._noise(self._first))

    def stacked(self) -> Tree:
        """Return all copies, one after another along a new first dimension."""
        copies = {name: leaf.new_empty((self._options.copies, *leaf.shape)) for name, leaf in self._params.items()}
        for k in range(self._options.copies):
            for name, noise in self._noise(self._first).items():
                torch.add(self._params[name], noise, alpha=self._options.sigma, out=copies[name][k])
        return copies

    def mixture(self, weights: torch.Tensor) -> Tree:
        """Return w* = sum_k weights_k w_k, for weights whose sum is 1."""
        stream, (first, *others) = self._again(), weights.tolist()
        mixed = self._moved(self._options.sigma * first, self._noise(stream))
        for weight in others:
            for name, noise in self._noise(stream).items():
                mixed[name].add_(noise, alpha=self._options.sigma * weight)
        return mixed

    def along(self, slope: Tree) -> torch.Tensor:
        """Return sigma <slope, e_k> of every copy, shape [N]."""
        stream, found = self._again(), []
        for _ in range(self._options.copies):
            noises = self._noise(stream)
            found += [torch.dot(leaf.reshape(-1), noises[name].reshape(-1)) for name, leaf in slope.items()]
        return self._options.sigma * torch.stack(found).view(self._options.copies, -1).sum(1)

    def _moved(self, length: float, noises: Tree) -> Tree:
        # In place: the copy takes the place of its noise.
        return {name: torch.add(self._params[name], noise, alpha=length, out=noise) for name, noise in noises.items()}

    def _noise(self, stream: torch.Generator) -> Tree:
        return perturbation(self._params, self._options.noise, stream)  # type: ignore[arg-type]

    def _again(self) -> torch.Generator:
        stream = torch.Generator(device=self._first.device)
        stream.set_state(self._begin)
        return stream


Pull: TypeAlias = "Callable[[torch.Tensor], Tree]"
"""From shares c_k, shape [N], to sum_k c_k df(w_k, l)/dl."""


def _one_by_one(problem: Problem, copies: _Copies, meta: Tree, batch: Batch, count: int) -> tuple[torch.Tensor, Pull]:
    """Return the copies' losses, shape [N], and their pullback to l; one copy and its graph are alive at a time."""
    pairs = [_loss_and_slope(problem, copies.draw(), meta, batch) for _ in range(count)]

    def pull(shares: torch.Tensor) -> Tree:
        total = tree.zeros_like(meta)
        for share, (_, slope) in zip(shares, pairs, strict=True):
            total = tree.add_scaled(total, share, slope)
        return total

    return torch.stack([loss for loss, _ in pairs]), pull


def _loss_and_slope(problem: Problem, params: Tree, meta: Tree, batch: Batch) -> tuple[torch.Tensor, Tree]:
    """Return f and df/dl. The parameters require no gradient: the forward pass keeps nothing that l does not touch."""
    meta = tree.leaves_for_grad(meta)
    with torch.enable_grad():
        loss = problem.inner_loss(params, meta, batch)
        (slope,) = gradients(loss, [meta])
    return loss.detach(), slope


def _together(problem: Problem, copies: _Copies, meta: Tree, batch: Batch, count: int) -> tuple[torch.Tensor, Pull]:
    """Return the same of all copies in one vectorised call."""
    del count
    meta = tree.leaves_for_grad(meta)
    with torch.enable_grad():
        losses = torch.func.vmap(lambda copy: problem.inner_loss(copy, meta, batch))(copies.stacked())
    return losses.detach(), lambda shares: gradients(losses, [meta], [shares])[0]
