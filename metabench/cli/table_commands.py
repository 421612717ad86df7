"""Commands on tables of nets: `metabench table build`, `collect`, `query` and `check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metabench.cli.application import Json, app
from metabench.cli.progress import progress_display
from metabench.core.errors import MetabenchError

if TYPE_CHECKING:
    from metabench.data.formats.net_table import NetTable
    from metabench.search.table_builder import TableSettings

table_app = typer.Typer(
    help="Tables of nets, each trained from nothing: exact regret for searches.", no_args_is_help=True
)
app.add_typer(table_app, name="table")

SHIPPED = "few_shot_table"
NONE: list[str] = []
Settings = Annotated[
    Path | None,
    typer.Option("--settings", help="A YAML file of the table's settings; by default those of the table that ships."),
]
Table = Annotated[Path | None, typer.Option("--table", help="A file of a table; by default the one that ships.")]


@table_app.callback()
def table() -> None:
    """Tables of nets, each trained from nothing."""


@table_app.command("build")
def build_command(
    shards: Annotated[
        Path, typer.Option(help="The folder of the shards, one file a net and seed: what is there is kept.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write the table when all shards are there.")] = None,
    settings: Settings = None,
    part: Annotated[str, typer.Option(help="Build one part of several alone: 2/8 is the second of eight.")] = "1/1",
) -> None:
    """Train every net of a space from nothing, and count its right answers, task by task."""
    from metabench.core.atomic import write_bytes_atomically
    from metabench.data.formats.net_table import encode
    from metabench.search.table_builder import Builder
    from metabench.search.table_builder import shards as shards_of

    wanted = _settings(settings)
    number, of = _part(part)
    alone()
    builder = Builder(wanted)
    mine = shards_of(wanted, (number - 1, of))
    with progress_display("table") as progress:
        for done, (net, seed) in enumerate(mine):
            progress("nets trained", done, len(mine))
            builder.shard(net, seed, shards)
    if out is not None:
        content = encode(builder.collected(shards))
        write_bytes_atomically(out, content)
        print(f"{out}: {len(content):,} bytes", file=sys.stderr)


@table_app.command("query")
def query_command(
    nets: Annotated[list[str], typer.Argument(help="Encodings; by default the ten best by validation.")] = NONE,
    table: Table = None,
    as_json: Json = False,
) -> None:
    """Print the accuracies and costs of nets, and how far rankings of the table agree with each other."""
    from metabench.cli.table_output import print_query

    print_query(read_table(table), nets, as_json)


@table_app.command("check")
def check_command(
    table: Table = None,
    settings: Settings = None,
    count: Annotated[int, typer.Option(min=1, help="Nets that are trained anew.")] = 5,
) -> None:
    """Train a few nets of a table anew, and compare their answers: on one platform they are the same, to the bit."""
    import numpy as np

    from metabench.search.table_builder import Builder

    known, wanted = read_table(table), _settings(settings)
    _check_source(known, wanted.about())
    alone()
    builder, wrong = Builder(wanted), []
    for place in range(count):
        net = known.nets[place * len(known.nets) // count]
        seed = known.seeds[place % len(known.seeds)]
        found = builder.answers(net, seed)
        at = known.row(net), known.seeds.index(seed)
        off = {part: int((np.asarray(found[part]) != right[at]).sum()) for part, right in known.right.items()}
        print(f"{net}, seed {seed}: {'the same' if not any(off.values()) else f'{sum(off.values())} numbers differ'}")
        wrong += [net] * any(off.values())
    if wrong:
        raise MetabenchError(
            f"{len(wrong)} of {count} nets do not answer as in the table: another platform, another release of torch, or other code"
        )


def _check_source(known: NetTable, wanted: dict) -> None:
    """Raise MetabenchError if a table is of other settings or data than those that it would be made from."""
    for key, value in wanted.items():
        if known.about.get(key) != value:
            raise MetabenchError(
                f"the table was made with {key} {known.about.get(key)}, and now it is {value}: make it anew with metabench table build"
            )


def alone() -> None:
    """Compute with one thread and with instructions that every processor has: what is counted is the same everywhere."""
    from metabench.core.lazy import torch
    from metabench.measure.kernels import PORTABLE, choose_kernels, runs

    if runs(PORTABLE):
        choose_kernels(PORTABLE)
    torch.set_num_threads(1)


def _settings(path: Path | None) -> TableSettings:
    from metabench.search.table_builder import read_settings

    return read_settings(path)


def read_table(path: Path | None) -> NetTable:
    """Return the table of a file, or the one that ships; raise MetabenchError if it cannot be read."""
    from metabench.data import load
    from metabench.data.formats.net_table import decode

    if path is None:
        found: NetTable = load(SHIPPED)
        return found
    try:
        return decode(path.read_bytes(), str(path))
    except OSError as error:
        raise MetabenchError(f"table '{path}' cannot be read: {error.strerror}") from error


def _part(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise MetabenchError(f"part '{text}': expected two whole numbers such as 2/8, the first at most the second")
    return int(number), int(of)
