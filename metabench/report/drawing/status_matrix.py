"""The status matrix as a figure: methods against settings, every run accounted for."""

from __future__ import annotations

import matplotlib
import numpy as np
import seaborn
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from metabench.report.drawing.drawing import INK, MUTED, PAPER
from metabench.report.palette import STATUS_COLOURS
from metabench.report.results.entries import Suite
from metabench.report.tables.table import records_to_csv
from metabench.results.schema import STATUSES

_SETTINGS_AT_MOST = 60


def status_records(suite: Suite) -> list[dict[str, object]]:
    """Return runs by setting, label and status."""
    records: list[dict[str, object]] = []
    for setting, entries in suite.settings.items():
        for entry in entries:
            for status, number in entry.statuses.items():
                records.append(
                    {
                        "problem": setting.task.problem,
                        "dataset": setting.task.dataset,
                        "setting": suite.titles[setting],
                        "label": entry.label,
                        "inner_steps": entry.inner_steps,
                        "status": status,
                        "runs": number,
                    }
                )
    return records


def status_csv(suite: Suite) -> str:
    """Return the figure's data."""
    return records_to_csv(
        status_records(suite), ["problem", "dataset", "setting", "label", "inner_steps", "status", "runs"]
    )


def draw_status_matrix(suite: Suite) -> Canvas:
    """Return the matrix. A cell shows its counts, in the colour of its most frequent status that is not ok."""
    labels = list(suite.styles)
    # A figure of ten thousands of pixels opens nowhere: a large suite is shown by problem and data set, the table has every setting.
    by_task = len(suite.settings) > _SETTINGS_AT_MOST
    counted: dict[str, dict[str, dict[str, int]]] = {}
    for setting, entries in suite.settings.items():
        task = f"{setting.task.problem} on {setting.task.dataset}"
        row = counted.setdefault(task if by_task else f"{task}, {suite.titles[setting]}", {})
        for entry in entries:
            own = row.setdefault(entry.label, {})
            for status, number in entry.statuses.items():
                own[status] = own.get(status, 0) + number
    names = list(counted)
    codes = np.full((len(names), len(labels)), np.nan)
    texts = np.full(codes.shape, "", dtype=object)
    for row_index, name in enumerate(names):
        for label, statuses in counted[name].items():
            failures = {status: number for status, number in statuses.items() if status != "ok"}
            worst = max(failures, key=lambda status: failures[status]) if failures else "ok"
            codes[row_index, labels.index(label)] = STATUSES.index(worst)
            lines = [f"{status} {number}" if status != "ok" else str(number) for status, number in statuses.items()]
            texts[row_index, labels.index(label)] = "\n".join(lines)
    with matplotlib.rc_context({**seaborn.axes_style("white"), "font.size": 8, "text.color": INK, "pdf.fonttype": 42}):
        # Margins in inches from the longest names: a layout engine that measures text has none left where there is one row.
        left, top, below = 0.25 + 0.067 * max(map(len, names)), 0.35 + 0.06 * max(map(len, labels)), 0.4
        right = 0.3 + 0.035 * max(map(len, labels))
        width = max(left + right + 0.74 * len(labels), 5.5)
        height = top + below + 0.38 * len(names)
        canvas = Canvas(figsize=(width, height))
        canvas.set_facecolor(PAPER)
        axes = canvas.add_axes((left / width, below / height, 1 - (left + right) / width, 1 - (top + below) / height))
        colours = [STATUS_COLOURS[status][0] for status in STATUSES]
        seaborn.heatmap(
            codes,
            ax=axes,
            cmap=ListedColormap([_pale(colour) for colour in colours]),
            vmin=-0.5,
            vmax=len(STATUSES) - 0.5,
            cbar=False,
            linewidths=1.5,
            linecolor=PAPER,
            annot=texts,
            fmt="",
            annot_kws={"fontsize": 6.5, "color": INK},
            xticklabels=labels,
            yticklabels=names,
        )
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelcolor=INK)
        axes.set_xticks(axes.get_xticks(), labels, rotation=60, ha="left", rotation_mode="anchor")
        handles = [Patch(facecolor=_pale(STATUS_COLOURS[status][0]), label=status) for status in STATUSES]
        canvas.legend(
            handles=handles,
            loc="lower center",
            ncols=len(STATUSES),
            frameon=False,
            fontsize=7,
            labelcolor=MUTED,
        )
    return canvas


def _pale(colour: str) -> str:
    """Return a colour mixed with three parts of white, on which dark text reads."""
    channels = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return "#" + "".join(f"{round(0.28 * channel + 0.72 * 255):02x}" for channel in channels)
