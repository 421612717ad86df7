"""The status matrix as a figure: methods against settings, every run accounted for."""

from __future__ import annotations

from collections import Counter

import matplotlib
import numpy as np
import seaborn
from matplotlib.colors import ListedColormap, to_hex, to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from metabench.report.drawing.drawing import INK, MUTED, PAPER
from metabench.report.palette import STATUS_COLOURS
from metabench.report.tables.table import Table
from metabench.results.schema import STATUSES

_ROWS_AT_MOST = 60


def draw_status_matrix(table: Table, labels: list[str]) -> Canvas:
    """Return the table of coverage as a matrix. A cell shows its counts, in the colour of its most frequent status that is not ok."""
    # A figure of ten thousands of pixels opens nowhere: a large suite is shown by problem and data set, the table has every setting.
    by_task = len(table.rows) > _ROWS_AT_MOST
    counted: dict[str, list[Counter[str]]] = {}
    for row in table.rows:
        name = row["task"].text if by_task else f"{row['task'].text}, {row['setting'].text}"
        for counts, label in zip(counted.setdefault(name, [Counter() for _ in labels]), labels, strict=True):
            counts.update(dict(row[f"label:{label}"].badges))
    codes = np.array([[_code(counts) for counts in row] for row in counted.values()])
    texts = [[_words(counts) for counts in row] for row in counted.values()]
    with matplotlib.rc_context({**seaborn.axes_style("white"), "font.size": 8, "text.color": INK, "pdf.fonttype": 42}):
        # Margins in inches from the longest names: a layout engine that measures text has none left where there is one row.
        left, top, below = 0.25 + 0.067 * max(map(len, counted)), 0.35 + 0.06 * max(map(len, labels)), 0.4
        right = 0.3 + 0.035 * max(map(len, labels))
        width = max(left + right + 0.74 * len(labels), 5.5)
        height = top + below + 0.38 * len(counted)
        canvas = Canvas(figsize=(width, height), facecolor=PAPER)
        axes = canvas.add_axes((left / width, below / height, 1 - (left + right) / width, 1 - (top + below) / height))
        colours = {status: _pale(STATUS_COLOURS[status][0]) for status in STATUSES}
        seaborn.heatmap(
            codes,
            ax=axes,
            cmap=ListedColormap(list(colours.values())),
            vmin=-0.5,
            vmax=len(STATUSES) - 0.5,
            cbar=False,
            linewidths=1.5,
            linecolor=PAPER,
            annot=np.array(texts),
            fmt="",
            annot_kws={"fontsize": 6.5, "color": INK},
            yticklabels=list(counted),
        )
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelcolor=INK)
        axes.set_xticks(axes.get_xticks(), labels, rotation=60, ha="left", rotation_mode="anchor")
        canvas.legend(
            handles=[Patch(facecolor=colour, label=status) for status, colour in colours.items()],
            loc="lower center",
            ncols=len(STATUSES),
            frameon=False,
            fontsize=7,
            labelcolor=MUTED,
        )
    return canvas


def _code(counts: Counter[str]) -> float:
    failed = Counter({status: number for status, number in counts.items() if status != "ok"})
    return STATUSES.index((failed or counts).most_common(1)[0][0]) if counts else np.nan


def _words(counts: Counter[str]) -> str:
    return "\n".join(f"{status} {number}" if status != "ok" else str(number) for status, number in counts.items())


def _pale(colour: str) -> str:
    """Return a colour mixed with three parts of white, on which dark text reads."""
    red, green, blue = (0.28 * channel + 0.72 for channel in to_rgb(colour))
    return to_hex((red, green, blue))
