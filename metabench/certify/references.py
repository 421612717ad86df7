"""References for methods: exact values of their targets, by plain training, finite differences and dense algebra.

Nothing here uses `metabench.autodiff`, on which methods are built.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metabench.certify.problem import CertificationProblem
from metabench.certify.training import begun, objectives, objectives_of_last, slope, train, update, value
from metabench.core import Batch, Curvature, InnerState, Problem, Tree, Window, tree
from metabench.core.lazy import torch

WIDTH = 2e-3
"""Of differences: an error of WIDTH^6 and rounding of 1e-16 / WIDTH leave about ten digits."""


def finite_differences(function: Callable[[Tree], float], at: Tree, width: float = WIDTH) -> Tree:
    """Return the gradient of `function`, coordinate by coordinate, by central differences of sixth order."""
    return differences_of_many(lambda points: [function(point) for point in points], at, width)


def differences_of_many(function: Callable[[Sequence[Tree]], Sequence[float]], at: Tree, width: float = WIDTH) -> Tree:
    """Return the same gradient of a function that is given all points at once, and returns its values there."""
    point = tree.flatten(at)
    moves = [times * width * one for one in torch.eye(len(point), dtype=point.dtype) for times in (1, -1, 2, -2, 3, -3)]
    values = torch.tensor(function([tree.unflatten(point + move, at) for move in moves]), dtype=point.dtype).view(-1, 3, 2)
    once, twice, thrice = (values[..., 0] - values[..., 1]).unbind(1)
    return tree.unflatten((45 * once - 9 * twice + thrice) / (60 * width), at)


def objective(problem: CertificationProblem, state: InnerState, window: Window) -> Callable[[Tree], float]:
    """Return l -> the window's outer objective, by plain training from `state`."""
    return lambda meta: train(problem, state, meta, window).objective


def through_last_steps(
    problem: CertificationProblem, state: InnerState, meta: Tree, window: Window, last: int
) -> Tree:
    """Return the derivative through the last `last` of the window's steps, the state before them held fixed."""
    before = len(window.inner) - last
    if before <= 0:
        return differences_of_many(lambda metas: objectives(problem, state, metas, window), meta)
    reached = train(problem, state, meta, window).states[before]
    # It has begun: the start of the run is one of the steps before.
    return differences_of_many(lambda metas: objectives_of_last(problem, [reached.params] * len(metas), reached, metas, window, last), meta)


def with_constant_gradients(problem: CertificationProblem, state: InnerState, meta: Tree, window: Window) -> Tree:
    """Return the derivative of the objective of a run that takes the inner gradients of the plain run whatever l is."""
    passed = train(problem, state, meta, window).states[:-1]
    slopes = [slope(problem.inner_loss, one.params, meta, batch) for one, batch in zip(passed, window.inner, strict=True)]

    def along(at: Tree) -> float:
        now, total = begun(problem, state, at), 0.0
        for gradient, outer in zip(slopes, window.outer, strict=True):
            now = update(problem, gradient, now, at)
            total += 0.0 if outer is None else value(problem.outer_loss, now.params, at, outer)
        return total

    return finite_differences(along, meta)


def curvature(hessian: torch.Tensor) -> Curvature:
    """Return a Hessian in three numbers."""
    eigenvalues = torch.linalg.eigvalsh(hessian)
    return Curvature(len(eigenvalues), float(eigenvalues[0]), float(eigenvalues[-1]))


@dataclass(frozen=True)
class Minimum:
    """A minimum w*(l) of f(w, l) + decay/2 |w|^2 on one batch."""

    problem: Problem
    batch: Batch
    decay: float
    params: Tree
    hessian: torch.Tensor

    @property
    def curvature(self) -> Curvature:
        """The Hessian in three numbers."""
        return curvature(self.hessian)

    def near(self, meta: Tree) -> Tree:
        """Return w*(l) for a nearby l, by Newton's method with a fixed Hessian: the error falls by |l - l_0| at every step."""
        point = tree.flatten(self.params)
        for _ in range(50):
            move = torch.linalg.solve(self.hessian, _slope(self.problem, self.batch, self.decay, meta, point, self.params))
            point = point - move
            if float(move.norm()) <= 1e-15 * float(point.norm()):
                break
        return tree.unflatten(point, self.params)

    def implicit(self, meta: Tree, outer: Batch) -> Tree:
        """Return dF(w*(l), l)/dl by finite differences over minima."""
        return finite_differences(lambda at: value(self.problem.outer_loss, self.near(at), at, outer), meta)


