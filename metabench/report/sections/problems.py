"""Each problem on its data set: quality against cost, curves, scaling, the hypergradient's error, and a table for each setting."""

from __future__ import annotations

from metabench.report import numbers
from metabench.report.blocks import Block, Note
from metabench.report.figure import Figure
from metabench.report.figures.curves import OUTER_LOSS, curve_figures
from metabench.report.figures.error import error_figure
from metabench.report.figures.quality import quality_figures
from metabench.report.figures.scaling import size_figure, steps_figure
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Task, slug
from metabench.report.section import Part, Section, sections
from metabench.report.tables.setting import setting_table

PANELS_OF_A_PROBLEM = 12
PANELS_OF_A_PAGE = 60
OPEN_PROBLEMS = 3
"""On a page of more problems than these the first is open, as an example of what the others hold."""


def _parts(suite: Suite) -> list[Part]:
    limit = max(1, min(PANELS_OF_A_PROBLEM, PANELS_OF_A_PAGE // max(1, len(suite.tasks))))
    shown = [task for task in suite.tasks if task not in suite.illustrations]
    opened = shown if len(shown) <= OPEN_PROBLEMS else shown[:1]
    return [
        Part(
            f"task-{task.slug}",
            task.problem,
            [*problem_figures(suite, task, limit), *_tables(suite, task)],
            f"on {task.dataset}",
            _about(suite, task),
            folded=task not in opened and len(suite.tasks) > 1,
        )
        for task in suite.tasks
    ]


def problem_figures(suite: Suite, task: Task, limit: int) -> list[Figure | Note]:
    """Return the figures of a problem, the most decisive first, at most `limit` panels in the page, and a note of what has none."""
    settings = {setting: entries for setting, entries in suite.settings.items() if setting.task == task}
    elsewhere = [section.draws for section in sections(suite).values()]
    curves = curve_figures(suite, task, lambda name: not any(draws(suite, task, name) for draws in elsewhere))
    loss = slug("curve", OUTER_LOSS, task.problem, task.dataset)
    found: list[Figure | Note] = [
        *quality_figures(suite, task, settings),
        *(figure for figure in curves if figure.name == loss),
        size_figure(suite, task, settings),
        steps_figure(suite, task, settings),
        error_figure(suite, task, settings),
        *(figure for figure in curves if figure.name != loss),
    ]
    figures = [block for block in found if isinstance(block, Figure)]
    texts = [block.text for block in found if isinstance(block, Note)]
    for figure in figures:
        figure.tell_apart(suite.all_styles).keep(min(limit, len(figure.panels)))
        limit -= len(figure.panels)
        if figure.left_out:
            names = numbers.some((f"`{label}`" for label in figure.left_out), len(figure.left_out))
            texts.append(f"{figure.title} shows as many labels as there are shapes; its CSV also has {names}.")
    return [*figures, *([Note(" ".join(texts))] if texts else [])]


def _tables(suite: Suite, task: Task) -> list[Block]:
    return [
        setting_table(suite, setting, entries) for setting, entries in suite.settings.items() if setting.task == task
    ]


def _about(suite: Suite, task: Task) -> str:
    """Return the titles of the problem and its data set."""
    titles = (
        suite.card("problems", task.problem).get("title", ""),
        suite.card("datasets", task.dataset).get("title", ""),
    )
    return " · ".join(str(title) for title in titles if title and title != task.dataset)


PROBLEMS = Section("problems", "Problems", _parts, order=20, module=__name__)
