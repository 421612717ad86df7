"""Steps that a simulation need not repeat.

A dispatch mode with a method `run_flat` simulates: it knows what a step took at its first run, and adds that for the others. So the ledger
of predictions, whose time is that of the operations it simulates, sees a step once however long the window is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

from metabench.core.types import InnerState


def simulation() -> Any:
    """Return the dispatch mode in which a run of a flat list of operations is simulated; None outside of one."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    mode = _get_current_dispatch_mode()
    return mode if hasattr(mode, "run_flat") else None


def repeated(name: Hashable, call: Callable[[list[Any]], Any], given: list[Any]) -> Any:
    """Return `call(given)`; in a simulation, `call` is made once for each name and shapes of what is given.

    given: trees, inner states and None, without a graph. `call` may take them out of the list, and then holds them alone. What it returns
    is made of the same kinds, and whatever it does depends on nothing else that changes in a simulation.
    """
    mode = simulation()
    if mode is None:
        return call(given)
    leaves: list[Any] = []
    structure = tuple(_taken(one, leaves) for one in given)
    given.clear()
    step = mode.steps.setdefault((name, structure), _Step(structure))
    step.call = call
    found = iter(mode.run_flat(step, leaves))
    step.call = None
    return _put(step.returned, found)


class _Step:
    """A step as a function of lists of tensors."""

    def __init__(self, structure: tuple[Any, ...]) -> None:
        self._structure = structure
        self.call: Callable[[list[Any]], Any] | None = None
        self.returned: Any = None

    def __call__(self, leaves: list[Any]) -> list[Any]:
        waiting = iter(list(leaves))
        leaves.clear()
        given = [_put(one, waiting) for one in self._structure]
        del waiting
        assert self.call is not None
        results: list[Any] = []
        self.returned = _taken(self.call(given), results)
        return results


_LEAF, _STATE, _TUPLE, _TREE = "leaf", "state", "tuple", "tree"


def _taken(value: Any, leaves: list[Any]) -> Any:
    """Add the tensors in a value to `leaves`, and return what is left without them; hashable."""
    if value is None:
        return None
    if isinstance(value, InnerState):
        return _STATE, tuple(_taken(one, leaves) for one in (value.params, value.optimiser, value.memory))
    if isinstance(value, tuple):
        return _TUPLE, tuple(_taken(one, leaves) for one in value)
    if hasattr(value, "items"):
        return _TREE, tuple((name, _taken(one, leaves)) for name, one in value.items())
    leaves.append(value)
    return _LEAF, ()


def _put(structure: Any, leaves: Iterator[Any]) -> Any:
    """Return the value of a structure with the next tensors of `leaves`."""
    if structure is None:
        return None
    kind, parts = structure
    if kind == _LEAF:
        return next(leaves)
    if kind == _TREE:
        return {name: _put(one, leaves) for name, one in parts}
    values = [_put(one, leaves) for one in parts]
    return InnerState(*values) if kind == _STATE else tuple(values)
