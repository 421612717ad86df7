"""Attempts at a cell that end before its rows are written: how they ended, and what is known in the end.

Whatever goes wrong inside a cell is a row; a job is lost where the process that would write it ends too: a scheduler kills it, its node
dies, the disk is full. Every attempt notes itself beside the row file, its shell notes how it exited, if it lives to, and the lock that it
left tells the next one how much memory it took. After `ATTEMPTS` that the cell itself ended, or `MOST_ATTEMPTS` in all, a last one runs
nothing and writes the rows: those of finished seeds, and for the others why there are none. So do certificates, without rows.

What the cell did, for memory or for time, it would do again: its rows stay. What was a mishap, such as a node that went away, the next run
tries again, once.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabench.core.atomic import write_text_atomically
from metabench.measure.environment import torch_version
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash
from metabench.suite.run import scheduler
from metabench.suite.run.journal import Journal
from metabench.suite.run.lock import Lock, held, is_own, lock_file, machine, read_lock
from metabench.suite.run.memory_limit import NEAR, Killed, gib, oom_kills
from metabench.suite.run.rows import failed_row

ATTEMPTS = 2
"""Attempts that a cell itself ended, after which it is given up."""
MOST_ATTEMPTS = 4
"""Attempts of one run, however they ended; one more only writes rows."""

_AGAIN = "again"


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: the status of its rows, in words, and whether it was none of the cell's doing."""

    status: str
    words: str
    mishap: bool


def attempts_file(out: Path) -> Path:
    """Return where the attempts at a row file are noted: a JSON object for each beginning, and 'exit STATUS' where the shell saw one."""
    return out.with_suffix(".attempts")


def times_lost(out: Path) -> int:
    """Return how many mishaps the job of a row file had. A run that finds another number than the last one makes the rows again."""
    return _counted(out)[0]


def note_attempt(out: Path, attempt: int) -> None:
    """Note that an attempt begins here; the first of a run forgets those of earlier runs."""
    begun = {
        "attempt": attempt,
        "host": scheduler.host(),
        "machine": machine(),
        "job": scheduler.job(),
        "at": time.time(),
        "oom_kills": oom_kills(),
    }
    with attempts_file(out).open("w" if attempt == 1 else "a", encoding="utf-8") as file:
        file.write(f"{json.dumps(begun)}\n")


def note_ending(out: Path, killed: Killed) -> None:
    """Note of the attempt that runs how it ends, where that is known already."""
    with attempts_file(out).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"ending": [killed.status, killed.words]}) + "\n")


def note_exit(out: Path, code: int) -> None:
    """Note the exit status of the attempt that runs, as its shell would."""
    with attempts_file(out).open("a", encoding="utf-8") as file:
        file.write(f"exit {code}\n")


def forget_attempts(out: Path) -> None:
    """Forget the attempts at a row file that is written: those of a later run, if its first never begins, are not to be taken for them."""
    attempts_file(out).unlink(missing_ok=True)


def endings(out: Path) -> list[Ending]:
    """Return how each attempt of this run at a row file ended, as far as they are known to have ended."""
    return [_ending(attempt) for attempt in _attempts(out)]


def is_exhausted(out: Path, attempt: int, most: int = MOST_ATTEMPTS) -> bool:
    """Tell whether no attempt is left: this one, from 1, is to write how the others ended. `most` is other for a batch, which is many."""
    return attempt > 1 and (attempt > most or (most == MOST_ATTEMPTS and own_endings(out) >= ATTEMPTS))


def own_endings(out: Path) -> int:
    """Return how many attempts of this run the cell itself ended."""
    return sum(not one.mishap for one in endings(out))


@contextlib.contextmanager
def attempt_at(out: Path, attempt: int, asked_mib: int | None = None, most: int = MOST_ATTEMPTS) -> Iterator[Lock]:
    """Hold the lock of `out` for an attempt of a scheduler at it, from 1; 0 for no scheduler. What is noted of attempts goes with success.

    `asked_mib` is the memory that was asked of the scheduler, `most` as for `is_exhausted`. `lock.exhausted` tells that only how the others
    ended is to be written.
    """
    with held(out, lambda who: print(f"{out}: waiting for {who}", file=sys.stderr), (asked_mib or 0) << 20) as lock:
        if lock.before and attempt > 1:
            with attempts_file(out).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"left": lock.before}) + "\n")
        lock.exhausted = is_exhausted(out, attempt, most)
        if attempt and not lock.exhausted:
            note_attempt(out, attempt)
        yield lock
        forget_attempts(out)


def lost_rows(cell: Cell, out: Path, batch: Path | None = None) -> list[dict[str, Any]]:
    """Return a row for each seed of a cell that is given up: those of finished seeds as they are. `batch` is the mark of its batch."""
    from metabench.measure.environment import environment

    finished = Journal(cell, out).rows
    status, message = given_up(out, batch)
    place = environment(cell.device)
    return [finished[seed] if seed in finished else failed_row(cell, seed, status, message, place) for seed in cell.seeds]


