"""The table that ships: whole, made with the settings that the suite names, trained enough, and of use to searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bilevel import make_problem
from typer.testing import CliRunner

from metabench.cli.app import app
from metabench.data import card, load
from metabench.data.formats.net_table import TEST, VALIDATION, NetTable
from metabench.models.spaces import space
from metabench.problems.few_shot import FewShot
from metabench.results import net_tables as names
from metabench.search.agreement import of_itself
from metabench.search.fitness import TableFitness
from metabench.search.stored import unlike
from metabench.search.study import Entrant, paired, searched
from metabench.search.table_builder import TableSettings
from metabench.stages.net_table import _settings
from metabench.suite.plan.labels import load_data
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.run_cell import run_cell, subject_of

SUITES = Path(__file__).parents[2] / "config/suites"
TINY = space("tiny")


@pytest.fixture(scope="module")
def table() -> NetTable:
    found: NetTable = load("few_shot_table")
    return found


def test_it_is_whole_and_small(table: NetTable) -> None:
    assert table.nets == TINY.all() and table.seeds == (0, 1, 2) and table.steps == (1, 2, 3, 4, 5)
    assert table.right[VALIDATION].shape == (125, 3, 5, 300) and table.right[TEST].shape == (125, 3, 5, 500)
    assert set(table.domains[TEST]) == {"Arabic", "Telugu", "Malayalam", "Katakana"}
    assert card("few_shot_table").files[0].size < 1_500_000
    assert table.costs["parameters"].tolist() == [TINY.parameters(net, (1, 16, 16), 5) for net in table.nets]


def test_it_was_made_with_the_settings_that_are_the_default_and_that_the_suite_names(table: NetTable) -> None:
    settings = TableSettings()
    assert {key: table.about[key] for key in settings.about()} == settings.about()
    (cell,) = plan(load_suite([SUITES / "few_shot_table.yaml"])).cells
    subject = subject_of(cell, 0, load_data(cell), True, lambda *told: None, None, None)
    assert _settings(subject) == settings


def test_its_nets_are_trained_enough_and_its_seeds_agree(table: NetTable) -> None:
    test = table.accuracies(TEST)
    best = np.sort(test)[-len(test) // 4 :]
    assert best.mean() > table.pixel_accuracy(TEST)
    known = {one.what: one for one in of_itself(table)}
    assert known[names.OTHER_SEEDS].kendall > known[names.BY_PARAMETERS].kendall


def test_a_ridge_helps_and_two_hundred_searches_cost_seconds(table: NetTable) -> None:
    def outcomes(name: str) -> list[float]:
        return [
            searched(
                Entrant.read(name), TINY, 25, seed, fitness := TableFitness(table, TINY, seed), fitness.regret
            ).validation
            for seed in range(50)
        ]

    found = paired(outcomes("random+ridge"), outcomes("random"))
    assert found.mean - found.half > 0


def test_commands_read_it_without_being_told_where() -> None:
    runner = CliRunner()
    asked = runner.invoke(app, ["table", "query", "conv3-conv3-conv3"])
    assert asked.exit_code == 0 and "conv3-conv3-conv3" in asked.stdout
    run = runner.invoke(
        app, ["search", "random", "local_search", "--fitness", "table", "--budget", "5", "--seeds", "3"]
    )
    assert run.exit_code == 0 and "regret" in run.stdout


def test_five_nets_are_the_same_when_they_are_trained_anew(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--full"):
        pytest.skip("a minute and a half: with --full")
    found = CliRunner().invoke(app, ["table", "check", "--count", "5"])
    assert found.exit_code == 0 and found.stdout.count("the same") == 5


@pytest.mark.parametrize(
    ("dataset", "options", "steps", "said"),
    [
        ("glyphs", {}, 5, ""),
        ("glyphs", {"shots": 4, "queries": 3}, 5, "shots 1, not 4, queries 5, not 3"),
        ("glyphs_far", {}, 5, "data set glyphs, not glyphs_far"),
        ("glyphs", {"learning_rate": 0.3}, 5, "learning rate 0.1, not 0.3"),
        ("glyphs", {"space": "small", "architecture": "conv3-conv3-conv3-conv3@8"}, 5, "space tiny, not small"),
        ("glyphs", {"norm": "group"}, 3, "inner steps 5, not 3, norm batch, not group"),
    ],
)
def test_it_is_asked_about_its_own_nets_and_tasks_alone(
    table: NetTable, dataset: str, options: dict[str, Any], steps: int, said: str
) -> None:
    own = {"learning_rate": 0.1, "ways": 5, "shots": 1, "queries": 5, "norm": "batch"} | options
    problem = make_problem("few_shot", size="subnet", inner_steps=steps, **own)
    assert isinstance(problem, FewShot)
    assert unlike(table, problem, dataset, adapting=True) == said
    # What is true of a net does not depend on how a search adapts it.
    assert bool(unlike(table, problem, dataset, adapting=False)) == bool(said and "rate" not in said)


@pytest.mark.parametrize("kind", [{"search": {"fitness": "table", "tasks": 0}}, {"net_table": {"way": "shipped"}}])
def test_rows_of_other_tasks_are_refused(kind: dict[str, Any]) -> None:
    given = {"problem": "few_shot", "sizes": ["subnet"], "kind": kind, "methods": ["none"], "options": {"learning_rate": 0.1, "shots": 2}}
    (cell,) = plan(load_suite({"name": "x", "seeds": [0], "aa": False, "rounds": 0, "experiments": {"a": given}})).cells
    (row,) = run_cell(cell, lambda *told: None)
    assert row["status"] == "error" and "of shots 1, not 2" in row["message"]


def test_few_searches_have_no_interval_and_json_no_nan() -> None:
    asked = ["search", "random", "local_search", "--fitness", "table", "--budget", "5", "--seeds", "2"]
    shown, told = (CliRunner().invoke(app, [*asked, *more]) for more in ([], ["--json"]))
    assert shown.exit_code == told.exit_code == 0 and "nan" not in shown.stdout.lower()
    found = json.loads(told.stdout, parse_constant=lambda name: pytest.fail(name))
    assert found["entrants"][1]["test above random"]["half"] is None


def test_a_table_of_another_data_set_is_not_searched() -> None:
    refused = CliRunner().invoke(app, ["search", "random", "--fitness", "table", "--dataset", "glyphs_far"])
    assert refused.exit_code and "the table is of the dataset 'glyphs', and 'glyphs_far' is searched" in str(refused.exception)
