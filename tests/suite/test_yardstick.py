"""A row whose errors were measured against a wrong exact hypergradient is an error, and says by how much and in which words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from metabench.autodiff import exact
from metabench.autodiff.exact import exact_target
from metabench.autodiff.unrolled.sweep import through_graph
from metabench.core import Batch, Hypergradient, InnerState, MetaRole, Problem, Target, Tree, Window, tree
from metabench.core.problem import Setting
from metabench.methods import method
from metabench.problems.label_noise import LabelNoise
from metabench.problems.toy_1d import Toy1D
from metabench.suite.plan import labels
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run import run_cell as run
from metabench.suite.run.run_cell import run_cell

COST = {"peak_bytes", "static_bytes", "dynamic_bytes", "time_median_s", "first_call_s", "n_params", "n_meta"}
MEASURE = {"time_repeats": 3, "time_budget": 0.01, "error_windows": 2, "checkpoint": 1}
NOISE = {
    "problem": "label_noise",
    "sizes": ["mlp64"],
    "inner_steps": [3],
    "outer_steps": 1,
    "options": {"train": 100, "validation": 100, "batch": 10, "hidden": 10, "detach": False},
}


def silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def rows_of(
    *methods: Any, problem: str = "toy_1d", seeds: tuple[int, ...] = (0,), **changes: Any
) -> list[dict[str, Any]]:
    trained = {"outer_steps": 2} if changes.get("kind") != "cost" else {}
    experiment = {"problem": problem, "inner_steps": [3], "methods": list(methods)} | trained | changes
    shared = {"name": "trial", "aa": False, "rounds": 0}
    suite = shared | {"seeds": list(seeds), "measure": MEASURE, "experiments": {"one": experiment}}
    return [row for cell in plan(load_suite(suite)).cells for row in run_cell(cell, silent)]


def scaled(factor: float, only: Target | None = None) -> Callable[..., Tree | None]:
    """Return exact targets, times a factor where the target is `only` (any if None)."""

    def spoilt(target: Target, *place: Any) -> Tree | None:
        found = exact_target(target, *place)
        return tree.scale(factor, found) if found is not None and only in (None, target) else found

    return spoilt


class Both(Toy1D):
    """A meta-parameter in both losses."""

    roles = frozenset({MetaRole.INNER_LOSS, MetaRole.OUTER_LOSS})

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().outer_loss(params, meta, batch) + 0.1 * meta["l"] ** 2


def without_direct_term(problem: Problem, state: InnerState, meta: Tree, window: Window) -> Hypergradient:
    """Reverse mode that forgets where the meta-parameters enter the outer loss directly."""
    found = through_graph(problem, state, meta, window)
    return dataclasses.replace(found, meta={"l": found.meta["l"] - 0.2 * meta["l"]})


def test_where_reverse_mode_is_right_every_row_says_so_to_many_digits() -> None:
    methods = ["unrolled", "t1t2", {"truncated": {"steps": 2}}]
    rows = rows_of("none", *methods, "ift_cg", "evograd", seeds=(0, 1)) + rows_of(*methods, **NOISE)
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        if row["method"] == "none":
            assert "yardstick_error" not in row
        else:
            assert row["yardstick_error"] < 1e-6 and row["yardstick_precision"] < 1e-6


@pytest.mark.parametrize("name", ["unrolled", "mixflow", "t1t2", "truncated", "ift_cg", "evograd"])
def test_a_wrong_exact_hypergradient_is_an_error_of_every_row_and_keeps_its_cost(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("metabench.stages.error.exact_target", scaled(1.01))
    rows = rows_of(name, seeds=(0, 1))
    assert [row["status"] for row in rows] == ["error", "error"]
    for row in rows:
        assert "the exact hypergradient that errors are measured against is wrong" in row["message"]
        assert "from finite differences of plain training by 0.0099 of its norm" in row["message"]
        assert row["yardstick_error"] == pytest.approx(0.01 / 1.01, rel=1e-4)
        assert not {"hypergradient_error", "target_error", "quality"} & set(row)
        assert row.keys() >= COST - {"first_call_s"}


def test_the_message_has_both_slopes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metabench.stages.error.exact_target", scaled(2.0))
    (row,) = rows_of("unrolled")
    slopes = row["message"].partition("its slope is ")[2]
    reverse, plain = slopes.removesuffix(" by plain training").split(" by reverse mode and ")
    assert float(reverse) / float(plain) == pytest.approx(2.0, rel=1e-5)


def test_a_role_that_the_method_forgets_as_well_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method equals its exact value to the last bit, and both are wrong."""
    spoilt = dataclasses.replace(method("unrolled"), function=lambda p, s, m, w, o, g: without_direct_term(p, s, m, w))
    monkeypatch.setattr(labels, "problem", lambda name, plugins=(): Both)
    monkeypatch.setattr(run, "method_of", lambda cell: spoilt)
    (row,) = rows_of("unrolled")
    assert row["status"] == "ok" and row["hypergradient_error"] > 0.1
    monkeypatch.setattr(exact, "through_graph", without_direct_term)
    (row,) = rows_of("unrolled")
    assert row["status"] == "error" and row["yardstick_error"] > 0.1
    assert "differentiated through the whole window" in row["message"]


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("t1t2", Target.ONE_STEP, "differentiated through the last step,"),
        ({"truncated": {"steps": 2}}, Target.TRUNCATED, "differentiated through the last 2 steps,"),
    ],
)
def test_the_exact_value_of_a_methods_own_target_is_checked_through_its_own_steps(
    monkeypatch: pytest.MonkeyPatch, name: Any, target: Target, words: str
) -> None:
    monkeypatch.setattr("metabench.stages.error.exact_target", scaled(1.01, only=target))
    assert {row["status"] for row in rows_of("unrolled")} == {"ok"}
    (row,) = rows_of(name)
    assert row["status"] == "error" and words in row["message"]
    # Of one step there is one hypergradient: a second value of it is checked, too.
    (row,) = rows_of(name, inner_steps=[1])
    assert row["status"] == "error" and "differentiated through the whole window" in row["message"]


