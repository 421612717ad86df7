"""`metabench new-problem` writes a problem that is complete and well posed, with its data, and stays one when it is changed."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_choice import KERNELS

from metabench.cli.new_files import after_problem, write_problem
from metabench.core import MetabenchError
from metabench.problems import problem
from metabench.report.build import build_page
from metabench.results.store import collect, write_rows
from metabench.suite.config.load import load_suite
from metabench.suite.plan.code_hash import code_hash
from metabench.suite.plan.plan import Plan, plan
from metabench.suite.predict.one_cell import predict
from metabench.suite.run.provenance import results_metadata
from metabench.suite.run.run_cell import run_cell

ROOT = Path(__file__).parents[2]
QUICK = {"time_repeats": 3, "time_budget": 0.01, "error_windows": 1, "checkpoint": 1}


def silent(*progress: object) -> None:
    del progress


def planned(plugin: Path, *methods: str, **changes: Any) -> Plan:
    experiment = {"problem": plugin.stem, "methods": list(methods), "outer_steps": 10} | changes
    suite = {"name": "trial", "aa": False, "plugins": [str(plugin)], "seeds": [0], "kernels": KERNELS, "measure": QUICK}
    return plan(load_suite(suite | {"results": str(plugin.parent), "experiments": {"first": experiment}}))


def changed(plugin: Path, folder: Path, old: str, new: str) -> Path:
    """Write the problem into another folder, with its data, and with `new` in place of `old`."""
    (path, _, _) = write_problem(plugin.stem, folder)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


@pytest.fixture(scope="module")
def growth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problem("growth", tmp_path_factory.mktemp("new"))[0]


def test_it_writes_seventy_lines_that_lint_and_a_test_that_passes(growth: Path) -> None:
    assert 60 <= len([line for line in growth.read_text().splitlines() if line]) <= 75
    command = ["ruff", "check", "--no-cache", "--config", ROOT / "pyproject.toml", "."]
    command = [sys.executable, "-m", *map(str, command)]
    checked = subprocess.run(command, cwd=growth.parent, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    test = runpy.run_path(str(growth.with_name("test_growth.py")))["test_growth"]
    for method in ("unrolled", "ift_cg"):
        test(method)


def test_it_runs_is_predicted_and_appears_in_the_report_and_learning_helps(growth: Path) -> None:
    suite = planned(growth, "none", "unrolled", "t1t2", outer_steps=80)
    rows = {}
    for cell in suite.cells:
        (row,) = rows[cell.method] = list(run_cell(cell, silent))
        assert row["status"] == "ok", row["message"]
        assert (row["metric"], row["direction"]) == ("test RMSE", "min")
        assert predict(cell).peak_bytes == row["peak_bytes"]
        write_rows(suite.row_file(cell), [row])
    qualities = {method: row["quality"] for method, (row,) in rows.items()}
    assert 40 < qualities["t1t2"] < qualities["none"] - 3
    assert qualities["unrolled"] < qualities["none"] - 3
    collect([suite.row_file(cell) for cell in suite.cells], suite.results, results_metadata(suite))
    build_page(suite.results, growth.parent / "report")
    page = (growth.parent / "report" / "index.html").read_text(encoding="utf-8")
    assert "diabetes progression, with an l2 penalty per measurement" in page
    assert "Own data growth_data.npz" in page


def test_every_method_that_its_suite_names_suits_it(growth: Path) -> None:
    text = after_problem("growth", (growth, growth.with_name("test_growth.py"), growth.with_name("growth_data.npz")))
    shown = text[text.index("  name: growth") : text.index("  snakemake")]
    path = growth.with_name("growth.yaml")
    path.write_text("\n".join(line.removeprefix("  ") for line in shown.splitlines()))
    cells = plan(load_suite(path, [f"kernels={KERNELS}", "experiments.first.inner_steps=[2]"])).cells
    assert len(cells) > 12
    assert {cell.method: predict(cell).message for cell in cells} == {cell.method: "" for cell in cells}


def test_an_edit_and_other_data_change_its_hash(growth: Path, tmp_path: Path) -> None:
    (before,) = planned(growth, "t1t2").cells
    first = code_hash(before)
    (wider,) = planned(changed(growth, tmp_path, '"mlp64": "MLP with 64', '"mlp32": "MLP with 32'), "t1t2").cells
    (same,) = planned(changed(growth, tmp_path / "same", "growth", "growth"), "t1t2").cells
    assert first == code_hash(same) != code_hash(wider)
    data = tmp_path / "same" / "growth_data.npz"
    data.write_bytes(data.read_bytes() + b" ")
    assert code_hash(same) != first


def test_an_edit_that_is_wrong_is_a_row_that_says_so(growth: Path, tmp_path: Path) -> None:
    edits = {
        'meta["log_penalty"].exp()': (
            'meta["log_penalty"].detach().exp()',
            "the problem's roles say MetaRole.INNER_LOSS, and the inner loss does not depend on any meta-parameter",
        ),
        ".square().mean()": (".square().mean(0, keepdim=True)", "the inner loss has the shape (1,), expected a scalar"),
        '"validation": 120': ('"validation": 420', "a split asks for train 60 + validation 420 + test 262"),
    }
    for number, (old, (new, words)) in enumerate(edits.items()):
        (cell,) = planned(changed(growth, tmp_path / str(number), old, new), "t1t2").cells
        try:
            (row,) = run_cell(cell, silent)
        except MetabenchError as error:
            row = {"status": "error", "message": str(error)}
        assert row["status"] == "error"
        assert words in row["message"]


def test_a_name_that_is_taken_and_a_file_that_exists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match=r"problem name 'toy_1d' is taken by metabench\.problems\.toy_1d"):
        write_problem("toy_1d", tmp_path)
    with pytest.raises(MetabenchError, match="problem name 'problem' means something else in the file"):
        write_problem("problem", tmp_path)
    (tmp_path / "mine_data.npz").write_text("kept")
    with pytest.raises(MetabenchError, match=r"mine_data\.npz' already exists and is not overwritten"):
        write_problem("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine_data.npz"]


def test_its_name_is_that_of_its_file(growth: Path) -> None:
    assert problem("growth", [growth]).__name__ == "Growth"
