"""From results to files: tables, figures and the page, all from the one list of contents."""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import matplotlib

from metabench.core.atomic import write_bytes_atomically, write_text_atomically
from metabench.report.blocks import Drawing
from metabench.report.drawing.drawing import draw_figure
from metabench.report.figure import PANELS_OF_A_FILE, Figure
from metabench.report.page.page import render_page
from metabench.report.palette import LabelStyle
from metabench.report.results.entries import Suite
from metabench.report.results.load import load_suite
from metabench.report.section import contents
from metabench.report.tables.table import Table

PANELS_OF_A_REPORT = 180
"""Of all files: a panel takes a fifth of a second."""
_WORTH_PROCESSES = 12  # figures; a process needs seconds to start

B = TypeVar("B")


def blocks(suite: Suite, sort: type[B]) -> list[B]:
    """Return every block of one sort, in the order of the page."""
    return [block for part in contents(suite) for block in part.blocks if isinstance(block, sort)]


def build_tables(results: Path | Suite, out: Path) -> list[Path]:
    """Write every table as CSV and LaTeX to `out` and return the files. The same rows give the same bytes.

    results: results.parquet, or what was read from it. Raises MetabenchError where it cannot be read or `out` cannot be written.
    """
    written = []
    for table in blocks(_read(results), Table):
        for suffix, text in ((".csv", table.to_csv()), (".tex", table.to_latex())):
            path = Path(out) / f"{table.name}{suffix}"
            write_text_atomically(path, text)
            written.append(path)
    return written


def build_figures(results: Path | Suite, out: Path, workers: int = 1) -> list[Path]:
    """Write every figure as PDF, PNG and the CSV of its data to `out` and return the files. The same rows give the same bytes.

    results: as for `build_tables`, with the curves of its runs in curves.parquet next to it. workers: processes that draw; more than one
    needs a main module that can be imported, as a command line has.
    Raises MetabenchError where the rows cannot be read or `out` cannot be written.
    """
    out = Path(out)
    suite = _read(results)
    figures = [figure.whole for figure in blocks(suite, Figure)]
    most = _most_panels(figures)
    for figure in figures:
        figure.keep(most)
    written: list[Path] = []
    for figure, (pdf, png) in zip(figures, _drawn(figures, suite.all_styles, workers), strict=True):
        written += _write(out, figure.name, pdf, png, figure.to_csv())
    for drawing in blocks(suite, Drawing):
        written += _write(out, drawing.name, *_saved(drawing), drawing.csv)
    return written


def save_figure(figure: Figure, out: Path) -> list[Path]:
    """Write a figure of no suite as `out`.pdf, .png and .csv, and return them; raise MetabenchError where they cannot be written."""
    return _write(out.parent, out.name, *draw_figure(figure.whole, figure.styles), figure.to_csv())


def build_page(results: Path | Suite, out: Path) -> Path:
    """Write `out`/index.html (or `out` itself where it ends in .html) and return it. The same rows give the same bytes.

    results: as for `build_tables`. Raises MetabenchError where it cannot be read or the page cannot be written.
    """
    path = Path(out) if Path(out).suffix == ".html" else Path(out) / "index.html"
    write_text_atomically(path, render_page(_read(results)))
    return path


def _read(results: Path | Suite) -> Suite:
    return results if isinstance(results, Suite) else load_suite(Path(results))


def _most_panels(figures: list[Figure]) -> int:
    """Return the most panels of a figure's files, two or more, with which all files together have at most `PANELS_OF_A_REPORT`."""
    counts = [len(figure.panels) for figure in figures]
    fitting = (most for most in range(PANELS_OF_A_FILE, 2, -1) if sum(min(most, count) for count in counts) <= PANELS_OF_A_REPORT)
    return next(fitting, 2)


def _drawn(figures: list[Figure], styles: Mapping[str, LabelStyle], workers: int) -> list[tuple[bytes, bytes]]:
    if workers == 1 or len(figures) < _WORTH_PROCESSES:
        return [draw_figure(figure, styles) for figure in figures]
    with ProcessPoolExecutor(min(workers, len(figures)), mp_context=get_context("spawn")) as pool:
        return list(pool.map(draw_figure, figures, repeat(styles)))


def _saved(drawing: Drawing) -> tuple[bytes, bytes]:
    pdf, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        canvas = drawing.draw()
        canvas.savefig(pdf, format="pdf", metadata={"CreationDate": None})
        canvas.savefig(png, format="png", dpi=130)
    return pdf.getvalue(), png.getvalue()


def _write(out: Path, name: str, pdf: bytes, png: bytes, data: str) -> list[Path]:
    files = {".pdf": pdf, ".png": png} | ({".csv": data.encode()} if data else {})
    for suffix, content in files.items():
        write_bytes_atomically(out / f"{name}{suffix}", content)
    return [out / f"{name}{suffix}" for suffix in files]
