"""A problem or a method that is wrong is a row that says so, for every seed, before a figure is measured that would mean nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_choice import KERNELS

from metabench.autodiff.optimisers import SGD, scheduled
from metabench.core import Batch, MetaRole, Problem, Tree
from metabench.core.problem import OuterOptimiser, Setting
from metabench.core.schedules import Cosine
from metabench.problems.toy_1d import Toy1D
from metabench.suite.plan.plan import Plan, load_suite, plan
from metabench.suite.run.run_cell import run_cell

SHORT = {"time_repeats": 3, "time_budget": 0.01, "error_windows": 1, "checkpoint": 1}


def silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


class Vector(Toy1D):
    """An inner loss of shape (1,)."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().inner_loss(params, meta, batch)[None]


class Noisy(Toy1D):
    """An inner loss with dropout."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().inner_loss({"x": params["x"] + torch.rand(())}, meta, batch)


class Whole(Toy1D):
    """A meta-parameter that is a whole number."""

    def initial(self) -> Tree:
        return {"l": torch.tensor(1)}


class Unreachable(Toy1D):
    """A second meta-parameter that nothing reads."""

    def initial(self) -> Tree:
        return super().initial() | {"m": torch.zeros(())}


class Misdeclared(Toy1D):
    """A role that is not there."""

    roles = frozenset({MetaRole.INNER_LOSS, MetaRole.OUTER_LOSS})


class Infinite(Toy1D):
    """An outer loss that is infinite from the start."""

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().outer_loss(params, meta, batch) / 0


class Exhausting(Toy1D):
    """A problem of which one recorded step does not fit, and a step without a graph does."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        if meta["l"].requires_grad:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().inner_loss(params, meta, batch)


class Falling(Toy1D):
    """A rate that becomes negative at the last inner step of the run."""

    def __init__(self, setting: Any) -> None:
        super().__init__(setting)
        self.optimiser = SGD(scheduled(0.1, lambda step: 4.5 - step))


ON_PROBLEMS: list[tuple[type[Problem], str, str]] = [
    (Vector, "error", "the inner loss has the shape (1,), expected a scalar"),
    (Noisy, "error", "the inner loss is not a function of its arguments"),
    (Whole, "error", "meta-parameter 'l' is of torch.int64"),
    (Unreachable, "error", "does not depend on the meta-parameter 'm', declared to enter the inner loss"),
    (Misdeclared, "error", "roles say MetaRole.OUTER_LOSS, and the outer loss does not depend on any meta-parameter"),
    (Falling, "error", "<lambda>' gives a learning rate of -0.05 at step 5 of 21: expected a finite number of at least 0"),
    (Infinite, "diverged", "the outer loss is inf at the start"),
]


@pytest.mark.parametrize(("kind", "status", "words"), ON_PROBLEMS, ids=[kind.__name__ for kind, _, _ in ON_PROBLEMS])
def test_a_problem_that_is_wrong_is_a_row_for_every_seed(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, kind: type[Problem], status: str, words: str
) -> None:
    monkeypatch.setattr("metabench.suite.plan.labels.problem", lambda name, plugins=(): kind)
    rows = list(run_cell(planned().cells[0], silent))
    assert [(row["seed"], row["status"]) for row in rows] == [(seed, status) for seed in (0, 1, 2)]
    for row in rows:
        assert words in row["message"]
        assert "Traceback" not in row["message"]
        assert not {"peak_bytes", "time_median_s", "quality", "hypergradient_error"} & set(row)


