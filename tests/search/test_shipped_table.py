"""The table that ships: whole, made with the settings that the suite names, trained enough, and of use to searches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from metabench.cli.app import app
from metabench.data import card, load
from metabench.data.formats.net_table import TEST, VALIDATION, NetTable
from metabench.models.spaces import space
from metabench.search.agreement import ceilings
from metabench.search.fitness import TableFitness
from metabench.search.study import Entrant, paired, searched
from metabench.search.table_builder import TableSettings
from metabench.stages.net_table import _settings
from metabench.suite.plan.labels import load_data
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.run_cell import subject_of

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
    known = {one.what: one for one in ceilings(table)}
    assert known["seed 0 and the other seeds, test"].kendall > known["number of parameters and test"].kendall


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


def test_five_nets_are_the_same_when_they_are_trained_anew(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--full"):
        pytest.skip("a minute and a half: with --full")
    found = CliRunner().invoke(app, ["table", "check", "--count", "5", "--shards", str(tmp_path)])
    assert found.exit_code == 0 and found.stdout.count("the same") == 5
