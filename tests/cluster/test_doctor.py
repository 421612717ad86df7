"""What is wrong with a profile, or with what a suite asks for, is said before the first job is submitted, in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from metabench.suite.cluster.torch_build import cpu_build
from tests.cluster.conftest import Cluster, toy

HOUR = 3600

FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "partition": ({"slurm_partition": "cpus"}, {}, "partition 'cpus' does not exist on this cluster: did you mean 'cpu'?"),
    "time": ({"slurm_partition": "short"}, {"seconds": 2 * HOUR}, "minutes, and partition 'short' allows 60"),
    "memory": ({}, {"memory": "200GiB"}, "MiB, and a node of partition 'cpu' gives 65536 at most"),
    "gpu": ({"gpu": 1}, {}, "ask for 1 GPU, and no node of partition 'cpu' has it: partitions with such GPUs: gpu"),
    "model": ({"gpu": 1, "gpu_model": "h200", "slurm_partition": "gpu"}, {}, "1 GPU of model h200, and no node of partition 'gpu' has it"),
    "gpus": ({"gpu": 5, "slurm_partition": "gpu"}, {}, "ask for 5 GPU, and no node"),
    "constraint": ({"constraint": "acelerated", "slurm_partition": "gpu"}, {}, "did you mean 'accelerated'?"),
}
"""Default resources of the profile, limits of the suite, and what is said."""


def broken(fresh: Cluster, resources: dict[str, Any], limits: dict[str, Any]) -> None:
    fresh.write_suite(**toy("none", seeds=[0]) | {"limits": {"seconds": 60, "memory": "1GiB"} | limits})
    fresh.edit_profile(default_resources=resources)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_doctor_says_what_the_scheduler_would_refuse_or_never_start(fresh: Cluster, fault: str) -> None:
    resources, limits, words = FAULTS[fault]
    broken(fresh, resources, limits)
    done = fresh.metabench("doctor", "--profile", "profiles/slurm", "--no-job")
    assert done.returncode == 1, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("error") and words in line], done.stdout + done.stderr


def test_a_run_is_refused_before_anything_is_submitted(fresh: Cluster) -> None:
    before = {job.id for job in fresh.jobs("all")}
    resources, limits, words = FAULTS["memory"]
    broken(fresh, resources | {"slurm_partition": "cpu"}, limits)
    code, said = fresh.run()
    assert code == 2
    assert "no job is submitted: " in said and words in said
    assert "Traceback" not in said and "WorkflowError" not in said
    assert {job.id for job in fresh.jobs("all")} == before
    assert not (fresh.results() / "cells").exists()


def test_the_doctor_finds_nothing_wrong_and_asks_a_compute_node(fresh: Cluster) -> None:
    fresh.write_suite(**toy("none"))
    done = fresh.metabench("doctor", "--profile", "profiles/slurm")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}
    assert "node node1: Python" in done.stdout and "seen" in done.stdout
    assert not list(fresh.results().glob("doctor-*"))
    # On any scheduler, by the profile's own commands.
    done = fresh.metabench("doctor", "--profile", "profiles/generic")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "node node1: Python" in done.stdout


def test_the_doctor_names_both_versions_where_a_compute_node_has_others(fresh: Cluster) -> None:
    fresh.write_suite(**toy("none"))
    # The node sees another metabench: what the job's shell finds first.
    other = fresh.folder / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(
        "import importlib.metadata as m, os\nreal = m.version\n"
        "if 'SLURM_JOB_ID' in os.environ:\n    m.version = lambda name: '2.0.0' if name == 'torch' else real(name)\n"
    )
    done = fresh.metabench("doctor", "--profile", "profiles/slurm", first=str(other))
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error")]
    assert "node1 has other versions than this machine (torch " in line and ", 2.0.0 there" in line


def test_a_partition_that_is_down_is_named_and_one_whose_nodes_are_may_be_waited_for(fresh: Cluster) -> None:
    fresh.write_suite(**toy("none"))
    fresh.edit_profile(default_resources={"slurm_partition": "short"})
    fresh.slurm.ask("scontrol", "update", "PartitionName=short", "State=DOWN")
    try:
        done = fresh.metabench("doctor", "--profile", "profiles/slurm", "--no-job")
    finally:
        fresh.slurm.ask("scontrol", "update", "PartitionName=short", "State=UP")
    assert done.returncode == 1 and "error    partition 'short' starts no jobs: it is DOWN" in done.stdout
    fresh.slurm.ask("scontrol", "update", "NodeName=node[1-2]", "State=DRAIN", "Reason=test")
    try:
        done = fresh.metabench("doctor", "--profile", "profiles/slurm", "--no-job")
    finally:
        fresh.slurm.ask("scontrol", "update", "NodeName=node[1-2]", "State=RESUME")
    assert done.returncode == 0 and "warning  partition 'short': some nodes are down or drained" in done.stdout, done.stdout


def test_a_job_that_does_not_start_in_time_is_cancelled(fresh: Cluster) -> None:
    fresh.write_suite(**toy("none"))
    busy = fresh.slurm.ask("sbatch", "--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 100").strip()
    try:
        done = fresh.metabench("doctor", "--profile", "profiles/slurm", "--wait", "0.05")
        assert [job.id for job in fresh.jobs()] == [busy]
    finally:
        fresh.slurm.ask("scancel", busy)
    assert done.returncode == 0
    assert "had no answer within" in done.stdout and "is cancelled" in done.stdout, done.stdout + done.stderr


def test_an_account_is_one_of_yours(fresh: Cluster) -> None:
    if not fresh.slurm.settings.database:
        pytest.skip("this SLURM keeps no accounts: METABENCH_SLURM_DATABASE=1 gives it some, for another minute of installation")
    fresh.write_suite(**toy("none"))
    fresh.edit_profile(default_resources={"slurm_account": "fysics"})
    done = fresh.metabench("doctor", "--profile", "profiles/slurm", "--no-job")
    assert done.returncode == 1 and "account 'fysics' is not one of yours: did you mean 'physics'?" in done.stdout
    fresh.edit_profile(default_resources={"slurm_account": "physics"})
    assert fresh.metabench("doctor", "--profile", "profiles/slurm").returncode == 0


def test_a_torch_without_cuda_is_said_before_anything_is_submitted(fresh: Cluster) -> None:
    if not cpu_build():
        pytest.skip("torch here has CUDA")
    fresh.write_suite(**toy("none", seeds=[0], device="cuda"))
    before = {job.id for job in fresh.jobs("all")}
    fresh.edit_profile(default_resources={"slurm_partition": "gpu"})
    code, said = fresh.run()
    assert code == 2 and said.count("no job is submitted: device: cuda: torch ") == 1
    assert {job.id for job in fresh.jobs("all")} == before
