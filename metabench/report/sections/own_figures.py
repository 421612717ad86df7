"""A user's own figures: each a file named in the suite, with a function `draw(frame, axes)`."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure as Canvas

from metabench.core.errors import MetabenchError
from metabench.report.blocks import Block, Drawing, Note
from metabench.report.results.entries import Suite
from metabench.report.results.frame import frame
from metabench.report.results.settings import slug
from metabench.report.section import Part, Section

SIZE = (6.4, 4.2)
"""Width and height in inches."""


def _parts(suite: Suite) -> list[Part]:
    files = [Path(path) for path in suite.config.get("figures") or []]
    return [Part("own-figures", "Own figures", [_block(suite, path) for path in files])] if files else []


def _block(suite: Suite, path: Path) -> Block:
    """Return the drawing of one file, or why there is none: it may raise whatever it likes."""
    try:
        names = runpy.run_path(str(path))
        draw = names.get("draw")
        if not callable(draw):
            raise MetabenchError("it defines no function draw(frame, axes)")
        title, _, caption = (names["__doc__"] or path.stem).strip().partition("\n")
        with matplotlib.rc_context():
            canvas = Canvas(figsize=SIZE, layout="constrained")
            draw(frame(suite), canvas.subplots())
            canvas.draw_without_rendering()
    except Exception as error:
        return Note(f"The figure `{path}` could not be drawn: {type(error).__name__}: {error}", warns=True)
    return Drawing(
        slug("own", path.stem),
        title,
        " ".join(caption.split()),
        partial(_drawn, canvas),
        frame(suite).to_csv(index=False),
    )


def _drawn(canvas: Canvas) -> Canvas:
    return canvas


OWN_FIGURES = Section("own-figures", "Own figures", _parts, order=25, module=__name__)
