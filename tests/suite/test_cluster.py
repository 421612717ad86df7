"""Profiles, what jobs ask for, and what SLURM's answers mean; `make test-cluster` asks a real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.suite.cluster import checks, compute_node, probe, slurm, torch_build
from metabench.suite.cluster.profile import missing_executor, read_profile
from metabench.suite.cluster.request import CERTIFY_MB, CERTIFY_MINUTES, Request, largest, planned_requests
from metabench.suite.plan.plan import load_suite, plan

ROOT = Path(__file__).parents[2]
SLURM, GPU, GENERIC = (ROOT / "profiles" / name for name in ("slurm", "slurm/gpu.yaml", "generic"))

NODES = """\
NodeName=a1 CoresPerSocket=8 CPUTot=64 AvailableFeatures=icelake,ib ActiveFeatures=icelake,ib Gres=(null) RealMemory=256000 State=IDLE \
Partitions=cpu,short BootTime=2026-01-01T00:00:00
NodeName=g1 Arch=x86_64 CPUTot=32 AvailableFeatures=(null) Gres=gpu:a100:4(S:0-1),gpu:h100:2,shard:8(S:0) RealMemory=512000 \
OS=Linux 5.14 #1 SMP State=DOWN+DRAIN ThreadsPerCore=2 Partitions=gpu
"""
PARTITIONS = """\
PartitionName=cpu AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES MaxNodes=UNLIMITED MaxTime=2-12:30:00 \
MaxCPUsPerNode=UNLIMITED PreemptMode=OFF State=UP MaxMemPerNode=UNLIMITED
PartitionName=short AllowAccounts=physics,Chemistry DenyAccounts=biology Default=NO MaxTime=00:30:00 PreemptMode=GANG,CANCEL State=UP \
MaxMemPerNode=64000 MaxCPUsPerNode=16
PartitionName=gpu AllowAccounts=ALL Default=NO MaxTime=UNLIMITED PreemptMode=REQUEUE State=DRAIN
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Answers of a SLURM, by the command's last words; those that are missing fail."""
    answers = {"node": NODES, "partition": PARTITIONS, "format=account": "physics\n\nphysics\n", "--wrap=true": ""}

    def ask(*command: str) -> str:
        if command[-1] in answers:
            return answers[command[-1]]
        raise slurm.Unanswered(f"{command[0]} is out")

    monkeypatch.setattr(slurm, "ask", ask)
    return answers


def said(*requests: Request, level: str = "error") -> list[str]:
    return [found.words for found in checks.check_requests(requests) if found.level == level]


def asked(**changes: Any) -> Request:
    return Request("run_cell", **{"partition": "cpu", "memory_mb": 1000, "minutes": 10} | changes)


def test_nodes_and_partitions_are_read(cluster: dict[str, str]) -> None:
    found = slurm.partitions()
    assert found["cpu"].default and found["cpu"].minutes == 60 * 60 + 30 and found["cpu"].memory_mb is None
    assert (found["short"].minutes, found["short"].memory_mb, found["short"].cores) == (30, 64000, 16)
    assert found["short"].preemption == "CANCEL" and found["short"].allowed == {"physics", "chemistry"}
    assert found["gpu"].minutes is None and found["gpu"].state == "DRAIN"
    (node,) = found["cpu"].nodes
    assert (node.cores, node.memory_mb, node.gpus, node.features, node.up) == (64, 256000, {}, {"icelake", "ib"}, True)
    (node,) = found["gpu"].nodes
    assert node.gpus == {"a100": 4, "h100": 2} and node.gpus_of("") == 6 and node.gpus_of("v100") == 0 and not node.up


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition": "cpus"}, "did you mean 'cpu'?"),
        ({"partition": "gpu"}, "partition 'gpu' starts no jobs: it is DRAIN"),
        ({"partition": "short", "minutes": 31}, "31 minutes, and partition 'short' allows 30"),
        ({"partition": "short", "memory_mb": 64001}, "gives 64000 at most"),
        ({"partition": "short", "cores": 17}, "gives 16 at most"),
        ({"memory_mb": 256001}, "gives 256000 at most"),
        ({"memory_mb": 300}, "Snakemake itself does not run"),
        ({"gpus": 1}, "partitions with such GPUs: gpu"),
        ({"gpus": 1, "gpu_model": "v100"}, "no node of this cluster declares any"),
        ({"constraint": "icelak"}, "did you mean 'icelake'?"),
        ({"account": "fysics"}, "did you mean 'physics'?"),
    ],
)
def test_what_cannot_run_is_named_with_what_to_do(cluster: dict[str, str], changes: dict[str, Any], words: str) -> None:
    (only,) = said(asked(**changes))
    assert words in only and "\n" not in only


def test_what_can_run_is_fine(cluster: dict[str, str]) -> None:
    fine = asked(memory_mb=256000, minutes=3630, cores=64, constraint="icelake", account="Physics")
    assert said(fine) == [] and said(asked(partition="")) == []
    # A constraint that is a formula is SLURM's to judge.
    assert said(asked(constraint="a&b")) == []


