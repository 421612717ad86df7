"""One job of a minute on a compute node: what it finds there, next to what is here."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from metabench.core.errors import MetabenchError
from metabench.core.types import Progress
from metabench.measure.environment import PROJECT
from metabench.suite.byte_words import human_bytes
from metabench.suite.cluster import probe
from metabench.suite.cluster.checks import Finding
from metabench.suite.cluster.profile import Profile
from metabench.suite.cluster.request import Request
from metabench.suite.cluster.slurm import Unanswered, ask

PROBE_MB, PROBE_MINUTES = 2048, 5
"""What the job asks for: it takes seconds, but imports torch from a cold file system where there is a GPU."""

CLOCK_S = 2.0
"""Seconds by which clocks may differ: Snakemake compares the ages of files."""

_LAST_WORDS = 400


@dataclass(frozen=True)
class Answer:
    """What a job found, the seconds that a file takes to be seen, and by how many the job's clock is ahead; None if not measured."""

    found: Mapping[str, Any]
    latency_s: float | None
    ahead_s: float | None


def check_compute_node(profile: Profile, request: Request, folder: Path, patience_s: float, progress: Progress) -> Iterator[Finding]:
    """Submit a job as the profile submits those of `request`, and yield what its answer says. Files are in a new folder in `folder`.

    patience_s: for how many seconds the job may wait in the queue; then it is cancelled, and a warning says so.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="doctor-", dir=folder.resolve()))
    except OSError as error:
        yield Finding("error", f"the results folder '{folder}' cannot be written to here: {error.strerror}")
        return
    keep = False
    try:
        answer = _ask(profile, request, place, patience_s, progress)
        yield from compared(answer, probe.here(), request, float(profile.keys.get("latency-wait") or 5))
    except Unanswered as error:
        keep = (place / "log").is_file()
        yield Finding("error", f"{error}{_last_words(place)}")
    except TimeoutError as error:
        yield Finding("warning", str(error))
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def compared(answer: Answer, own: Mapping[str, Any], request: Request, latency_wait_s: float) -> Iterator[Finding]:
    """Yield what an answer says, next to what is found here.

    latency_wait_s: for how many seconds Snakemake waits for a file.
    """
    found = answer.found
    node = f"node {found['node']}"
    yield Finding("ok", f"{node} runs jobs and writes to the results folder")
    names = {"python": "Python", "torch": "torch", "metabench": "metabench", "source": "metabench's source", "lock": "requirements.lock"}
    differing = [f"{words} {own[key]} here, {found[key]} there" for key, words in names.items() if own[key] != found[key]]
    if differing:
        yield Finding(
            "error",
            f"{node} has other versions than this machine ({'; '.join(differing)}): use one environment on a file system that both see "
            f"(here {own['executable']}, there {found['executable']})",
        )
    else:
        build = f"CUDA {found['cuda']}" if found["cuda"] else "CPU"
        yield Finding("ok", f"{node}: Python {found['python']}, torch {found['torch']} ({build}), metabench {found['metabench']}, as here")
    yield from _devices(found, node, request)
    yield from _waits(answer, node, latency_wait_s)
    asked = PROBE_MB << 20
    if not found["memory_bytes"]:
        yield Finding("warning", f"{node} does not bound the memory of a job: one cell may end another's job by taking its memory")
    elif found["memory_bytes"] < asked:
        yield Finding(
            "error",
            f"{node} gives a job {human_bytes(found['memory_bytes'])} of the {human_bytes(asked)} that it asked for: check `mem_mb`",
        )
    else:
        yield Finding("ok", f"{node}: a job that asks for {human_bytes(asked)} may use {human_bytes(found['memory_bytes'])}")


def _devices(found: Mapping[str, Any], node: str, request: Request) -> Iterator[Finding]:
    if not request.gpus:
        return
    if not found["gpus"]:
        yield Finding("error", f"{node}: the job asked for {request.gpus} GPU, and nvidia-smi shows none: check gpu, gpu_model or gres")
    elif found.get("devices", 0) < request.gpus:
        why = found.get("fault") or f"torch {found['torch']} finds {found.get('devices', 0)} devices"
        yield Finding("error", f"{node} has {found['gpus'][0]}, and {why}: the driver must know CUDA {found['cuda'] or '(none)'}")
    elif found["devices"] > request.gpus:
        yield Finding(
            "warning",
            f"{node}: the job asked for {request.gpus} GPU and sees {found['devices']}: its cells share them with other jobs",
        )
    else:
        yield Finding("ok", f"{node}: {found['gpus'][0]}")


def _waits(answer: Answer, node: str, latency_wait_s: float) -> Iterator[Finding]:
    if answer.latency_s is None or answer.ahead_s is None:
        yield Finding(
            "error",
            f"{node} did not see a file that was written here within {probe.PATIENCE_S:g} s: is the results folder on a file system that "
            "both see?",
        )
        return
    seen = f"a file is seen {answer.latency_s:.1f} s after it was written"
    if answer.latency_s > latency_wait_s / 2:
        yield Finding("warning", f"{node}: {seen}: raise `latency-wait`, now {latency_wait_s:g}, to {max(60, round(4 * answer.latency_s))}")
    else:
        yield Finding("ok", f"{node}: {seen}")
    # What the files' delay may account for is no difference of clocks.
    if abs(answer.ahead_s) > CLOCK_S + answer.latency_s:
        yield Finding(
            "error",
            f"the clock of {node} is {abs(answer.ahead_s):.0f} s {'ahead of' if answer.ahead_s > 0 else 'behind'} the one here: Snakemake "
            "would take new files for old; ask for the clocks to be set (NTP)",
        )


def _ask(profile: Profile, request: Request, place: Path, patience_s: float, progress: Progress) -> Answer:
    """Submit the job, wait for its answer, and ask for its clock. Raises Unanswered, and TimeoutError if it is still waiting."""
    asked = replace(request, memory_mb=PROBE_MB, minutes=PROBE_MINUTES, cores=1)
    job = _submit(profile, asked, place)
    try:
        hello = _awaited(place / probe.HELLO, patience_s, job, profile, progress)
        begun = time.time()
        (place / probe.PING).touch()
        try:
            pong = _awaited(place / probe.PONG, probe.PATIENCE_S, job, profile, progress)
        except (TimeoutError, Unanswered):
            return Answer(hello, None, None)
        ended = time.time()
    except BaseException:
        _cancel(profile, job)
        raise
    trip = ended - begun - (pong["answered"] - pong["seen"])
    return Answer(hello, max(0.0, trip / 2), (pong["seen"] - begun + pong["answered"] - ended) / 2)


def _submit(profile: Profile, request: Request, place: Path) -> str:
    script = place / "job.sh"
    command = shlex.join([sys.executable, "-m", "metabench.suite.cluster.probe", str(place)])
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    # The log is opened by the script: where another place for it is asked for, none knows it.
    script.write_text(f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(path)}\nexec {command} > {shlex.quote(str(place / 'log'))} 2>&1\n")
    script.chmod(0o755)
    if profile.executor == "slurm":
        extra = ["--job-name=metabench-doctor", "--ntasks=1", "--output=/dev/null", "--export=ALL"]
        said = ask("sbatch", "--parsable", *request.options(), *extra, str(script))
        return said.strip().split(";")[0]
    template = profile.keys.get("cluster-generic-submit-cmd")
    if not template:
        raise MetabenchError("the profile has no `cluster-generic-submit-cmd`")
    resources = profile.resources("run_cell", {"gpu": request.gpus, "mem_mb": PROBE_MB, "runtime": PROBE_MINUTES})
    values = {"resources": SimpleNamespace(**resources), "threads": 1, "rule": "doctor", "wildcards": "", "jobid": 0}
    try:
        line = str(template).format(**values)
    except (AttributeError, IndexError, KeyError, ValueError) as error:
        raise MetabenchError(f"`cluster-generic-submit-cmd` names what jobs do not have: {error}") from error
    said = _shell(f"{line} {shlex.quote(str(script))}")
    return said.strip().splitlines()[-1] if said.strip() else ""


def _shell(command: str) -> str:
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unanswered(f"`{command}` exited with status {done.returncode}: {' '.join(done.stderr.split())}")
    return done.stdout


def _cancel(profile: Profile, job: str) -> None:
    command = "scancel" if profile.executor == "slurm" else profile.keys.get("cluster-generic-cancel-cmd")
    if command and job:
        subprocess.run(f"{command} {shlex.quote(job)}", shell=True, capture_output=True, check=False)


def _awaited(path: Path, seconds: float, job: str, profile: Profile, progress: Progress) -> dict[str, Any]:
    """Return what a file says, once it is there. Raises Unanswered if its job ends before."""
    end, asked_again = time.monotonic() + seconds, time.monotonic() + 2
    while time.monotonic() < end:
        os.listdir(path.parent)
        if path.is_file():
            return dict(json.loads(path.read_text(encoding="utf-8")))
        if time.monotonic() > asked_again:
            state = _state(profile, job)
            progress(f"job {job}: {state or 'waiting for its answer'}", 0, 1)
            if state in _ENDED and not path.is_file():
                raise Unanswered(f"the job {job} ended without an answer ({state})")
            asked_again = time.monotonic() + 2
        time.sleep(0.05)
    raise TimeoutError(
        f"the job {job} had no answer within {seconds / 60:.0f} minutes ({_state(profile, job) or 'no state'}) and is cancelled: "
        "nothing is known of the compute nodes; --wait gives it longer"
    )


_ENDED = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "COMPLETED", "failed", "success")


def _state(profile: Profile, job: str) -> str:
    """Return how the job stands, as the scheduler says; empty where it does not."""
    try:
        if profile.executor == "slurm":
            return ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()
        status = profile.keys.get("cluster-generic-status-cmd")
        return _shell(f"{status} {shlex.quote(job)}").strip() if status else ""
    except Unanswered:
        return ""


def _last_words(place: Path) -> str:
    try:
        words = " ".join((place / "log").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return ""
    return f"; its log, {place / 'log'}, ends: {words[-_LAST_WORDS:]}" if words else ""
