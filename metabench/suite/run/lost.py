"""Cells whose jobs are lost: each ends as rows that say what is known, and the next run tries it again. So do certificates, without rows.

Whatever goes wrong inside a cell is a row; a job is lost where the process that would write it ends too: a scheduler kills it, its node
dies, the disk is full. Every attempt at a cell notes itself beside the row file, and its shell notes how it exited, if it lives to. After
`ATTEMPTS` of them a last one runs nothing and writes the rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from metabench.core.atomic import write_text_atomically
from metabench.suite.plan.cell import ATTEMPTS, Cell
from metabench.suite.run.rows import failed_row

_ASKED_SECONDS = 20.0
"""Seconds that a scheduler may take to say how a job ended."""


def attempts_file(out: Path) -> Path:
    """Return where the attempts at a row file are noted: a JSON object for each beginning, and 'exit STATUS' where the shell saw one."""
    return out.with_suffix(".attempts")


def times_lost(out: Path) -> int:
    """Return how often the job of a row file was given up. A run that finds another number than the last one makes the rows again."""
    with contextlib.suppress(OSError, ValueError):
        return int(_count_file(out).read_text(encoding="utf-8"))
    return 0


def note_attempt(out: Path, attempt: int) -> None:
    """Note that an attempt begins here; the first of a run forgets those of earlier runs."""
    begun = {"attempt": attempt, "host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID", ""), "at": time.time()}
    with attempts_file(out).open("w" if attempt == 1 else "a", encoding="utf-8") as file:
        file.write(json.dumps(begun) + "\n")


def forget_attempts(out: Path) -> None:
    """Forget the attempts at a row file that is written: those of a later run, if its first never begins, are not to be taken for them."""
    attempts_file(out).unlink(missing_ok=True)


def lost_rows(cell: Cell, out: Path) -> list[dict[str, Any]]:
    """Return a row for each seed of a cell of which all attempts were lost, and count it."""
    from metabench.measure.environment import environment

    status, message = given_up(out)
    place = environment(cell.device)
    return [failed_row(cell, seed, status, message, place) for seed in cell.seeds]


def given_up(out: Path) -> tuple[str, str]:
    """Return the status and the message for a file of which all attempts were lost, and count it."""
    verdict = _verdict(_attempts(out)[-ATTEMPTS:])
    write_text_atomically(_count_file(out), f"{times_lost(out) + 1}\n")
    return verdict


def _count_file(out: Path) -> Path:
    return out.with_suffix(".lost")


def _attempts(out: Path) -> list[dict[str, Any]]:
    """Return the attempts that began, each with its exit status where its shell noted one; a line cut short is left out."""
    found: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):
        for line in attempts_file(out).read_text(encoding="utf-8", errors="replace").splitlines():
            word, _, code = line.partition(" ")
            if word == "exit" and code.isdigit() and found:
                found[-1]["exit"] = int(code)
            elif line.startswith("{") and line.endswith("}"):
                found.append(json.loads(line))
    return found


def _verdict(attempts: list[dict[str, Any]]) -> tuple[str, str]:
    """Return the status and the message of the rows, from the attempts that were lost."""
    told = [_ending(attempt) for attempt in attempts]
    status = next((status for status, _ in reversed(told) if status != "error"), "error")
    words = "; ".join(f"attempt {attempt['attempt']} {words}" for attempt, (_, words) in zip(attempts, told, strict=True))
    return status, f"the job was lost: {words or 'no attempt at it began'}"


def _ending(attempt: dict[str, Any]) -> tuple[str, str]:
    """Return the status of an attempt, and how it ended in words."""
    state = _scheduler_state(str(attempt.get("job", "")))
    where = f"on {attempt.get('host', '?')}" + (f", job {attempt['job']} of the scheduler: {state}" if state else "")
    if state.startswith("OUT_OF_ME"):
        return "oom", f"ran out of memory {where}"
    if state.startswith("TIMEOUT"):
        return "timeout", f"passed the scheduler's time limit {where}"
    code = attempt.get("exit")
    if code is None:
        return "error", f"ended without a word {where}, with its shell"
    if code == 128 + signal.SIGKILL:
        return "oom", f"was killed (SIGKILL) {where}, as the kernel and schedulers do when memory runs out"
    if code > 128:
        with contextlib.suppress(ValueError):
            return "error", f"was ended by {signal.Signals(code - 128).name} {where}"
    return "error", f"exited with status {code} {where}; its log has its last words"


def _scheduler_state(job: str) -> str:
    """Return what SLURM's accounts say of a job, as 'OUT_OF_MEMORY'; empty where there is no job or no answer."""
    if not job or shutil.which("sacct") is None:
        return ""
    command = ["sacct", "--jobs", job, "--noheader", "--parsable2", "--format", "State", "--allocations"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASKED_SECONDS, check=False)
        return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""
    return ""
