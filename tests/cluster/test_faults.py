"""What a scheduler does to jobs, all in one run: it ends with exit code 0, a complete table, and rows that say what happened."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest

from tests.cluster.conftest import Cluster, quick, toy

HEALTHY = ("none", "t1t2", "broken")
MISHAPS = ("cancelled", "requeued", "preempted")
"""Methods whose first job ends by no fault of theirs."""
FAULTY = ("hungry", "endless", "lethal")


@dataclass
class Misfortune:
    """Does to the job of each method what the method is named after, once its first cell waits."""

    cluster: Cluster
    done: dict[str, list[str]] = field(default_factory=dict)
    """By method, the jobs that something was done to."""

    def __call__(self) -> None:
        for job in self.cluster.jobs("running"):
            found = re.search(r"run_cell.*(cancelled|requeued|preempted|endless)", job.comment)
            if found is None or job.id in self.done.get(found[1], []):
                continue
            name = found[1]
            if name != "endless" and not (self.cluster.folder / f"called-{name}").exists():
                continue
            if name == "endless" and "first call" not in self.log(name):
                continue
            self.done.setdefault(name, []).append(job.id)
            if len(self.done[name]) == 1 or name == "endless":
                getattr(self, name)(job.id)

    def log(self, name: str) -> str:
        return "".join(path.read_text() for path in self.cluster.results().rglob(f"{name}-*.log"))

    def cancelled(self, job: str) -> None:
        self.cluster.slurm.ask("scancel", job)

    def requeued(self, job: str) -> None:
        self.cluster.slurm.ask("scontrol", "requeue", job)

    def preempted(self, job: str) -> None:
        self.cluster.slurm.ask("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true")

    def endless(self, job: str) -> None:
        # SLURM counts limits in minutes: an end that is now saves them.
        self.cluster.slurm.ask("scontrol", "update", f"JobId={job}", "EndTime=now")


@pytest.fixture(scope="module")
def survived(slurm, cluster_source, tmp_path_factory) -> tuple[Cluster, int, str]:
    """A suite that met every fault, the exit code of Snakemake and what it said. Not to be changed."""
    import shutil

    folder = tmp_path_factory.mktemp("survived") / "tree"
    shutil.copytree(cluster_source, folder)
    cluster = Cluster(folder, slurm)
    quick(cluster)
    cluster.write_suite(**toy(*HEALTHY, *MISHAPS, *FAULTY))
    where = "'low' if wildcards.method == 'preempted' else 'cpu'"
    cluster.edit_profile(set_resources={"run_cell": {"mem_mb": 1500, "slurm_partition": where}})
    code, said = cluster.run(meanwhile=Misfortune(cluster))
    return cluster, code, said


def test_x(survived) -> None:
    cluster, code, said = survived
    print(code, said)
    for row in cluster.rows():
        print(row["method"], row["seed"], row["status"], row["message"])
    assert 0
