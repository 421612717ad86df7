"""What a scheduler does to jobs, all in one run: it ends with exit code 0, a complete table, and rows that say what happened."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Cluster, new_folder, toy
from tests.cluster.slurm import Slurm

HEALTHY = ("none", "t1t2", "broken")
MISHAPS = ("cancelled", "requeued", "preempted")
"""Methods whose first job ends by no fault of theirs: each waits in its first call, and has its rows in the end."""
FAULTY = ("hungry", "endless", "lethal")
"""Methods that end their jobs every time: past their memory, past their time, killed together with the process that supervises them."""
ELSEWHERE = (
    *("time_median_s", "time_q1_s", "time_q3_s", "time_repeats", "first_call_s", "train_s", "data_s", "measured_s", "started_at"),
    *("load_at_start", "hardware", "git_commit"),
)
"""Columns of times and of the place: all that may differ between a cluster and a local run."""


@dataclass
class Fate:
    """Does to the jobs of a suite that runs what their methods are named after."""

    cluster: Cluster
    met: dict[str, list[str]] = field(default_factory=dict)
    """By method, the jobs that something was done to."""

    def __call__(self) -> None:
        for name in (*MISHAPS, "endless"):
            called, met = self.cluster.folder / f"called-{name}", self.met.setdefault(name, [])
            for job in called.read_text(encoding="utf-8").split() if called.exists() else ():
                if job not in met and (name == "endless" or not met):
                    met.append(job)
                    getattr(self, name)(job)

    def cancelled(self, job: str) -> None:
        self.cluster.slurm.ask("scancel", job)

    def requeued(self, job: str) -> None:
        self.cluster.slurm.ask("scontrol", "requeue", job)

    def preempted(self, job: str) -> None:
        self.cluster.slurm.ask("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true")

    def endless(self, job: str) -> None:
        # SLURM counts limits in minutes: this is the limit, soon. 'now' may have passed when SLURM reads it, and is refused then.
        self.cluster.slurm.ask("scontrol", "update", f"JobId={job}", "EndTime=now+2")


@dataclass(frozen=True)
class Survived:
    """A suite whose jobs met every fault, how its run ended, and what was done to which jobs."""

    cluster: Cluster
    code: int
    said: str
    met: dict[str, list[str]]

    def rows(self, method: str) -> list[dict[str, Any]]:
        return [row for row in self.cluster.rows() if row["method"] == method]


@pytest.fixture(scope="module")
def survived(slurm: Slurm, cluster_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Survived:
    """One run with all faults. Not to be changed."""
    cluster = new_folder(cluster_source, tmp_path_factory.mktemp("survived"), slurm)
    cluster.write_suite(**toy(*HEALTHY, *MISHAPS, *FAULTY))
    partition = "'low' if wildcards.method == 'preempted' else 'cpu'"
    cluster.edit_profile(set_resources={"run_cell": {"mem_mb": 1500, "slurm_partition": partition}})
    fate = Fate(cluster)
    code, said = cluster.run(meanwhile=fate)
    return Survived(cluster, code, said, fate.met)


def test_every_fault_was_met(survived: Survived) -> None:
    assert {name: len(jobs) for name, jobs in survived.met.items()} == {"cancelled": 1, "requeued": 1, "preempted": 1, "endless": 2}


def test_the_run_ends_with_a_complete_table_and_a_report(survived: Survived) -> None:
    assert survived.code == 0, survived.said
    found = [(row["method"], row["seed"]) for row in survived.cluster.rows()]
    assert sorted(found) == sorted((method, seed) for method in (*HEALTHY, *MISHAPS, *FAULTY) for seed in (0, 1))
    page = (survived.cluster.results() / "report" / "index.html").read_text(encoding="utf-8")
    assert all(method in page for method in FAULTY)


def test_no_half_file_is_left(survived: Survived) -> None:
    assert not list(survived.cluster.results().rglob("*.part"))


def test_rows_equal_those_of_a_local_run(survived: Survived, cluster_source: Path, tmp_path: Path) -> None:
    local = new_folder(cluster_source, tmp_path, survived.cluster.slurm)
    local.write_suite(**toy(*HEALTHY))
    local.snakemake("results/tiny/results.parquet")
    expected = {(row["method"], row["seed"]): row for row in local.rows()}
    assert len(expected) == 2 * len(HEALTHY)
    for row in survived.cluster.rows():
        if row["method"] not in HEALTHY:
            continue
        other = expected[row["method"], row["seed"]]
        assert row.keys() == other.keys()
        for column in row.keys() - set(ELSEWHERE):
            assert row[column] == other[column] or (row[column] != row[column] and other[column] != other[column]), column


@pytest.mark.parametrize("method", MISHAPS)
def test_a_job_that_ends_by_no_fault_of_its_cell_has_its_rows_all_the_same(survived: Survived, method: str) -> None:
    assert [row["status"] for row in survived.rows(method)] == ["ok", "ok"], survived.rows(method)
    first = survived.met[method][0]
    if method == "requeued":
        # The same job again: Snakemake did not submit another.
        assert f"SLURM-job '{first}' failed" not in survived.said
    if method == "cancelled":
        assert f"SLURM-job '{first}' failed, SLURM status is: 'CANCELLED'" in survived.said


def test_a_job_over_its_memory_is_oom(survived: Survived) -> None:
    check(survived.rows("hungry"), "oom", "GiB that it may", survived)


def test_a_job_over_its_time_is_a_timeout(survived: Survived) -> None:
    check(survived.rows("endless"), "timeout", "time limit", survived)


def test_a_cell_that_something_else_killed_is_not_oom(survived: Survived) -> None:
    check(survived.rows("lethal"), "error", "SIGKILL", survived)


def check(rows: list[dict[str, Any]], status: str, word: str, survived: Survived) -> None:
    """Check that rows have a status, and that their messages say why, and name job and node."""
    assert [row["status"] for row in rows] == [status, status], rows
    for row in rows:
        assert word in row["message"], row["message"]
        assert re.search(r"\bjob \d+", row["message"]), row["message"]
        assert re.search(r"\bnode\d\b", row["message"]), row["message"]


def test_a_fault_of_a_job_names_its_job_and_its_log(survived: Survived) -> None:
    for job in survived.met["endless"]:
        assert re.search(rf"SLURM-job '{job}' failed, SLURM status is: 'TIMEOUT'", survived.said)
        assert list((survived.cluster.folder / "slurm_logs").rglob(f"{job}.log"))
