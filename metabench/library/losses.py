"""A user's two losses as a problem, kept with the inner loss for as long as that lives, and with them the traces and what was checked."""

from __future__ import annotations

import collections
import copy
import dataclasses
import dis
import functools
import itertools
import types
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from metabench.autodiff.traced.segment_graphs import Itself, own_traces
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.method import NoOptions
from metabench.core.problem import Problem, ProblemCard
from metabench.core.types import Batch, Tree, Window
from metabench.library.packing import packed
from metabench.models.modules import as_function

_KEPT = 16
"""Most problems kept for one inner loss, and most kinds of calls whose inputs were checked for one problem."""
_ANEW = 3
"""Inner losses made by the same code after which a warning says so."""
_made: weakref.WeakKeyDictionary[types.CodeType, int] = weakref.WeakKeyDictionary()


class Kinds(NamedTuple):
    """How parameters, meta-parameters, inner and outer batches are packed; see `packing.kind_of`."""

    params: type
    meta: type
    inner: type
    outer: type


class Recent(collections.OrderedDict[Hashable, Any]):
    """The last few entries of a cache; copying or pickling the object that holds it leaves them out."""

    def __reduce__(self) -> Any:
        return Recent, ()

    def keep(self, key: Hashable, value: Any) -> Any:
        """Keep `value`, and return it."""
        self[key] = value
        if len(self) > _KEPT:
            self.popitem(last=False)
        return value


class Losses(Problem):
    """Two losses of a user, who makes the windows, moves the meta-parameters and evaluates.

    Traces keep the problem that they were made for: one that is kept holds no data.
    """

    card = ProblemCard("your own losses", (), {}, (), "", NoOptions, 1, 1)
    batch = 0

    def __init__(
        self,
        inner: Callable[..., torch.Tensor],
        outer: Callable[..., torch.Tensor],
        kinds: Kinds,
        modules: Mapping[str, torch.nn.Module],
    ) -> None:
        self._inner, self._outer, self._kinds = inner, outer, kinds
        self._network = as_function(_Modules(modules))[1] if modules else None
        self._modules = frozenset(modules)
        self.looked_at = Recent()
        """The roles of the meta-parameters, for each kind of call whose inputs were checked."""
        self._point: tuple[Tree, Window] | None = None
        self._start: Callable[[Tree, Tree], Tree] | None = None
        own_traces(self)

    def started_by(self, start: Callable[[Tree, Tree], Tree]) -> None:
        """Let inner runs start from what `start` returns."""
        self._start = start

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return the parameters from which an inner run starts."""
        return params if self._start is None else self._start(params, meta)

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the user's inner loss."""
        return self._value(self._inner, self._kinds.inner, params, meta, batch)

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the user's outer loss."""
        return self._value(self._outer, self._kinds.outer, params, meta, batch)

    def at(self, meta: Tree, window: Window) -> Losses:
        """Return the same problem with initial meta-parameters and a window, at which an inner run begins every time."""
        placed = copy.copy(self)
        placed._point = meta, window
        return placed

    def initial(self) -> Tree:
        """Return the meta-parameters of `at`."""
        return self._placed()[0]

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the window of `at`, endlessly."""
        return itertools.repeat([self._placed()[1]])

    def _placed(self) -> tuple[Tree, Window]:
        if self._point is None:
            raise MetabenchError(
                "the caller of your own losses makes the windows and the meta-parameters: name them by `at`"
            )
        return self._point

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return no metric: the card names none."""
        return {}

    def _value(
        self, loss: Callable[..., torch.Tensor], kind: type, params: Tree, meta: Tree, batch: Batch
    ) -> torch.Tensor:
        given = {"params": packed(self._kinds.params, params), "meta": packed(self._kinds.meta, meta)}
        if self._network is None:
            return loss(given["params"], given["meta"], packed(kind, batch))
        bound = {f"{which}.{name}": leaf for which in self._modules for name, leaf in given[which].items()}
        value: torch.Tensor = self._network(bound, loss, given, packed(kind, batch))
        return value


