"""Each problem on its data set: quality against cost, curves, scaling, the hypergradient's error, and a table for each setting."""

from __future__ import annotations

from metabench.report.blocks import Block
from metabench.report.figures.curves import curve_figures
from metabench.report.figures.error import error_figure
from metabench.report.figures.figure import Figure
from metabench.report.figures.parts import MEMORY, TIME
from metabench.report.figures.quality import quality_figure
from metabench.report.figures.scaling import size_figure, steps_figure
from metabench.report.results.entries import Suite, Task
from metabench.report.section import Part, Section
from metabench.report.tables.setting import setting_table

PANELS_AT_MOST = 12
PANELS_OF_A_SUITE = 120


def _parts(suite: Suite) -> list[Part]:
    blocks = {task: _blocks(suite, task) for task in suite.tasks}
    _thin_panels([block for every in blocks.values() for block in every if isinstance(block, Figure)])
    return [
        Part(f"task-{task.slug}", task.problem, blocks[task], f"on {task.dataset}", _about(suite, task))
        for task in suite.tasks
    ]


def _blocks(suite: Suite, task: Task) -> list[Block]:
    settings = {setting: entries for setting, entries in suite.settings.items() if setting.task == task}
    return [
        quality_figure(suite, task, settings, MEMORY, "quality_memory"),
        quality_figure(suite, task, settings, TIME, "quality_time"),
        *curve_figures(suite, task),
        size_figure(suite, task, settings),
        steps_figure(suite, task, settings),
        error_figure(suite, task, settings),
        *(setting_table(suite, setting, entries) for setting, entries in settings.items()),
    ]


def _about(suite: Suite, task: Task) -> str:
    """Return the titles of the problem and its data set."""
    titles = (
        suite.card("problems", task.problem).get("title", ""),
        suite.card("datasets", task.dataset).get("title", ""),
    )
    return " · ".join(str(title) for title in titles if title and title != task.dataset)


def _thin_panels(figures: list[Figure]) -> None:
    """Drop panels until few enough remain to read and draw: the same number for every figure, at least two."""
    limit = PANELS_AT_MOST
    while limit > 2 and sum(min(limit, len(figure.panels)) for figure in figures) > PANELS_OF_A_SUITE:
        limit -= 2
    for figure in figures:
        figure.keep(limit)


PROBLEMS = Section("problems", "Problems", _parts, order=20, module=__name__)
