"""The inner optimiser of a problem in which it is learned: one for all parameters, or one for each group of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.optimisers import STEP_COUNT, translates
from metabench.core.errors import unknown
from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser
from metabench.core.types import OptimiserState, Tree
from metabench.learned.declared import Chosen
from metabench.learned.tasks import Tasks

UNSAID = 64
"""Numbers per coordinate that are reckoned with for an optimiser that does not say how many it needs."""


@dataclass(frozen=True)
class Driver:
    """Learned optimisers by group of parameters ('' where there is one group), as one pure update.

    The meta-parameters of a group, and its slots, have the group's name before theirs; all groups share the step count. Where tasks are
    stacked, an update that is not coordinatewise is made for each task by itself. Groups whose parameters are not among those given
    keep their slots, so that a part of the parameters can be updated by itself.

    Raises:
        MetabenchError: a parameter's group has no optimiser.
    """

    chosen: Mapping[str, Chosen]
    tasks: Tasks

    def draw(self, stream: torch.Generator) -> Tree:
        """Return the initial meta-parameters of all groups, in float64 on the CPU."""
        return {
            f"{_prefix(group)}{name}": leaf
            for group, one in self.chosen.items()
            for name, leaf in one.draw(stream).items()
        }

    @functools.cached_property
    def _made(self) -> dict[str, InnerOptimiser]:
        made = {group: one.make() for group, one in self.chosen.items()}
        return {
            group: _Stacked(one) if self.tasks.stacked and not _says(one, "coordinatewise") else one
            for group, one in made.items()
        }

    @property
    def leafwise(self) -> bool:
        """Whether each parameter tensor's update depends on no other."""
        return all(_says(one, "leafwise") for one in self._made.values())

    @property
    def coordinatewise(self) -> bool:
        """Whether each coordinate's update depends on no other. Leaves of slots then begin with the parameter's shape."""
        return all(_says(one, "coordinatewise") for one in self._made.values())

    @property
    def translates(self) -> bool:
        """Whether an update's increment does not depend on the parameters."""
        return all(translates(one) for one in self._made.values())

    @property
    def numbers_per_coordinate(self) -> int:
        """How many numbers an update with its derivative keeps for a coordinate, at most."""
        return max(int(getattr(one, "numbers_per_coordinate", UNSAID)) for one in self._made.values())

    def init(self, params: Tree) -> OptimiserState:
        """Return the state before the first step of an episode."""
        state: OptimiserState = {}
        for group, optimiser in self._made.items():
            if own := self._of(group, params):
                state |= _named(group, optimiser.init(own))
        return state

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and slots."""
        moved: Tree = {}
        slots = dict(state)
        for group, optimiser in self._made.items():
            if own := self._of(group, params):
                given = {name: gradient[name] for name in own}
                found, after = optimiser.update(given, own, _own_slots(group, state), _own_leaves(group, meta))
                moved |= found
                slots |= _named(group, after)
        return {name: moved[name] for name in params}, slots

    def _of(self, group: str, params: Tree) -> Tree:
        """Return the parameters of a group."""
        if "" in self.chosen:
            return params
        for name in params:
            if (of := self.tasks.group(name)) not in self.chosen:
                raise unknown(f"optimiser for the group of parameter '{name}',", of, self.chosen)
        return {name: leaf for name, leaf in params.items() if self.tasks.group(name) == group}

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return a few named numbers that describe what was learned."""
        return {"meta-parameters": float(sum(leaf.numel() for leaf in meta.values()))}


@dataclass(frozen=True)
class _Stacked:
    """An optimiser's update for each of the tasks that parameters and slots hold in their first dimension; they share the step count."""

    one: InnerOptimiser

    @property
    def leafwise(self) -> bool:
        return _says(self.one, "leafwise")

    @property
    def translates(self) -> bool:
        return translates(self.one)

    @property
    def numbers_per_coordinate(self) -> int:
        return int(getattr(self.one, "numbers_per_coordinate", UNSAID))

    def init(self, params: Tree) -> OptimiserState:
        """Return the state of every task, stacked."""
        tasks = len(next(iter(params.values())))
        state = self.one.init({name: leaf[0] for name, leaf in params.items()})
        return {
            slot: leaves
            if slot == STEP_COUNT
            else {name: leaf.expand(tasks, *leaf.shape).clone() for name, leaf in leaves.items()}
            for slot, leaves in state.items()
        }

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and slots of every task."""
        places = {slot: None if slot == STEP_COUNT else 0 for slot in state}
        out: Any = (0, places)
        mapped = torch.func.vmap(self.one.update, in_dims=(0, 0, places, None), out_dims=out)
        found: tuple[Tree, OptimiserState] = mapped(gradient, params, state, meta)
        return found


def _says(optimiser: InnerOptimiser, what: str) -> bool:
    return bool(getattr(optimiser, what, False))


def _prefix(group: str) -> str:
    return f"{group}." if group else ""


def _named(group: str, slots: OptimiserState) -> OptimiserState:
    """Return a group's slots under names that tell them from those of other groups; the step count is all groups'."""
    return {slot if slot == STEP_COUNT else f"{_prefix(group)}{slot}": leaves for slot, leaves in slots.items()}


def _own_slots(group: str, state: OptimiserState) -> OptimiserState:
    """Return a group's slots, and the step count, under the names that its optimiser gave them."""
    shared = {STEP_COUNT: state[STEP_COUNT]} if STEP_COUNT in state else {}
    return {**_own_leaves(group, state), **shared}


def _own_leaves(group: str, named: Mapping[str, Any]) -> dict[str, Any]:
    prefix = _prefix(group)
    return {name.removeprefix(prefix): leaf for name, leaf in named.items() if name.startswith(prefix)}
