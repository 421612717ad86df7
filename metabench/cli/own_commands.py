"""Commands for what there is and what one brings: list, certify, check, fetch, and files to begin with."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from metabench.cli.application import Json, Plugins, app
from metabench.cli.listing import Kind, print_listing
from metabench.cli.output import print_table
from metabench.cli.progress import progress_display
from metabench.core.errors import MetabenchError


class KernelChoice(str, Enum):
    """The CPU kernels that certificates are made with."""

    portable = "portable"
    native = "native"


@app.command("list")
def list_command(
    kind: Annotated[Kind | None, typer.Argument(help="What to list; everything by default.")] = None,
    as_json: Json = False,
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """List methods, problems, data sets, sizes, inner and learned optimisers, kinds of experiment and suites.

    `metabench list suites` counts their cells and rows.
    """
    print_listing(kind, as_json, plugin)


@app.command("certify")
def certify_command(
    method: Annotated[
        list[str],
        typer.Option(
            "--method", help="A method; repeatable. By default those of the plugins, or all methods if there are no plugins."
        ),
    ] = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Where the certificates go: a Parquet file.")] = Path(
        "results/certificates.parquet"
    ),
    claims: Annotated[bool, typer.Option("--claims", help="Print every claim, not only the certificates.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Methods that run at the same time; by default one per core.")] = None,
    kernels: Annotated[KernelChoice, typer.Option(help="CPU kernels, as in the suite key `kernels`.")] = KernelChoice.portable,
    report_only: Annotated[bool, typer.Option("--report-only", help="Exit with 0 regardless of the verdicts.")] = False,
    attempt: Annotated[
        int, typer.Option(min=0, help="Of a scheduler, from 1: after two without a file the next writes one without certificates.")
    ] = 0,
) -> None:
    """Certify in float64 what each method's hypergradient is: of the methods named, else those of the plugins, else all.

    Exits with 1 if any FAILED.
    """
    from metabench.cli.certifying import print_certificates, summary
    from metabench.measure.kernels import choose_kernels
    from metabench.methods import methods
    from metabench.results.certificate import FAILED, certificates, write_certificates
    from metabench.suite.run.lost import attempt_at, given_up

    choose_kernels(kernels.value)
    known = list(methods())
    names = method or ([name for name in methods(plugin) if name not in known] if plugin else known)
    if not names:
        raise MetabenchError(f"no method to certify is declared in {', '.join(map(str, plugin))}: name others with --method")
    with attempt_at(out, attempt) as lock:
        if lock.exhausted:
            write_certificates(out, [])
            print(f"no certificates: {given_up(out)[1]}", file=sys.stderr)
            return
        with progress_display("certify") as progress:
            from metabench.certify.processes import certify_all

            rows = certify_all(names, plugin, progress, jobs)
        write_certificates(out, rows)
    print_certificates(rows, claims)
    print(summary(rows, out), file=sys.stderr)
    if any(one.verdict == FAILED for one in certificates(rows).values()) and not report_only:
        raise typer.Exit(1)


@app.command("check")
def check_command(
    plugin: Plugins = [],  # noqa: B006
    problem: Annotated[list[str], typer.Option(help="A problem; repeatable. By default those that the plugins declare.")] = [],  # noqa: B006
    size: Annotated[str | None, typer.Option(help="The size of its model; by default the problem's own default.")] = None,
    options: Annotated[list[str], typer.Option("--set", metavar="OPTION=VALUE", help="An option of the problem; repeatable.")] = [],  # noqa: B006
    method: Annotated[list[str], typer.Option(help="A method; repeatable. By default all.")] = [],  # noqa: B006
    budget: Annotated[float, typer.Option(min=0.1, help="Seconds for all methods on one problem.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Check a problem: whether it is well posed, which methods can answer, what each costs and how far it errs.

    Each method runs once on a CPU, at the beginning of an inner run. Exits with 1 if a problem is not well posed.
    """
    from metabench.cli.checking import checked, print_checked
    from metabench.measure.kernels import PORTABLE, choose_kernels, runs
    from metabench.suite.config.load import options_of

    if runs(PORTABLE):
        choose_kernels(PORTABLE)
    with progress_display("check") as progress:
        found = checked(plugin, problem, size, options_of(options), method, budget, progress)
    print_checked(found, as_json)
    if any(one.fault for one in found):
        raise typer.Exit(1)


@app.command("fetch")
def fetch_command(
    names: Annotated[list[str] | None, typer.Argument(help="Data sets; by default all that can be fetched.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="A folder to search first.")] = None,
    root: Annotated[Path | None, typer.Option(help="The folder for fetched data.")] = None,
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Fetch the data sets that do not ship with metabench, and check their sha256."""
    from metabench.data import datasets
    from metabench.data.fetching import fetch

    wanted = names or [name for name, card in datasets(plugin).items() if card.fetched]
    with progress_display("fetch") as progress:
        done = fetch(wanted, root, source, progress=progress, plugins=plugin)
    rows = [
        (
            one.name,
            str(one.folder or "-"),
            ", ".join(one.sources) or "was here",
            ", ".join(str(path) for path in one.kept_aside) or "-",
        )
        for one in done
    ]
    print_table("data sets", ("name", "folder", "from", "damaged files kept aside"), rows)


@app.command("export")
def export_command(
    cell: Annotated[Path, typer.Argument(help="The row file of a cell in which an optimiser was learned.")],
    out: Annotated[Path, typer.Option(help="Where the optimiser goes.")],
    seed: Annotated[
        int | None, typer.Option(min=0, help="The seed; by default the one with the least outer loss late in training.")
    ] = None,
) -> None:
    """Write a trained optimiser to a file, for `metabench.learned.load` and for the option `start`."""
    from metabench.cli.exporting import export

    print(export(cell, out, seed), file=sys.stderr)


@app.command("new-method")
def new_method_command(
    name: Annotated[str, typer.Argument(help="The method's name: a Python identifier not used by another method.")],
    out: Annotated[Path, typer.Option(help="The folder for its two files.")] = Path(),
) -> None:
    """Write a complete method of about forty lines, for you to change, and its test."""
    from metabench.cli.new_files import after_method, write_method

    print(after_method(name, write_method(name, out)), end="")


@app.command("new-problem")
def new_problem_command(
    name: Annotated[str, typer.Argument(help="The problem's name: a Python identifier not used by another problem.")],
    out: Annotated[Path, typer.Option(help="The folder for its three files.")] = Path(),
) -> None:
    """Write a complete bilevel problem of about seventy lines, for you to change, its data and its test."""
    from metabench.cli.new_files import after_problem, write_problem

    print(after_problem(name, write_problem(name, out)), end="")


@app.command("new-strategy")
def new_strategy_command(
    name: Annotated[str, typer.Argument(help="The strategy's name: a Python identifier not used by another strategy.")],
    out: Annotated[Path, typer.Option(help="The folder for its two files.")] = Path(),
) -> None:
    """Write a complete search strategy of about forty lines, for you to change, and its test."""
    from metabench.cli.new_files import after_strategy, write_strategy

    print(after_strategy(name, write_strategy(name, out)), end="")


@app.command("config-reference")
def config_reference_command(
    out: Annotated[Path, typer.Option(help="The Markdown file.")] = Path("config/README.md"),
) -> None:
    """Write the reference of all suite keys."""
    from metabench.suite.config.reference import write_reference

    write_reference(out)
