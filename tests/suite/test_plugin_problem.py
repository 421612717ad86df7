"""A plugin problem with episodes, a schedule and a curve is planned, predicted, run, collected and drawn like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from metabench.kinds import kind
from metabench.measure.environment import environment
from metabench.measure.kernels import runs
from metabench.report.build import build_figures
from metabench.results.store import collect, write_rows
from metabench.suite.plan.code_hash import code_hash
from metabench.suite.plan.plan import Plan, load_suite, plan
from metabench.suite.predict.one_cell import predict
from metabench.suite.run.provenance import results_metadata
from metabench.suite.run.rows import base_row
from metabench.suite.run.run_cell import run_cell

PLUGIN = Path(__file__).parents[1] / "plugins" / "sines.py"
METHODS = ["none", "unrolled", "mixflow", "t1t2", "ift_cg", "f2sa", "evograd", "pes"]


def planned(plugins: list[Path] | None = None, **changes: Any) -> Plan:
    experiment = {"problem": "sines", "methods": METHODS, **changes}
    measure = {"time_repeats": 1, "error_windows": 2, "error_draws": 2}
    suite = {"name": "sines", "seeds": [0], "plugins": [str(path) for path in plugins or [PLUGIN]], "measure": measure}
    kernels = "portable" if runs("portable") else "native"
    return plan(load_suite(suite | {"aa": False, "kernels": kernels, "experiments": {"sines": experiment}}))


def silent(*progress: object) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [row for cell in planned().cells for row in run_cell(cell, silent)]


def test_methods_of_every_family_answer(rows: list[dict[str, Any]]) -> None:
    expected = dict.fromkeys(METHODS, ("ok", ""))
    expected["pes"] = ("ok", "the exact value of its own target, persistent, is out of reach here")
    assert {row["method"]: (row["status"], row["message"]) for row in rows} == expected
    errors = {row["method"]: row.get("hypergradient_error") for row in rows}
    assert errors["unrolled"] < 1e-9 and errors["mixflow"] < 1e-9 < errors["t1t2"]
    # The middle of an episode, where the warm-up is over: the yardstick trains plainly from there.
    assert all(row["yardstick_error"] < 1e-5 for row in rows if row["method"] != "none")


def test_every_row_has_the_curves_of_its_run_and_of_the_problem(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert list(row["curves"]) == ["outer loss", "time", "test loss along an episode"]
        along = row["curves"]["test loss along an episode"]
        assert (along.n, len(along.x), along.along, along.log_y) == (5, 21, "inner step", True)
        assert along.values[-1] == row["quality"] < along.values[0]
        assert list(row["curves"]["outer loss"].x) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_peak_is_predicted(rows: list[dict[str, Any]]) -> None:
    peaks = {row["method"]: row["peak_bytes"] for row in rows}
    for cell in planned(methods=["unrolled", "mixflow"]).cells:
        assert predict(cell).peak_bytes == pytest.approx(peaks[cell.method], rel=0.05)


def test_it_is_collected_and_its_curve_is_drawn(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    whole = planned()
    files = []
    for cell in whole.cells:
        files.append(tmp_path / "cells" / f"{cell.stem}.parquet")
        write_rows(files[-1], [row for row in rows if row["cell"] == cell.hash])
    collect(files, tmp_path / "results.parquet", metadata=results_metadata(whole))
    points = pq.read_table(tmp_path / "curves.parquet").to_pandas()
    assert set(points["method"]) == set(METHODS)
    drawn = points[points["name"] == "test loss along an episode"]
    assert len(drawn) == 21 * len(METHODS) and (drawn["lower"] <= drawn["upper"]).all()
    build_figures(tmp_path / "results.parquet", tmp_path / "figures")
    assert any("episode" in path.name for path in (tmp_path / "figures").iterdir())


def test_a_change_of_its_file_changes_the_hash(tmp_path: Path) -> None:
    copy = tmp_path / "sines.py"
    copy.write_text(PLUGIN.read_text())
    before = code_hash(planned([copy]).cells[0])
    other = tmp_path / "other" / "sines.py"
    other.parent.mkdir()
    other.write_text(PLUGIN.read_text().replace("EPISODE = 20", "EPISODE = 10"))
    assert code_hash(planned([other]).cells[0]) != before


def test_a_faulty_curve_is_named_and_the_row_stays(tmp_path: Path) -> None:
    spoilt = tmp_path / "sines.py"
    spoilt.write_text(
        PLUGIN.read_text().replace("log_y=True)\n", "log_y=True)\n        curve.values[3] = float('nan')\n")
    )
    (row,) = run_cell(planned([spoilt], methods=["t1t2"]).cells[0], silent)
    assert row["status"] == "ok" and row["quality"] > 0
    assert "no curve 'test loss along an episode': it is not finite: values[3] is nan" in row["message"]
    assert list(row["curves"]) == ["outer loss", "time"]


@pytest.mark.parametrize(
    ("returned", "status", "words"),
    [
        ("None", "error", "evaluate() returned a NoneType, expected numbers and curves by name"),
        ('{"test loss": 1.0, "time": curve}', "ok", "no curve 'time' of evaluate(): the run has one of that name"),
    ],
)
def test_a_run_keeps_its_curves_whatever_evaluate_returns(
    returned: str, status: str, words: str, tmp_path: Path
) -> None:
    spoilt = tmp_path / "sines.py"
    spoilt.write_text(
        PLUGIN.read_text().replace('{"test loss": curve.values[-1], "test loss along an episode": curve}', returned)
    )
    (row,) = run_cell(planned([spoilt], methods=["t1t2"]).cells[0], silent)
    assert (row["status"], row["message"]) == (status, words)
    assert list(row["curves"]) == ["outer loss", "time"]


def test_a_plugin_brings_a_kind_of_experiment(tmp_path: Path) -> None:
    file = tmp_path / "norms.py"
    file.write_text(
        "from metabench.core import option, tree\n"
        "from dataclasses import dataclass\n"
        "from metabench.core.kind import Kind\n"
        "from metabench.stages.well_posed import well_posed\n"
        "@dataclass(frozen=True)\n"
        "class Options:\n"
        "    times: float = option(1.0, help='factor')\n"
        "def norm(subject):\n"
        "    value = float(tree.norm(subject.problem.initial()))\n"
        "    yield {'diagnostics': {'norm': subject.kind_options.times * value}}\n"
        "NORM = Kind('norm', 'the norm of the initial meta-parameters', (well_posed, norm), ('diagnostics',), options=Options)\n"
    )
    one, twice = (
        planned([PLUGIN, file], kind=kind, methods=["none"]).cells[0] for kind in ("norm", {"norm": {"times": 2.0}})
    )
    (row,), (other,) = run_cell(one, silent), run_cell(twice, silent)
    assert row["status"] == other["status"] == "ok" and (row["kind"], other["kind_options"]) == ("norm", {"times": 2.0})
    assert other["diagnostics"]["norm"] == 2 * row["diagnostics"]["norm"] > 0
    assert one.hash != twice.hash and "peak_bytes" not in row
    write_rows(tmp_path / "rows.parquet", [row])


@pytest.mark.parametrize(
    ("yielded", "words"),
    [
        (
            "{'qualities': 1.0}",
            "a column that its kind does not declare: unknown column 'qualities': did you mean 'quality'?",
        ),
        ("{'cell': 'another'}", "a column that its kind does not declare: unknown column 'cell'"),
        ("{'quality': subject}", "the column 'quality' with Subject("),
        ("None", "yielded a NoneType, expected columns by name"),
    ],
)
def test_a_stage_that_yields_something_else_ends_in_a_row_that_says_so(
    yielded: str, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "norms.py"
    file.write_text(
        "from metabench.core.kind import Kind\n"
        "def norm(subject):\n"
        "    yield {'train_s': 1.0}\n"
        f"    yield {yielded}\n"
        "NORM = Kind('norm', 'nothing', (norm,), ('quality', 'train_s'))\n"
    )
    (row,) = run_cell(planned([PLUGIN, file], kind="norm", methods=["none"]).cells[0], silent)
    assert row["status"] == "error" and "a stage of kind 'norm'" in row["message"] and words in row["message"]
    assert row["train_s"] == 1.0


@pytest.mark.parametrize("name", ["quality", "cost"])
def test_a_kind_fills_the_columns_that_it_declares(rows: list[dict[str, Any]], name: str) -> None:
    found = rows if name == "quality" else list(run_cell(planned(methods=["evograd"], kind="cost").cells[0], silent))
    known = {*base_row(planned().cells[0], 0, {}), *environment("cpu"), "status", "message", "measured_s"}
    filled = {column for row in found for column in row} - known
    assert filled <= set(kind(name).columns)
    assert ("quality" in filled) == kind(name).trains
    curves = {name for row in found for name in row.get("curves", {})}
    assert set(kind(name).curves) == curves - {"test loss along an episode"}
