"""Implicit differentiation by the least residual over a Krylov space, for Hessians that are indefinite, too."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.implicit.hessian import DampedHessian
from metabench.autodiff.implicit.hypergradient import Solver, implicit_hypergradient
from metabench.autodiff.implicit.linear_solvers import Solution, minimal_residual
from metabench.core import (
    Cost,
    Diverged,
    Hypergradient,
    InnerState,
    Limit,
    Problem,
    Target,
    Tree,
    Window,
    method,
    option,
    tree,
)
from metabench.core.lazy import torch
from metabench.core.memory import remembered

BASIS, IMAGES = "basis", "images"
"""Directions kept from window to window, stacked, and what the Hessian of their windows made of them."""


@dataclass(frozen=True)
class Options:
    """Options of `ift_minres`."""

    steps: int = option(10, minimum=1, help="most Hessian products, each of which adds a dimension to the space")
    tolerance: float = option(1e-10, minimum=0, help="relative residual at which the solver stops")
    damping: float = option(0.0, minimum=0, help="added to the Hessian's diagonal")
    carried: int = option(0, minimum=0, help="directions kept for the next window of the run with their images; one more product; 0: none")


@method(
    title="implicit differentiation with MINRES",
    order=128,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(
        gradients="K + 2", hvps="steps + 1 mixed product", memory="O((carried + 1) |w| + |activations|)", affine_from=2
    ),
    citation="paige1975solution yang2025lancbio",
    options=Options,
    limit=Limit(lambda at: {"steps": at.dimension + 2, "tolerance": 0.0}, 1e-8, budget="steps", values=(1, 2, 3, 4, 6, 8)),
)
def ift_minres(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) q at w_K, q of least |dF/dw - (H + damping I) q| over the Krylov space. Paige & Saunders 1975.

    H is d2f/dw2 on the window's last inner batch, plus the inner optimiser's coupled weight decay. It may be indefinite, where conjugate
    gradients stop: the residual never rises with the steps, and `indefinite` is 1 where negative curvature was met. Without `carried`
    three vectors are held, which in float32 lose their orthogonality after some ten products, and with it a little of the residual.

    With `carried` m the last m directions of a window are kept, and the solution with them. The next window begins at that solution: its
    residual costs a product, is spanned by a Krylov basis of its own and by the directions kept, and the least residual over both is
    taken. The images kept are those of earlier windows' Hessians: exact while w and l are still, and out of date as far as they
    moved. Yang et al. 2025 build their space so, one direction per window.

    Raises:
        Unsupported: a minimum of the inner loss does not depend on the meta-parameters, or does not exist (see `implicit_hypergradient`).
        Diverged: a Hessian product is not finite.
        MetabenchError: the memory is of another method, of other options or of another model.
    """
    del generator
    kept: dict[str, Tree] = {}
    found = implicit_hypergradient(
        problem, state, meta, window, _solver(state, options, kept), options.damping, warm_start=options.carried > 0
    )
    if not options.carried:
        return found
    after = found.state
    memory = {**after.memory, **kept}
    return Hypergradient(found.meta, InnerState(after.params, after.optimiser, memory), found.outer_loss, found.diagnostics)


def _solver(state: InnerState, options: Options, kept: dict[str, Tree]) -> Solver:
    """Return how the system is solved; where directions are carried, `kept` is filled with them."""

    def solve(hessian: DampedHessian, target: Tree, start: Tree | None) -> Solution:
        if not options.carried:
            return minimal_residual(hessian, target, options.steps, options.tolerance)
        return _carried(hessian, target, start, _directions(state), options, kept)

    return solve


def _directions(state: InnerState) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the directions kept and their images as rows, shape [n, |w|] each; no rows at first."""
    like = state.params
    count = len(next(iter(state.memory[BASIS].values()))) if BASIS in state.memory else 0
    found = []
    for name in (BASIS, IMAGES):
        stacked = remembered(state, name, tree.tree_map(lambda leaf: leaf.expand(count, *leaf.shape), like))
        flat = tree.flatten(like)
        found.append(
            flat.new_zeros((0, len(flat)))
            if stacked is None
            else torch.cat([leaf.reshape(count, -1) for leaf in stacked.values()], dim=1)
        )
    return found[0], found[1]


def _carried(
    hessian: DampedHessian,
    target: Tree,
    start: Tree | None,
    known: tuple[torch.Tensor, torch.Tensor],
    options: Options,
    kept: dict[str, Tree],
) -> Solution:
    """Return the least residual over the directions known and new ones of the residual's Krylov space; keep the last of all."""
    right, reference = tree.flatten(target), float(tree.norm(target))
    value = torch.zeros_like(right) if start is None else tree.flatten(start)
    residual = right if start is None else right - tree.flatten(hessian(start))
    basis, images = known
    taken, indefinite = 0, False
    direction = residual
    while taken < options.steps:
        # Twice: once leaves rounding of what was taken off.
        for _ in range(2):
            direction = direction - basis.T @ (basis @ direction)
        length = float(direction.norm())
        if not length > torch.finfo(right.dtype).eps * max(reference, float(images.norm())):
            break
        direction = direction / length
        image = tree.flatten(hessian(tree.unflatten(direction, target)))
        if not bool(torch.isfinite(image).all()):
            raise Diverged("a Hessian product is not finite")
        indefinite = indefinite or float(direction @ image) <= 0
        basis, images, taken = torch.cat([basis, direction[None]]), torch.cat([images, image[None]]), taken + 1
        direction = image
    if len(basis):
        # On the CPU, in float64: a few columns, which may depend on each other.
        weights = torch.linalg.lstsq(images.T.double().cpu(), residual.double().cpu()[:, None], driver="gelsd").solution[:, 0]
        weights = weights.to(residual)
        value, residual = value + basis.T @ weights, residual - images.T @ weights
    for name, rows in ((BASIS, basis), (IMAGES, images)):
        pieces = rows[-options.carried :].split([leaf.numel() for leaf in target.values()], dim=1)
        kept[name] = {
            key: piece.reshape(len(piece), *leaf.shape).detach()
            for (key, leaf), piece in zip(target.items(), pieces, strict=True)
        }
    found = tree.unflatten(value.detach(), target)
    return Solution(found, taken, float(residual.norm()) / reference if reference else 0.0, indefinite=indefinite)
