"""A SLURM of this machine, one for all tests, and tiny suites that run on it.

`make test-cluster` runs these tests; `pytest` alone leaves them out. They are skipped, with the reason, where there can be no SLURM.
METABENCH_SLURM_FOLDER names a folder to keep, with its logs, instead of a temporary one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.slurm import MARK, Slurm, Unavailable
from tests.workflow.conftest import PLUGIN, SUITE, Workflow, copy_source

FAULTS = PLUGIN + '''

def waits(name, always):
    """Wait for long, so that something can be done to this job: at every call, or at the first in this folder."""
    import os
    called = Path(f"called-{name}")
    first = not called.exists()
    with called.open("a") as file:
        file.write(os.environ.get("SLURM_JOB_ID", "") + "\\n")
    if first or always:
        time.sleep(900)


def baseline_of(*arguments):
    return baseline.none.function(*arguments)


@method(title="takes all memory", target=Target.NONE, exact=True, cost=Cost(), citation="")
def hungry(problem, state, meta, window, options, generator):
    taken = [bytearray(b"x" * 2**28) for _ in range(16)]
    time.sleep(300)
    return baseline_of(problem, state, meta, window, options, generator)


@method(title="never ends", target=Target.NONE, exact=True, cost=Cost(), citation="")
def endless(problem, state, meta, window, options, generator):
    waits("endless", always=True)
    return baseline_of(problem, state, meta, window, options, generator)


@method(title="is killed with the process that supervises it", target=Target.NONE, exact=True, cost=Cost(), citation="")
def lethal(problem, state, meta, window, options, generator):
    import os, signal
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


@method(title="has its job cancelled", target=Target.NONE, exact=True, cost=Cost(), citation="")
def cancelled(problem, state, meta, window, options, generator):
    waits("cancelled", always=False)
    return baseline_of(problem, state, meta, window, options, generator)


@method(title="has its job requeued", target=Target.NONE, exact=True, cost=Cost(), citation="")
def requeued(problem, state, meta, window, options, generator):
    waits("requeued", always=False)
    return baseline_of(problem, state, meta, window, options, generator)


@method(title="has its job pre-empted", target=Target.NONE, exact=True, cost=Cost(), citation="")
def preempted(problem, state, meta, window, options, generator):
    waits("preempted", always=False)
    return baseline_of(problem, state, meta, window, options, generator)
'''
"""Methods of which each meets another fault. `called-NAME` has the jobs in which the method of that name was called."""

SECONDS = 300.0
"""After which a run of Snakemake is ended, and the test fails."""


@dataclass(frozen=True)
class Job:
    """A job as squeue has it."""

    id: str
    state: str
    node: str
    comment: str


@dataclass(frozen=True)
class Cluster(Workflow):
    """A folder with the source and a suite, whose jobs run on SLURM."""

    slurm: Slurm

    def start(self, *arguments: str, profile: str = "profiles/slurm") -> subprocess.Popen[bytes]:
        """Start Snakemake in a process group of its own, its words in `said.txt`."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM"))}
        with (self.folder / "said.txt").open("wb") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "snakemake", *(["--workflow-profile", profile] if profile else []), *arguments],
                cwd=self.folder,
                env=environment | self.slurm.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def run(self, *arguments: str, profile: str = "profiles/slurm", meanwhile: Callable[[], object] | None = None) -> tuple[int, str]:
        """Run Snakemake on SLURM to its end, calling `meanwhile` again and again; return its exit code and all that it said."""
        process = self.start(*arguments, profile=profile)
        end = time.monotonic() + SECONDS
        try:
            while process.poll() is None:
                assert time.monotonic() < end, f"Snakemake does not end\n{self.said()}\n{self.slurm.ask('squeue', '--states=all')}"
                if meanwhile:
                    meanwhile()
                time.sleep(0.5)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process.returncode, self.said()

    def said(self) -> str:
        return (self.folder / "said.txt").read_text(encoding="utf-8", errors="replace")

    def metabench(self, *arguments: str, first: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of metabench, from the copy of the source, on this SLURM; `first` is where Python looks before that."""
        return subprocess.run(
            [sys.executable, "-m", "metabench", *arguments],
            cwd=self.folder,
            env=os.environ | self.slurm.environment | {"PYTHONPATH": os.pathsep.join(filter(None, (first, str(self.folder))))},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def jobs(self, *states: str) -> list[Job]:
        """Return the jobs in these states, by default those that wait or run."""
        chosen = [f"--states={','.join(states)}"] if states else []
        lines = self.slurm.ask("squeue", "--noheader", "--format=%i|%T|%N|%k", *chosen).splitlines()
        return [Job(*line.split("|", 3)) for line in lines]

    def edit_profile(self, path: str = "profiles/slurm/config.yaml", **changes: Any) -> None:
        """Change keys of a profile; a mapping changes its own keys alone, and None leaves a key out."""
        file = self.folder / path
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for key, value in changes.items():
            name = key.replace("_", "-")
            content[name] = content.get(name, {}) | value if isinstance(value, dict) else value
        file.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def quick(workflow: Cluster) -> None:
    """Make Snakemake look after its jobs at once: a suite of a test ends in seconds."""
    workflow.edit_profile(slurm_init_seconds_before_status_checks=1, latency_wait=10, default_resources={"mem_mb": 900})
    workflow.edit_profile("profiles/generic/config.yaml", seconds_between_status_checks=1, latency_wait=10)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """The SLURM of all tests. At the end it is stopped, and nothing that belongs to it may be left."""
    kept = os.environ.get("METABENCH_SLURM_FOLDER")
    # Not pytest's folder: munged wants one that all may pass through.
    one = Slurm(Path(kept or tempfile.mkdtemp(prefix="metabench-slurm-")))
    killed: list[str] = []
    try:
        one.start()
        yield one
    except Unavailable as error:
        pytest.skip(str(error))
    finally:
        killed = one.stop()
        if not kept:
            shutil.rmtree(one.folder)
    # Without cgroups SLURM loses sight of a process whose parent ended first, and Snakemake's may be left: a cell's may not.
    left = [process for process in killed if re.search(r"bin/metabench |-m metabench ", process)]
    assert not left, "\n".join(("processes of cells were left behind by their jobs:", *left))
    assert not one.processes(), f"processes with {MARK} are left"


@pytest.fixture(scope="session")
def cluster_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source, and a plugin with a method for each fault; nothing has run."""
    folder = tmp_path_factory.mktemp("cluster")
    copy_source(folder)
    (folder / "plugin.py").write_text(FAULTS, encoding="utf-8")
    return folder


def new_folder(cluster_source: Path, folder: Path, slurm: Slurm) -> Cluster:
    """Return a copy of the source in which nothing has run, its profiles quick."""
    shutil.copytree(cluster_source, folder / "tree")
    found = Cluster(folder / "tree", slurm)
    quick(found)
    return found


@pytest.fixture
def fresh(slurm: Slurm, cluster_source: Path, tmp_path: Path) -> Cluster:
    """A folder in which nothing has run."""
    return new_folder(cluster_source, tmp_path, slurm)


def toy(*methods: str, **keys: Any) -> dict[str, Any]:
    """Return changes of the tiny suite: these methods on the toy problem."""
    experiment = SUITE["experiments"]["toy"] | {"methods": list(methods)}
    return {"experiments": {"toy": experiment}, "baseline": methods[0], "limits": {"seconds": 120, "memory": "8GiB"}, **keys}
