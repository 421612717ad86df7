"""`metabench doctor`: whether a cluster will run a suite with a profile, before thousands of jobs are queued."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metabench.cli.application import DEFAULT_SUITE, Json, Overrides, app, planned_suite
from metabench.cli.output import print_json
from metabench.cli.progress import progress_display

if TYPE_CHECKING:
    from metabench.core.types import Progress
    from metabench.suite.cluster.checks import Finding
    from metabench.suite.cluster.profile import Profile
    from metabench.suite.cluster.request import Request
    from metabench.suite.plan.plan import Plan


@app.command("doctor")
def doctor_command(
    config: Annotated[Path, typer.Argument(help="The suite.")] = DEFAULT_SUITE,
    profile: Annotated[
        list[Path],
        typer.Option(help="A profile of Snakemake, a folder or a file; repeatable, in the order of --profile and --workflow-profile."),
    ] = [],  # noqa: B006
    job: Annotated[bool, typer.Option(help="Also submit one job of a minute, and check what it finds on a compute node.")] = True,
    wait: Annotated[float, typer.Option(min=0, metavar="MINUTES", help="For how long the job may wait in the queue.")] = 10.0,
    overrides: Overrides = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Check whether a cluster will run a suite: partition, account, limits, then versions, GPUs, files and clock on a compute node.

    Prints a line for each finding, and exits with 1 if one is an error.
    """
    from metabench.suite.cluster.profile import read_profile

    chosen = read_profile(profile or [Path("profiles/slurm")])
    planned = planned_suite(config, overrides)
    found: list[Finding] = []
    with progress_display("doctor") as progress:
        for one in findings(chosen, planned, job, 60 * wait, progress):
            found.append(one)
            if not as_json:
                print(f"{one.level:<8} {one.words}", flush=True)
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
    if any(one.level == "error" for one in found):
        raise typer.Exit(1)


def findings(profile: Profile, plan: Plan, job: bool, patience_s: float, progress: Progress) -> Iterator[Finding]:
    """Yield what is found of a profile and a plan; the job is left out where something else is wrong already."""
    from metabench.suite.cluster.checks import Finding, check_device
    from metabench.suite.cluster.compute_node import check_compute_node
    from metabench.suite.cluster.profile import missing_executor
    from metabench.suite.cluster.request import largest, planned_requests

    files = " and ".join(str(path) for path in profile.files)
    if not profile.executor:
        yield Finding("error", f"{files} names no executor: jobs run on this machine, and there is no cluster to check")
        return
    if fault := missing_executor(profile.executor):
        yield Finding("error", fault)
        return
    yield Finding("ok", f"{files}: executor '{profile.executor}', installed")
    wrong = False
    requests = list(planned_requests(plan, profile))
    for one in (*check_device(plan.suite.device.value), *_scheduler(profile, requests)):
        wrong |= one.level == "error"
        yield one
    if job and not wrong:
        cells = largest([request for request in requests if request.rule == "run_cell"])
        yield from check_compute_node(profile, cells[0], plan.folder, patience_s, progress)


def _scheduler(profile: Profile, requests: list[Request]) -> Iterator[Finding]:
    from metabench.suite.cluster.checks import Finding, check_requests, check_settings

    if profile.executor == "slurm":
        yield from check_settings(profile.keys)
        yield from check_requests(requests)
    for key in ("submit", "status", "cancel") if profile.executor == "cluster-generic" else ():
        name = f"cluster-generic-{key}-cmd"
        words = str(profile.keys.get(name) or "").split()
        if not words:
            level, fault = ("error", "no job can be submitted") if key == "submit" else ("warning", _WITHOUT[key])
            yield Finding(level, f"the profile has no `{name}`: {fault}")
        elif shutil.which(words[0]) is None:
            yield Finding("error", f"`{name}`: there is no command '{words[0]}' here; is this a login node of the cluster?")


_WITHOUT = {"status": "Snakemake waits for ever for a job that is killed", "cancel": "Ctrl-C leaves the jobs running"}