def minimise(problem: Problem, params: Tree, meta: Tree, batch: Batch, decay: float) -> Minimum:
    """Return the minimum that a trust-region method finds from `params`; raise ValueError if it has no positive curvature."""
    from scipy.optimize import minimize

    def hessian(point: torch.Tensor) -> torch.Tensor:
        dense = torch.autograd.functional.hessian(
            lambda z: problem.inner_loss(tree.unflatten(z, params), meta, batch), point
        )
        return dense + decay * torch.eye(len(point), dtype=point.dtype)

    def height(point: torch.Tensor) -> float:
        loss = value(problem.inner_loss, tree.unflatten(point, params), meta, batch)
        return loss + decay / 2 * float(point.square().sum())

    found = minimize(
        lambda z: height(torch.as_tensor(z)),
        tree.flatten(params).numpy(),
        jac=lambda z: _slope(problem, batch, decay, meta, torch.as_tensor(z), params).numpy(),
        hess=lambda z: hessian(torch.as_tensor(z)).numpy(),
        method="trust-exact",
        options={"gtol": 1e-12, "maxiter": 500},
    )
    point = torch.as_tensor(found.x)
    for _ in range(5):  # down to rounding, where the trust region no longer sees the loss fall
        point = point - torch.linalg.solve(hessian(point), _slope(problem, batch, decay, meta, point, params))
    dense = hessian(point)
    if float(torch.linalg.eigvalsh(dense)[0]) <= 0:
        raise ValueError("the inner loss has no strict minimum where the search ended")
    return Minimum(problem, batch, decay, tree.unflatten(point, params), dense)


def _slope(
    problem: Problem, batch: Batch, decay: float, meta: Tree, point: torch.Tensor, like: Tree
) -> torch.Tensor:
    return tree.flatten(slope(problem.inner_loss, tree.unflatten(point, like), meta, batch)) + decay * point


def smoothed(function: Callable[[Sequence[Tree]], float], meta: Tree, windows: int, sigma: float, nodes: int = 9) -> Tree:
    """Return the gradient at l of the mean of `function` over Gaussian noise, fresh for each window, by Gauss-Hermite quadrature.

    `function` takes the meta-parameters of each window: l + sigma e_1, ..., l + sigma e_windows. It is evaluated nodes^(windows |l|)
    times for each of six differences: for one or two meta-parameters.
    """
    import numpy

    places, weights = numpy.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    dimension = tree.count(meta)

    def mean(at: Tree) -> float:
        point = tree.flatten(at)
        total = 0.0
        for chosen in itertools.product(range(nodes), repeat=windows * dimension):
            noise = torch.tensor([places[i] for i in chosen], dtype=torch.float64).view(windows, dimension)
            weight = float(numpy.prod([weights[i] for i in chosen]))
            total += weight * function([tree.unflatten(point + sigma * row, at) for row in noise])
        return total

    return finite_differences(mean, meta, width=0.02)


@dataclass(frozen=True)
class Expansion:
    """The two losses at a point (w, l), to second order, dense: what implicit formulas are written in.

    outer_w = dF/dw [n], outer_l = dF/dl [m], hessian = d2f/dw2 + decay I [n, n], mixed = d2f/dl dw [m, n].
    """

    outer_w: torch.Tensor
    outer_l: torch.Tensor
    hessian: torch.Tensor
    mixed: torch.Tensor

    @property
    def curvature(self) -> Curvature:
        """The Hessian in three numbers."""
        return curvature(self.hessian)

    def implicit(self, solution: torch.Tensor) -> torch.Tensor:
        """Return dF/dl - (d2f/dl dw) q for a solution q of H q = dF/dw, or its approximation."""
        return self.outer_l - self.mixed @ solution


def expand(problem: Problem, params: Tree, meta: Tree, inner: Batch, outer: Batch, decay: float) -> Expansion:
    """Return the expansion of the inner loss on `inner` and the outer loss on `outer` at (params, meta)."""
    n = tree.count(params)
    point = torch.cat([tree.flatten(params), tree.flatten(meta)])

    def at(loss: Callable[[Tree, Tree, Batch], torch.Tensor], batch: Batch) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda z: loss(tree.unflatten(z[:n], params), tree.unflatten(z[n:], meta), batch)

    second = torch.autograd.functional.hessian(at(problem.inner_loss, inner), point)
    first = torch.autograd.functional.jacobian(at(problem.outer_loss, outer), point)
    return Expansion(first[:n], first[n:], second[:n, :n] + decay * torch.eye(n, dtype=point.dtype), second[n:, :n])


