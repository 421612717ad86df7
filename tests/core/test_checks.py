"""What a method returns is checked before anything is computed from it, and told in the terms of the contract."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from bilevel import call, checkpoint
from small_problems import Tanh

from metabench.core import Hypergradient, InnerState, MetabenchError, tree
from metabench.core.checks import check_hypergradient, non_finite

STATE, META, WINDOW = checkpoint(Tanh("momentum"))
RIGHT = call("t1t2", Tanh("momentum"), STATE, META, WINDOW)


def other_state(**changes: Any) -> Hypergradient:
    return dataclasses.replace(RIGHT, state=dataclasses.replace(RIGHT.state, **changes))


def with_meta(name: str, leaf: Any) -> Hypergradient:
    return dataclasses.replace(RIGHT, meta=RIGHT.meta | {name: leaf})


def test_a_hypergradient_passes_with_memory_and_without() -> None:
    check_hypergradient(RIGHT, STATE, META)
    check_hypergradient(other_state(memory={"solution": RIGHT.state.params}), STATE, META)
    assert non_finite(RIGHT) == ""


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (None, "the method returned None: is a `return` missing?"),
    "a dict": (RIGHT.meta, "a value of type dict, expected metabench.core.Hypergradient"),
    "a tensor": (torch.zeros(3), r"a tensor of shape (3,), expected metabench.core.Hypergradient"),
    "no tree": (
        dataclasses.replace(RIGHT, meta=torch.zeros(3)),
        "a tensor of shape (3,) as a hypergradient, expected a dict",
    ),  # type: ignore[arg-type]
    "a name less": (
        dataclasses.replace(RIGHT, meta={"in": RIGHT.meta["in"]}),
        "a hypergradient of ['in'], expected the names of the meta-parameters, ['in', 'shift', 'out']",
    ),
    "another order": (
        dataclasses.replace(RIGHT, meta=dict(reversed(RIGHT.meta.items()))),
        "['out', 'shift', 'in'], expected",
    ),
    "another shape": (with_meta("in", torch.zeros(2)), "a hypergradient for 'in' of shape (2,), expected ()"),
    "another dtype": (
        with_meta("in", RIGHT.meta["in"].float()),
        "a hypergradient for 'in' in torch.float32, expected torch.float64",
    ),
    "a number": (with_meta("in", 0.0), "a hypergradient whose 'in' is a value of type float, expected a tensor"),
    "a missing leaf": (with_meta("in", None), "a hypergradient whose 'in' is None, expected a tensor"),
    "a graph": (with_meta("in", META["in"].clone().requires_grad_().exp()), "whose 'in' carries a graph: detach it"),
    "no state": (dataclasses.replace(RIGHT, state=None), "None as the inner state, expected an InnerState"),  # type: ignore[arg-type]
    "parameters with a graph": (
        other_state(params=tree.leaves_for_grad(STATE.params)),
        "parameters whose 'in' carries a graph: detach it",
    ),
    "parameters of other shapes": (
        other_state(params=STATE.params | {"shift": torch.zeros(1)}),
        "parameters for 'shift' of shape (1,), expected (4,)",
    ),
    "no slots": (other_state(optimiser={}), "an optimiser's state of [], the inner optimiser has ['momentum']"),
    "an empty slot": (
        other_state(optimiser={"momentum": {}}),
        "an optimiser's state 'momentum' of [], expected the names",
    ),
    "memory with a graph": (
        other_state(memory={"solution": tree.leaves_for_grad(STATE.params)}),
        "the memory 'solution' whose 'in' carries a graph: detach it",
    ),
    "a tensor for the outer loss": (
        dataclasses.replace(RIGHT, outer_loss=torch.tensor(1.0)),  # type: ignore[arg-type]
        "a tensor of shape () as the outer loss, expected a float",
    ),
    "a tensor for a diagnostic": (
        dataclasses.replace(RIGHT, diagnostics={"residual": torch.tensor(1.0)}),  # type: ignore[dict-item]
        "a tensor of shape () as the diagnostic 'residual', expected a float",
    ),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_what_is_no_hypergradient_is_told_with_what_was_expected(kind: str) -> None:
    found, words = WRONG[kind]
    with pytest.raises(MetabenchError) as caught:
        check_hypergradient(found, STATE, META)
    assert str(caught.value).startswith("the method returned ")
    assert words in str(caught.value)


def test_what_is_not_finite_is_named() -> None:
    bad = torch.full((), torch.nan, dtype=torch.float64)
    assert non_finite(with_meta("shift", bad)) == "the hypergradient is not finite (first in 'shift')"
    infinite = STATE.params | {"out": STATE.params["out"] / 0}
    assert non_finite(other_state(params=infinite)) == "the inner state returned is not finite (first in 'out')"
    assert non_finite(dataclasses.replace(RIGHT, outer_loss=float("inf"))) == "the outer loss returned is inf"
    assert non_finite(Hypergradient(META, InnerState(STATE.params, {}), 0.0)) == ""
