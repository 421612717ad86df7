"""Solvers of linear systems that need only matrix-vector products. Vectors are trees."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from metabench.core import tree
from metabench.core.errors import Diverged
from metabench.core.lazy import torch
from metabench.core.types import Tree

Operator: TypeAlias = Callable[[Tree], Tree]


class Solution(NamedTuple):
    """An approximate solution of A x = b, with diagnostics.

    Attributes:
        value: x.
        steps: number of steps taken.
        residual: |b - A x| / |b|; for an affine iteration, that of the second-to-last iterate.
        indefinite: whether A showed a direction d with d'Ad <= 0; None if the solver does not check.
        contracting: whether the increments of an iteration shrink; None if there are none to compare.
        rank: of the inverted approximation of A; None if A itself was inverted.
    """

    value: Tree
    steps: int
    residual: float
    indefinite: bool | None = None
    contracting: bool | None = None
    rank: int | None = None

    @property
    def diagnostics(self) -> dict[str, float]:
        """The diagnostics, as floats."""
        found = {"solver_steps": float(self.steps), "solver_residual": self.residual}
        others = {"indefinite": self.indefinite, "contracting": self.contracting, "rank": self.rank}
        return found | {name: float(value) for name, value in others.items() if value is not None}


def conjugate_gradients(
    product: Operator, target: Tree, steps: int, tolerance: float, start: Tree | None = None
) -> Solution:
    """Solve A x = b for symmetric positive definite A from x = `start`, or from zero. Hestenes & Stiefel 1952.

    Stops after `steps`, when |r| <= tolerance |b|, or before a direction of non-positive curvature, where no step is defined:
    `indefinite` is then set and the current iterate returned. The residual is that of the recurrence. A tolerance below the
    rounding of the dtype is raised to it. A start costs one more product, for its residual.

    Raises:
        Diverged: a product is not finite.
    """
    reference = tree.dot(target, target)
    # The recurrence goes on to shrink below rounding, where it says nothing more of b - A x, until d'Ad underflows to zero.
    tolerance = max(tolerance, torch.finfo(reference.dtype).eps)
    if start is None or float(reference) == 0.0:
        value, residual = tree.zeros_like(target), target
    else:
        value, residual = start, tree.subtract(target, product(start))
    direction, squared = residual, tree.dot(residual, residual)
    _check_product(squared)
    taken, indefinite = 0, False
    for _ in range(steps):
        if float(squared) <= tolerance**2 * float(reference):
            break
        image = product(direction)
        curvature = tree.dot(direction, image)
        _check_product(curvature)
        if float(curvature) <= 0.0:
            indefinite = True
            break
        length = squared / curvature
        value = tree.add_scaled(value, length, direction)
        residual = tree.add_scaled(residual, -length, image)
        after = tree.dot(residual, residual)
        direction = tree.add_scaled(residual, after / squared, direction)
        squared, taken = after, taken + 1
    return Solution(value, taken, _relative(squared, reference), indefinite=indefinite)


def minimal_residual(product: Operator, target: Tree, steps: int, tolerance: float, start: Tree | None = None) -> Solution:
    """Return the x of least |b - A x| over x_0 + the Krylov space of the residual, for symmetric A. MINRES, Paige & Saunders 1975.

    A may be indefinite: `indefinite` tells whether the space has a direction d with d'Ad <= 0, and nothing stops there. The residual never
    rises with the steps. Stops after `steps`, when |r| <= tolerance |b|, or where the space is invariant under A. A start costs one more
    product.

    Raises:
        Diverged: a product is not finite.
    """
    # Here: listings load this module without scipy.
    from scipy.linalg import eigvalsh_tridiagonal

    reference = float(tree.norm(target))
    rounding = torch.finfo(next(iter(target.values())).dtype).eps
    if start is None or not reference:
        value, residual = tree.zeros_like(target), target
    else:
        value, residual = start, tree.subtract(target, product(start))
    left = float(tree.norm(residual))
    if not math.isfinite(left):
        raise Diverged("a Hessian product is not finite")
    taken, diagonal, beside = 0, list[float](), list[float]()
    if left <= tolerance * reference or not left:
        return Solution(value, 0, left / reference if reference else 0.0, indefinite=False)
    # Lanczos vectors v, directions w = V R^-1, and the last two rotations of the tridiagonal matrix.
    vector, before = tree.scale(1 / left, residual), tree.zeros_like(target)
    directions = (tree.zeros_like(target), tree.zeros_like(target))
    rotations, beta, eta, size = ((1.0, 0.0), (1.0, 0.0)), 0.0, left, 0.0
    while taken < steps:
        # In this order the vectors stay orthogonal longer (Paige 1972, variant A1).
        image = tree.add_scaled(product(vector), -beta, before)
        alpha = float(tree.dot(vector, image))
        if not math.isfinite(alpha):
            raise Diverged("a Hessian product is not finite")
        image = tree.add_scaled(image, -alpha, vector)
        after = float(tree.norm(image))
        diagonal.append(alpha)
        beside.append(after)
        (c_before, s_before), (c, s) = rotations
        delta, second, third = c * alpha - c_before * s * beta, s * alpha + c_before * c * beta, s_before * beta
        first = math.hypot(delta, after)
        size = max(size, abs(alpha), after)
        if math.hypot(delta, c * after) <= 1e3 * rounding * size:
            # A r is zero: a singular A does not reach what is left of b.
            break
        older, newer = directions
        direction = tree.add_scaled(tree.add_scaled(vector, -third, older), -second, newer)
        direction = tree.scale(1 / first, direction)
        rotations, directions = ((c, s), (delta / first, after / first)), (newer, direction)
        value, eta, taken = tree.add_scaled(value, delta / first * eta, direction), -after / first * eta, taken + 1
        if abs(eta) <= tolerance * reference or after <= rounding * size:
            break
        before, vector, beta = vector, tree.scale(1 / after, image), after
    # A few numbers, which are not on the device.
    smallest = float(eigvalsh_tridiagonal(diagonal, beside[:-1])[0])
    return Solution(value, taken, abs(eta) / reference, indefinite=smallest <= rounding * size)


def affine_iteration(
    transition: Operator, constant: Tree, steps: int, tolerance: float = 0.0, start: Tree | None = None
) -> Solution:
    """Iterate x <- T x + c, which tends to (I - T)^-1 c where the spectral radius of T is below 1.

    Starts from x_0 = c, so that the n-th iterate is sum_{j=0..n} T^j c; or from `start`, if `steps` is not 0. Stops after `steps`, or when
    an increment |x_n - x_{n-1}| is at most tolerance |c|, or is rounding of x_n. That increment is the residual c - (I - T) x_{n-1} of the
    previous iterate: it costs no further product, and is reported relative to |c| as `residual`.

    `contracting` compares the last increment with the one at half the number of steps: an oscillating iteration, as with momentum, may
    grow for a while before it settles.

    Raises:
        Diverged: an iterate is not finite.
    """
    reference = float(tree.norm(constant))
    rounding = torch.finfo(next(iter(constant.values())).dtype).eps
    if start is None or steps == 0:
        value, increments = constant, [reference]
    else:
        value, increments = start, []
    settled, taken = False, 0
    while taken < steps and not settled:
        after = tree.add(transition(value), constant)
        increments.append(float(tree.norm(tree.subtract(after, value))))
        value, taken = after, taken + 1
        if not math.isfinite(increments[-1]):
            raise Diverged(f"step {taken} of the iteration x <- T x + c is not finite")
        settled = increments[-1] <= max(tolerance * reference, rounding * float(tree.norm(value)))
    last = increments[-1]
    contracting = settled or (last < increments[(len(increments) - 1) // 2] if len(increments) > 1 else None)
    return Solution(value, taken, last / reference if reference > 0 else last, contracting=contracting)


def neumann_series(
    product: Operator, target: Tree, steps: int, scale: float, tolerance: float = 0.0, start: Tree | None = None
) -> Solution:
    """Return scale * sum_{j=0..steps} (I - scale A)^j b, which tends to A^-1 b where |I - scale A| < 1. Lorraine et al. 2020, equation 8.

    This is the affine iteration with T = I - scale A and c = scale b. With a `start` it continues from there: `steps` steps of gradient
    descent on x'Ax/2 - b'x. `residual` is |b - A x| / |b| of the second-to-last iterate, which without a start is
    |(I - scale A)^steps b| / |b|, the last term's relative size: above 1 the series diverges.

    Raises:
        Diverged: a term is not finite.
    """
    try:
        return affine_iteration(
            lambda value: tree.add_scaled(value, -scale, product(value)),
            tree.scale(scale, target),
            steps,
            tolerance,
            start,
        )
    except Diverged as error:
        raise Diverged(
            f"the Neumann series with scale {scale} is not finite: is the scale too large? {error}"
        ) from error


def _check_product(number: torch.Tensor) -> None:
    if not bool(number.isfinite()):
        raise Diverged("a Hessian product inside conjugate gradients is not finite")


def _relative(squared: torch.Tensor, reference: torch.Tensor) -> float:
    return float(squared) ** 0.5 / float(reference) ** 0.5 if float(reference) > 0 else 0.0
