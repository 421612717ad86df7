"""Commands on suites and their cells: plan, predict, prepare, run, time, collect, report."""

from __future__ import annotations

import os
import sys
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metabench.cli.application import DEFAULT_SUITE, Json, Overrides, app, planned_suite, read_cell
from metabench.cli.progress import progress_display
from metabench.core.errors import MetabenchError

if TYPE_CHECKING:
    from metabench.results.store import CollectReport
    from metabench.suite.predict.predictions import Predictions


class Device(str, Enum):
    """Devices to predict memory for; none needs to be present."""

    cpu = "cpu"
    cuda = "cuda"


class Part(str, Enum):
    """A part of the report that can be built on its own."""

    tables = "tables"
    figures = "figures"
    page = "page"


Prepared = Annotated[
    Path | None,
    typer.Option(help="The folder of what `metabench prepare` prepared; without it cells compute that themselves."),
]

Memory = Annotated[
    int | None, typer.Option(min=1, metavar="MIB", help="Memory that was asked of a scheduler, which may end what takes more.")
]


Spec = Annotated[
    Path, typer.Option(help="The cell: a JSON file as `metabench plan --json` prints it, or with --cell a suite's cells.jsonl.")
]
CellName = Annotated[
    str, typer.Option("--cell", metavar="NAME", help="A cell of cells.jsonl: PROBLEM/DATASET/SIZE/METHOD-HASH.")
]
PredictionsFile = Annotated[
    Path | None,
    typer.Option(help="Output of `metabench predict --out`: a cell that does not fit its device is not started."),
]


@app.command("run")
def run_command(
    spec: Spec,
    out: Annotated[Path, typer.Option(help="Where its rows go: a Parquet file.")],
    name: CellName = "",
    predictions: PredictionsFile = None,
    attempt: Annotated[
        int,
        typer.Option(
            min=0, help="Of a scheduler, from 1: after two that the cell itself ended the next writes rows that say how they ended."
        ),
    ] = 0,
    prepared: Prepared = None,
    memory: Memory = None,
) -> None:
    """Run one cell with all its seeds. If the cell fails, its rows say so and the command still succeeds."""
    from metabench.measure.kernels import choose_kernels
    from metabench.suite.run.attempt import attempt_cell

    cell = read_cell(spec, name)
    # Before anything imports a plugin, which may import torch.
    choose_kernels(cell.kernels)
    _check_folder(out)
    predicted = None
    if known := _kept(predictions):
        predicted = known.of(cell)
    if predictions and predicted is None:
        print(f"{cell.name}: '{predictions}' has no prediction of this cell by this source and this torch", file=sys.stderr)
    attempt_cell(cell, out, progress_display, attempt, memory, predicted, prepared)


@app.command("batch")
def batch_command(
    specs: Annotated[Path, typer.Option(help="The cells.jsonl of a suite that was planned: row files go to cells/ beside it.")],
    name: Annotated[str, typer.Option(help="A batch of its cells.")],
    out: Annotated[Path, typer.Option(help="What says that all have their rows: a JSON file.")],
    predictions: PredictionsFile = None,
    attempt: Annotated[int, typer.Option(min=0, help="Of a scheduler, from 1.")] = 0,
    prepared: Prepared = None,
    memory: Memory = None,
) -> None:
    """Run the cells of a batch that have no rows yet, one after another, in a process that imports torch once."""
    from metabench.measure.kernels import choose_kernels
    from metabench.suite.plan.specs import read_batch
    from metabench.suite.run.batch import run_batch

    cells = read_batch(specs, name)
    choose_kernels(cells[0].kernels)
    paired = [(cell, specs.parent / "cells" / f"{cell.name}.parquet") for cell in cells]
    for place in {path.parent: path for _, path in paired}.values():
        _check_folder(place)
    _check_folder(out)
    found = run_batch(paired, out, progress_display, attempt, memory, _kept(predictions), prepared)
    print(f"{name}: {', '.join(f'{number} {status}' for status, number in found.items())}: {out}", file=sys.stderr)


