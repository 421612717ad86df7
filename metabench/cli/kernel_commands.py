"""Commands on kernels of infinitely wide networks: `metabench kernel rank`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from metabench.cli.application import Json, app
from metabench.cli.progress import progress_display
from metabench.core.errors import MetabenchError

kernel_app = typer.Typer(help="Kernels of infinitely wide networks.", no_args_is_help=True)
app.add_typer(kernel_app, name="kernel")

DEPTHS, WIDTHS, NAMES = [1, 2, 3], ["64", "256", "1024"], ["relu", "erf", "gelu"]
NONE: list[str] = []


@kernel_app.callback()
def kernel() -> None:
    """Kernels of infinitely wide networks."""


@kernel_app.command("rank")
def rank_command(
    data: Annotated[str, typer.Option(help="Tasks: digits, fashion_mnist_10k or sinusoids.")] = "digits",
    depth: Annotated[list[int], typer.Option(help="Hidden layers; repeatable.")] = DEPTHS,
    width: Annotated[list[str], typer.Option(help="Units of a hidden layer, or 'infinite'; repeatable.")] = WIDTHS,
    activation: Annotated[list[str], typer.Option(help="An activation; repeatable.")] = NAMES,
    readout: Annotated[
        list[str],
        typer.Option(help="Convolutions of infinite width with this readout, too: flatten, pool or gap; repeatable."),
    ] = NONE,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks of the kernel, and of meta-training.")] = 6,
    shots: Annotated[int, typer.Option(min=1, help="Examples of a support: per class, for images.")] = 5,
    queries: Annotated[int, typer.Option(min=1, help="Examples that are queried, likewise.")] = 5,
    ridge: Annotated[
        float | None, typer.Option(help="The inner run ends at a minimum with this ridge; by default with 0.001.")
    ] = None,
    tau: Annotated[float | None, typer.Option(help="The inner run takes this time; 'inf': no ridge either.")] = None,
    head: Annotated[bool, typer.Option("--head", help="The last layer alone adapts, as in ANIL.")] = False,
    draws: Annotated[
        int, typer.Option(min=0, help="Networks drawn per width, for the condition number at initialisation; 0: none.")
    ] = 2,
    seeds: Annotated[
        int, typer.Option(min=1, help="Draws of the tasks; from three on, correlations have intervals.")
    ] = 3,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Meta-train each, and correlate ranks with the losses.")
    ] = False,
    method: Annotated[str, typer.Option(help="The method that finite networks are meta-trained by.")] = "unrolled",
    inner_steps: Annotated[int, typer.Option(min=1, help="K of meta-training.")] = 5,
    outer_steps: Annotated[int, typer.Option(min=1, help="Outer steps of meta-training.")] = 20,
    figure: Annotated[
        Path | None, typer.Option(help="With --accuracy: draw losses against condition numbers, as FIGURE.pdf, .png and .csv.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Rank MLPs and convolutional networks by the condition number of their meta kernel, without training.

    Beside it: ranking by parameter count, and at random. An infinite condition number is last: the kernel is not positive definite, and
    meta-training cannot fit some labels.
    """
    from metabench.cli.ranking import print_ranking, ranking_figure
    from metabench.kernels.responses import Response, Ridge, Time
    from metabench.library.architectures import Candidate, Tasks, convolutions, mlps
    from metabench.library.ranking import correlations, rank
    from metabench.measure.kernels import PORTABLE, choose_kernels, runs
    from metabench.problems.few_shot_regression import Options

    if ridge is not None and tau is not None:
        raise MetabenchError(
            f"--ridge {ridge:g} with --tau {tau:g}: the inner run ends at a minimum or after a time, so name one of them"
        )
    if figure is not None and not accuracy:
        raise MetabenchError("--figure draws losses after meta-training: add --accuracy")
    response: Response = Time(tau) if tau is not None else Ridge(1e-3 if ridge is None else ridge)
    networks: list[Candidate] = [
        *mlps(depth, [_width(one) for one in width], activation),
        *convolutions(depth, activation, readout),
    ]
    adapts = "head" if head else "all"
    wanted = Tasks(data, Options(tasks=tasks, shots=shots, queries=queries, adapts=adapts), inner_steps)
    if runs(PORTABLE):
        choose_kernels(PORTABLE)
    with progress_display("rank") as progress:
        found = rank(
            networks,
            wanted,
            response=response,
            head=head,
            draws=draws,
            seeds=seeds,
            outer_steps=outer_steps if accuracy else 0,
            by=method,
            progress=progress,
        )
    related = correlations(found) if accuracy else []
    print_ranking(found, related, as_json)
    if figure is not None:
        from metabench.report.build import save_figure

        for path in save_figure(ranking_figure(found, related), figure.with_suffix("")):
            print(path, file=sys.stderr)


def _width(text: str) -> int | None:
    if text == "infinite":
        return None
    try:
        return int(text)
    except ValueError:
        raise MetabenchError(f"width '{text}': expected a whole number, or 'infinite'") from None
