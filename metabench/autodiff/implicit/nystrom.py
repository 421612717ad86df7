"""The inverse of a Hessian's rank-k Nystrom approximation plus rho I, from k of its columns. Hataya & Yamada 2023.

With C = H[:, S] and W = H[S, S] the approximation is H_k = C W^+ C^T, and by Woodbury's identity (their equation 6)
    (H_k + rho I)^-1 b = (b - C (rho W + C^T C)^-1 C^T b) / rho.
The two implementations below agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from metabench.autodiff.implicit.hessian import DampedHessian
from metabench.autodiff.implicit.linear_solvers import Solution
from metabench.core import tree
from metabench.core.errors import Diverged
from metabench.core.lazy import torch
from metabench.core.types import Tree


class Sketch(NamedTuple):
    """The terms of Woodbury's identity for k columns: C^T C and W, shape [k, k], C^T b, shape [k], and y -> C y."""

    gram: torch.Tensor
    core: torch.Tensor
    seen: torch.Tensor
    combine: Callable[[torch.Tensor], torch.Tensor]


SketchOf: TypeAlias = "Callable[[DampedHessian, torch.Tensor, torch.Tensor, int], Sketch]"
"""(H, b as one vector, the indices S, how many columns to compute together) -> the sketch."""


def drawn_columns(size: int, rank: int, stream: torch.Generator) -> torch.Tensor:
    """Return `rank` of the indices below `size`, or all of them, drawn uniformly without replacement, shape [k].

    Indices run through all parameters, in the order of their names.
    """
    return torch.randperm(size, generator=stream, device=stream.device)[:rank]


def kept_columns(hessian: DampedHessian, target: torch.Tensor, chosen: torch.Tensor, block: int) -> Sketch:
    """Keep C: k Hessian products, memory O(k |w|)."""
    columns = target.new_empty(len(chosen), len(target))
    for place, indices in _blocks(chosen, block):
        columns[place : place + len(indices)] = hessian.rows(_units(indices, target))
    return Sketch(columns @ columns.T, columns[:, chosen], columns @ target, lambda weights: weights @ columns)


def passing_columns(hessian: DampedHessian, target: torch.Tensor, chosen: torch.Tensor, block: int) -> Sketch:
    """Hold `block` columns at a time: 2 k + 2 Hessian products, memory O(block |w| + k^2).

    H is symmetric, so C^T c = (H c)[S] for every column c, C^T b = (H b)[S], and C y = H z with z = y on S and zero elsewhere.
    """
    gram = target.new_empty(len(chosen), len(chosen))
    core = torch.empty_like(gram)
    for place, indices in _blocks(chosen, block):
        columns = hessian.rows(_units(indices, target))
        core[place : place + len(indices)] = columns[:, chosen]
        columns = hessian.rows(columns)
        gram[place : place + len(indices)] = columns[:, chosen]
        del columns

    def combine(weights: torch.Tensor) -> torch.Tensor:
        return hessian.rows(torch.zeros_like(target).index_put((chosen,), weights)[None])[0]

    return Sketch(gram, core, hessian.rows(target[None])[0, chosen], combine)


def nystrom(
    hessian: DampedHessian, target: Tree, chosen: torch.Tensor, rho: float, sketch_of: SketchOf, block: int
) -> Solution:
    """Return (H_k + rho I)^-1 b. Hataya & Yamada 2023, equation 6 and algorithm 1.

    The k x k system is solved in float64 by its eigenvectors; eigenvalues within rounding of the columns' dtype are
    dropped, and `rank` counts the rest: fewer than k where the columns depend on each other. `indefinite` says whether H[S, S] has a
    negative eigenvalue. The residual is that of H itself, for one more product: it includes the errors of rank k and rho.

    Args:
        chosen: the indices S, shape [k].
        sketch_of: `kept_columns` or `passing_columns`.
        block: how many columns are computed together.

    Raises:
        Diverged: a column is not finite.
    """
    vector = tree.flatten(target)
    sketch = sketch_of(hessian, vector, chosen.to(vector.device), block)
    core, gram, seen = (part.to("cpu", torch.float64) for part in (sketch.core, sketch.gram, sketch.seen))
    if not bool(gram.isfinite().all() & core.isfinite().all() & seen.isfinite().all()):
        raise Diverged("a column of the Hessian is not finite")
    core, gram = (core + core.T) / 2, (gram + gram.T) / 2
    rounding = len(chosen) * torch.finfo(vector.dtype).eps
    values, basis = torch.linalg.eigh(rho * core + gram)
    stays = values.abs() > rounding * values.abs().max()
    weights = basis[:, stays] @ ((basis[:, stays].T @ seen) / values[stays])
    found = tree.unflatten((vector - sketch.combine(weights.to(vector))) / rho, target)
    curvatures = torch.linalg.eigvalsh(core)
    size = float(tree.norm(target))
    left = float(tree.norm(tree.subtract(target, hessian(found))))
    return Solution(
        found,
        steps=len(chosen),
        residual=left / size if size > 0 else 0.0,
        indefinite=bool(curvatures[0] < -rounding * curvatures.abs().max()),
        rank=int(stays.sum()),
    )


def _blocks(chosen: torch.Tensor, block: int) -> Iterator[tuple[int, torch.Tensor]]:
    for place in range(0, len(chosen), block):
        yield place, chosen[place : place + block]


def _units(indices: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return unit vectors as rows, shape [len(indices), len(like)]."""
    rows = like.new_zeros(len(indices), len(like))
    return rows.index_put_((torch.arange(len(indices), device=like.device), indices), like.new_ones(()))
