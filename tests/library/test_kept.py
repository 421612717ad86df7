"""Traces and checks of the same functions are made once, and are freed with them."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import metabench
from metabench.autodiff.traced import segment_graphs
from metabench.library import checks
from metabench.suite.plan.code_hash import _installed

DATA = torch.arange(12.0).reshape(6, 2) / 12
BATCH = (DATA, DATA.sum(1, keepdim=True))
Loss = Callable[[Any, Any, Any], torch.Tensor]


def made(factor: torch.Tensor | None = None) -> tuple[Loss, Loss]:
    """Return new functions of the two losses, with something that they capture."""
    factor = torch.ones(()) if factor is None else factor

    def outer(params: Any, meta: Any, batch: Any) -> torch.Tensor:
        output = params(batch[0]) if isinstance(params, torch.nn.Module) else batch[0] @ params
        return (factor * output - batch[1]).square().mean()

    def inner(params: Any, meta: Any, batch: Any) -> torch.Tensor:
        leaves = params.parameters() if isinstance(params, torch.nn.Module) else [params]
        return outer(params, meta, batch) + meta.exp() * sum(leaf.square().sum() for leaf in leaves)

    return inner, outer


def call(
    losses: tuple[Loss, Loss], params: Any = None, batch: Any = BATCH, method: str = "mixflow", **given: Any
) -> metabench.Result:
    params = torch.zeros(2, 1) if params is None else params
    given = {"optimiser": metabench.Momentum(0.1)} | given
    return metabench.hypergradient(method, *losses, params, torch.tensor(-1.0), [batch] * 3, batch, **given)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count traces, and calls whose losses are checked."""
    counts = {"traces": 0, "checks": 0}
    trace, check = segment_graphs.Trace, checks.check_values

    def counting(key: str, function: Any) -> Any:
        def call(*given: Any) -> Any:
            counts[key] += 1
            return function(*given)

        return call

    monkeypatch.setattr(segment_graphs, "Trace", counting("traces", trace))
    monkeypatch.setattr(checks, "check_values", counting("checks", check))
    yield counts


@pytest.mark.parametrize("packed", [torch.Tensor, torch.nn.Module])
def test_the_same_functions_are_traced_and_checked_once(packed: type, counted: dict[str, int]) -> None:
    params = torch.nn.Linear(2, 1) if packed is torch.nn.Module else None
    losses = made()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = call(losses, params)
    first = dict(counted)
    assert first["traces"] > 0
    assert first["checks"] == 1
    for _ in range(3):
        found = call(losses, params, state=found.state)
    assert counted == first
    # Another optimiser is checked for meta-parameters and needs no other trace.
    call(losses, params, optimiser=metabench.SGD(lambda meta, step: meta.exp()))
    assert counted == {"traces": first["traces"], "checks": 2}
    call(losses, params, batch=(BATCH[0][:4], BATCH[1][:4]))
    assert counted == {"traces": 2 * first["traces"], "checks": 3}


def test_a_rate_made_in_the_loop_is_checked_once_unless_it_captures_something_else(counted: dict[str, int]) -> None:
    losses, factor = made(), torch.ones(())

    def learned(yes: bool) -> Any:
        return metabench.SGD(lambda meta, step: factor * meta.exp() if yes else 0.1 * factor)

    answers = [call(losses, optimiser=learned(yes)).hypergradient for yes in (True, True, False, True)]
    assert counted["checks"] == 2
    assert answers[0] == answers[1] == answers[3] != answers[2]
    fixed = call(made(), optimiser=metabench.SGD(0.1)).hypergradient
    torch.testing.assert_close(answers[2], fixed)


def test_a_module_in_another_mode_is_traced_anew(counted: dict[str, int]) -> None:
    network, losses = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Dropout(0.5)).eval(), made()
    call(losses, network)
    network.train()
    with pytest.raises(metabench.MetabenchError, match="draws from global random numbers"):
        call(losses, network)


def test_frozen_parameters_and_captured_tensors_are_read_anew() -> None:
    factor = torch.ones(())
    network, losses = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)), made(factor)
    network[1].requires_grad_(False)

    def agree() -> float:
        found, exact = (float(call(losses, network, method=name).hypergradient) for name in ("mixflow", "unrolled"))
        assert found == pytest.approx(exact, rel=1e-4)
        return exact

    before = [agree()]
    network[1].weight.mul_(2)
    before.append(agree())
    network[1].weight = torch.nn.Parameter(torch.ones(1, 3), requires_grad=False)
    before.append(agree())
    factor.mul_(2)
    assert len({*before, agree()}) == 4