def test_a_partition_that_cancels_what_it_preempts_is_warned_of(cluster: dict[str, str]) -> None:
    assert "cancels jobs that it pre-empts" in said(asked(partition="short"), level="warning")[0]


def test_the_words_of_sbatch_come_through(cluster: dict[str, str]) -> None:
    del cluster["--wrap=true"]
    assert said(asked()) == ["sbatch refuses jobs of run_cell (--partition=cpu --mem=1000M --time=10 --cpus-per-task=1): sbatch is out"]
    # Where nodes are down it may be for that: a job that is submitted waits.
    cluster["node"] = NODES.replace("State=IDLE", "State=IDLE+DRAIN")
    assert said(asked()) == [] and "may wait: sbatch is out" in said(asked(), level="warning")[0]


def test_an_account_where_there_are_none_is_refused_as_the_plugin_would(cluster: dict[str, str]) -> None:
    del cluster["format=account"]
    assert "leave it out" in said(asked(account="physics"))[0]
    cluster["--format=Account"] = "chemistry\n"
    assert said(asked(account="chemistry")) == []


def test_without_slurm_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (only,) = said(asked(), asked(partition="gpu"))
    assert only == "SLURM does not answer: there is no scontrol here; is this a login node of the cluster?"


def test_a_fault_of_many_jobs_is_said_once(cluster: dict[str, str]) -> None:
    assert len(said(*(asked(partition="cpus", memory_mb=1000 + number) for number in range(9)))) == 1


def test_a_run_is_refused_with_all_faults(cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "cpu_build", lambda: "2.13.0+cpu")
    with pytest.raises(MetabenchError, match=r"(?s)no job is submitted: device: cuda: torch 2.13.0\+cpu .*\n  partition 'cpus'"):
        checks.refuse([asked(partition="cpus")], "slurm", "cuda")
    with pytest.raises(MetabenchError, match="built for CPUs alone"):
        checks.refuse([asked(partition="cpus")], "cluster-generic", "cuda")
    checks.refuse([asked(partition="cpus")], "cluster-generic", "cpu")
    # Nothing to submit, nothing to refuse.
    checks.refuse([], "slurm", "cuda")


def test_the_largest_of_each_kind_stand_for_all() -> None:
    small, much, long, wide = asked(), asked(memory_mb=9000), asked(minutes=90), asked(cores=9)
    assert set(largest([small, much, long, wide])) == {much, long, wide}
    assert set(largest([small, much, asked(gpus=1)])) == {much, small, asked(gpus=1)}


@pytest.mark.parametrize(
    ("resources", "gpus", "model"),
    [({"gpu": 1}, 1, ""), ({"gpu_model": "a100"}, 1, "a100"), ({"gres": "gpu:a100:2", "gpu": 0}, 2, "a100"), ({"gres": "gpu:3"}, 3, "")],
)
def test_every_form_of_gpus_is_read(resources: dict[str, Any], gpus: int, model: str) -> None:
    found = Request.of("run_cell", resources, 1)
    assert (found.gpus, found.gpu_model) == (gpus, model)


def test_the_profiles_ask_for_what_they_say() -> None:
    suite = {"name": "s", "experiments": {"toy": {"problem": "toy_1d", "methods": ["unrolled"]}}}
    requests = {one.rule: one for one in planned_requests(plan(load_suite(suite)), read_profile([SLURM]))}
    assert requests.keys() == {"run_cell", "time_setting", "certify_method"}
    assert {one.partition for one in requests.values()} == {"cpu"} and not any(one.gpus for one in requests.values())
    assert "--signal=TERM@120" in requests["run_cell"].options() and "--exclusive" not in requests["run_cell"].options()
    assert requests["time_setting"].options()[-2:] == ["--signal=TERM@120", "--exclusive"]
    on_gpus = list(planned_requests(plan(load_suite(suite | {"device": "cuda"})), read_profile([SLURM, GPU])))
    assert {(one.rule, one.partition, one.gpus) for one in on_gpus} == {
        ("run_cell", "gpu", 1),
        ("time_setting", "gpu", 1),
        ("certify_method", "cpu", 0),
    }
    assert not any("--exclusive" in one.options() for one in on_gpus)


def test_certificates_ask_for_what_their_rule_says() -> None:
    rule = (ROOT / "workflow" / "rules" / "certify.smk").read_text(encoding="utf-8")
    assert f"mem_mb={CERTIFY_MB}," in rule and f"runtime={CERTIFY_MINUTES}," in rule


@pytest.mark.parametrize("places", [[SLURM], [SLURM, GPU], [GENERIC]], ids=["slurm", "gpu", "generic"])
def test_snakemake_reads_the_profiles_as_metabench_does(places: list[Path]) -> None:
    snakemake = pytest.importorskip("snakemake.cli")
    yte = pytest.importorskip("yte")
    profile = read_profile(places)
    assert missing_executor(profile.executor) == "" or profile.executor in missing_executor(profile.executor)
    expected: dict[str, Any] = {}
    for place in places:
        file = snakemake.get_profile_dir(str(place))[1]
        expected |= yte.process_yaml(Path(file).read_text(encoding="utf-8"), require_use_yte=True)
    assert dict(profile.keys) == expected


