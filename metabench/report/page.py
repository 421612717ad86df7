"""The page: one self-contained file, made from results.parquet and curves.parquet alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from metabench.report import markup, numbers, provenance, summary
from metabench.report.answer_tables import cost_answer_table, glance_table, quality_answer_table
from metabench.report.answers import answers, glances
from metabench.report.budget_figure import budget_figure
from metabench.report.certificate_table import certificate_table
from metabench.report.certified import doubt
from metabench.report.curve_figures import curve_figures
from metabench.report.drawing import draw_svg
from metabench.report.entries import Suite, Task
from metabench.report.figures import all_figures
from metabench.report.load import load_suite
from metabench.report.panel import Figure, Missing
from metabench.report.prediction_figure import comparisons, prediction_figure, prediction_sentence
from metabench.report.section import Section, sections
from metabench.report.setting_table import setting_table
from metabench.report.style import STATUS_WORDS, LabelStyle, style_variables
from metabench.report.tables import coverage_table, failure_table
from metabench.results.atomic import write_text_atomically
from metabench.results.curves import CURVE_COLUMNS
from metabench.results.schema import COLUMNS
from metabench.results.typed import WORDS

# Of a figure of curves: its lines take more room in the page than anything else, and its files have all panels.
CURVE_PANELS = 12
# Beyond so many settings the tables are folded, or nobody finds the next section.
OPEN_TABLES = 30


def build_page(results: Path, out: Path) -> Path:
    """Write `out`/index.html (or `out` itself where it ends in .html) and return it. The same rows give the same bytes.

    results: results.parquet. Raises MetabenchError where it cannot be read or the page cannot be written.
    """
    path = Path(out) if Path(out).suffix == ".html" else Path(out) / "index.html"
    write_text_atomically(path, render_page(load_suite(Path(results))))
    return path


def render_page(suite: Suite) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=PackageLoader("metabench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["names"] = markup.code_names
    found = answers(suite)
    overview = glances(suite, found)

    # A method has the style of its label without options, whether or not such a label is in the suite.
    own = sections(suite).values()
    styles = {**suite.method_styles, **suite.styles, **{name: style for section in own for name, style in section.styles(suite).items()}}

    def label(name: str) -> Markup:
        why = doubt(suite.verdicts[name]) if name in suite.verdicts else ""
        return markup.label(name, styles, why, suite.inexact.get(name, ""))

    def table(made: Any) -> Markup:
        return markup.table_html(made, styles)

    loader = environment.loader
    if loader is None:
        raise RuntimeError("the page's templates have no loader")
    return environment.get_template("page.html").render(
        suite=suite,
        light=Markup(style_variables(0)),
        dark=Markup(style_variables(1)),
        css=Markup(loader.get_source(environment, "page.css")[0]),
        script=Markup(loader.get_source(environment, "page.js")[0]),
        symbols=markup.marker_symbols(),
        label=label,
        table=table,
        badge=markup.badge,
        sentences=summary.sentences(suite, found, overview),
        warnings=provenance.warnings(suite),
        facts=provenance.facts(suite),
        quality_answer=quality_answer_table(suite, found),
        cost_answer=cost_answer_table(suite, found),
        glance=glance_table(suite, overview),
        own=[made for section in own if (made := _own_section(section, suite))],
        sections=_sections(suite),
        certificates=certificate_table(suite),
        budget=_budget(suite),
        prediction=_prediction(suite),
        coverage=coverage_table(suite),
        failures=failure_table(suite),
        citations=_citations(suite),
        columns={
            "results.parquet and results.csv": COLUMNS,
            "curves.parquet and curves.csv": CURVE_COLUMNS,
        },
        type_words=lambda kind: WORDS.get(kind, str(kind)),
        status_words=STATUS_WORDS,
        interval_caution=numbers.INTERVAL_CAUTION,
        open_tables=len(suite.settings) <= OPEN_TABLES,
        headline=_headline(suite),
    )


def _headline(suite: Suite) -> list[tuple[str, str]]:
    """Return the page's first facts: (number, noun) pairs."""
    if not suite.rows:
        return []
    counts = (
        (len({row["method"] for row in suite.rows}), "method", None),
        (len({row["problem"] for row in suite.rows}), "problem", None),
        (len(suite.settings), "setting", None),
        (len(suite.rows), "run", None),
    )
    return [(numbers.count(number), noun if number == 1 else f"{noun}s") for number, noun, _ in counts]


