"""A flat graph, or a step, that runs again under a ledger adds what its first run added, and frees what its inputs free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from metabench.autodiff.simulated import repeated, simulation
from metabench.core.types import InnerState
from metabench.measure.predicted.flat_runs import KnownRuns
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


def _figures(ledger: Ledger) -> tuple[int, ...]:
    return ledger.live_bytes, ledger.peak_bytes, ledger.flops, ledger.operations


def pair(given: list[Any]) -> tuple[Any, Any]:
    """A step: the second argument, taken out, is freed in its middle; a chain of operations is a run within."""
    second, first = given.pop(), given[0]
    mode = simulation()
    outputs = [first * 2, second + 1]
    del second
    found = chain(outputs) if mode is None else mode.run_flat(chain, outputs)
    return InnerState({"w": found[0]}, {"slot": {"m": found[1]}}), None


@pytest.mark.parametrize("held", [False, True])
def test_a_step_takes_and_frees_what_its_operations_would_and_so_does_a_run_within(
    monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    def figures() -> tuple[list[tuple[int, ...]], list[int]]:
        calls: list[int] = []

        def call(given: list[Any]) -> Any:
            calls.append(len(given))
            return pair(given)

        found = []
        with fake_tensors() as fakes, Ledger(fakes, None, 1) as ledger, torch.no_grad():
            kept: list[Any] = []
            for _ in range(3):
                given = [torch.ones(50, 50), torch.ones(50, 50)]
                kept += given if held else []
                state, nothing = repeated("pair", call, given)
                del given
                assert (state.params["w"].shape, nothing) == ((50, 50), None)
                found.append(_figures(ledger))
                del state
                found.append(_figures(ledger))
        return found, calls

    remembered, few = figures()
    monkeypatch.setattr(Ledger, "run_flat", lambda self, run, given: run(given))
    every, all_calls = figures()
    assert remembered == every
    assert (len(few), len(all_calls)) == (1, 3)


def test_a_step_that_leaves_something_behind_is_simulated_until_it_does_not() -> None:
    cache: dict[str, Any] = {}

    def call(given: list[Any]) -> Any:
        if "mask" not in cache:
            cache["mask"] = torch.ones(10, 10)
        return {"w": given[0]["w"] * cache["mask"]}

    with fake_tensors() as fakes, Ledger(fakes, None, 1) as ledger, torch.no_grad():
        leaf = torch.ones(10, 10)
        for _ in range(3):
            found = repeated("masked", call, [{"w": leaf}])
            assert ledger.live_bytes == 3 * 400
            del found
        cache.clear()


def test_outside_of_a_simulation_a_step_is_called_as_it_is() -> None:
    given = [torch.ones(2), torch.ones(2)]
    assert repeated("step", lambda them: (len(them), them.pop().sum()), given)[0] == 2
    assert len(given) == 1


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("mixflow", {}, "lm_learning_rates"),
        ("mixflow", {"block_remat": False, "trajectory": "host"}, "lm_learning_rates"),
        ("mixflow", {"save_inner_grads": False, "trajectory": "recompute"}, "lm_learning_rates"),
        ("mixflow", {}, "lm_initialisation"),
        ("mixflow", {}, "lm_loss_weights"),
        ("unrolled_remat", {}, "lm_learning_rates"),
        ("unrolled_remat", {"schedule": "binomial", "checkpoints": 1}, "lm_learning_rates"),
        ("unrolled_remat", {}, "lm_initialisation"),
        ("first_order", {"recompute": True}, "lm_learning_rates"),
        ("t1t2", {}, "lm_loss_weights"),
    ],
)
def test_a_prediction_is_the_same_as_without_what_is_known_of_runs(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any], kind: str
) -> None:
    known = KnownRuns()
    remembered = [_of_a_language_model(name, options, kind, steps, known) for steps in (2, 4)]
    monkeypatch.setattr(Ledger, "run_flat", lambda self, run, given: run(given))
    assert remembered == [_of_a_language_model(name, options, kind, steps) for steps in (2, 4)]


def _of_a_language_model(
    name: str, options: dict[str, Any], kind_name: str, steps: int, known: KnownRuns | None = None
) -> PredictedCall:
    from metabench import data
    from metabench.core.options import build
    from metabench.core.problem import Setting
    from metabench.core.randomness import generator
    from metabench.methods import method
    from metabench.problems import problem

    kind, called = problem(kind_name), method(name)
    given = {"width": 32, "heads": 2, "blocks": 2, "batch": 2, "sequence": 16, "optimiser": "adam"}
    setting = Setting(
        size="100k",
        options=build(kind.card.options, given, "problem"),
        inner_steps=steps,
        seed=0,
        device=torch.device("cpu"),
        dtype=torch.float32,
        data=data.load(kind.card.datasets[0]),
    )
    chosen = build(called.options, options, "method")
    with fake_tensors() as fakes:
        instance = kind(setting)
        state, meta = instance.initial_state()
        window = next(iter(instance.windows()))[0]
        return predict_memory(
            lambda: called(instance, state, meta, window, chosen, generator(0, "cost")),
            (state.params, meta),
            fakes,
            known=known,
        )
