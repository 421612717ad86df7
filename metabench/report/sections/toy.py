"""EvoGrad's illustration in one dimension: each method's hypergradient against the meta-parameter, and where its steps lead."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from metabench.core.curves import Curve
from metabench.report.blocks import Block
from metabench.report.figure import Axis, Figure, Panel, Rule, Trace
from metabench.report.palette import INKS, REFERENCE, LabelStyle
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Row, Task
from metabench.report.section import Part, Section
from metabench.results.slices import CLOSED_FORM, DEVIATION, HYPERGRADIENT, MEAN

TOY = "toy_1d"
_X, _L = "x", "l"
_STYLE = {CLOSED_FORM: LabelStyle("muted", INKS["muted"][0], REFERENCE)}
_SHOWN = 6


def _parts(suite: Suite) -> list[Part]:
    figures = (_figure(suite, *each) for each in _FIGURES)
    blocks: list[Block] = [figure for figure in figures if figure.panels]
    return [Part("toy", "In one dimension", blocks, "hypergradients with a closed form")] if blocks else []


def _figure(
    suite: Suite, name: str, title: str, caption: str, panel: Callable[[Suite, str, list[Row]], Panel | None]
) -> Figure:
    rows = [row for row in suite.rows if row["problem"] == TOY]
    panels = [
        found
        for label in suite.styles
        if (found := panel(suite, label, [row for row in rows if row["label"] == label]))
    ]
    figure = Figure(name, "toy", title, caption, panels, styles={**suite.styles, **_STYLE})
    figure.keep(_SHOWN)
    return figure


def _slice(suite: Suite, label: str, rows: Sequence[Row]) -> Panel | None:
    """Return the panel of a label's hypergradients; None where none of its rows has any."""
    curve = next((found for row in rows if (found := _curves(suite, row, MEAN, DEVIATION))), None)
    if curve is None:
        return None
    mean, spread = curve
    low, high = (tuple(y + sign * by for y, by in zip(mean.values, spread.values, strict=True)) for sign in (-1, 1))
    traces = [Trace(label, tuple(mean.x), tuple(mean.values), low, high)]
    for closed in next((found for row in rows if (found := _curves(suite, row, CLOSED_FORM))), []):
        traces.append(Trace(CLOSED_FORM, tuple(closed.x), tuple(closed.values)))
    return Panel(label, Axis(_L, "plain", log=False), Axis("hypergradient", "plain", log=False), traces=traces)


def _trajectories(suite: Suite, label: str, rows: Sequence[Row]) -> Panel | None:
    """Return the panel of a label's trajectories from the paper's starts; None where no row begins there."""
    found = [curves for row in rows if (curves := _curves(suite, row, _X, _L))]
    traces = [Trace(label, tuple(xs.values), tuple(ls.values)) for xs, ls in found]
    if not traces:
        return None
    rules = [Rule("x", 1.0, "best l")]
    return Panel(label, Axis(_X, "plain", log=False), Axis(_L, "plain", log=False), traces=traces, rules=rules)


def _curves(suite: Suite, row: Row, *names: str) -> list[Curve] | None:
    """Return curves of a row by name; None unless it has all of them."""
    known = suite.curves.get((row["cell"], row["seed"]), {})
    return [known[name] for name in names] if all(name in known for name in names) else None


_FIGURES = (
    (
        "toy_hypergradients",
        "Hypergradients against the meta-parameter",
        "Mean over trials of a cell's first seed, each at initial parameters of its own; band: one standard deviation of a single trial. "
        "Closed form: at the inner minimum.",
        _slice,
    ),
    (
        "toy_trajectories",
        "Trajectories from five starts",
        "Parameter x and meta-parameter l, an inner and an outer step by turns. From (0.5, 1) no step leads away.",
        _trajectories,
    ),
)


def _draws(suite: Suite, task: Task, name: str) -> bool:
    return task.problem == TOY and name in (HYPERGRADIENT, MEAN, DEVIATION, CLOSED_FORM, _X, _L)


TOY_SECTION = Section("toy", "In one dimension", _parts, draws=_draws, order=13, module=__name__)
