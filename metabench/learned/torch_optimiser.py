"""A trained optimiser as a `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from metabench.core import tree
from metabench.core.errors import MetabenchError, unknown
from metabench.core.problem import InnerOptimiser
from metabench.core.types import OptimiserState, Tree
from metabench.learned.exported import Exported, read_exported


@dataclass(frozen=True)
class Factory:
    """Makes optimisers of one that was trained, as a class of `torch.optim` does."""

    exported: Exported

    @classmethod
    def of(cls, source: str | Path, dtype: torch.dtype | None = None) -> Factory:
        """Return the factory of a file or a name; see `metabench.learned.load`."""
        found = read_exported(source)
        return cls(replace(found, meta=tree.cast(found.meta, dtype)) if dtype else found)

    @property
    def card(self) -> Mapping[str, Any]:
        """What it was trained on, by which method, and where."""
        return self.exported.card

    def __call__(self, params: Iterable[Any], lr: float = 1.0) -> TrainedOptimizer:
        """Return the optimiser of `params`: tensors, or groups of them as dicts, as every `torch.optim.Optimizer` takes them.

        Args:
            params: what is optimised. Of an optimiser with groups of its own, each dict says which: {"params": ..., "group": "conv"}.
            lr: a factor on every update, also by group of parameters; 1 as it was trained. Schedulers of torch change it.

        Raises:
            MetabenchError: a parameter is of another dtype than the trained weights, is no dense real tensor, or of an unknown group.
        """
        return TrainedOptimizer(params, self.exported, lr)


class TrainedOptimizer(torch.optim.Optimizer):
    """Updates parameters as the trained inner optimiser does, step for step. Parameters without a gradient stay as they are.

    All parameters of one group of the trained optimiser are updated together, whichever group of this optimiser they are in.
    """

    def __init__(self, params: Iterable[Any], exported: Exported, lr: float = 1.0) -> None:
        self._exported = exported
        self._updates: dict[str, InnerOptimiser] = {group: one.make() for group, one in exported.chosen().items()}
        self._meta: dict[str, Tree] = {}
        named = {"group": next(iter(exported.texts))} if len(exported.texts) == 1 else {}
        said = f"{', '.join(exported.texts.values())}, {tree.digest(exported.meta)}"
        super().__init__(params, {"lr": lr, "trained": said, **named})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; raise MetabenchError for those that cannot be updated."""
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        try:
            self._check(added)
        except MetabenchError:
            self.param_groups.pop()
            raise

    def _check(self, added: Mapping[str, Any]) -> None:
        texts, source = self._exported.texts, self._exported.source
        if "group" not in added:
            raise MetabenchError(
                f"'{source}' has an optimiser for each of {', '.join(texts)}: name the 'group' of the parameters"
            )
        if added["group"] not in texts:
            raise unknown(f"group of '{source}'", str(added["group"]), texts)
        for number, leaf in enumerate(added["params"]):
            if leaf.dtype != self._exported.dtype:
                raise MetabenchError(
                    f"parameter {number} is {leaf.dtype}, and '{source}' was exported for {self._exported.dtype}: "
                    f"convert the model, or load the optimiser with dtype={leaf.dtype}"
                )
            meta = self._meta.setdefault(added["group"], self._moved(added["group"], leaf.device))
            if next(iter(meta.values())).device != leaf.device:
                raise MetabenchError(f"parameter {number} is on {leaf.device}, and others of its group are elsewhere")

    def _moved(self, group: str, device: torch.device) -> Tree:
        return {name: leaf.to(device) for name, leaf in self._exported.of_group(group).items()}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient; return the loss of `closure`, which is called first, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rated = [(leaf, group["lr"], group["group"]) for group in self.param_groups for leaf in group["params"]]
        for name, update in self._updates.items():
            members = {
                str(number): (leaf, rate)
                for number, (leaf, rate, group) in enumerate(rated)
                if group == name and leaf.grad is not None
            }
            if members:
                self._update(name, update, members)
        return loss

    def _update(self, group: str, update: InnerOptimiser, members: Mapping[str, tuple[torch.Tensor, float]]) -> None:
        """Update the parameters of a group, by name with their factors."""
        params = {name: leaf.detach() for name, (leaf, _) in members.items()}
        gradients: Tree = {}
        for name, (leaf, _) in members.items():
            assert leaf.grad is not None
            if leaf.grad.layout != torch.strided:
                raise MetabenchError(
                    f"the gradient of parameter {name} is sparse, and a learned optimiser takes dense ones"
                )
            gradients[name] = leaf.grad.detach()
        moved, slots = update.update(gradients, params, self._slots(group, update, members), self._meta[group])
        for name, (leaf, rate) in members.items():
            leaf.copy_(moved[name] if rate == 1 else torch.lerp(leaf, moved[name], rate))
        self._keep(group, slots, members)

    def _slots(
        self, group: str, update: InnerOptimiser, members: Mapping[str, tuple[torch.Tensor, float]]
    ) -> OptimiserState:
        """Return the inner optimiser's slots; those of a parameter that has none yet are fresh."""
        fresh = {name: leaf.detach() for name, (leaf, _) in members.items() if leaf not in self.state}
        if fresh:
            slots = update.init(fresh)
            # What parameters share, as the count of steps, is older than those that come later.
            older: OptimiserState = self.state.get(_shared(group), {})
            common = {slot: leaves | older.get(slot, {}) for slot, leaves in slots.items()}
            self._keep(group, common, {name: members[name] for name in fresh})
        found: OptimiserState = {slot: dict(leaves) for slot, leaves in self.state[_shared(group)].items()}
        for name, (leaf, _) in members.items():
            for slot, kept in self.state[leaf].items():
                found[slot][name] = kept
        return found

    def _keep(self, group: str, slots: OptimiserState, members: Mapping[str, tuple[torch.Tensor, float]]) -> None:
        """Keep slots: with each parameter its own, and what has no parameter's name under the group's."""
        for name, (leaf, _) in members.items():
            self.state[leaf] = {slot: leaves[name] for slot, leaves in slots.items() if name in leaves}
        self.state[_shared(group)] = {
            slot: {name: leaf for name, leaf in leaves.items() if not name.isdecimal()}
            for slot, leaves in slots.items()
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state; raise MetabenchError if it is of another trained optimiser."""
        mine = self.defaults["trained"]
        for group in state_dict["param_groups"]:
            if group.get("trained") != mine:
                raise MetabenchError(
                    f"the state is of '{group.get('trained', 'no trained optimiser')}', and this is '{mine}'"
                )
        super().load_state_dict(state_dict)
        for group, meta in self._meta.items():
            device = next(iter(meta.values())).device
            shared: OptimiserState = self.state.get(_shared(group), {})
            self.state[_shared(group)] = {
                slot: {name: leaf.to(device) for name, leaf in leaves.items()} for slot, leaves in shared.items()
            }


def _shared(group: str) -> str:
    """Return the key in the state of what parameters of a group share."""
    return f"shared {group}".strip()
