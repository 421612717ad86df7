"""Is the inner update what methods take it for: a pure function, and as independent over tensors and coordinates as it is declared?"""

from __future__ import annotations

import math

from metabench.autodiff.inner import leaves_of
from metabench.autodiff.parts import Part, shared_slots
from metabench.core import tree
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser, check_alike
from metabench.core.types import InnerState, Tree


def check_update(optimiser: InnerOptimiser, state: InnerState, meta: Tree) -> None:
    """Check two updates from `state` by gradients drawn from N(0, 1).

    Raises:
        MetabenchError: an update changes its arguments or the state's names, shapes or dtypes, is not a function of its arguments, or is
            declared leafwise or coordinatewise and is not.
    """
    meta = tree.detach(meta)
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(2):
            gradient = tree.tree_map(
                lambda leaf: torch.randn(leaf.shape, generator=stream, dtype=torch.float64).to(leaf), state.params
            )
            before, state = state, _pure(optimiser, gradient, state, meta)
        if getattr(optimiser, "leafwise", False):
            for name in state.params if len(state.params) > 1 else ():
                one = Part((name,))
                part = one.of_state(before, state.params, shared_slots(before.optimiser, state.params))
                found = InnerState(*optimiser.update({name: gradient[name]}, part.params, part.optimiser, meta))
                _compare(found, one.of_state(state, state.params, {}), "leafwise", "other parameters")
        if getattr(optimiser, "coordinatewise", False):
            chosen = {name: _half(leaf.numel(), stream) for name, leaf in state.params.items()}
            picked = _picked(before, before.params, chosen)
            given = {name: leaf.reshape(-1)[chosen[name]] for name, leaf in gradient.items()}
            found = InnerState(*optimiser.update(given, picked.params, picked.optimiser, meta))
            _compare(
                found, _picked(state, before.params, chosen), "coordinatewise", "other coordinates, or their order"
            )


def _pure(optimiser: InnerOptimiser, gradient: Tree, state: InnerState, meta: Tree) -> InnerState:
    """Return the next state; raise MetabenchError if the update is not a pure function of state to state."""
    slots = [(f"slot '{slot}'", leaves) for slot, leaves in state.optimiser.items()]
    given = [("the gradient", gradient), ("the parameters", state.params), ("the meta-parameters", meta), *slots]
    seen = [_versions(leaves) for _, leaves in given]
    first, second = (InnerState(*optimiser.update(gradient, state.params, state.optimiser, meta)) for _ in range(2))
    for (what, leaves), versions in zip(given, seen, strict=True):
        if _versions(leaves) != versions:
            raise MetabenchError(f"the inner optimiser's update changes {what} in place, expected new tensors")
    if list(first.optimiser) != list(state.optimiser):
        raise MetabenchError(
            f"the inner optimiser's update returns the slots {list(first.optimiser)}, and init() {list(state.optimiser)}"
        )
    names = ["parameters", *(f"slot '{slot}'" for slot in state.optimiser)]
    for what, old, new, other in zip(names, leaves_of(state), leaves_of(first), leaves_of(second), strict=True):
        check_alike(new, old, f"of {what}, the inner optimiser's update returns", "it was given", "leaf")
        if any(not torch.equal(leaf.nan_to_num(), other[name].nan_to_num()) for name, leaf in new.items()):
            raise MetabenchError(
                f"the inner optimiser's update is not a function of its arguments: of {what}, it returns other values when called again"
            )
    return first


def _versions(leaves: Tree) -> list[tuple[str, int, int]]:
    return [(name, id(leaf), leaf._version) for name, leaf in leaves.items()]


def _half(count: int, stream: torch.Generator) -> torch.Tensor:
    """Return half of the places, in another order: neither the others nor the order may count."""
    return torch.randperm(count, generator=stream)[: (count + 1) // 2]


def _picked(state: InnerState, like: Tree, chosen: Tree) -> InnerState:
    """Return the state of some coordinates of every parameter; leaves of slots begin with the shape of their parameter in `like`."""

    def of(leaves: Tree) -> Tree:
        return {
            name: leaf.reshape(like[name].numel(), *leaf.shape[like[name].dim() :])[chosen[name].to(leaf.device)]
            if name in like
            else leaf
            for name, leaf in leaves.items()
        }

    return InnerState(of(state.params), {slot: of(leaves) for slot, leaves in state.optimiser.items()})


def _compare(found: InnerState, expected: InnerState, declared: str, others: str) -> None:
    """Raise MetabenchError if two states differ by more than rounding."""
    for leaves, right in zip(leaves_of(found), leaves_of(expected), strict=True):
        for name, leaf in right.items():
            rounding = math.sqrt(torch.finfo(leaf.dtype).eps)
            largest = float(leaf.abs().max()) if leaf.numel() else 0.0
            if not torch.allclose(leaves[name], leaf, rtol=rounding, atol=rounding * largest):
                raise MetabenchError(
                    f"the inner optimiser is declared {declared}, and its update of parameter '{name}' depends on {others}"
                )