def test_a_number_that_changes_is_not_taken_from_a_trace(counted: dict[str, int]) -> None:
    temperature = 1.0
    plain = made()[1]

    def inner(params: Any, meta: Any, batch: Any) -> torch.Tensor:
        return temperature * plain(params, meta, batch) + meta.exp() * params.square().sum()

    answers = []
    for value in (1.0, 2.0, 1.0):
        temperature = value
        found, exact = (call((inner, plain), method=name).hypergradient for name in ("mixflow", "unrolled"))
        torch.testing.assert_close(found, exact)
        answers.append(found)
    assert counted["checks"] == 2
    assert answers[0] == answers[2] != answers[1]


FACTOR: torch.Tensor | None = None
POWER = 2


def scaled(value: torch.Tensor) -> torch.Tensor:
    return value if FACTOR is None else FACTOR * value**POWER


@pytest.mark.parametrize(
    "changes",
    [
        {"FACTOR": torch.tensor(3.0)},
        {"FACTOR": torch.tensor(1.0), "POWER": 4},
        {"scaled": lambda value: value.square().square()},
    ],
)
def test_what_a_loss_uses_by_name_may_be_replaced_between_calls(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = made()[1]

    def inner(params: Any, meta: Any, batch: Any) -> torch.Tensor:
        return scaled(plain(params, meta, batch)) + meta.exp() * params.square().sum()

    before = call((inner, plain)).hypergradient
    for name, value in changes.items():
        monkeypatch.setitem(globals(), name, value)
    found, exact = (call((inner, plain), method=name).hypergradient for name in ("mixflow", "unrolled"))
    torch.testing.assert_close(found, exact)
    assert not torch.equal(found, before)


def test_what_is_kept_dies_with_the_functions() -> None:
    factor = torch.ones(())
    losses = made(factor)
    call(losses)
    gone = [weakref.ref(one) for one in (*losses, factor, *vars(losses[0])["__metabench__"].values())]
    assert len(gone) == 4
    del losses, factor
    gc.collect()
    assert [one() for one in gone] == [None] * 4


def test_no_data_of_a_call_is_kept() -> None:
    losses, params, batch = made(), torch.zeros(2, 1), tuple(leaf.clone() for leaf in BATCH)
    found = call(losses, params, batch)
    gone = [weakref.ref(one) for one in (params, *batch, found.state.params["tensor"])]
    del params, batch, found
    gc.collect()
    assert [one() for one in gone] == [None] * 4


def test_few_outer_losses_are_kept_with_an_inner_loss() -> None:
    inner, _ = made()
    with pytest.warns(UserWarning, match="has been checked and traced for 16 outer losses"):
        for _ in range(20):
            call((inner, made()[1]), method="t1t2")
    assert len(vars(inner)["__metabench__"]) <= 16


def test_functions_made_in_the_loop_are_warned_of_once() -> None:
    def loop() -> None:
        for _ in range(6):
            call((lambda params, meta, batch: made()[0](params, meta, batch), made()[1]))

    with pytest.warns(UserWarning, match=r"'<lambda>' at .*test_kept.py:\d+ has been created 3 times") as seen:
        loop()
    assert len([one for one in seen if "has been created" in str(one.message)]) == 1


class Task(torch.nn.Module):
    """A network that has its losses as methods."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(2, 1)

    def inner(self, params: Any, meta: Any, batch: Any) -> torch.Tensor:
        return self.outer(params, meta, batch) + meta.exp() * sum(leaf.square().sum() for leaf in self.parameters())

    def outer(self, params: Any, meta: Any, batch: Any) -> torch.Tensor:
        return (self.line(batch[0]) - batch[1]).square().mean()


def test_methods_of_a_module_are_kept_with_it_and_copied_without(counted: dict[str, int]) -> None:
    task = Task()
    call((task.inner, task.outer), task)
    before = dict(counted)
    found = call((task.inner, task.outer), task)
    assert counted == before
    assert float(found.hypergradient) != 0
    copied = copy.deepcopy(task)
    assert len(vars(copied)["__metabench__"]) == 0
    gone = weakref.ref(task)
    del task
    gc.collect()
    assert gone() is None


def test_importing_metabench_imports_neither_torch_nor_the_library() -> None:
    program = (
        "import sys, metabench; from metabench import data; print('torch' in sys.modules, 'metabench.library' in sys.modules); "
        "print(metabench.hypergradient.__name__, 'metabench.library' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False", "hypergradient", "True"]
    with pytest.raises(AttributeError, match="module 'metabench' has no attribute 'hypergradients'"):
        metabench.hypergradients  # noqa: B018


def test_what_the_package_exports_is_what_the_library_does() -> None:
    import metabench.library

    assert list(metabench._EXPORTED) == metabench.library.__all__


def test_no_cell_depends_on_the_source_of_the_library() -> None:
    sources = _installed()
    assert not [
        name
        for name in sources.closure(["metabench.suite.run.run_cell", "metabench.measure.environment"])
        if "library" in name
    ]
