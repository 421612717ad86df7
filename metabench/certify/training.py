"""Plain training, implemented independently: a certificate's references share no line with what it certifies.

Gradients come from `torch.autograd.grad`, updates from the textbook formulas below. Of the problem, only its losses, its start, its
learning rate and the name of its optimiser are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from metabench.certify.learned_updates import LearnedUpdate, updated
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
    if isinstance(problem, LearnedUpdate):
        return updated(problem.optimiser_name, slopes, state, meta)
    rates = problem.rates(meta, state.params, _count(state))
    return _updated(problem, slopes, state, rates, dict.fromkeys(rates, problem.momentum(meta)))


def _count(state: InnerState) -> float:
    return float(state.optimiser[STEP]["count"]) if STEP in state.optimiser else 0.0


def _updated(
    problem: CertificationProblem, slopes: Tree, state: InnerState, rates: dict[str, Any], momenta: dict[str, Any]
) -> InnerState:
    params: Tree = {}
    slots: OptimiserState = {slot: {} for slot in state.optimiser}
    count = _count(state) + 1
    for name, w in state.params.items():
        before = {slot: leaves[name] for slot, leaves in state.optimiser.items() if slot != STEP}
        params[name], after = _leaf(
            problem.optimiser_name, rates[name], problem.weight_decay, slopes[name], w, before, count, momenta[name]
        )
        for slot, leaf in after.items():
            slots[slot][name] = leaf
    if STEP in slots:
        slots[STEP] = {"count": torch.full_like(state.optimiser[STEP]["count"], count)}
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


def objectives(problem: CertificationProblem, state: InnerState, metas: Sequence[Tree], window: Any) -> list[float]:
    """Return the window's objective for each of several l, all runs from `state` at once: a run of small tensors costs its calls.

    Of a learned update one run is taken after the other.
    """
    if isinstance(problem, LearnedUpdate):
        return [train(problem, state, meta, window).objective for meta in metas]
    starts = [begun(problem, state, meta).params for meta in metas]
    return objectives_of_last(problem, starts, state, metas, window, len(window.inner))


def objectives_of_last(
    problem: CertificationProblem, starts: Sequence[Tree], state: InnerState, metas: Sequence[Tree], window: Any, last: int
) -> list[float]:
    """Return for each l the sum of the outer losses due in the last steps of a window, run from its own `starts` and the slots of `state`.

    All runs are taken at once, their tensors stacked, [runs, ...]; rates and momenta are those of each l by itself. Of a learned update
    one run is taken after the other.
    """
    if isinstance(problem, LearnedUpdate):
        part = window.last(last)
        pairs = zip(starts, metas, strict=True)
        return [train(problem, InnerState(start, state.optimiser), meta, part).objective for start, meta in pairs]
    params, meta = _stacked(starts), _stacked(metas)
    slots = {slot: leaves if slot == STEP else _stacked([leaves] * len(metas)) for slot, leaves in state.optimiser.items()}
    now, total = InnerState(params, slots), torch.zeros(len(metas), dtype=torch.float64)
    momenta = _columns([dict.fromkeys(params, problem.momentum(one)) for one in metas], params)
    begin = len(window.inner) - last
    for inner, outer in zip(window.inner[begin:], window.outer[begin:], strict=True):
        # The gradient of the sum of the runs' losses is the gradient of each run's own: no run enters another's loss.
        slopes = slope(lambda *at: torch.vmap(problem.inner_loss, (0, 0, None))(*at).sum(), now.params, meta, inner)
        rates = _columns([problem.rates(one, starts[0], _count(now)) for one in metas], params)
        now = _updated(problem, slopes, now, rates, momenta)
        if outer is not None:
            with torch.no_grad():
                total = total + torch.vmap(problem.outer_loss, (0, 0, None))(now.params, meta, outer)
    found: list[float] = total.tolist()
    return found


def _columns(numbers: Sequence[dict[str, Any]], leaves: Tree) -> Tree:
    """Return by name one number for each run, shaped to multiply a stacked tensor."""
    return {
        name: torch.tensor([float(one[name]) for one in numbers], dtype=leaf.dtype).view(-1, *[1] * (leaf.dim() - 1))
        for name, leaf in leaves.items()
    }


def _stacked(trees: Sequence[Tree]) -> Tree:
    return {name: torch.stack([one[name].detach() for one in trees]) for name in trees[0]}
