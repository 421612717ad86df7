"""Commands on a suite that runs, or that something ended: status and clean."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metabench.cli.application import DEFAULT_SUITE, Json, Overrides, app, planned_suite
from metabench.core.errors import MetabenchError

if TYPE_CHECKING:
    from metabench.suite.run.status import State, Status

_SHOWN = 20
"""Cells of a state that are listed; JSON has all."""


@app.command("status")
def status_command(
    config: Annotated[Path, typer.Argument(help="The suite.")] = DEFAULT_SUITE,
    overrides: Overrides = [],  # noqa: B006
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every five seconds, until all cells are done.")] = False,
) -> None:
    """Show how far a suite is: what is done, runs, waits and failed, from its files and its scheduler."""
    from metabench.suite.run.status import status

    if watch and as_json:
        raise MetabenchError("--watch shows, --json prints once: give one of them")
    plan = planned_suite(config, overrides)
    if as_json:
        print(json.dumps(status(plan).to_json(), indent=1))
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    found = status(plan)
    if not watch:
        console.print(_shown(found))
        return
    with Live(_shown(found), console=console, auto_refresh=False) as live:
        while any(cell.state != "done" for cell in found.cells):
            time.sleep(5.0)
            found = status(plan)
            live.update(_shown(found), refresh=True)


def _shown(found: Status) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    counts = ", ".join(f"{number} {state}" for state, number in found.counts().items() if number)
    lines: list[Any] = [Text(f"{found.suite}: {len(found.cells)} cells: {counts}", style="bold")]
    failed = [cell for cell in found.cells if cell.failed]
    orphans = [cell for cell in found.cells if cell.orphaned]
    for name, cells in (
        ("running", [cell for cell in found.cells if cell.state == "running"]),
        ("queued", [cell for cell in found.cells if cell.state == "queued"]),
        ("held by what is gone", [cell for cell in found.cells if cell.state == "stale"]),
        ("attempts lost", [cell for cell in found.cells if cell.state == "waiting" and cell.words]),
        ("not ok", failed),
    ):
        if cells:
            table = Table("cell", "", title=f"{name}: {len(cells)}", title_justify="left", show_header=False, box=None)
            for cell in cells[:_SHOWN]:
                table.add_row(cell.title, _words(cell))
            if len(cells) > _SHOWN:
                table.add_row(f"... and {len(cells) - _SHOWN} more", "--json lists all")
            lines += [Text(""), table]
    if orphans:
        told = f"{len(orphans)} of them outlived their run; a new run waits for them, `metabench clean` ends them"
        lines.append(Text(told, style="yellow"))
    if any(cell.state != "done" for cell in found.cells):
        left = "unknown until a cell is done" if found.seconds_left is None else f"about {_duration(found.seconds_left)}"
        lines += [Text(""), Text(f"time left, with as many at a time as now: {left}")]
    if found.gpu_hours:
        lines.append(Text(f"GPU hours so far: {found.gpu_hours:.2g}"))
    return Group(*lines)


def _words(cell: State) -> str:
    if cell.state == "done":
        return f"{cell.message} (log: {cell.log})"
    return f"{cell.words}, for {_duration(cell.seconds)}" if cell.state == "running" else cell.words


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@app.command("clean")
def clean_command(
    config: Annotated[Path, typer.Argument(help="The suite.")] = DEFAULT_SUITE,
    overrides: Overrides = [],  # noqa: B006
    every: Annotated[bool, typer.Option("--all", help="End jobs of a run that goes on, too.")] = False,
) -> None:
    """End the jobs of a suite that outlived their run, and remove locks that nobody holds."""
    from metabench.suite.run import scheduler
    from metabench.suite.run.lock import holder, is_abandoned, is_stale, machine, read_lock, remove_stale

    plan = planned_suite(config, overrides)
    ended = removed = left = 0
    for path in sorted(plan.folder.rglob("*.lock")):
        said = read_lock(path)
        if said is None:
            continue
        # Not by its age: clocks may disagree.
        if is_stale(said, 0.0):
            removed += remove_stale(path)
        elif not (every or is_abandoned(said)):
            left += 1
            print(f"left alone: {path.with_suffix('')}, held by {holder(said)}, whose run may go on (--all ends it)")
        elif job := str(said.get("job", "")):
            ended += scheduler.cancel(job)
            print(f"ended: {path.with_suffix('')}, {holder(said)}")
        elif said.get("machine") == machine():
            os.kill(int(said["pid"]), signal.SIGTERM)
            ended += 1
            print(f"ended: {path.with_suffix('')}, {holder(said)}")
    if not left:
        for part in plan.folder.rglob(".*.part"):
            part.unlink(missing_ok=True)
    print(f"{ended} jobs ended, {removed} stale locks removed, {left} left alone")
