"""Solvers of A x = b that need only products with A. Trees stand for vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from metabench.core import tree
from metabench.core.errors import Diverged
from metabench.core.lazy import torch
from metabench.core.types import Tree

Operator: TypeAlias = Callable[[Tree], Tree]


class Solution(NamedTuple):
    """An approximate solution, and what is known of it.

    `steps` are those taken; `residual` is the relative size of what is left, as the solver defines it; `indefinite` says whether A
    showed a direction d with d'Ad <= 0.
    """

    value: Tree
    steps: int
    residual: float
    indefinite: bool = False


def conjugate_gradients(product: Operator, target: Tree, steps: int, tolerance: float) -> Solution:
    """Solve A x = b for symmetric positive definite A from x = 0. Hestenes & Stiefel 1952.

    Stops after `steps`, when |r| <= tolerance |b|, or before a direction of non-positive curvature, where no step is defined: then
    `indefinite` is set and the iterate so far is returned. The residual is the one carried by the recurrence. A tolerance below the
    rounding of the number type counts as that.

    Raises:
        Diverged: a product is not finite.
    """
    value, residual, direction = tree.zeros_like(target), target, target
    squared = first = tree.dot(target, target)
    # The recurrence goes on to shrink below rounding, where it says nothing more of b - A x, until d'Ad underflows to zero.
    tolerance = max(tolerance, torch.finfo(first.dtype).eps)
    taken, indefinite = 0, False
    for _ in range(steps):
        if float(squared) <= tolerance**2 * float(first):
            break
        image = product(direction)
        curvature = tree.dot(direction, image)
        if not bool(curvature.isfinite()):
            raise Diverged("a Hessian product inside conjugate gradients is not finite")
        if float(curvature) <= 0.0:
            indefinite = True
            break
        length = squared / curvature
        value = tree.add_scaled(value, length, direction)
        residual = tree.add_scaled(residual, -length, image)
        after = tree.dot(residual, residual)
        direction = tree.add_scaled(residual, after / squared, direction)
        squared, taken = after, taken + 1
    return Solution(value, taken, _relative(squared, first), indefinite)


def neumann_series(product: Operator, target: Tree, steps: int, scale: float) -> Solution:
    """Return scale * sum_{j=0..steps} (I - scale A)^j b, which tends to A^-1 b where |I - scale A| < 1. Lorraine et al. 2020, equation 8.

    `residual` is |(I - scale A)^steps b| / |b|, the last term's relative size: above 1 the series diverges.

    Raises:
        Diverged: a term is not finite.
    """
    term, total = target, target
    for _ in range(steps):
        term = tree.add_scaled(term, -scale, product(term))
        total = tree.add(total, term)
    last = tree.dot(term, term)
    if not bool(last.isfinite()):
        raise Diverged(
            f"the Neumann series with scale {scale} is not finite after {steps} terms: the scale is too large"
        )
    return Solution(tree.scale(scale, total), steps, _relative(last, tree.dot(target, target)))


def _relative(squared: object, reference: object) -> float:
    return float(squared) ** 0.5 / float(reference) ** 0.5 if float(reference) > 0 else 0.0  # type: ignore[arg-type]