class _Modules(torch.nn.Module):
    """Evaluates a loss on modules of the user, whose parameters are replaced during the call: `parameters()` and submodules work too."""

    def __init__(self, modules: Mapping[str, torch.nn.Module]) -> None:
        super().__init__()
        for which, module in modules.items():
            self.add_module(which, module)

    def forward(self, loss: Callable[..., torch.Tensor], given: Mapping[str, Any], batch: Any) -> torch.Tensor:
        """Return the loss."""
        return loss(*(self._modules.get(which, given[which]) for which in ("params", "meta")), batch)


def losses_of(
    inner: Callable[..., torch.Tensor],
    outer: Callable[..., torch.Tensor],
    kinds: Kinds,
    modules: Mapping[str, torch.nn.Module],
    constants: Hashable,
) -> Losses:
    """Return the problem of two losses: the same one each time, until one of them dies.

    It is kept as an attribute of the inner loss, or of the object of which that is a method. Both then die together: a weak table would
    keep the loss alive through the problem. `constants` is whatever else the modules' use depends on.
    """
    used = _used(inner), _used(outer)
    key = (hashable(inner), hashable(outer), kinds, tuple(modules.items()), constants, used)
    try:
        kept = vars(getattr(inner, "__self__", inner)).setdefault("__metabench__", Recent())
    except (TypeError, AttributeError):  # an object without attributes of its own
        kept = Recent()
    found: Losses | None = kept.get(key)
    if found is not None:
        return found
    if not kept:
        _count(inner)
    if len(kept) == _KEPT:
        warnings.warn(
            f"the inner loss has been checked and traced for {_KEPT} outer losses, modules or values that the losses use by name: pass "
            "what changes in the batch, and define losses once, before the loop",
            stacklevel=4,
        )
    made: Losses = kept.keep(key, Losses(inner, outer, kinds, modules))
    return made


def hashable(value: Any) -> Hashable:
    """Return the value as a key, compared by identity if it has no hash of its own."""
    try:
        hash(value)
    except TypeError:
        return Itself(value)
    key: Hashable = value
    return key


def alike(value: Any) -> Hashable:
    """Return a key that is equal for what the same line of a loop makes each time: a function's is its code and what it captures.

    Of an instance of a dataclass, as the inner optimisers are, it is that of its fields.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(alike(getattr(value, field.name)) for field in dataclasses.fields(value))
    if not isinstance(value, types.FunctionType):
        return hashable(value)
    captured = [cell.cell_contents for cell in value.__closure__ or ()]
    return value.__code__, tuple(hashable(one) for one in (*captured, *(value.__defaults__ or ())))


def _used(loss: Callable[..., torch.Tensor], seen: frozenset[Any] = frozenset()) -> Hashable:
    """Return what a function uses by name, its own helpers' included: numbers and texts by value, all else by identity.

    It is part of a trace. What is changed inside of it is not seen, apart from tensors, whose values a trace reads anew.
    """
    function = getattr(loss, "__func__", loss)
    if not isinstance(function, types.FunctionType) or function in seen or _is_library(function):
        return Itself(function)
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != _EMPTY]
    named = [function.__globals__.get(name) for name in _global_names(function.__code__)]
    return tuple(
        (type(value), value) if isinstance(value, int | float | str) else _used(value, seen | {function})
        for value in (*cells, *named)
    )


_EMPTY = types.CellType()


def _is_library(function: types.FunctionType) -> bool:
    return (function.__module__ or "").partition(".")[0] in ("torch", "metabench")


@functools.lru_cache
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """Return the names of globals that code reads, those of functions within it included."""
    own = {one.argval for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"}
    inner = (_global_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return tuple(sorted(own.union(*inner)))


def _count(inner: Callable[..., torch.Tensor]) -> None:
    """Warn, once per line of source, if the same code makes one loss after another."""
    if not isinstance(inner, types.FunctionType):
        return
    code = inner.__code__
    made = _made[code] = _made.get(code, 0) + 1
    if made == _ANEW:
        warnings.warn(
            f"the inner loss '{inner.__name__}' at {code.co_filename}:{code.co_firstlineno} has been created {made} times: each new "
            "function is checked and traced anew; define it once, before the loop",
            stacklevel=5,
        )
