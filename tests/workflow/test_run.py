"""A suite is run once, as a whole, and then only as far as something changed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.conftest import Outcome, Workflow

pytestmark = pytest.mark.slow  # each test starts Snakemake, and some run cells

RESULTS = "results/tiny/results.parquet"


def test_a_run_ends_with_a_page_and_says_where_it_is(first_run: tuple[Workflow, Outcome]) -> None:
    workflow, said = first_run
    page = workflow.results() / "report" / "index.html"
    assert "<html" in page.read_text(encoding="utf-8")
    assert "Report: results/tiny/report/index.html" in said.text
    assert "3 cells, 6 rows: 4 ok, 2 error" in said.text
    assert list((workflow.results() / "report" / "tables").glob("*.tex"))
    assert list((workflow.results() / "report" / "figures").glob("*.pdf"))


def test_a_run_says_what_runs_and_how_much_is_done(first_run: tuple[Workflow, Outcome]) -> None:
    _, said = first_run
    for method in ("none", "t1t2", "broken"):
        assert f"toy_1d/analytic/scalar · {method} · 2 inner steps · 2 seeds" in said.text
    assert "8 of 8 steps (100%) done" in said.text


def test_timed_cells_never_run_side_by_side(first_run: tuple[Workflow, Outcome]) -> None:
    _, said = first_run
    events = re.findall(r"toy_1d/analytic/scalar|steps \(\d+%\) done", said.text)
    cells = [place for place, event in enumerate(events) if event == "toy_1d/analytic/scalar"]
    assert len(cells) == 3
    assert all("done" in events[place + 1] for place in cells)


def test_a_cell_that_fails_is_rows_with_its_status_and_the_run_succeeds(first_run: tuple[Workflow, Outcome]) -> None:
    workflow, _ = first_run
    failed = [row for row in workflow.rows() if row["method"] == "broken"]
    assert [row["status"] for row in failed] == ["error"] * 2
    assert all("out of luck" in row["message"] for row in failed)
    tables = "".join(
        path.read_text(encoding="utf-8") for path in (workflow.results() / "report" / "tables").glob("*.csv")
    )
    assert "out of luck" in tables or "error" in tables


def test_every_cell_has_its_log_beside_its_rows_and_its_spec_in_one_file(first_run: tuple[Workflow, Outcome]) -> None:
    workflow, _ = first_run
    rows = workflow.row_file("t1t2")
    assert workflow.spec("t1t2")["method"] == "t1t2"
    assert "seed 1: ok" in rows.with_suffix(".log").read_text(encoding="utf-8")


def test_a_suite_may_do_without_certificates_and_predictions(first_run: tuple[Workflow, Outcome]) -> None:
    workflow, _ = first_run
    assert workflow.certificate_files() == {}
    page = (workflow.results() / "report" / "index.html").read_text(encoding="utf-8")
    assert "These results hold no certificate" in page
    assert not (workflow.results() / "predictions.jsonl").exists()
    assert {row["predicted_bytes"] for row in workflow.rows()} == {None}


def test_a_second_run_does_nothing_even_where_a_rule_was_edited(built: Workflow) -> None:
    before = built.row_files()
    rules = built.folder / "workflow" / "rules" / "run.smk"
    rules.write_text(rules.read_text(encoding="utf-8").replace("metabench run ", "metabench  run "), encoding="utf-8")
    assert "Nothing to be done" in built.snakemake().text
    assert built.row_files() == before


def test_a_dry_run_writes_nothing(fresh: Workflow) -> None:
    said = fresh.snakemake("-n")
    assert re.search(r"run_cell\s+3", said.text)
    assert not (fresh.folder / "results").exists()


def test_an_edited_method_runs_again_and_nothing_else(built: Workflow) -> None:
    before = built.row_files()
    method = built.folder / "metabench" / "methods" / "t1t2.py"
    method.write_text(method.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    said = built.snakemake(RESULTS)
    after = built.row_files()
    assert {name for name in before if after[name] != before[name]} == {"t1t2"}
    assert re.search(r"run_cell\s+1\n", said.text)
    assert "Nothing to be done" in built.snakemake(RESULTS).text


def test_one_cell_is_a_target_and_another_limit_is_another_spec_and_runs_again(built: Workflow) -> None:
    before, target = built.row_files(), built.target("t1t2")
    said = built.snakemake(target, "--config", "limits={seconds: 60}")
    after = built.row_files()
    # The specs of the others are others now, too.
    assert {name for name in after if after[name] != before.get(name)} == {"t1t2"}
    assert (built.folder / target).is_file()
    assert "Report:" not in said.text
    assert built.spec("t1t2")["limit_seconds"] == 60.0


def test_cells_taken_out_of_the_suite_are_not_in_the_results(built: Workflow) -> None:
    experiments = {"toy": {"problem": "toy_1d", "inner_steps": [2], "outer_steps": 3, "methods": ["t1t2"]}}
    built.write_suite(experiments=experiments)
    said = built.snakemake(RESULTS)
    assert {row["method"] for row in built.rows()} == {"t1t2"}
    assert "run_cell" not in said.text
    assert built.row_files().keys() >= {"none", "broken"}


def test_the_report_of_snakemake_has_captions_that_state_counts_and_intervals(built: Workflow) -> None:
    pytest.importorskip("pygments")
    built.snakemake("--report", "report.html")
    report = (built.folder / "report.html").read_text(encoding="utf-8")
    for category in ("Page", "Tables", "Figures", "Results"):
        assert f'"{category}"' in report
    assert "6 rows of 3 cells" in report.replace("\\n", " ")
    assert "95 % intervals over seeds" in report.replace("\\n", " ")


def test_the_source_beside_the_snakefile_is_the_one_that_runs(fresh: Workflow) -> None:
    errors = fresh.folder / "metabench" / "core" / "errors.py"
    errors.write_text(errors.read_text(encoding="utf-8") + "\nraise RuntimeError('the source that lies here')\n", encoding="utf-8")
    command = [Path(sys.executable).with_name("snakemake"), "-n", "--cores", "1"]
    done = subprocess.run(command, cwd=fresh.folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "the source that lies here" in done.stdout + done.stderr