def test_a_check_that_runs_out_of_memory_fails_no_method_that_does_not(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metabench.suite.plan.labels.problem", lambda name, plugins=(): Exhausting)
    (cell,) = planned(methods=["none"]).cells
    assert {row["status"] for row in run_cell(cell, silent)} == {"ok"}
    (cell,) = planned(methods=["unrolled"]).cells
    assert {row["status"] for row in run_cell(cell, silent)} == {"oom"}


def test_a_row_names_its_outer_optimiser_with_schedule_and_clipping(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clipped(Toy1D):
        def __init__(self, setting: Setting) -> None:
            super().__init__(setting)
            self.outer_optimiser = OuterOptimiser("SGD", 0.3, momentum=0.9, schedule=Cosine(8), clip=0.5)

    monkeypatch.setattr("metabench.suite.plan.labels.problem", lambda name, plugins=(): Clipped)
    rows = list(run_cell(planned(outer_steps=8).cells[0], silent))
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["outer_optimiser"] for row in rows} == {"SGD, learning rate 0.3, momentum 0.9, schedule cosine 8, clip 0.5"}


METHOD = """
    import dataclasses
    import torch
    from metabench.core import Cost, Hypergradient, InnerState, Target, method, tree
    from metabench.methods.t1t2 import t1t2

    @method(title="t1t2, spoilt", target=Target.ONE_STEP, exact=True, cost=Cost(), citation="")
    def spoilt(problem, state, meta, window, options, generator):
        found = t1t2(problem, state, meta, window, t1t2.options(), generator)
        {spoil}
"""

ON_METHODS = {
    "raise RuntimeError('out of luck')": ("error", "RuntimeError: out of luck (spoilt.py:"),
    "raise KeyError": ("error", "KeyError (spoilt.py:"),
    "return 1 / 0": ("error", "ZeroDivisionError: division by zero (spoilt.py:"),
    "pass": ("error", "the method returned None: is a `return` missing?"),
    "return found.meta": ("error", "the method returned a value of type dict, expected metabench.core.Hypergradient"),
    "return dataclasses.replace(found, meta={})": ("error", "expected the names of the meta-parameters, ['l']"),
    "return dataclasses.replace(found, meta={'l': torch.zeros(2)})": (
        "error",
        "the method returned a hypergradient for 'l' of shape (2,), expected ()",
    ),
    "return dataclasses.replace(found, state=InnerState({}, {}))": (
        "error",
        "the method returned parameters of [], expected the names of the inner state, ['x']",
    ),
    "return dataclasses.replace(found, state=InnerState(tree.leaves_for_grad(found.state.params), {}))": (
        "error",
        "the method returned parameters whose 'x' carries a graph: detach it",
    ),
    "return dataclasses.replace(found, outer_loss=torch.tensor(1.0))": (
        "error",
        "the method returned a tensor of shape () as the outer loss, expected a float",
    ),
    "return dataclasses.replace(found, diagnostics={'residual': None})": (
        "error",
        "the method returned None as the diagnostic 'residual', expected a float",
    ),
}


def spoilt_cell(folder: Path, spoil: str) -> Any:
    path = folder / "spoilt.py"
    path.write_text(textwrap.dedent(METHOD).format(spoil=spoil))
    grid = {"toy": {"problem": "toy_1d", "inner_steps": [3], "outer_steps": 2, "methods": ["spoilt"]}}
    suite: dict[str, Any] = {"name": "trial", "seeds": [0, 1], "kernels": KERNELS, "rounds": 0, "measure": SHORT, "plugins": [str(path)]}
    suite["experiments"] = grid
    return plan(load_suite(suite)).cells[0]


@pytest.mark.parametrize("spoil", list(ON_METHODS))
def test_a_method_that_raises_or_returns_something_else_is_a_row_that_says_what(tmp_path: Path, spoil: str) -> None:
    rows = list(run_cell(spoilt_cell(tmp_path, spoil), silent))
    status, words = ON_METHODS[spoil]
    assert [(row["seed"], row["status"]) for row in rows] == [(0, status), (1, status)]
    for row in rows:
        assert words in row["message"]
        assert "peak_bytes" not in row
        assert row["method"] == "spoilt"


def test_a_hypergradient_that_is_not_finite_is_divergence_and_its_cost_is_kept(tmp_path: Path) -> None:
    cell = spoilt_cell(tmp_path, "return dataclasses.replace(found, meta={'l': found.meta['l'] / 0})")
    for row in run_cell(cell, silent):
        assert row["status"] == "diverged"
        assert row["message"] == "the hypergradient is not finite (first in 'l') at the checkpoint"
        assert row["peak_bytes"] > 0
        assert row["time_median_s"] > 0
        assert "quality" not in row
