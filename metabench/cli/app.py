"""The commands. Each calls the layer that does the work."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from metabench import __version__
from metabench.cli.listing import Kind, print_listing
from metabench.cli.output import print_error, print_table
from metabench.cli.progress import progress_display
from metabench.core.errors import MetabenchError

if TYPE_CHECKING:
    from metabench.suite.plan.cell import Cell
    from metabench.suite.plan.plan import Plan

DEFAULT_SUITE = Path("config/config.yaml")

app = typer.Typer(
    help="Hypergradient methods, certified, measured and compared.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the suite; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Plugins = Annotated[
    list[Path],
    typer.Option("--plugin", help="A Python file with methods, problems, data sets or inner optimisers; repeatable."),
]


class Device(str, Enum):
    """Devices to predict memory for; none needs to be present."""

    cpu = "cpu"
    cuda = "cuda"


class KernelChoice(str, Enum):
    """The CPU kernels that certificates are made with."""

    portable = "portable"
    native = "native"


class Part(str, Enum):
    """A part of the report that can be built on its own."""

    tables = "tables"
    figures = "figures"
    page = "page"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 on success, 2 with one message for a user error (`--debug`: with its traceback)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Wherever it stands: people add it at the end of the line that failed.
    debug = "--debug" in given
    signal.signal(signal.SIGINT, _interrupted)
    try:
        app(args=[argument for argument in given if argument != "--debug"], prog_name="metabench")
    except BrokenPipeError:
        # The reader of a pipe has gone, as `head` does. Python would complain again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (MetabenchError, OSError) as error:
        if debug:
            traceback.print_exc()
        else:
            print_error(_message(error))
        raise SystemExit(2) from None
    raise SystemExit(0)


def _message(error: MetabenchError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _interrupted(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may appear anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del debug, version  # main() and the callback have read them


@app.command("run")
def run_command(
    spec: Annotated[Path, typer.Option(help="The cell: a JSON file as `metabench plan --json` prints it.")],
    out: Annotated[Path, typer.Option(help="Where its rows go: a Parquet file.")],
    predictions: Annotated[
        Path | None,
        typer.Option(help="Output of `metabench predict --out`: a cell that does not fit its device is not started."),
    ] = None,
    attempt: Annotated[
        int,
        typer.Option(
            min=0, help="Of a scheduler, from 1: after two without rows a third writes rows that say how they ended."
        ),
    ] = 0,
) -> None:
    """Run one cell with all its seeds. If the cell fails, its rows say so and the command still succeeds."""
    from metabench.measure.kernels import choose_kernels
    from metabench.suite.plan.cell import ATTEMPTS
    from metabench.suite.predict.predictions import read_predictions
    from metabench.suite.run.lost import forget_attempts, lost_rows, note_attempt
    from metabench.suite.run.supervise import supervise

    cell = _cell(spec)
    # Before anything imports a plugin, which may import torch.
    choose_kernels(cell.kernels)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MetabenchError(f"cannot write into '{out.parent}': {error.strerror}") from error
    if not os.access(out.parent, os.W_OK):
        raise MetabenchError(f"cannot write into '{out.parent}': permission denied")
    name = f"{cell.problem}/{cell.dataset}/{cell.size}/{cell.stem}"
    if attempt > ATTEMPTS:
        from metabench.results.store import write_rows

        rows = lost_rows(cell, out)
        write_rows(out, rows)
    else:
        if attempt:
            note_attempt(out, attempt)
        # A file that is not there predicts nothing: the cell is to have its rows all the same.
        predicted = read_predictions(predictions).of(cell) if predictions and predictions.is_file() else None
        if predictions and predicted is None:
            print(f"{name}: '{predictions}' has no prediction of this cell by this source and this torch", file=sys.stderr)
        with progress_display(name) as progress:
            rows = supervise(cell, out, progress, predicted=predicted)
    forget_attempts(out)
    for row in rows:
        figure = f"{row['metric']} {row['quality']:.4g}" if row.get("quality") is not None else ""
        print(
            ": ".join(part for part in (name, f"seed {row['seed']}", row["status"], figure, row["message"]) if part),
            file=sys.stderr,
        )


def _cell(spec: Path) -> Cell:
    """Return the cell of a spec's file."""
    from metabench.suite.plan.cell import Cell

    try:
        text = spec.read_text(encoding="utf-8")
    except OSError as error:
        raise MetabenchError(f"spec '{spec}' cannot be read: {error.strerror}") from error
    return Cell.from_json(text, str(spec))