def _kept(predictions: Path | None) -> Predictions | None:
    """Return what the file holds. One that is not there predicts nothing: cells are to have their rows all the same."""
    from metabench.suite.predict.predictions import read_predictions

    return read_predictions(predictions) if predictions and predictions.is_file() else None


@app.command("prepare")
def prepare_command(
    spec: Spec,
    seed: Annotated[int, typer.Option(min=0, help="One of the cell's seeds.")],
    prepared: Annotated[Path, typer.Option(help="The folder of what is prepared.")],
    name: CellName = "",
    attempt: Annotated[
        int, typer.Option(min=0, help="Of a scheduler, from 1: after two that it itself ended the next says so, and cells try themselves.")
    ] = 0,
    part: Annotated[
        str, typer.Option(help="Of the cell's kind of experiment, such as shared-weights; by default what its problem prepares.")
    ] = "",
) -> None:
    """Compute what many cells of a suite share, such as a Gram matrix. What fails is said in a file, and then in the rows of the cells."""
    from metabench.measure.own_device import own_device
    from metabench.suite.run.lost import attempt_at, given_up
    from metabench.suite.run.prepare import give_up, mark, prepare

    cell = read_cell(spec, name)
    out = mark(cell, seed, prepared, part)
    _check_folder(out)
    with attempt_at(out, attempt) as lock:
        if lock.exhausted:
            reason = given_up(out)[1]
            give_up(cell, seed, prepared, reason, part)
        elif lock.waited and out.is_file():
            reason = ""
        else:
            with (
                lock.beating(),
                own_device(cell.device, lambda words: print(f"{out}: {words}", file=sys.stderr)),
                progress_display(part or cell.problem) as progress,
            ):
                reason = prepare(cell, seed, prepared, part, progress)
    print(f"{out}: {reason or 'ready'}", file=sys.stderr)


@app.command("time")
def time_command(
    group: Annotated[Path, typer.Option(help="The group: a JSON file as a suite's plan writes it. Its cells have their rows already.")],
    out: Annotated[Path, typer.Option(help="Where its times go: a Parquet file.")],
    memory: Annotated[int | None, typer.Option(min=1, metavar="MIB", help="Memory that its processes may use together.")] = None,
    attempt: Annotated[
        int, typer.Option(min=0, help="Of a scheduler, from 1: after two without times the next writes why there are none.")
    ] = 0,
    prepared: Prepared = None,
) -> None:
    """Time the cells of a setting side by side: each in its own process, taking turns. Rows of cells that fail say so."""
    from metabench.results.times import write_times
    from metabench.suite.plan.groups import Group
    from metabench.suite.rounds.time_group import lost_group, time_group
    from metabench.suite.run.lost import attempt_at, given_up

    found = Group.read(group)
    _check_folder(out)
    with attempt_at(out, attempt, memory) as lock:
        if lock.exhausted:
            lines = lost_group(found, given_up(out)[1])
        else:
            with progress_display(found.name) as progress, lock.beating():
                lines = time_group(found, progress, memory and memory << 20, prepared=prepared)
        write_times(out, lines)
    told = Counter(line["message"] for line in lines if line.get("message"))
    print(f"{len(lines) - told.total()} turns of {len(found.cells)} cells: {out}", file=sys.stderr)
    for reason, number in told.items():
        print(f"  {reason} ({number} {'seed' if number == 1 else 'seeds'})", file=sys.stderr)


