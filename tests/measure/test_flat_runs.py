"""A flat graph that runs again under a ledger adds what its first run added, and frees what its inputs free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from metabench.measure.predicted.ledger import Ledger
from metabench.measure.predicted.memory import PredictedCall, fake_tensors, predict_memory

Run = Callable[[list[Any]], list[Any]]


def chain(given: list[Any]) -> list[Any]:
    a, b = given
    given.clear()
    c = a * b
    a = None
    d = c + b
    c = None
    e = d @ d
    d = None
    return [e, b.t(), e.view(-1)]


def new_at_an_old_address(given: list[Any]) -> list[Any]:
    a, b = given
    given.clear()
    c = a + b
    a = b = None
    return [c * 2, c]


def unused(given: list[Any]) -> list[Any]:
    a, b = given
    given.clear()
    del a
    return [b.exp().exp()]


def _events(run: Run, times: int, plain: bool, held: bool, tied: bool) -> list[tuple[int, ...]]:
    """Return the ledger's figures after each of several runs, and after its outputs were dropped."""
    found = []
    with fake_tensors() as fakes, Ledger(fakes, None, 1) as ledger, torch.no_grad():
        kept: list[Any] = []
        for _ in range(times):
            first = torch.ones(50, 50)
            given = [first, first.t() if tied else torch.ones(50, 50)]
            kept += [first] if held else []
            del first
            outputs = run(given) if plain else ledger.run_flat(run, given)
            found.append((ledger.live_bytes, ledger.peak_bytes, ledger.flops, ledger.operations))
            assert [tuple(out.shape) for out in outputs] and not given
            last = outputs[-1]
            del outputs
            found.append((ledger.live_bytes, ledger.peak_bytes))
            del last
            found.append((ledger.live_bytes, ledger.peak_bytes))
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("run", [chain, new_at_an_old_address, unused])
def test_every_run_takes_and_frees_what_its_operations_would(run: Run, held: bool, tied: bool) -> None:
    assert _events(run, 3, plain=False, held=held, tied=tied) == _events(run, 3, plain=True, held=held, tied=tied)


def test_a_second_run_calls_no_operation() -> None:
    called = []

    def run(given: list[Any]) -> list[Any]:
        called.append(len(given))
        return chain(given)

    with fake_tensors() as fakes, Ledger(fakes, None, 1) as ledger, torch.no_grad():
        for size in (50, 50, 60, 50, 60):
            ledger.run_flat(run, [torch.ones(size, size), torch.ones(size, size)])
    assert called == [2, 2]  # once for each size


@pytest.mark.parametrize(
    "options",
    [{}, {"block_remat": False, "trajectory": "host"}, {"save_inner_grads": False, "trajectory": "recompute"}],
)
def test_a_prediction_is_the_same_as_without_what_is_known_of_runs(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    remembered = _of_a_language_model(options)
    monkeypatch.setattr(Ledger, "run_flat", lambda self, run, given: run(given))
    assert remembered == _of_a_language_model(options)


def _of_a_language_model(options: dict[str, Any]) -> PredictedCall:
    from metabench import data
    from metabench.core.options import build
    from metabench.core.problem import Setting
    from metabench.core.randomness import generator
    from metabench.methods import method
    from metabench.problems import problem

    kind, mixflow = problem("lm_learning_rates"), method("mixflow")
    given = {"width": 32, "heads": 2, "blocks": 3, "batch": 2, "sequence": 16, "optimiser": "adam"}
    setting = Setting(
        size="100k",
        options=build(kind.card.options, given, "problem"),
        inner_steps=4,
        seed=0,
        device=torch.device("cpu"),
        dtype=torch.float32,
        data=data.load("jargon"),
    )
    chosen = build(mixflow.options, options, "method")
    with fake_tensors() as fakes:
        instance = kind(setting)
        state, meta = instance.initial_state()
        window = next(iter(instance.windows()))[0]
        return predict_memory(
            lambda: mixflow(instance, state, meta, window, chosen, generator(0, "cost")), (state.params, meta), fakes
        )