def test_a_problem_that_stops_gradients_on_purpose_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = NOISE | {"options": NOISE["options"] | {"detach": True}}
    (row,) = rows_of("unrolled", **stopping)
    assert row["status"] == "ok" and row["yardstick_error"] > 1e-3 and row["target_error"] == 0
    assert "the problem stops gradients on purpose" in row["message"]

    class Silent(LabelNoise):
        """One that does not say so."""

        def __init__(self, setting: Setting) -> None:
            super().__init__(setting)
            self.stops_gradients = False

    monkeypatch.setattr(labels, "problem", lambda name, plugins=(): Silent)
    (row,) = rows_of("unrolled", **stopping)
    assert row["status"] == "error" and "detach() (label_noise.py:" in row["message"]
    monkeypatch.setattr("metabench.stages.well_posed.check_derivatives", lambda *arguments: None)
    (row,) = rows_of("unrolled", **stopping)
    assert row["status"] == "error" and "plain training" in row["message"]


def test_where_plain_training_takes_too_long_the_row_says_that_nothing_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "_CHECK_SHARE", 0.0)
    for row in rows_of("unrolled", "evograd"):
        assert row["status"] == "ok" and "yardstick_error" not in row and row["hypergradient_error"] >= 0
        assert "not checked: differences of plain training take" in row["message"]


class Narrow(Toy1D):
    """A problem that takes its own meta-parameter and no other."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        if not torch.equal(meta["l"].detach(), self.initial()["l"]):
            raise ValueError("another l")
        return super().inner_loss(params, meta, batch)


def test_a_problem_that_refuses_other_meta_parameters_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "problem", lambda name, plugins=(): Narrow)
    (row,) = rows_of("unrolled", kind="cost")
    assert row["status"] == "ok" and row["target_error"] == 0
    assert "the exact hypergradient is not checked: ValueError: another l" in row["message"]