def test_a_profile_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match="neither a file nor a folder"):
        read_profile([tmp_path / "none"])
    (tmp_path / "config.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(MetabenchError, match="not valid YAML"):
        read_profile([tmp_path])
    (tmp_path / "config.yaml").write_text("- a", encoding="utf-8")
    with pytest.raises(MetabenchError, match="not a mapping"):
        read_profile([tmp_path])


def test_the_doctor_says_what_is_wrong_with_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metabench.cli.doctor import findings

    (tmp_path / "config.yaml").write_text("jobs: 3\n", encoding="utf-8")
    planned = plan(load_suite({"name": "s", "experiments": {"toy": {"problem": "toy_1d", "methods": ["unrolled"]}}}))

    def found() -> list[str]:
        return [one.words for one in findings(read_profile([tmp_path]), planned, False, 1, lambda *_: None) if one.level != "ok"]

    assert "names no executor" in found()[0]
    (tmp_path / "config.yaml").write_text("executor: no-such\n", encoding="utf-8")
    assert "pip install snakemake-executor-plugin-no-such" in found()[0]
    monkeypatch.setattr("metabench.suite.cluster.profile.missing_executor", lambda name: "")
    (tmp_path / "config.yaml").write_text("executor: cluster-generic\ncluster-generic-status-cmd: no-such-command\n", encoding="utf-8")
    assert [one.split(":")[0] for one in found()] == [
        "the profile has no `cluster-generic-submit-cmd`",
        "`cluster-generic-status-cmd`",
        "the profile has no `cluster-generic-cancel-cmd`",
    ]


def test_a_job_by_any_command_says_what_it_finds(tmp_path: Path) -> None:
    """The scheduler of this test runs the script at once, in the background."""
    (tmp_path / "submit").write_text('#!/bin/sh\n"$2" > /dev/null 2>&1 &\necho $!\n', encoding="utf-8")
    (tmp_path / "submit").chmod(0o755)
    (tmp_path / "config.yaml").write_text(
        f"executor: cluster-generic\ncluster-generic-submit-cmd: {tmp_path}/submit {{resources.mem_mb}}\n", encoding="utf-8"
    )
    found = list(compute_node.check_compute_node(read_profile([tmp_path]), asked(), tmp_path / "results", 60, lambda *_: None))
    assert {one.level for one in found} <= {"ok", "warning"}, found
    assert any("as here" in one.words for one in found) and any("a file is seen" in one.words for one in found)
    assert list((tmp_path / "results").iterdir()) == []


def test_what_differs_on_a_compute_node_is_named_on_both_sides() -> None:
    here = probe.here()
    there = here | {"node": "n7", "torch": "2.0.0", "python": "3.9.1"}
    levels = {
        one.words: one.level
        for one in compute_node.compared(compute_node.Answer(there, latency_s=40, ahead_s=-70), here, asked(), latency_wait_s=60)
    }
    errors = [words for words, level in levels.items() if level == "error"]
    assert f"torch {here['torch']} here, 2.0.0 there" in errors[0] and f"Python {here['python']} here, 3.9.1 there" in errors[0]
    assert "the clock of node n7 is 70 s behind the one here" in errors[1]
    assert any("raise `latency-wait`, now 60, to 160" in words for words, level in levels.items() if level == "warning")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": []}, "nvidia-smi shows none"),
        ({"devices": 0, "fault": "RuntimeError: CUDA"}, "RuntimeError: CUDA"),
        ({"devices": 0}, "finds 0 devices"),
        ({"devices": 4}, "sees 4: its cells share them"),
        ({"devices": 1}, "NVIDIA H200, driver 570.1"),
    ],
)
def test_what_is_wrong_with_a_gpu_is_named(changes: dict[str, Any], words: str) -> None:
    here = probe.here()
    there = here | {"gpus": ["NVIDIA H200, driver 570.1"], "cuda": "13.0"} | changes
    found = [one.words for one in compute_node.compared(compute_node.Answer(there, 0.0, 0.0), here, asked(gpus=1), 60)]
    assert any(words in one for one in found), found


def test_a_folder_that_the_node_does_not_see_is_an_error() -> None:
    here = probe.here()
    found = [one for one in compute_node.compared(compute_node.Answer(here, None, None), here, asked(), 60) if one.level == "error"]
    assert "on a file system that both see" in found[0].words


def test_the_build_of_torch_is_read_without_importing_it() -> None:
    script = (
        "import sys; from metabench.suite.cluster.torch_build import cuda_build; "
        "print(repr(cuda_build()), 'torch' in sys.modules); import torch; print(repr(torch.version.cuda or torch.version.hip or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert done[0] == done[2] and done[1] == "False"
    assert bool(torch_build.cpu_build()) == (done[0] == "''")
