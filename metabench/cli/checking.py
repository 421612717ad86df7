"""`metabench check`: whether a problem is well posed, which methods can answer, what each costs and how far it errs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabench.cli.output import human_bytes, print_json, print_table
from metabench.core.errors import MetabenchError, unknown
from metabench.core.types import Progress
from metabench.measure.clock import pin_threads
from metabench.measure.outcome import outcome
from metabench.methods import methods
from metabench.problems import problems
from metabench.results.certificate import read_all_certificates
from metabench.suite.plan.labels import load_data, method_of, problem_class, problem_of
from metabench.suite.plan.plan import Plan, load_suite, plan
from metabench.suite.predict.cells import predict_cells
from metabench.suite.predict.predictions import Predictions

_COLUMNS = ("method", "target", "certificate", "answers", "error", "cosine", "predicted", "peak memory", "time")


@dataclass(frozen=True)
class Checked:
    """What was found of one problem.

    Attributes:
        name: of the problem.
        title: its line for tables.
        setting: data set, size and number of inner steps.
        fault: why it is not well posed; empty if it is.
        rows: one per method, as `metabench.compare` returns them, with `predicted_bytes`; the best first. None if it is not well posed.
    """

    name: str
    title: str
    setting: str
    fault: str
    rows: list[dict[str, Any]]


def checked(
    plugins: Sequence[Path],
    names: Sequence[str],
    size: str | None,
    options: Mapping[str, Any],
    only: Sequence[str],
    budget: float,
    progress: Progress,
) -> list[Checked]:
    """Return what is found of each problem: those named, else those that the plugins declare.

    size: of the model; the problem's default unless given. options: of the problem. only: names of methods; all unless given.
    budget: seconds for all methods on one problem.

    Raises:
        MetabenchError: a name, size or option is unknown, a plugin cannot be used, or none of them declares a problem.
    """
    known = problems(plugins)
    for name in names:
        if name not in known:
            raise unknown("problem", name, known)
    wanted = list(names) or [name for name in known if name not in problems()]
    if not wanted:
        raise MetabenchError(
            "no plugin declares a problem: `metabench certify` checks methods, and --problem names a problem of the package"
        )
    return [_checked(_planned(plugins, name, size, options, only), budget, progress) for name in wanted]


def _planned(
    plugins: Sequence[Path], name: str, size: str | None, options: Mapping[str, Any], only: Sequence[str]
) -> Plan:
    chosen = list(only) or list(methods(plugins))
    experiment = {"problem": name, "kind": "cost", "methods": chosen, "options": dict(options)}
    experiment |= {"sizes": [size]} if size else {}
    files = [str(path) for path in plugins]
    suite = {"name": "check", "seeds": [0], "aa": False, "plugins": files, "experiments": {"check": experiment}}
    return plan(load_suite(suite))


def _checked(planned: Plan, budget: float, progress: Progress) -> Checked:
    from metabench.library.comparison import CERTIFICATES, compare

    certificates = [CERTIFICATES] if CERTIFICATES.is_file() else []
    read_all_certificates(certificates)  # what is wrong with them is no fault of the problem
    first = planned.cells[0]
    pin_threads(first.threads)
    setting, title = f"{first.dataset}, {first.size}, K = {first.inner_steps}", problem_class(first).card.title
    loaded = load_data(first)
    try:
        problem = problem_of(first, 0, loaded, first.device, first.dtype)
    except Exception as error:  # of the problem's own code: its author reads where
        return Checked(first.problem, title, setting, outcome(error)[1], [])
    entries = [(method_of(cell), cell.method_options) for cell in planned.cells]
    try:
        progress(f"{first.problem}: well posed", 0, 1)
        table = compare(problem, methods=entries, budget=budget, certificates=certificates)
    except MetabenchError as error:
        return Checked(first.problem, title, setting, str(error), [])
    predicted = predict_cells(planned.cells, Predictions(), progress, workers=os.cpu_count() or 1)
    bytes_of = {cell.method: one.peak_bytes for cell, one in zip(planned.cells, predicted, strict=True) if not one.message}
    rows = [{**row, "predicted_bytes": bytes_of.get(row["method"])} for row in table.to_dict("records")]
    return Checked(first.problem, title, setting, "", rows)


def print_checked(found: Sequence[Checked], as_json: bool) -> None:
    """Print for each problem whether it is well posed, and a table of methods; or all as JSON."""
    if as_json:
        print_json([_plain(one) for one in found])
        return
    for one in found:
        if one.fault:
            print(f"{one.name} ({one.setting}) is not well posed: {one.fault}")
            continue
        print(f"{one.name} ({one.setting}) is well posed: its losses are functions of their arguments, with derivatives that are true,")
        print("and every meta-parameter reaches the outer loss, where the problem says.")
        print_table("", _COLUMNS, [_line(row) for row in one.rows], right=_COLUMNS[4:])
        for row in one.rows:
            if row["status"] != "ok":
                print(f"  {row['label']}: {row['status']}: {row['message']}")


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["label"],
        row["target"],
        row["certificate"],
        "yes" if row["status"] == "ok" else row["status"],
        _number(row["relative_error"], ".2g"),
        _number(row["cosine"], ".4g"),
        _bytes(row["predicted_bytes"]),
        _bytes(row["peak_bytes"]),
        f"{1000 * row['time_s']:.3g} ms" if _known(row["time_s"]) else "-",
    )


def _known(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def _number(value: Any, form: str) -> str:
    return format(value, form) if _known(value) else "-"


def _bytes(value: Any) -> str:
    return human_bytes(int(value)) if _known(value) else "-"


def _plain(one: Checked) -> dict[str, Any]:
    rows = [{name: value if isinstance(value, str) or _known(value) else None for name, value in row.items()} for row in one.rows]
    about = {"problem": one.name, "title": one.title, "setting": one.setting}
    return about | {"well_posed": not one.fault, "fault": one.fault, "methods": rows}
