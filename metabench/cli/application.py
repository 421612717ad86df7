"""What all commands share: the application that they are registered with, their common options, and how specs and suites are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    typer.Option(
        "--plugin",
        help="A Python file with methods, problems, data sets, models, inner or learned optimisers or kinds of experiment; repeatable.",
    ),
]


def read_cell(spec: Path, name: str = "") -> Cell:
    """Return the cell of a spec's file, or in a file of many the one with this name."""
    from metabench.suite.plan.cell import Cell
    from metabench.suite.plan.specs import read_spec

    if name:
        return read_spec(spec, name)
    try:
        text = spec.read_text(encoding="utf-8")
    except OSError as error:
        raise MetabenchError(f"spec '{spec}' cannot be read: {error.strerror}") from error
    return Cell.from_json(text, str(spec))


def planned_suite(config: Path, overrides: list[str], kernels: bool = False) -> Plan:
    """Return the plan of a suite; with `kernels` this process is set to the suite's, to predict."""
    from metabench.measure.kernels import choose_kernels
    from metabench.suite.plan.plan import load_suite, plan

    suite = load_suite(config, overrides)
    if kernels:
        # Before its cells are planned: that imports plugins, which may import torch.
        choose_kernels(suite.kernels.value)
    return plan(suite)
