"""The figures of a suite: which there are, and their files."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from metabench.report.budget_figure import budget_figure
from metabench.report.curve_figures import curve_figures
from metabench.report.drawing import draw_figure
from metabench.report.entries import Suite
from metabench.report.figure_parts import MEMORY, TIME
from metabench.report.gradient_figures import error_figure
from metabench.report.load import load_suite
from metabench.report.panel import Figure, Missing
from metabench.report.prediction_figure import prediction_figure
from metabench.report.quality_figures import quality_figure
from metabench.report.scaling_figures import size_figure, steps_figure
from metabench.report.section import sections
from metabench.report.status_figure import draw_status_figure, status_csv
from metabench.results.atomic import write_bytes_atomically, write_text_atomically

PANELS_AT_MOST = 12
PANELS_OF_A_SUITE = 120
_WORTH_PROCESSES = 12  # figures; a process needs seconds to start


def build_figures(results: Path, out: Path, workers: int = 1) -> list[Path]:
    """Write every figure as PDF, PNG and the CSV of its data to `out` and return the files. The same rows give the same bytes.

    results: results.parquet, with the curves of its runs in curves.parquet next to it. workers: processes that draw; more than one needs
    a main module that can be imported, as a command line has.
    Raises MetabenchError where the rows cannot be read or `out` cannot be written.
    """
    out = Path(out)
    suite = load_suite(Path(results))
    figures = [figure for figure in all_figures(suite) if isinstance(figure, Figure)] + curve_figures(suite)
    written: list[Path] = []
    if workers > 1 and len(figures) >= _WORTH_PROCESSES:
        with ProcessPoolExecutor(min(workers, len(figures)), mp_context=get_context("spawn")) as pool:
            drawn = pool.map(draw_figure, figures, repeat(suite.styles))
            for figure, (pdf, png) in zip(figures, drawn, strict=True):
                written += _write(out, figure.name, pdf, png, figure.to_csv())
    else:
        for figure in figures:
            written += _write(out, figure.name, *draw_figure(figure, suite.styles), figure.to_csv())
    for section in sections(suite).values():
        for figure in section.figures(suite):
            written += _write(out, figure.name, *draw_figure(figure, section.styles(suite)), figure.to_csv())
    prediction = prediction_figure(suite)
    if prediction is not None:
        written += _write(out, prediction.name, *draw_figure(prediction, suite.styles), prediction.to_csv())
    budget = budget_figure(suite)
    if isinstance(budget, Figure):
        written += _write(out, budget.name, *draw_figure(budget, suite.method_styles), budget.to_csv())
    if suite.entries:
        written += _write(out, "status", *draw_status_figure(suite), status_csv(suite))
    return written


def _write(out: Path, name: str, pdf: bytes, png: bytes, data: str) -> list[Path]:
    paths = [out / f"{name}{suffix}" for suffix in (".pdf", ".png", ".csv")]
    write_bytes_atomically(paths[0], pdf)
    write_bytes_atomically(paths[1], png)
    write_text_atomically(paths[2], data)
    return paths


def all_figures(suite: Suite) -> list[Figure | Missing]:
    """Return, for each task, each kind of figure or the reason why the rows do not support it."""
    found: list[Figure | Missing] = []
    for task in suite.tasks:
        settings = {setting: entries for setting, entries in suite.settings.items() if setting.task == task}
        found.append(quality_figure(suite, task, settings, MEMORY, "quality_memory"))
        found.append(quality_figure(suite, task, settings, TIME, "quality_time"))
        found.append(size_figure(suite, task, settings))
        found.append(steps_figure(suite, task, settings))
        found.append(error_figure(suite, task, settings))
    _thin_panels([figure for figure in found if isinstance(figure, Figure)])
    return found


def _thin_panels(figures: list[Figure]) -> None:
    """Drop panels until few enough remain to read and draw: the same number for every figure, at least two."""
    limit = PANELS_AT_MOST
    while limit > 2 and sum(min(limit, len(figure.panels)) for figure in figures) > PANELS_OF_A_SUITE:
        limit -= 2
    for figure in figures:
        figure.keep(limit)
