"""The outcome of a cell: an exception as a status and one line.

The statuses are those of `metabench.results.schema.STATUSES`, without 'ok'.
"""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from metabench.autodiff.traced.missing_derivatives import refusal
from metabench.core.errors import MESSAGE_LENGTH, Diverged, OutOfMemory, TimeLimit, Unsupported

_PACKAGE = Path(__file__).resolve().parents[1]
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")
_INSTALLED = {"site-packages", "dist-packages"}

_ALLOCATION_FAILURES = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)


def outcome(error: BaseException) -> tuple[str, str]:
    """Return (status, message) for an exception that ended a cell. The message is one line of at most 500 characters.

    'oom': OutOfMemory, MemoryError and the failures of torch's allocators. 'diverged': Diverged, FloatingPointError.
    'timeout': TimeLimit. 'unsupported': Unsupported, and torch's refusal to differentiate or batch an operation, which
    the message names. Anything else is 'error', with type and place. An exception raised from another takes the other's
    status if its own is 'error'.
    """
    for link in _causes(error):
        status = _status(link)
        if status is not None:
            return status, _one_line(refusal(link)[0] or str(link) or type(link).__name__)
    where = _place(error)
    # Of CUDA's errors the other lines are advice on debugging kernels.
    text = str(error).partition("\n")[0] if str(error).startswith("CUDA error") else str(error)
    head = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return "error", _one_line(head, f" ({where})" if where else "")


def is_allocation_failure(error: BaseException) -> bool:
    """Return whether an allocator had no memory to give: Python's, torch's on a CPU, or CUDA's."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION_FAILURES)


def _status(error: BaseException) -> str | None:
    if isinstance(error, OutOfMemory) or is_allocation_failure(error):
        return "oom"
    if isinstance(error, Diverged | FloatingPointError):
        return "diverged"
    if isinstance(error, TimeLimit):
        return "timeout"
    if isinstance(error, Unsupported) or refusal(error)[0]:
        return "unsupported"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _place(error: BaseException) -> str:
    """Return 'file:line' of the innermost frame of metabench or of the user's own code, else of the innermost one."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    own = [frame for frame in frames if _is_own(Path(frame.filename))]
    frame = (own or frames)[-1]
    return f"{_short_path(frame.filename)}:{frame.lineno}"


def _is_own(path: Path) -> bool:
    if path.is_relative_to(_PACKAGE):
        return True
    return not path.is_relative_to(_STANDARD_LIBRARY) and _INSTALLED.isdisjoint(path.parts)


def _short_path(filename: str) -> str:
    """Return the path within the project, or the file's name: results do not contain paths of a machine."""
    path, project = Path(filename), _PACKAGE.parent
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else path.name


def _one_line(text: str, end: str = "") -> str:
    line = " ".join(text.split())
    room = MESSAGE_LENGTH - len(end)
    return (line if len(line) <= room else line[: room - 3] + "...") + end
