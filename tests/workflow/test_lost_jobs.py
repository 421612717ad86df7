"""A cell whose job is killed, supervisor and all, ends as rows; the report is made, and the next run tries that cell and no other."""

from __future__ import annotations

import re

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
        assert row["status"] == ("ok" if row["method"] == "none" else "error")
        words = r"the job was lost: attempt 1.* was killed \(SIGKILL\) on .*not for memory"
        assert row["method"] == "none" or re.match(words, row["message"])
    page = (fresh.folder / PAGE).read_text(encoding="utf-8")
    assert "job was lost" in page
    assert "1 error" in said
    # So was the job of its certificate, which changes nothing for the other one's.
    assert verdicts(fresh) == {"none": "certified"}
    assert "no certificates: the job was lost: attempt 1" in (fresh.results() / "certificates" / "lethal.log").read_text()

    # The next run tries it again, and no more where it is lost again.
    lost = str(fresh.row_file("lethal").relative_to(fresh.folder))
    fresh.snakemake(lost)
    second = fresh.row_files()
    assert second["none"] == first["none"] and second["lethal"] > first["lethal"]
    assert "Nothing to be done" in fresh.snakemake(lost).text

    (fresh.folder / "lethal").unlink()
    fresh.row_file("lethal").unlink()
    fresh.snakemake(RESULTS)
    third = fresh.row_files()
    assert third["none"] == first["none"] and {row["status"] for row in fresh.rows()} == {"ok"}
    assert verdicts(fresh) == {"none": "certified", "lethal": "certified"}
    assert "Nothing to be done" in fresh.snakemake(RESULTS).text
    assert fresh.row_files() == third
    left = {path.name.partition(".")[2] for path in fresh.results().rglob("*") if path.is_file()}
    assert not left & {"lock", "beat", "attempts", "journal"} and not any("part" in name for name in left)
