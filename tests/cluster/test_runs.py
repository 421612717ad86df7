"""Runs on a cluster as a whole: one at a time in a folder, ended from the keyboard, and by another scheduler's commands."""

from __future__ import annotations

import os
import signal

from waiting import wait_until

from tests.cluster.conftest import Cluster, toy

ROWS = "results/tiny/results.parquet"


def test_a_second_run_is_refused_and_ctrl_c_cancels_the_jobs_of_the_first(fresh: Cluster) -> None:
    fresh.write_suite(**toy("none", "patient", seeds=[0]))
    (fresh.folder / "hold").touch()
    first = fresh.start(ROWS)
    try:
        wait_until(lambda: any(job.state == "RUNNING" for job in mine(fresh)), 60)
        second = fresh.snakemake(ROWS, "--quiet", expect=None)
        assert "lock" in second.text
        assert len(mine(fresh)) <= 2
        os.killpg(first.pid, signal.SIGINT)
        first.wait(timeout=60)
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
    assert first.returncode != 0
    wait_until(lambda: not mine(fresh), 30)
    # The folder is unlocked, and the next run makes what is missing.
    (fresh.folder / "hold").unlink()
    fresh.snakemake(ROWS)
    assert {row["status"] for row in fresh.rows()} == {"ok"}


def mine(cluster: Cluster) -> list[object]:
    """Return the jobs of cells that wait or run; those of other tests have ended."""
    return [job for job in cluster.jobs("pending", "running", "completing") if "run_cell" in job.comment]


def test_a_suite_runs_by_the_commands_of_any_scheduler(fresh: Cluster) -> None:
    fresh.write_suite(**toy("none", "cancelled", seeds=[0]))
    # The first job of one cell is cancelled: the status command says so, and Snakemake submits it again.
    code, said = fresh.run(ROWS, profile="profiles/generic", meanwhile=lambda: cancel_first(fresh))
    assert code == 0, said
    assert [row["status"] for row in fresh.rows()] == ["ok", "ok"]
    assert "Trying to restart job" in said


def cancel_first(cluster: Cluster) -> None:
    """Cancel the first job in which the method was called that waits for it."""
    called, done = cluster.folder / "called-cancelled", cluster.folder / "done"
    if called.exists() and called.read_text().strip() and not done.exists():
        cluster.slurm.ask("scancel", called.read_text().split()[0])
        done.touch()
