"""The kind 'search': rows of searches on shared weights, on nets that are trained, and on a table; what does not go together is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from metabench.core.errors import Diverged, MetabenchError
from metabench.kinds.search import Options, hypergradients, read_strategies
from metabench.models.search_space import Space
from metabench.models.spaces import SPACES
from metabench.problems.few_shot import FewShot
from metabench.results import searches as names
from metabench.search.driver import Cost, Line
from metabench.search.study import Outcome
from metabench.stages.search import _best_so_far
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.run_cell import run_cell

FOUR = Space("four", "two layers of two operations", ("conv3", "pool3"), (True, True), (4,))
TASKS = {"ways": 3, "queries": 2, "tasks": 1, "tested": 8, "space": "four", "architecture": "conv3-conv3"}
FEW = {"strategies": "random, local_search", "budget": 3, "tasks": 6, "searches": 2}


@pytest.fixture(autouse=True)
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "four", FOUR)


def row_of(method: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    kind = FEW | changes
    given = {
        "problem": "few_shot",
        "kind": {"search": kind},
        "methods": [method],
        "sizes": ["subnet"],
        "options": TASKS,
        "outer_steps": 2,
    }
    suite = {"name": "x", "seeds": [seed], "aa": False, "rounds": 0, "experiments": {"a": given}}
    (cell,) = plan(load_suite(suite)).cells
    (row,) = run_cell(cell, lambda *told: None)
    return row


@pytest.mark.parametrize("method", ["unrolled", "first_order", "mixflow"])
def test_any_method_moves_the_shared_weights(method: str) -> None:
    row = row_of(method)
    assert row["status"] == "ok", row["message"]
    said = row["meta_summary"]
    assert names.entrants(said) == ["random", "local_search", names.BY_HAND]
    # Two operations a layer: two nets a step, one task each, two steps.
    assert said[names.of(names.TRAINING, names.ADAPTATIONS)] == 4
    assert said[names.of("random", names.ADAPTATIONS)] == 3 * 6
    predicted = hypergradients(Options(**FEW), {"space": "four"}, outer_steps=2, tasks=1)
    # Two searches of two strategies: rows have the mean of an entrant's searches.
    assert predicted == 4 + 2 * 2 * 3 * 6
    assert row["quality"] == said[names.of("random", names.TEST)]
    curve = row["curves"][names.of("random", names.BEST)]
    assert curve.x == [1, 2, 3] and curve.n == 2 and curve.values == sorted(curve.values)


@pytest.mark.parametrize(("way", "method"), [("joint", "none"), ("untrained", "none"), ("joint_meta", "unrolled")])
def test_every_way_to_shared_weights_has_rows(way: str, method: str) -> None:
    row = row_of(method, way=way, joint_steps=2)
    assert row["status"] == "ok", row["message"]
    assert (row["meta_summary"][names.of(names.TRAINING, names.ADAPTATIONS)] > 0) == (way == "joint_meta")


def test_several_searches_are_paired_with_random_search_one_by_one() -> None:
    said = row_of("unrolled", searches=3)["meta_summary"]
    mean, half, won, lost = (said[names.of("local_search", kept)] for kept in names.above(names.TEST))
    away = said[names.of("local_search", names.TEST)] - said[names.of("random", names.TEST)]
    assert mean == pytest.approx(away) and half >= 0 and won + lost <= 3
    assert names.of("random", names.above(names.TEST)[0]) not in said


def test_rows_repeat() -> None:
    first, again, other = row_of("unrolled"), row_of("unrolled"), row_of("unrolled", seed=1)
    assert first["meta_summary"] == again["meta_summary"] != other["meta_summary"]


def test_nets_may_be_trained_one_by_one() -> None:
    row = row_of("none", fitness="train", net_steps=2, net_way="meta")
    assert row["status"] == "ok", row["message"]
    # Three nets, of two outer steps and one task each, then judged on six tasks.
    assert row["meta_summary"][names.of("random", names.ADAPTATIONS)] == 3 * (2 + 6)


def test_nets_may_be_trained_over_all_classes() -> None:
    row = row_of("none", fitness="train", net_steps=2)
    assert row["status"] == "ok", row["message"]
    # No inner run trains them; each is judged on six tasks, by two gradients each.
    said = row["meta_summary"]
    assert said[names.of("random", names.ADAPTATIONS)] == 3 * 6
    assert said[names.of("random", names.GRADIENTS)] == 3 * (2 + 6 * 5)


def test_without_a_table_of_the_space_it_is_not_looked_up() -> None:
    row = row_of("none", fitness="table")
    assert row["status"] == "error"
    assert re.search("no table of these nets and tasks: .* of .*space tiny, not four", row["message"])


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("none", {}, "'supernet' and way 'meta' moves shared weights by hypergradients: name a method"),
        ("unrolled", {"way": "joint"}, "has no hypergradients: go with the method none"),
        ("unrolled", {"fitness": "train"}, "fitness 'train' has no hypergradients"),
        ("unrolled", {"strategies": "random, evolutoin"}, "unknown strategy 'evolutoin': did you mean 'evolution'"),
        ("unrolled", {"strategies": "random, random"}, "'random' is named twice"),
        ("unrolled", {"strategies": "evolution"}, "'evolution' needs 10 evaluations or more, and the budget is 3"),
        ("unrolled", {"strategies": "random + ridge"}, "is fitted to 10 evaluations or more, and the budget pays for 3"),
        (
            "unrolled",
            {"strategies": "evolution", "budget": 25, "islands": 3},
            "needs 10 evaluations or more, and the budget of each island is 8",
        ),
        ("unrolled", {"strategies": "random + rigde"}, "unknown predictor 'rigde': did you mean 'ridge'"),
    ],
)
def test_what_does_not_go_together_is_refused_when_it_is_planned(
    method: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(MetabenchError, match=re.escape(words)):
        row_of(method, **changes)


def test_another_problem_has_nothing_to_search() -> None:
    given = {"problem": "toy_1d", "kind": "search", "methods": ["unrolled"]}
    suite = {"name": "x", "seeds": [0], "aa": False, "rounds": 0, "experiments": {"a": given}}
    (cell,) = plan(load_suite(suite)).cells
    (row,) = run_cell(cell, lambda *told: None)
    assert row["status"] == "error" and "needs the problem few_shot with the size 'subnet'" in row["message"]


def test_strategies_are_read_with_their_predictors() -> None:
    assert read_strategies("random,evolution + ridge") == [("random", ""), ("evolution", "ridge")]


def test_a_largest_net_that_diverges_leaves_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, largest = FewShot.test_accuracies, FOUR.largest()

    def diverging(problem: FewShot, meta: Any) -> Any:
        if problem.setting.options.architecture == largest:
            raise Diverged("made to")
        return plain(problem, meta)

    monkeypatch.setattr(FewShot, "test_accuracies", diverging)
    # Of four nets the search looks at one, which is not the largest.
    row = row_of("none", fitness="train", net_steps=2, strategies="random", budget=1, seed=1)
    assert row["status"] == "ok", row["message"]
    assert names.entrants(row["meta_summary"]) == ["random"]


def test_a_look_at_a_few_tasks_does_not_say_what_is_best() -> None:
    def line(number: int, tasks: int, fitness: float) -> Line:
        return Line(number, "conv3-conv3", tasks, fitness, float(number), Cost(), "")

    outcome = Outcome("x", 0, "conv3-conv3", 60.0, 60.0, (line(1, 2, 90.0), line(2, 6, 60.0), line(3, 2, 95.0)), "")
    found = _best_so_far([outcome], 3, 6)
    assert found.x == [2, 3] and found.values == [60.0, 60.0]
