"""What SLURM says of jobs, as far as its commands are there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass

_ASKED_SECONDS = 20.0
"""Seconds that the scheduler may take to answer."""

_ALIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED")
_UNKNOWN = "Invalid job id"


def job() -> str:
    """Return the id of the scheduler's job that this process is in; empty outside one."""
    return os.environ.get("SLURM_JOB_ID", "")


def host() -> str:
    """Return the name of the node that this process runs on: the scheduler's, else the machine's own."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def state(job: str) -> str:
    """Return the state of a job, as 'OUT_OF_MEMORY' or 'TIMEOUT'; empty where there is no job or no answer.

    The controller knows jobs that ended minutes ago, accounts those before, too; a cluster may keep none.
    """
    if not job:
        return ""
    with contextlib.suppress(IndexError):
        told = _asked("sacct", "--jobs", job, "--noheader", "--parsable2", "--format", "State", "--allocations")[0].splitlines()[0]
        if told.strip():
            return told.strip()
    found = re.search(r"\bJobState=(\S+)", _asked("scontrol", "show", "job", job, "--oneliner")[0])
    return found[1] if found else ""


def ended(job: str) -> bool:
    """Tell whether a job is known to have ended; where the scheduler gives no answer, it is not."""
    told, complaint, _ = _asked("squeue", "--jobs", job, "--noheader", "--states", "all", "--format", "%T")
    if _UNKNOWN in complaint:
        return True
    states = told.split()
    return bool(states) and not any(one in _ALIVE for one in states)


@dataclass(frozen=True)
class Queued:
    """A job of the scheduler's queue, with the comment of who sent it, which says what it is for."""

    id: str
    state: str
    reason: str
    comment: str


def queue() -> list[Queued]:
    """Return this user's jobs that wait or run; none where there is no scheduler."""
    lines = _asked("squeue", "--me", "--noheader", "--format", "%i|%T|%r|%k")[0].splitlines()
    return [Queued(*line.split("|", 3)) for line in lines if line.count("|") >= 3]


def cancel(job: str) -> bool:
    """Cancel a job; return whether the scheduler took that."""
    return shutil.which("scancel") is not None and _asked("scancel", job)[2] == 0


def _asked(*command: str) -> tuple[str, str, int]:
    """Return standard output, standard error and status of a command; nothing where it is missing or does not answer."""
    if shutil.which(command[0]) is None:
        return "", "", -1
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASKED_SECONDS, check=False)
        return done.stdout, done.stderr, done.returncode
    return "", "", -1
