"""Progress of a command: a bar on a terminal, one line per stage in a log. Both go to standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from metabench.core.types import Progress


@contextlib.contextmanager
def progress_display(what: str) -> Iterator[Progress]:
    """Yield a function that shows the progress of `what`."""
    if not sys.stderr.isatty():
        yield _Lines(what)
        return
    bar = _Bar(what)
    try:
        yield bar
    finally:
        bar.stop()


class _Lines:
    """One line when a stage begins."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self.stage = stage
            print(f"{self.what}: {stage}", file=sys.stderr, flush=True)


class _Bar:
    """One bar for the stage that runs.

    It starts with the first stage: it runs a thread, and none may run while a cell's process is forked.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.shown: Any = None
        self.task: Any = None
        self.stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.shown is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self.shown = Progress(*columns, console=Console(stderr=True), transient=True)
            self.task = self.shown.add_task(self.what)
            self.shown.start()
        if stage != self.stage:
            self.stage = stage
            self.shown.reset(self.task)
        self.shown.update(self.task, description=f"{self.what}: {stage}", completed=done, total=total or None)

    def stop(self) -> None:
        """Remove the bar."""
        if self.shown is not None:
            self.shown.stop()
