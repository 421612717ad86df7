"""`metabench new-strategy` writes a strategy that keeps the rules, and the rules are checked."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from metabench.cli.new_files import after_strategy, write_strategy
from metabench.core.errors import MetabenchError
from metabench.search.conduct import faults
from metabench.search.strategy import strategies

ROOT = Path(__file__).parents[2]


def test_it_writes_less_than_sixty_lines_that_lint_and_keep_the_rules(tmp_path: Path) -> None:
    path, test = write_strategy("my_search", tmp_path)
    assert len([line for line in path.read_text().splitlines() if line]) < 60
    for name in (path, test):
        command = [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--no-cache",
            "--config",
            str(ROOT / "pyproject.toml"),
            str(name),
        ]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    runpy.run_path(str(test))["test_my_search"]()
    assert "metabench search random my_search --plugin" in after_strategy("my_search", (path, test))


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match=r"taken by metabench.search.strategies.local_search: hill climbing"):
        write_strategy("local_search", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", list(strategies()))
def test_the_packages_own_keep_the_rules(name: str) -> None:
    assert not faults(name)


def test_a_strategy_that_draws_from_the_global_numbers_is_told(tmp_path: Path) -> None:
    path, _ = write_strategy("careless", tmp_path)
    text = path.read_text().replace(
        "from collections.abc import Sequence", "import random\nfrom collections.abc import Sequence", 1
    )
    path.write_text(text.replace("self.stream.random()", "random.random()"))
    said = " ".join(faults("careless", [path]))
    assert "global random numbers" in said and "another search" in said


def test_a_strategy_that_stops_is_told(tmp_path: Path) -> None:
    path, _ = write_strategy("tired", tmp_path)
    path.write_text(
        path.read_text().replace(
            "        del n ", "        if len(self.known) > 3:\n            return []\n        del n "
        )
    )
    assert "it found 4 different nets for a budget of 20" in " ".join(faults("tired", [path]))