def made_meanwhile(cell: Cell, out: Path) -> list[dict[str, Any]]:
    """Return the rows of `out` if they are all of this cell's, by this source: another job made them while this one waited."""
    from metabench.core.errors import MetabenchError
    from metabench.results.store import read_rows, rows_of

    with contextlib.suppress(MetabenchError):
        rows = rows_of(read_rows(out))
        own = {"cell": cell.hash, "code_hash": code_hash(cell), "torch_version": torch_version()}
        if [row["seed"] for row in rows] == cell.seeds and all(own.items() <= row.items() for row in rows):
            return rows
    return []


def given_up(out: Path, batch: Path | None = None) -> tuple[str, str]:
    """Return the status and the message for a file whose attempts were all lost, or those at its `batch`; a mishap is counted."""
    attempts = (_attempts(out) or (_attempts(batch) if batch else []))[-MOST_ATTEMPTS:]
    told = [_ending(attempt) for attempt in attempts]
    own = [one for one in told if not one.mishap]
    status = own[-1].status if own else "error"
    alike: dict[str, list[str]] = {}
    for attempt, one in zip(attempts, told, strict=True):
        alike.setdefault(one.words, []).append(str(attempt["attempt"]))
    words = "; ".join(f"attempt {', '.join(numbers)} {words}" for words, numbers in alike.items())
    note_end(out, mishap=len(own) < ATTEMPTS)
    return status, f"the job was lost: {words or 'no attempt at it began'}"


def is_to_try_again(out: Path) -> bool:
    """Tell whether a mishap ended the last run's attempts, so that its rows are to be made again."""
    return _counted(out)[1]


def note_end(out: Path, mishap: bool) -> None:
    """Note how a run's attempts at a row file ended, so that the next run tries again what a mishap ended: once."""
    count, is_second = _counted(out)
    if mishap and not is_second:
        write_text_atomically(_count_file(out), f"{count + 1} {_AGAIN}\n")
    elif is_second:
        write_text_atomically(_count_file(out), f"{count}\n")


def _count_file(out: Path) -> Path:
    return out.with_suffix(".lost")


def _counted(out: Path) -> tuple[int, bool]:
    """Return the mishaps counted, and whether the run that makes the rows now is the one that tries again."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        number, *words = _count_file(out).read_text(encoding="utf-8").split()
        return int(number), words == [_AGAIN]
    return 0, False


def _attempts(out: Path) -> list[dict[str, Any]]:
    """Return the attempts that began, each with its exit status and what its lock said where they are known; others lines are left out."""
    found: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):
        for line in attempts_file(out).read_text(encoding="utf-8", errors="replace").splitlines():
            word, _, code = line.partition(" ")
            if word == "exit" and code.isdigit() and found:
                found[-1]["exit"] = int(code)
            elif line.startswith("{") and line.endswith("}"):
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    if "attempt" in said:
                        found.append(said)
                    elif found:
                        found[-1] |= said
    # The lock that the last attempt left stands until the next one takes it over.
    if found and "left" not in found[-1] and (said := read_lock(lock_file(out))) and not is_own(said):
        found[-1]["left"] = said
    return found


def _ending(attempt: Mapping[str, Any]) -> Ending:
    """Return how an attempt ended."""
    job = str(attempt.get("job", ""))
    state = scheduler.state(job)
    if "ending" in attempt:
        status, words = attempt["ending"]
        return Ending(status, f"{words}, on {attempt.get('host', '?')}" + (f", job {job} of the scheduler" if job else ""), False)
    where = f"on {attempt.get('host', '?')}" + (f", job {job} of the scheduler" if job else "") + (f": {state}" if state else "")
    if state.startswith("OUT_OF_ME"):
        return Ending("oom", f"ran out of memory {where}", False)
    if state.startswith("TIMEOUT"):
        return Ending("timeout", f"passed the scheduler's time limit {where}", False)
    code = attempt.get("exit")
    if code is not None and code != 128 + signal.SIGKILL:
        with contextlib.suppress(ValueError):
            number = signal.Signals(code - 128)
            asked = number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            return Ending("error", f"was ended by {number.name} {where}", asked)
        return Ending("error", f"exited with status {code} {where}; its log has its last words", False)
    taken, limit = (int(attempt.get("left", {}).get(name, 0)) for name in ("peak_bytes", "limit_bytes"))
    how = "was killed (SIGKILL)" if code is not None else "ended without a word"
    if limit and taken >= NEAR * limit:
        return Ending("oom", f"{how} {where}, when it took {gib(taken)} of the {gib(limit)} that it may", False)
    if attempt.get("machine") == machine() and oom_kills() > int(attempt.get("oom_kills", 0)):
        return Ending("oom", f"{how} {where}, and the kernel says that memory ran out", False)
    seen = f": it was last seen with {gib(taken)} of {gib(limit)}" if limit and taken else ""
    return Ending("error", f"{how} {where}, not for memory as far as is known{seen}", True)