def _planned(config: Path, overrides: list[str], kernels: bool = False) -> Plan:
    """Return the plan of a suite; with `kernels` this process is set to the suite's, to predict."""
    from metabench.measure.kernels import choose_kernels
    from metabench.suite.plan.plan import load_suite, plan

    suite = load_suite(config, overrides)
    if kernels:
        # Before its cells are planned: that imports plugins, which may import torch.
        choose_kernels(suite.kernels.value)
    return plan(suite)


@app.command("list")
def list_command(
    kind: Annotated[Kind | None, typer.Argument(help="What to list; everything by default.")] = None,
    as_json: Json = False,
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """List methods, problems, data sets, sizes, inner optimisers, kinds of experiment and suites."""
    print_listing(kind, as_json, plugin)


@app.command("plan")
def plan_command(
    config: Annotated[Path, typer.Argument(help="The suite.")] = DEFAULT_SUITE,
    overrides: Overrides = [],  # noqa: B006
    as_json: Json = False,
    predict: Annotated[
        bool, typer.Option("--predict", help="Predict the memory and FLOPs of each cell, and whether it fits.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Show the largest size and T that fit into this much memory, as in 24GiB."),
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Predict for this device; by default the suite's.")] = None,
    size: Annotated[
        list[str], typer.Option(help="With --budget: a size to consider; by default all sizes of the problem.")
    ] = [],  # noqa: B006
) -> None:
    """Show the cells of a suite and their limits, without running them."""
    planned = _planned(config, overrides, kernels=bool(predict or device or budget is not None))
    place = device.value if device else None
    if budget is not None:
        from metabench.cli.largest_that_fits import print_budget
        from metabench.suite.config.load import memory_bytes
        from metabench.suite.predict.largest_that_fits import answers

        room = memory_bytes(budget, "--budget")
        with progress_display("budget") as progress:
            print_budget(room, answers(planned, room, progress, place, size, workers=os.cpu_count() or 1), as_json)
        return
    if size:
        raise MetabenchError(
            "--size chooses among the sizes that --budget considers: give both, or change the suite with --set"
        )
    from metabench.cli.planning import print_plan

    predicted = None
    if predict or place:
        from metabench.suite.predict.cells import predict_cells
        from metabench.suite.predict.predictions import kept_predictions

        earlier = kept_predictions(planned.predictions)
        with progress_display("plan") as progress:
            predicted = predict_cells(planned.cells, earlier, progress, place, workers=os.cpu_count() or 1)
    print_plan(planned, as_json, predicted)


@app.command("predict")
def predict_command(
    config: Annotated[Path, typer.Argument(help="The suite.")] = DEFAULT_SUITE,
    overrides: Overrides = [],  # noqa: B006
    spec: Annotated[
        list[Path],
        typer.Option(help="Cells instead of a suite: JSON files as for `metabench run`; repeatable."),
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None,
        typer.Option(help="Where the predictions go: JSON Lines; by default predictions.jsonl in the suite's folder."),
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Predict for this device; by default the cells' own.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time; by default one per core.")] = None,
) -> None:
    """Predict what each cell of a suite needs, without running it. Predictions in the file that are still valid are kept."""
    from metabench.measure.kernels import choose_kernels
    from metabench.suite.predict.cells import predict_cells
    from metabench.suite.predict.predictions import added_to, kept_predictions, write_predictions

    if spec:
        if out is None:
            raise MetabenchError("--spec: say with --out where the predictions go")
        cells, place = [_cell(path) for path in spec], out
        for cell in cells:
            choose_kernels(cell.kernels)
    else:
        planned = _planned(config, overrides, kernels=True)
        cells, place = list(planned.cells), out or planned.predictions
    earlier = kept_predictions(place)
    where, workers = device.value if device else None, jobs or os.cpu_count() or 1
    with progress_display("predict") as progress, added_to(place, earlier) as keep:
        found = predict_cells(cells, earlier, progress, where, workers=workers, keep=keep)
    write_predictions(place, found)
    known = sum(not entry.message for entry in found)
    print(f"{known} of {len(found)} cells predicted: {place}", file=sys.stderr)
    for reason, number in Counter(entry.message for entry in found if entry.message).items():
        print(f"  not predicted, {number}: {reason}", file=sys.stderr)
    for note, number in Counter(entry.note for entry in found if entry.note).items():
        print(f"  too low, {number}: {note}", file=sys.stderr)


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
        int, typer.Option(min=0, help="Of a scheduler, from 1: after two without a file a third writes one without certificates.")
    ] = 0,
) -> None:
    """Certify in float64 what each method's hypergradient is: of the methods named, else those of the plugins, else all.

    Exits with 1 if any FAILED.
    """
    from metabench.cli.certifying import print_certificates, summary
    from metabench.measure.kernels import choose_kernels
    from metabench.methods import methods
    from metabench.results.certificate import FAILED, certificates, write_certificates

    if attempt:
        from metabench.suite.run.lost import ATTEMPTS, forget_attempts, given_up, note_attempt

        if attempt > ATTEMPTS:
            write_certificates(out, [])
            print(f"no certificates: {given_up(out)[1]}", file=sys.stderr)
            return
        note_attempt(out, attempt)
    choose_kernels(kernels.value)
    known = list(methods())
    names = method or ([name for name in methods(plugin) if name not in known] if plugin else known)
    if not names:
        raise MetabenchError(f"no method to certify is declared in {', '.join(map(str, plugin))}: name others with --method")
    with progress_display("certify") as progress:
        from metabench.certify.processes import certify_all

        rows = certify_all(names, plugin, progress, jobs)
    write_certificates(out, rows)
    if attempt:
        forget_attempts(out)
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


@app.command("collect")
def collect_command(
    cells: Annotated[
        Path, typer.Option(help="A text file with one row file per line, or a folder: every row file below it.")
    ],
    out: Annotated[Path, typer.Option(help="The table of all rows, in Parquet; a CSV is written next to it, and curves.parquet.")],
    suite: Annotated[Path, typer.Option(help="The suite that the rows belong to.")] = DEFAULT_SUITE,
    certificates: Annotated[
        Path | None,
        typer.Option(
            help="What `metabench certify --out` wrote: a file, a folder of files, or a text file with one per line."
        ),
    ] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Collect the rows of a suite's cells and the certificates of its methods in one table, their curves in another."""
    from metabench.results.certificate import read_all_certificates
    from metabench.results.store import collect
    from metabench.suite.run.provenance import results_metadata

    planned = _planned(suite, overrides)
    certified = read_all_certificates(_certificate_files(certificates) if certificates else [])
    report = collect(_listed_files(cells, "row files"), out, results_metadata(planned, certified))
    statuses = ", ".join(f"{count} {status}" for status, count in report.statuses.items()) or "none"
    print(f"{report.rows} rows of {report.files} cells ({statuses}): {report.parquet}, {report.csv}, {report.curves}", file=sys.stderr)


def _certificate_files(certificates: Path) -> list[Path]:
    return [certificates] if certificates.suffix == ".parquet" else _listed_files(certificates, "certificates")


def _listed_files(place: Path, what: str) -> list[Path]:
    if place.is_dir():
        return sorted(place.rglob("*.parquet"))
    try:
        return [Path(line) for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise MetabenchError(f"list of {what} '{place}' cannot be read: {reason}") from error


@app.command("report")
def report_command(
    results: Annotated[Path, typer.Argument(help="The table that `metabench collect` wrote.")],
    out: Annotated[Path, typer.Option(help="The folder for the report.")],
    only: Annotated[Part | None, typer.Option(help="Build only this part.")] = None,
) -> None:
    """Build tables, figures and the page from the results."""
    if only in (None, Part.tables):
        from metabench.report.tables import build_tables

        build_tables(results, out / "tables")
    if only in (None, Part.figures):
        from metabench.report.figures import build_figures

        build_figures(results, out / "figures", workers=os.cpu_count() or 1)
    if only in (None, Part.page):
        from metabench.report.page import build_page

        build_page(results, out)
        print(out / "index.html")


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


@app.command("config-reference")
def config_reference_command(
    out: Annotated[Path, typer.Option(help="The Markdown file.")] = Path("config/README.md"),
) -> None:
    """Write the reference of all suite keys."""
    from metabench.suite.config.reference import write_reference

    write_reference(out)
