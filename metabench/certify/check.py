"""One call of a method, watched: what it returns, and its side effects. Its mistakes are reported, never raised."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from metabench.certify.cases import Case
from metabench.core import (
    Absent,
    Batch,
    Hypergradient,
    InnerState,
    MetabenchError,
    Method,
    Tree,
    Unsupported,
    Window,
    tree,
)
from metabench.core.checks import check_hypergradient, non_finite
from metabench.core.lazy import torch
from metabench.core.randomness import generator
from metabench.results.certificate import FAILED, UNSUPPORTED

STATE_TOLERANCE = 5e-9
"""Of the inner state and the outer loss: libraries' optimisers differ by rounding of up to 1e-9."""

SMALLEST_SLOT = 1e-3
"""Norm below which a slot is compared absolutely: at a minimum, momentum is rounding."""

WHERE_DRAWS_LEAD = 2.0
"""Relative distance from plain training's outer loss within which a method that draws may report one."""

STREAM = "certificate"
"""Purpose of the random stream from which a method and its formula draw."""


@dataclass(frozen=True)
class Answer:
    """The outcome of a call. `result` is None where there is no hypergradient to judge; `verdict` is then FAILED or UNSUPPORTED.

    `wrong` says what the method did wrong besides the hypergradient's value, or why it declines; `absent`, that its library is not there.
    """

    result: Hypergradient | None
    verdict: str
    wrong: str
    absent: bool = False


def ask(
    method: Method,
    case: Case,
    options: Any,
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    recording: bool = True,
    leaves: bool = False,
) -> Answer:
    """Return the outcome of one call on the case's window, the inner state and meta-parameters in `dtype` if one is given.

    Without `recording` the call is made in `torch.no_grad()`. With `leaves` parameters, slots and meta-parameters require gradients, as
    those of a user's module do.

    Everything that a method could change is compared with what it was: its arguments bit by bit, the generator, and torch itself.
    """
    state, meta, window = case.state, case.meta, case.window
    if dtype is not None:
        state, meta, window = in_dtype(state, meta, window, dtype)
    # Copies: a method that writes into its arguments must not spoil the case for those that come after it.
    given = copy.deepcopy((state, meta, window))
    if leaves:
        for tensors in (given[1], given[0].params, *given[0].optimiser.values()):
            for leaf in tensors.values():
                leaf.requires_grad_()
    stream = generator(seed, STREAM)
    recorded = torch.is_grad_enabled()
    torch.set_grad_enabled(recording)
    surroundings, belongings = Surroundings(), _Belongings(given, case.problem)
    try:
        result = method(case.problem, *given, options, stream)
        check_hypergradient(result, state, meta)
    except Unsupported as reason:
        return Answer(None, UNSUPPORTED, str(reason), isinstance(reason, Absent))
    except MetabenchError as mistake:  # in words already
        return Answer(None, FAILED, str(mistake))
    except Exception as error:
        return Answer(None, FAILED, f"raised {type(error).__name__}: {error}")
    finally:
        changed = surroundings.restore()
        torch.set_grad_enabled(recorded)
    if wrong := non_finite(result) or _written((state, meta, window), given) or belongings.changed():
        return Answer(None, FAILED, wrong)
    drew = not method.stochastic and not torch.equal(stream.get_state(), generator(seed, STREAM).get_state())
    wrong = (
        changed
        or ("it draws from the generator and is not declared stochastic: say stochastic=True" if drew else "")
        or _shared(result, given)
    )
    return Answer(result, "", wrong)


class _Belongings:
    """The caller's property besides values: which tensors the arguments hold, how they are flagged, and the problem's attributes."""

    def __init__(self, given: tuple[InnerState, Tree, Window], problem: Any) -> None:
        self._given, self._problem = given, problem
        self._held = self._now()
        self._attributes = dict(vars(problem))

    def _now(self) -> list[tuple[str, str, int, bool]]:
        return [
            (what, name, id(leaf), leaf.requires_grad)
            for what, leaves in _arguments(*self._given)
            for name, leaf in leaves.items()
        ]

    def changed(self) -> str:
        """Return which of them is another now; empty if none is."""
        now = self._now()
        for before, after in zip(self._held, now, strict=False):
            if before != after:
                flag = f": whether '{before[1]}' requires a gradient" if before[:3] == after[:3] else ""
                return f"it writes into its arguments: {before[0]} are others after the call{flag}"
        if len(now) != len(self._held):
            return "it writes into its arguments: they hold other tensors after the call"
        if any(leaf.grad is not None for _, leaves in _arguments(*self._given) for leaf in leaves.values()):
            return "it writes into its arguments: one has a .grad after the call"
        attributes = {name: value for name, value in vars(self._problem).items() if not name.startswith("_")}
        for name, value in attributes.items():
            if self._attributes.get(name, attributes) is not value:
                return f"it changes the problem's attribute '{name}'"
        return ""


def in_dtype(state: InnerState, meta: Tree, window: Window, dtype: torch.dtype) -> tuple[InnerState, Tree, Window]:
    """Return the arguments of a method with their floating-point leaves in `dtype`."""
    slots = {slot: tree.cast(leaves, dtype) for slot, leaves in state.optimiser.items()}
    cast = Window(
        tuple(tree.cast(dict(batch), dtype) for batch in window.inner),
        tuple(None if batch is None else tree.cast(dict(batch), dtype) for batch in window.outer),
    )
    return InnerState(tree.cast(state.params, dtype), slots), tree.cast(meta, dtype), cast


