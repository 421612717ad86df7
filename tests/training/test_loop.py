"""The outer loop: what it tells, what it records, validation and what problems do between updates."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from small_problems import Tanh, Tasks

from metabench.core import Diverged, MetabenchError, Metric, Tree, Window, tree
from metabench.core.curves import Curve
from metabench.core.problem import Problem, Validation
from metabench.core.randomness import generator
from metabench.methods import method
from metabench.training.loop import LOG, Answered, Event, Updated, Validated, train
from metabench.training.record import Record
from metabench.training.run import Run


def events_of(problem: Problem, steps: int, name: str = "unrolled") -> tuple[Run, list[Event]]:
    chosen = method(name)
    run = Run.fresh(problem, generator(0, "training"))
    return run, list(train(problem, chosen, chosen.options(), run, steps))


def test_each_task_of_each_outer_step_is_told_and_then_the_update() -> None:
    problem = Tasks()
    per_step = len(next(iter(problem.windows())))
    assert per_step > 1
    run, events = events_of(problem, 3)
    told = [(type(event), event.step) for event in events]
    assert told == [pair for step in range(3) for pair in [*[(Answered, step)] * per_step, (Updated, step + 1)]]
    assert [event.task for event in events if isinstance(event, Answered)] == [*range(per_step)] * 3
    assert (run.step, set(run.tasks)) == (3, set(range(per_step)))


def test_the_run_is_gradient_descent_on_what_the_method_returns() -> None:
    problem = Tanh()
    run, events = events_of(problem, 4)
    meta = problem.initial()
    for event in events:
        if isinstance(event, Answered):
            meta = tree.add_scaled(meta, -problem.outer_optimiser.learning_rate, event.hypergradient.meta)
    assert all(torch.allclose(run.meta[name], leaf, rtol=1e-12) for name, leaf in meta.items())
    losses = [event.hypergradient.outer_loss for event in events if isinstance(event, Answered)]
    curves = run.record.curves()
    assert (curves["outer loss"].x, curves["outer loss"].values) == ([1, 2, 3, 4], losses)
    assert (
        curves["time"].values == sorted(curves["time"].values)
        and curves["time"].values[-1] == run.seconds > run.data_seconds > 0
    )


def test_a_method_without_a_hypergradient_changes_nothing() -> None:
    problem = Tanh()
    run, _ = events_of(problem, 3, "none")
    assert all(torch.equal(run.meta[name], leaf) for name, leaf in problem.initial().items())


class Followed(Tanh):
    """Clamps its meta-parameters, counts its updates in its memory, and follows the norm of both."""

    validation = Validation(every=2, metric=Metric("score", "max"))
    ceiling = 0.0

    def after_update(self, step: int, meta: Tree, memory: Mapping[str, Tree]) -> tuple[Tree, Mapping[str, Tree]]:
        before = memory.get("count", {"updates": torch.zeros(())})
        assert int(before["updates"]) == step - 1
        return tree.tree_map(lambda leaf: leaf.clamp(max=self.ceiling), meta), {
            "count": {"updates": before["updates"] + 1}
        }

    def observe(self, params: Tree, meta: Tree) -> dict[str, float | Curve]:
        assert not torch.is_grad_enabled()
        return {
            "norm": float(tree.norm(params)),
            "weights": Curve([0, 1], [float(tree.norm(meta)), 0.0], along="layer"),
        }

    def validate(self, meta: Tree) -> dict[str, float | Curve]:
        return {"score": -float(tree.norm(meta))}


def test_hooks_project_follow_and_validate() -> None:
    problem = Followed()
    problem.ceiling = -2.0
    run, events = events_of(problem, 5)
    assert all(bool((leaf <= -2.0).all()) for leaf in run.meta.values())
    assert int(run.memory["count"]["updates"]) == 5
    curves = run.record.curves()
    assert (curves["norm"].x, curves["norm"].along) == ([0, 1, 2, 3, 4, 5], "outer step")
    assert curves["score"].x == [2, 4] and curves["weights"].along == "layer"
    assert next((event.step, event.improved) for event in events if isinstance(event, Validated)) == (2, True)


def test_observations_are_thin_and_reach_the_end() -> None:
    run, _ = events_of(Followed(), 450, "none")
    seen = run.record.curves()["norm"].x
    assert len(seen) <= 201 and seen[-1] == 450 and seen[:2] == [0, 3]
    assert len(run.record.curves()["outer loss"].x) == 450


def test_whole_curves_are_kept_of_the_outer_steps_asked_for_and_of_the_last() -> None:
    problem, chosen = Followed(), method("none")
    run = Run.fresh(problem, generator(0, "training"))
    list(train(problem, chosen, chosen.options(), run, 450, curve=[0, 4]))
    curves = run.record.curves()
    assert {name for name in curves if name.startswith("weights")} == {
        "weights",
        "weights, after outer step 0",
        "weights, after outer step 4",
    }
    assert curves["norm"].x[:3] == [0, 3, 4]


class Worsening(Tanh):
    """Its validation is best after the fourth outer step."""

    validation = Validation(every=1, metric=Metric("loss", "min"), patience=3)
    validated = 0

    def validate(self, meta: Tree) -> dict[str, float]:
        self.validated += 1
        return {"loss": abs(self.validated - 4.0)}


def test_validation_ends_a_run_early_and_its_outcome_is_the_best() -> None:
    run, events = events_of(Worsening(), 50)
    assert run.step == 7 and run.best is not None and run.best.step == 4
    fourth = next(event for event in events if isinstance(event, Validated) and event.step == 4)
    assert fourth.improved
    whole, _ = events_of(Tanh(), 4)
    params, meta = run.outcome(Worsening())
    assert all(torch.equal(meta[name], leaf) for name, leaf in whole.meta.items())
    assert all(torch.equal(params[name], leaf) for name, leaf in whole.tasks[0].params.items())


def test_options_are_chosen_by_the_mean_loss_of_the_last_tenth_of_the_steps_to_the_outcome() -> None:
    problem = Tanh()
    for steps, last in ((1, 1), (9, 1), (11, 2), (20, 2)):
        run, _ = events_of(problem, steps)
        losses = run.record.curves()["outer loss"].values
        assert run.late_loss(problem) == pytest.approx(sum(losses[-last:]) / last, rel=1e-15)
    early, _ = events_of(Worsening(), 50)
    assert early.step == 7 and early.late_loss(Worsening()) == early.record.curves()["outer loss"].values[3]


def test_without_patience_the_outcome_is_the_last_step() -> None:
    class Patient(Worsening):
        validation = Validation(every=1, metric=Metric("loss", "min"))

    run, _ = events_of(Patient(), 9)
    assert run.step == 9 and run.outcome(Patient())[1] is run.meta


@pytest.mark.parametrize(
    ("values", "words"),
    [({}, "of nothing"), ({"accuracy": 1.0}, "of 'accuracy'"), ({"loss": Curve([0], [1.0])}, "as a curve")],
)
def test_a_validation_without_the_metric_that_decides_is_refused(values: dict[str, Any], words: str) -> None:
    class Other(Worsening):
        def validate(self, meta: Tree) -> dict[str, float]:
            return values

    with pytest.raises(MetabenchError, match=f"decides by the number 'loss', and validate.. returned it {words}"):
        events_of(Other(), 1)


def test_a_validation_that_is_not_finite_is_never_the_best() -> None:
    class Blind(Worsening):
        def validate(self, meta: Tree) -> dict[str, float]:
            return super().validate(meta) | ({"loss": math.nan} if self.validated <= 2 else {})

    run, _ = events_of(Blind(), 50)
    assert run.best is not None and (run.best.step, run.step) == (4, 7)


def test_a_validation_that_is_never_finite_ends_the_run_with_its_last_step() -> None:
    class Blind(Worsening):
        def validate(self, meta: Tree) -> dict[str, float]:
            return {"loss": math.inf}

    run, _ = events_of(Blind(), 50)
    assert run.best is None and run.step == 3
    assert run.outcome(Blind())[1] is run.meta


@pytest.mark.parametrize(("every", "patience"), [(0, 0), (-1, 2), (1, -1)])
def test_a_validation_that_cannot_be_is_refused(every: int, patience: int) -> None:
    with pytest.raises(MetabenchError, match=f"validation every {every} outer steps with patience {patience}"):
        Validation(every, Metric("loss", "min"), patience)


@pytest.mark.parametrize(
    ("hook", "returned", "words"),
    [
        ("observe", None, "observe() returned a NoneType, expected numbers and curves by name"),
        ("observe", {"norm": "large"}, "observe() returned 'norm' as 'large', expected a number or a Curve"),
        ("observe", {"outer loss": 1.0}, "observe() returned 'outer loss', a name that another curve of the run has"),
        ("observe", {"time": Curve([0], [1.0])}, "observe() returned 'time', a name that another curve"),
        ("validate", {"loss": 1.0, "outer loss": 1.0}, "validate() returned 'outer loss', a name that another curve"),
        ("after_update", None, "after_update() returned a NoneType, expected the meta-parameters and the memory"),
        (
            "after_update",
            ({"other": torch.ones(())}, {}),
            "after_update() returned the meta-parameters ['other'], and the update gave",
        ),
        (
            "windows",
            iter([]),
            "windows() ends after 0 outer steps, expected a list of windows for every outer step, endlessly",
        ),
        (
            "windows",
            iter([[]]),
            "windows() yields an empty list for outer step 1, expected a list of one Window or more",
        ),
    ],
)
def test_a_hook_that_returns_something_else_is_named(hook: str, returned: Any, words: str) -> None:
    problem = Worsening()
    setattr(problem, hook, lambda *_: returned)
    with pytest.raises(MetabenchError, match=re.escape(words)):
        events_of(problem, 2)


def test_an_update_of_another_shape_is_named() -> None:
    class Deeper(Tanh):
        def after_update(self, step: int, meta: Tree, memory: Mapping[str, Tree]) -> tuple[Tree, Mapping[str, Tree]]:
            return tree.tree_map(lambda leaf: leaf[None], meta), memory

    with pytest.raises(
        MetabenchError, match=r"returned the meta-parameter '.*' of shape \(1,.*, and the update gave one of shape"
    ):
        events_of(Deeper(), 1)


@pytest.mark.parametrize("name", ["none", "unrolled"])
def test_an_update_in_place_is_named(name: str) -> None:
    class Clamped(Tanh):
        def after_update(self, step: int, meta: Tree, memory: Mapping[str, Tree]) -> tuple[Tree, Mapping[str, Tree]]:
            first = next(iter(meta))
            return {**meta, first: meta[first].clamp_(min=0.0)}, memory

    first = next(iter(Clamped().initial()))
    words = f"after_update() writes to the meta-parameter '{first}' in place, expected a new tensor"
    with pytest.raises(MetabenchError, match=re.escape(words)):
        events_of(Clamped(), 1, name)


@pytest.mark.parametrize(
    ("values", "log"),
    [([1.0, 0.01], True), ([0.02, 1.0], False), ([0.0, 1.0], False), ([-1.0, 100.0], False), ([5.0], False)],
)
def test_losses_over_decades_ask_for_a_logarithmic_axis(values: list[float], log: bool) -> None:
    record = Record()
    for step, value in enumerate(values):
        record.add(step, {"outer loss": value, "time": value})
    curves = record.curves(log=LOG)
    assert (curves["outer loss"].log_y, curves["time"].log_y) == (log, False)
    assert not record.curves()["outer loss"].log_y


def test_windows_that_end_end_the_run_in_one_sentence() -> None:
    class Short(Tanh):
        def windows(self) -> Iterator[Sequence[Window]]:
            return itertools.islice(super().windows(), 2)

    with pytest.raises(MetabenchError, match="ends after 2 outer steps"):
        events_of(Short(), 5)


def test_the_consumers_time_and_validation_are_not_training() -> None:
    class Slow(Followed):
        def validate(self, meta: Tree) -> dict[str, float | Curve]:
            total = torch.zeros(())
            for _ in range(20_000):
                total = total + 1
            return {"score": float(total)}

    quick, _ = events_of(Followed(), 4)
    slow, _ = events_of(Slow(), 4)
    # 20,000 additions take at least a hundred times the four steps' own few hundred operations.
    assert slow.seconds < 10 * quick.seconds


def test_an_outer_loss_that_is_not_finite_ends_the_run_with_what_was_recorded() -> None:
    class Exploding(Tanh):
        def outer_loss(self, params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
            return super().outer_loss(params, meta, batch) * (math.inf if self.broken else 1.0)

        broken = False

    problem, chosen = Exploding(), method("unrolled")
    run = Run.fresh(problem, generator(0, "training"))
    with pytest.raises(Diverged, match="the outer loss is inf after 3 of 5 meta-updates"):
        for event in train(problem, chosen, chosen.options(), run, 5):
            problem.broken = isinstance(event, Updated) and event.step == 2
    assert run.record.curves()["outer loss"].x == [1, 2]
