"""What optimisers made: pictures of the first seed, an optimiser in each row and a test in each column."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial

from matplotlib import pyplot
from matplotlib.figure import Figure as Canvas

from metabench.core.pictures import Picture
from metabench.report.blocks import Drawing
from metabench.report.results.entries import Suite
from metabench.report.sections.learned_optimisers.entrants import Bench
from metabench.report.sections.learned_optimisers.tables import bench_name

SIDE = 1.3
"""Inches of a picture."""


def pictures_drawing(suite: Suite, bench: Bench) -> Drawing | None:
    """Return the pictures of every entrant, each under its name and over its caption; None where no row has any."""
    found = {}
    for one in bench.entrants:
        of_seeds = (suite.pictures.get((row["cell"], row["seed"])) for row in one.finished)
        if pictures := next(filter(None, of_seeds), None):
            found[one.name] = pictures
    if not found:
        return None
    return Drawing(
        bench_name(bench, "pictures"),
        f"Pictures of test tasks, {bench.task.problem}, {bench.size}",
        "Parameters after the last step of a test, of the first task and the first seed.",
        partial(draw_pictures, found),
    )


def draw_pictures(rows: Mapping[str, Mapping[str, Picture]]) -> Canvas:
    """Return the pictures as a Matplotlib figure, a row for each name; columns are the names within, and one that is missing is blank."""
    columns = list(dict.fromkeys(name for pictures in rows.values() for name in pictures))
    canvas = Canvas(figsize=(SIDE * len(columns) + 0.4, (SIDE + 0.35) * len(rows) + 0.4), layout="constrained")
    grid = canvas.subplots(len(rows), len(columns), squeeze=False)
    for (label, pictures), places in zip(rows.items(), grid, strict=True):
        for column, axes in zip(columns, places, strict=True):
            axes.set(xticks=[], yticks=[], frame_on=False)
            if (picture := pictures.get(column)) is not None:
                axes.imshow(pyplot.imread(io.BytesIO(picture.content), format="png"), interpolation="nearest")
                axes.set_xlabel(picture.caption, fontsize=7)
        places[0].set_ylabel(label, fontsize=7)
    for column, axes in zip(columns, grid[0], strict=True):
        axes.set_title(column.replace(": ", ":\n"), fontsize=6)
    return canvas
