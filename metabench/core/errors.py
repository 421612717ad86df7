"""The errors, by who causes them.

A `MetabenchError` is a user error or broken input: the command line prints its message without a traceback.
The others are outcomes of a cell: the runner turns each into a row with a status.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

MESSAGE_LENGTH = 500
"""Most characters that a message in a row may have."""


class MetabenchError(Exception):
    """A mistake that the user can fix; the message names the offending value and what was expected."""


class Unsupported(Exception):
    """The method does not apply to this problem; the message says why."""


class Absent(Unsupported):
    """The library that the method calls is not installed, or in another release; the message says how to install it."""


class Diverged(Exception):
    """A loss, a hypergradient or a parameter is no longer finite."""


class OutOfMemory(Exception):
    """The cell exceeded its memory limit."""


class TimeLimit(Exception):
    """The cell exceeded its time limit."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> MetabenchError:
    """Return the error for a name that is not among `choices`, with the nearest valid one."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}"
    return MetabenchError(f"unknown {kind} '{name}': {hint}")


def missing_file(what: str, path: Path) -> MetabenchError:
    """Return the error for a file that does not exist, with the nearest name in its folder."""
    siblings = sorted(one.name for one in path.parent.iterdir()) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return MetabenchError(
        f"{what} '{path}' does not exist" + (f": did you mean '{path.with_name(near[0])}'?" if near else "")
    )