def _sections(suite: Suite) -> list[dict[str, Any]]:
    """Return the section of each problem and data set: figures as SVG, why others are missing, and tables."""
    figures: dict[Task, list[dict[str, Any]]] = {task: [] for task in suite.tasks}
    missing: dict[Task, list[str]] = {task: [] for task in suite.tasks}
    curves = curve_figures(suite)
    for drawn in curves:
        drawn.keep(CURVE_PANELS)
    for figure in [*all_figures(suite), *curves]:
        if figure.task is None:
            continue
        if isinstance(figure, Missing):
            missing[figure.task].append(figure.reason)
        else:
            figures[figure.task].append(_figure(figure, suite.styles))
    sections = []
    for task in suite.tasks:
        problem, dataset = suite.card("problems", task.problem), suite.card("datasets", task.dataset)
        tables = [
            setting_table(suite, setting, entries)
            for setting, entries in suite.settings.items()
            if setting.task == task
        ]
        sections.append(
            {
                "slug": f"task-{task.slug}",
                "problem": task.problem,
                "dataset": task.dataset,
                "title": problem.get("title", ""),
                "dataset_title": dataset.get("title", ""),
                "figures": figures[task],
                "missing": missing[task],
                "tables": tables,
            }
        )
    return sections


def _own_section(section: Section, suite: Suite) -> dict[str, Any] | None:
    """Return what the page shows of a section; None if it has neither figures nor tables for this suite."""
    styles = section.styles(suite)
    figures = [_figure(figure, styles) for figure in section.figures(suite)]
    tables = section.tables(suite)
    if not figures and not tables:
        return None
    about = {"slug": section.name, "title": section.title, "subtitle": section.subtitle(suite)}
    return {**about, "figures": figures, "tables": tables}


def _prediction(suite: Suite) -> dict[str, Any] | None:
    """Return the sentence and the figure of predicted memory; None where nothing was predicted."""
    figure = prediction_figure(suite)
    if figure is None:
        return None
    return {"sentence": prediction_sentence(comparisons(suite)), "figure": _figure(figure, suite.styles)}


def _budget(suite: Suite) -> dict[str, Any] | None:
    """Return the figure of the certificates' curves; None if there is none."""
    figure = budget_figure(suite)
    return _figure(figure, suite.method_styles) if isinstance(figure, Figure) else None


def _figure(figure: Figure, styles: Mapping[str, LabelStyle]) -> dict[str, Any]:
    panels = [
        {
            "title": panel.title,
            "svg": Markup(draw_svg(panel, styles, f"{figure.name}-{index}")),
            "notes": [(name, panel.notes.get(name, "")) for name in styles if name in panel.labels]
            if panel.notes
            else [],
        }
        for index, panel in enumerate(figure.panels)
    ]
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.full_caption,
        "panels": panels,
        "pairs": not figure.kind.startswith("quality"),
        "labels": [name for name in styles if name in set(figure.labels)]
        if not any(panel["notes"] for panel in panels)
        else [],
    }


def _citations(suite: Suite) -> list[dict[str, str]]:
    """Return every method, problem and data set that the rows use, with its BibTeX; empty text where none was given."""
    used = (
        ("methods", "method", list(dict.fromkeys(entry.method for entry in suite.entries))),
        ("problems", "problem", list(dict.fromkeys(entry.setting.task.problem for entry in suite.entries))),
        ("datasets", "data set", list(dict.fromkeys(entry.setting.task.dataset for entry in suite.entries))),
    )
    return [
        {
            "kind": word,
            "name": name,
            "title": str(suite.card(kind, name).get("title", "")),
            "bibtex": str(suite.card(kind, name).get("citation", "")).strip(),
        }
        for kind, word, names in used
        for name in names
    ]
