"""Plain training, implemented independently: a certificate's references share no line with what it certifies.

Gradients come from `torch.autograd.grad`, updates from the textbook formulas below. Of the problem, only its losses, its start, its
learning rate and the name of its optimiser are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from metabench.certify.problem import CertificationProblem
from metabench.core import Batch, InnerState, OptimiserState, Tree
from metabench.core.lazy import torch

STEP = "step"
"""The slot that counts steps."""

EPS = 1e-8


def slope(loss: Any, params: Tree, meta: Tree, batch: Batch) -> Tree:
    """Return d loss / d params; zeros where the loss does not reach a leaf."""
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in params.items()}
    with torch.enable_grad():
        value = loss(leaves, {name: leaf.detach() for name, leaf in meta.items()}, batch)
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    pairs = zip(leaves.items(), found, strict=True)
    return {name: torch.zeros_like(leaf) if g is None else g for (name, leaf), g in pairs}


def value(loss: Any, params: Tree, meta: Tree, batch: Batch) -> float:
    """Return the loss."""
    with torch.no_grad():
        return float(loss(params, meta, batch))


def update(problem: CertificationProblem, slopes: Tree, state: InnerState, meta: Tree) -> InnerState:
    """Return the state after one update along `slopes`."""
    count = float(state.optimiser[STEP]["count"]) if STEP in state.optimiser else 0.0
    rates = problem.rates(meta, state.params, count)
    params: Tree = {}
    slots: OptimiserState = {slot: {} for slot in state.optimiser}
    for name, w in state.params.items():
        before = {slot: leaves[name] for slot, leaves in state.optimiser.items() if slot != STEP}
        rate = rates[name]
        params[name], after = _leaf(
            problem.optimiser_name, rate, problem.weight_decay, slopes[name], w, before, count + 1, problem.momentum(meta)
        )
        for slot, leaf in after.items():
            slots[slot][name] = leaf
    if STEP in slots:
        slots[STEP] = {"count": torch.full_like(state.optimiser[STEP]["count"], count + 1)}
    return InnerState(params, slots)


def _leaf(
    name: str, rate: Any, decay: float, g: Any, w: Any, slots: dict[str, Any], t: float, momentum: Any
) -> tuple[Any, dict[str, Any]]:
    """Return one tensor and its slots after step t: torch.optim's documentation, line by line, except that eps is also inside the root."""
    if name != "adamw":
        g = g + decay * w
    if name == "sgd":
        return w - rate * g, {}
    if name in ("momentum", "nesterov"):
        b = 0.9 * slots["momentum"] + g
        return w - rate * (g + 0.9 * b if name == "nesterov" else b), {"momentum": b}
    if name == "rmsprop":
        v = 0.99 * slots["second"] + 0.01 * g**2
        return w - rate * g / (torch.sqrt(v + EPS**2) + EPS), {"second": v}
    if name in ("adam", "adamw"):
        m = 0.9 * slots["first"] + 0.1 * g
        v = 0.999 * slots["second"] + 0.001 * g**2
        direction = (m / (1 - 0.9**t)) / (torch.sqrt(v / (1 - 0.999**t) + EPS**2) + EPS)
        return w - rate * (direction + (decay * w if name == "adamw" else 0)), {"first": m, "second": v}
    if name == "scheduled":
        b = momentum * slots["momentum"] + g
        falling = 1 / t**0.5
        return w - rate * falling * slots["preconditioner"] * b, {
            "momentum": b,
            "preconditioner": slots["preconditioner"],
        }
    raise ValueError(f"no formula for the optimiser '{name}'")


def begun(problem: CertificationProblem, state: InnerState, meta: Tree) -> InnerState:
    """Return the state from which the window's run begins."""
    with torch.no_grad():
        started = problem.start(state.params, meta)
    return InnerState({name: leaf.detach().clone() for name, leaf in started.items()}, state.optimiser)


def steps(problem: CertificationProblem, state: InnerState, meta: Tree, batches: Sequence[Batch]) -> Iterator[InnerState]:
    """Yield the states after each step on `batches`; `state` has begun."""
    for batch in batches:
        state = update(problem, slope(problem.inner_loss, state.params, meta, batch), state, meta)
        yield state


@dataclass(frozen=True)
class Trained:
    """Where a window's run passes and ends: `states` has K + 1 of them, `objective` is the sum of the outer losses due."""

    states: tuple[InnerState, ...]
    objective: float

    @property
    def end(self) -> InnerState:
        """The last state."""
        return self.states[-1]


def train(problem: CertificationProblem, state: InnerState, meta: Tree, window: Any) -> Trained:
    """Return the run of a window from `state`."""
    first = begun(problem, state, meta)
    states = (first, *steps(problem, first, meta, window.inner))
    due = zip(states[1:], window.outer, strict=True)
    losses = [value(problem.outer_loss, one.params, meta, batch) for one, batch in due if batch is not None]
    return Trained(states, sum(losses))


def objective_of_last(problem: CertificationProblem, state: InnerState, meta: Tree, window: Any, last: int) -> float:
    """Return the sum of the outer losses due in the last steps of a window, run from `state`, which is the state before them."""
    total, inner, outer = 0.0, window.inner[len(window.inner) - last :], window.outer[len(window.outer) - last :]
    for one, batch in zip(steps(problem, state, meta, inner), outer, strict=True):
        total += 0.0 if batch is None else value(problem.outer_loss, one.params, meta, batch)
    return total
