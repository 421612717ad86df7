"""What a method kept of the windows before: trees that are its own and fit, and a count of the windows."""

from __future__ import annotations

from collections.abc import Mapping

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import check_alike
from metabench.core.types import InnerState, Tree

WINDOWS = "windows"
"""Name of the count among what is kept."""


def remembered(state: InnerState, name: str, like: Tree) -> Tree | None:
    """Return what a method kept under a name; None where it has kept nothing yet.

    Args:
        state: that the method is given.
        name: under which it was kept.
        like: a tree of the same names, shapes and dtypes.

    Raises:
        MetabenchError: the memory is of another method, or of another model.
    """
    if not state.memory:
        return None
    if name not in state.memory:
        held = ", ".join(f"'{one}'" for one in sorted(state.memory))
        raise MetabenchError(f"the memory holds {held}, and no '{name}': it is that of another method, or of other options")
    found = state.memory[name]
    check_alike(found, like, f"the memory '{name}' is of another model: it holds", "expected is", "tensor")
    return {key: leaf.detach() for key, leaf in found.items()}


def windows_before(state: InnerState) -> int:
    """Return how many windows the memory has seen, as `counted` counts them."""
    return int(state.memory[WINDOWS]["count"]) if WINDOWS in state.memory else 0


def counted(state: InnerState, memory: Mapping[str, Tree]) -> dict[str, Tree]:
    """Return what is to be kept with the count of windows, this one included."""
    some = next(iter(state.params.values()))
    count = torch.tensor(float(windows_before(state) + 1), dtype=torch.float64, device=some.device)
    return {**memory, WINDOWS: {"count": count}}
