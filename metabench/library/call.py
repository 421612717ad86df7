"""`metabench.hypergradient`: any method, on a user's own losses, in the user's own loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metabench.core.errors import Diverged, MetabenchError, Unsupported
from metabench.core.lazy import torch
from metabench.core.method import Method
from metabench.core.options import build
from metabench.core.problem import InnerOptimiser, MetaRole
from metabench.core.types import InnerState, Tree
from metabench.library.checks import accepted, not_finite
from metabench.library.packing import leaves, packed
from metabench.library.prepared import prepared
from metabench.methods import method as method_named


@dataclass(frozen=True)
class Result:
    """What a call returns. Nothing in it carries a graph.

    Attributes:
        hypergradient: packed like the meta-parameters: a tensor, or a dict by name, also for a module.
        params: after the K inner steps, packed like the parameters; a module takes them by `load_state_dict(params, strict=False)`.
        state: what the next call of the same inner run is given: `params`, the inner optimiser's slots and the method's memory.
        outer_loss: the sum of the outer losses.
        diagnostics: floats by name, as the method gives them (residuals, number of solver steps).
    """

    hypergradient: Any
    params: Any
    state: InnerState
    outer_loss: float
    diagnostics: dict[str, float]

    def assign(self, meta: Any, *, add: bool = False) -> None:
        """Write the hypergradient to `.grad` of the meta-parameters, a tensor, a dict or a module, for an optimiser of torch.optim.

        With `add` it is added to what is there, as for a batch of tasks.
        """
        found = leaves(self.hypergradient, "the hypergradient")
        given = dict(meta.named_parameters()) if isinstance(meta, torch.nn.Module) else leaves(meta, "meta")
        for name, gradient in found.items():
            if name not in given:
                raise MetabenchError(
                    f"the hypergradient has a tensor '{name}', and the meta-parameters have {list(given)}"
                )
            found_shape, given_shape = tuple(gradient.shape), tuple(given[name].shape)
            if found_shape != given_shape:
                raise MetabenchError(
                    f"the hypergradient of '{name}' is of shape {found_shape}, and the meta-parameter of {given_shape}"
                )
            before = given[name].grad
            given[name].grad = gradient if before is None or not add else before + gradient


def hypergradient(
    method: str | Method,
    inner_loss: Callable[[Any, Any, Any], torch.Tensor],
    outer_loss: Callable[[Any, Any, Any], torch.Tensor],
    params: Any,
    meta: Any,
    inner_batches: Sequence[Any],
    outer_batch: Any = None,
    *,
    optimiser: InnerOptimiser | str,
    learning_rate: float | None = None,
    outer_batches: Sequence[Any] | None = None,
    state: InnerState | None = None,
    start: Callable[[Any, Any], Any] | None = None,
    roles: Iterable[MetaRole | str] | None = None,
    generator: torch.Generator | None = None,
    stops_gradients: bool = False,
    **options: Any,
) -> Result:
    """Return the hypergradient of the outer loss through one inner step on each of `inner_batches`, and the inner state after them.

    Keep the losses as the same function objects from call to call: their traces and checks are then made once.
    Whatever they use besides their arguments counts as constant: what they use by name may be replaced between calls, but of what is
    changed inside of it (an attribute, an entry of a dict) only tensors are read anew. No argument is changed.

    Args:
        method: a name that `metabench list` shows, or a method of your own.
        inner_loss: (params, meta, batch) -> f, a scalar.
        outer_loss: (params, meta, batch) -> F, a scalar.
        params: a tensor, a dict of tensors or a module, all of a floating-point dtype. A loss receives the same kind of object. Of a module
            the parameters that require gradients are trained and the others are constant; tensors of a dict are all trained.
        meta: the meta-parameters, likewise. If it is the module given as `params`, losses receive a dict of its tensors.
        inner_batches: K batches, each a tensor, or a dict, tuple or list of tensors.
        outer_batch: the batch of the outer loss after the last step.
        optimiser: SGD(0.1), Adam(1e-3), ..., or one of their names in lower case. A rate may be a function (meta, step) -> a scalar, or
            a tree for the parameters.
        learning_rate: of an optimiser given by name.
        outer_batches: instead of `outer_batch`, the batch of the outer loss due after each of the K steps, None where none is due.
        state: the `state` of the previous result, to continue its inner run. Its parameters take the place of the values in `params`.
        start: (params, meta) -> the initial parameters of a run, as for MAML; of modules it receives and returns dicts.
        roles: where the meta-parameters enter ('inner_loss', 'outer_loss', 'update', 'start'); by default, the losses, the optimiser and
            the start are tried out. With roles given, a meta-parameter that reaches nothing is accepted.
        generator: random numbers for a method that draws; by default, seeded from torch's global ones.
        stops_gradients: whether the losses stop derivatives on purpose, see `metabench.core.Problem`.
        options: of the method.

    Raises:
        MetabenchError: an argument is not valid, the method does not apply, or the result is not finite; the message says which and why.
    """
    chosen = named(method)
    built = options_of(chosen, options)
    at = prepared(
        inner_loss,
        outer_loss,
        params,
        meta,
        inner_batches,
        outer_batch,
        optimiser=optimiser,
        learning_rate=learning_rate,
        outer_batches=outer_batches,
        state=state,
        start=start,
        roles=roles,
        stops_gradients=stops_gradients,
    )
    stream = generator if generator is not None else _stream(chosen, at.state.params)
    try:
        found = chosen(at.problem, at.state, at.meta, at.window, built, stream)
        accepted(found, at.state, at.meta)
    except Unsupported as error:
        raise MetabenchError(f"method '{chosen.name}' does not apply here: {error}") from error
    except Diverged as error:
        raise MetabenchError(
            f"method '{chosen.name}': {not_finite(str(error), at.state, at.meta, at.window)}"
        ) from error
    return Result(
        hypergradient=packed(at.kinds.meta, found.meta),
        params=packed(at.kinds.params, found.state.params),
        state=found.state,
        outer_loss=found.outer_loss,
        diagnostics=found.diagnostics,
    )


def named(method: str | Method) -> Method:
    """Return the method; raise MetabenchError, with the nearest name, if there is none of that name."""
    return method if isinstance(method, Method) else _named(method)


@functools.cache
def _named(name: str) -> Method:
    return method_named(name)


def options_of(method: Method, options: Mapping[str, Any]) -> Any:
    """Return the method's options, typed; raise MetabenchError for one that it does not have or allow."""
    # An int equals a float and True equals 1: a cache must tell them apart.
    key = tuple((name, type(value), value) for name, value in options.items())
    try:
        return _built(method.options, key, f"method '{method.name}'")
    except TypeError:  # a value without a hash is not an option: `build` says so
        return build(method.options, options, f"method '{method.name}'")


@functools.lru_cache
def _built(kind: type, options: tuple[tuple[str, type, Any], ...], where: str) -> Any:
    return build(kind, {name: value for name, _, value in options}, where)


def _stream(method: Method, params: Tree) -> torch.Generator:
    """Return random numbers; torch's global ones move on only for a method that draws."""
    stream = torch.Generator(device=next(iter(params.values())).device)
    return stream.manual_seed(int(torch.randint(2**63 - 1, ()))) if method.stochastic else stream