def _check_folder(out: Path) -> None:
    """Make the folder of a file; raise MetabenchError unless it can be written to."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MetabenchError(f"cannot write into '{out.parent}': {error.strerror}") from error
    if not os.access(out.parent, os.W_OK):
        raise MetabenchError(f"cannot write into '{out.parent}': permission denied")


@app.command("plan")
def plan_command(
    config: Annotated[Path, typer.Argument(help="The suite.")] = DEFAULT_SUITE,
    overrides: Overrides = [],  # noqa: B006
    as_json: Json = False,
    predict: Annotated[
        bool, typer.Option("--predict", help="Predict the memory and FLOPs of each cell, and whether it fits.")
    ] = False,
    speed: Annotated[
        float | None,
        typer.Option(metavar="TFLOPS", min=1e-6, help="With --predict: show the hours that training takes at TFLOPS TFLOP/s, sustained."),
    ] = None,
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
    planned = planned_suite(config, overrides, kernels=bool(predict or device or budget is not None))
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
    if speed is not None and predicted is None:
        raise MetabenchError("--speed is that of the FLOPs that --predict predicts: give both")
    print_plan(planned, as_json, predicted, speed)


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
        cells, place = [read_cell(path) for path in spec], out
        for cell in cells:
            choose_kernels(cell.kernels)
    else:
        planned = planned_suite(config, overrides, kernels=True)
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


@app.command("collect")
def collect_command(
    out: Annotated[
        Path,
        typer.Option(help="The table of all rows, in Parquet; a CSV is written next to it, and curves.parquet and times.parquet."),
    ],
    cells: Annotated[
        Path | None, typer.Option(help="A text file with one row file per line, or a folder: every row file below it.")
    ] = None,
    suite: Annotated[Path, typer.Option(help="The suite that the rows belong to.")] = DEFAULT_SUITE,
    certificates: Annotated[
        Path | None,
        typer.Option(
            help="What `metabench certify --out` wrote: a file, a folder of files, or a text file with one per line."
        ),
    ] = None,
    times: Annotated[
        Path | None,
        typer.Option(help="What `metabench time --out` wrote: a folder of files, or a text file with one per line."),
    ] = None,
    kept: Annotated[
        Path | None, typer.Option(help="A folder in which rows are kept in pieces: the next time only files that changed are read.")
    ] = None,
    shard: Annotated[
        list[Path], typer.Option(help="The folder of a shard, instead of --cells; repeatable: all of a suite, to be merged.")
    ] = [],  # noqa: B006
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Collect the rows of a suite's cells and the certificates of its methods in one table, their curves and times in two others.

    Or merge the tables of a suite's shards: --shard results/NAME/shard-1-of-2 --shard results/NAME/shard-2-of-2.
    """
    if bool(shard) == (cells is not None):
        raise MetabenchError("give --cells, the rows of a suite, or --shard, the folders of its shards")
    if shard:
        from metabench.suite.run.merge import merge

        report = merge(shard, out)
    else:
        assert cells is not None
        report = _collected(cells, out, suite, certificates, times, kept, overrides)
    statuses = ", ".join(f"{count} {status}" for status, count in report.statuses.items()) or "none"
    print(f"{report.rows} rows of {report.files} cells ({statuses}): {report.parquet}, {report.csv}, {report.curves}", file=sys.stderr)


def _collected(
    cells: Path, out: Path, suite: Path, certificates: Path | None, times: Path | None, kept: Path | None, overrides: list[str]
) -> CollectReport:
    from metabench.results.certificate import read_all_certificates
    from metabench.results.store import collect
    from metabench.suite.plan.plan import kept_plan, load_suite, plan
    from metabench.suite.run.provenance import results_metadata

    described = load_suite(suite, overrides)
    planned = kept_plan(described) or plan(described)
    certified = read_all_certificates(_certificate_files(certificates) if certificates else [])
    files = _listed_files(cells, "row files")
    timed = _listed_files(times, "times") if times else []
    return collect(files, out, results_metadata(planned, certified), own=planned.own_files, times=timed, kept=kept)


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
    from metabench.report.build import build_figures, build_page, build_tables
    from metabench.report.results.load import load_suite

    suite = load_suite(results)
    if only in (None, Part.tables):
        build_tables(suite, out / "tables")
    if only in (None, Part.figures):
        build_figures(suite, out / "figures", workers=os.cpu_count() or 1)
    if only in (None, Part.page):
        build_page(suite, out)
        print(out / "index.html")
