"""A cell whose job is killed, supervisor and all, ends as rows; the report is made, and the next run tries that cell and no other."""

from __future__ import annotations

import pytest

from metabench.results.store import read_metadata
from tests.workflow.conftest import Workflow

pytestmark = pytest.mark.slow  # starts Snakemake, and runs cells

RESULTS = "results/tiny/results.parquet"
PAGE = "results/tiny/report/index.html"

LETHAL = '''

@method(title="kills the process that supervises it", target=Target.NONE, exact=True, cost=Cost(), citation="")
def lethal(problem, state, meta, window, options, generator):
    import os, signal
    if Path("lethal").exists():
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return baseline.none.function(problem, state, meta, window, options, generator)
'''


def verdicts(of: Workflow) -> dict[str, str]:
    """Return the verdict on each method that has a certificate."""
    found = read_metadata(of.folder / RESULTS).certificates
    return {method: certificate["verdict"] for method, certificate in found.items()}


def test_a_lost_job_is_a_row_and_is_tried_again(fresh: Workflow) -> None:
    toy = {"problem": "toy_1d", "inner_steps": [2], "outer_steps": 3, "methods": ["none", "lethal"]}
    with (fresh.folder / "plugin.py").open("a", encoding="utf-8") as file:
        file.write(LETHAL)
    fresh.write_suite(experiments={"toy": toy}, baseline="none", certify=True, seeds=[0])
    (fresh.folder / "lethal").touch()

    said = fresh.snakemake(PAGE).text
    first = fresh.row_files()
    for row in fresh.rows():
        assert row["status"] == ("ok" if row["method"] == "none" else "oom")
        assert row["method"] == "none" or row["message"].count("was killed (SIGKILL) on") == 2
    page = (fresh.folder / PAGE).read_text(encoding="utf-8")
    assert "job was lost" in page
    assert "oom" in said
    # So was the job of its certificate, which changes nothing for the other one's.
    assert verdicts(fresh) == {"none": "certified"}
    assert "no certificates: the job was lost: attempt 1 was killed" in (fresh.results() / "certificates" / "lethal.log").read_text()

    # Lost again: the next run after that tries it once more.
    fresh.snakemake(str(fresh.row_file("lethal").relative_to(fresh.folder)))
    second = fresh.row_files()
    assert second["none"] == first["none"] and second["lethal"] > first["lethal"]

    (fresh.folder / "lethal").unlink()
    fresh.snakemake(RESULTS)
    third = fresh.row_files()
    assert third["none"] == first["none"] and {row["status"] for row in fresh.rows()} == {"ok"}
    assert verdicts(fresh) == {"none": "certified", "lethal": "certified"}
    assert "Nothing to be done" in fresh.snakemake(RESULTS).text
    assert fresh.row_files() == third