class Surroundings:
    """Global state that a method must leave unchanged: random streams, and torch's settings."""

    def __init__(self) -> None:
        import numpy

        self._settings: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
            "torch's global random numbers": (torch.get_rng_state, torch.set_rng_state),
            "Python's random numbers": (random.getstate, random.setstate),
            "NumPy's random numbers": (numpy.random.get_state, numpy.random.set_state),
            "whether torch records gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
            "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
            "the number of torch's threads": (torch.get_num_threads, torch.set_num_threads),
            "whether torch's algorithms are deterministic": (
                torch.are_deterministic_algorithms_enabled,
                torch.use_deterministic_algorithms,
            ),
            "the precision of torch's matrix products": (
                torch.get_float32_matmul_precision,
                torch.set_float32_matmul_precision,
            ),
            "whether torch records tangents": (torch._C._is_fwd_grad_enabled, torch._C._set_fwd_grad_enabled),
            "whether torch looks for anomalies": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
            "whether torch casts automatically": (
                functools.partial(torch.is_autocast_enabled, "cpu"),
                functools.partial(torch.set_autocast_enabled, "cpu"),
            ),
        }
        self._before = {what: read() for what, (read, _) in self._settings.items()}

    def restore(self) -> str:
        """Restore what has changed; return what that is, in words, or an empty text."""
        changed = [what for what, (read, _) in self._settings.items() if not _same(self._before[what], read())]
        for what in changed:
            self._settings[what][1](self._before[what])
        if not changed:
            return ""
        random_numbers = [what for what in changed if what.endswith("random numbers")]
        hint = ": draw from the generator that is given, and seed nothing" if random_numbers else ""
        return f"it changes {' and '.join(changed)}{hint}"


def _same(one: Any, other: Any) -> bool:
    import numpy

    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, numpy.ndarray):
        return numpy.array_equal(one, other)
    if isinstance(one, tuple) and any(isinstance(part, numpy.ndarray) for part in one):
        return all(map(_same, one, other))
    return bool(one == other)


def _written(before: tuple[InnerState, Tree, Window], after: tuple[InnerState, Tree, Window]) -> str:
    """Return which argument a method wrote into; empty if none."""
    for (what, one), (_, other) in zip(_arguments(*before), _arguments(*after), strict=True):
        if list(one) != list(other) or any(not torch.equal(other[name], leaf) for name, leaf in one.items()):
            return f"it writes into its arguments: {what} are others after the call"
    return ""


def _shared(result: Hypergradient, given: tuple[InnerState, Tree, Window]) -> str:
    """Return which returned tensor is a view of an argument; empty if none is. Slots may be: an optimiser may hand one on as it is."""
    arguments = {
        leaf.untyped_storage().data_ptr(): what
        for what, leaves in _arguments(*given)
        for leaf in leaves.values()
        if leaf.numel()
    }
    for returned, leaves in (("hypergradient", result.meta), ("inner state", result.state.params)):
        for name, leaf in leaves.items():
            if leaf.numel() and (what := arguments.get(leaf.untyped_storage().data_ptr())):
                return f"the {returned} returned shares the memory of '{name}' with {what}: return a tensor of its own"
    return ""


def _arguments(state: InnerState, meta: Tree, window: Window) -> Iterator[tuple[str, Batch]]:
    yield "the meta-parameters", meta
    yield "the parameters", state.params
    for leaves in state.optimiser.values():
        yield "the optimiser's slots", leaves
    for leaves in state.memory.values():
        yield "the trees in memory", leaves
    for batch in (*window.inner, *window.outer):
        if batch is not None:
            yield "the batches", batch


def astray(method: Method, case: Case, result: Hypergradient, tolerance: float = STATE_TOLERANCE) -> str:
    """Return what is wrong with the inner state or the outer loss that came with the hypergradient; empty if nothing is."""
    expected = case.end
    away = relative(result.state.params, expected.params)
    if not away <= tolerance:
        return f"the inner state returned is not where plain training ends: relative distance {away:.2g}"
    for slot, leaves in expected.optimiser.items():
        away = relative(result.state.optimiser[slot], leaves, least=SMALLEST_SLOT)
        if not away <= tolerance:
            return f"the optimiser's slot '{slot}' returned is not that of plain training: relative distance {away:.2g}"
    objective = case.trained.objective
    # A method that draws may report the loss where its draws led, which is not far.
    band = WHERE_DRAWS_LEAD if method.stochastic else tolerance
    if not abs(result.outer_loss - objective) <= band * max(min(1.0, scale_of(case)), abs(objective)):
        return f"the outer loss returned is {result.outer_loss:g}, and plain training has {objective:g}"
    for name, leaves in result.state.memory.items():
        if not tree.all_finite(leaves):
            return f"what it keeps in memory as '{name}' is not finite"
    return ""


def scale_of(case: Case) -> float:
    """Return the factor on the outer loss."""
    return float(getattr(case.problem, "outer_scale", 1.0))


def relative(found: Tree, expected: Tree, least: float = 0.0) -> float:
    """Return |found - expected| / max(|expected|, least), or the numerator where that is zero; found in any dtype."""
    exact = tree.flatten(expected)
    difference, size = float((tree.flatten(found).to(exact.dtype) - exact).norm()), max(float(exact.norm()), least)
    return difference / size if size else difference


def compared(found: Tree, exact: Tree) -> tuple[float, float | None]:
    """Return the cosine with the exact value, and the norm over its norm; None where that is zero."""
    one, other = tree.flatten(found).double(), tree.flatten(exact)
    size, exact_size = float(one.norm()), float(other.norm())
    cosine = float(one @ other) / (size * exact_size) if size and exact_size else 0.0
    return cosine, size / exact_size if exact_size else None
