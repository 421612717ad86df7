"""Runs of several lengths: whether a cheaper method makes up in the same time for what it lacks at as many meta-updates."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from metabench.report import numbers
from metabench.report.blocks import Sentence
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Row, slug
from metabench.report.section import Part, Section
from metabench.report.tables.cells import estimate_cell
from metabench.report.tables.table import Cell, Column, Table, exact_cell
from metabench.results.statistics import Estimate, paired_differences

_FREE = ("outer_schedule",)
"""Options of a problem that follow the number of outer steps."""
_ABOUT_EQUAL = 1.25
"""Times whose ratio is below this, either way, count as about equal."""


@dataclass(frozen=True)
class _Run:
    """A method's rows of one length; its seeds have a quality and the seconds that training took."""

    rows: Sequence[Row]

    @property
    def label(self) -> str:
        return str(self.rows[0]["label"])

    @property
    def steps(self) -> int:
        return int(self.rows[0]["outer_steps"])

    @property
    def seconds(self) -> float:
        return statistics.fmean(row["train_s"] for row in self.rows)

    @property
    def quality(self) -> dict[int, float]:
        return {row["seed"]: row["quality"] for row in self.rows}


def _groups(suite: Suite) -> list[list[_Run]]:
    """Return the runs that differ in method and length alone, of the problems where there are several lengths."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in suite.rows:
        trained = row["status"] == "ok" and row["target"] != "none" and row["quality"] is not None and row["train_s"]
        if not trained:
            continue
        options = {key: value for key, value in row["problem_options"].items() if key not in _FREE}
        same = [row[key] for key in ("problem", "dataset", "size", "inner_steps", "kind", "kind_options")]
        found.setdefault(json.dumps([*same, options], sort_keys=True), {}).setdefault(row["cell"], []).append(row)
    groups = [[_Run(rows) for rows in cells.values()] for cells in found.values()]
    return [runs for runs in groups if len({run.steps for run in runs}) > 1 and len({run.label for run in runs}) > 1]


def _reference(suite: Suite, runs: Sequence[_Run]) -> _Run | None:
    """Return the shortest run of the baseline."""
    mine = [run for run in runs if run.rows[0]["method"] == suite.baseline]
    return min(mine, key=lambda run: run.steps, default=None)


def _parts(suite: Suite) -> list[Part]:
    found = []
    for runs in _groups(suite):
        reference = _reference(suite, runs)
        if reference is None:
            continue
        table, said = _compared(runs, reference, [str(len(found))] * bool(found))
        row = reference.rows[0]
        where = f"{row['problem']} on {row['dataset']}, {row['size']}"
        found.append(Part(f"lengths-{len(found)}", "Updates and time", [*map(Sentence, said), table], where))
    return found


def _compared(runs: Sequence[_Run], reference: _Run, ending: Sequence[str]) -> tuple[Table, list[str]]:
    """Return a row for each run, and a sentence for each that takes as many updates or about as long as the reference.

    `ending` is that of the table's name: two may be of one problem, data set and size.
    """
    row = reference.rows[0]
    table = Table(
        slug("lengths", row["problem"], row["dataset"], row["size"], *ending),
        "At as many updates, and at equal time",
        f"Against `{reference.label}` with {numbers.count(reference.steps)} outer steps, paired by seed, with 95 % intervals. Time: of "
        "training alone, on the machine of these rows.",
        [
            Column("label", "method", numeric=False),
            Column("steps", "outer steps"),
            Column("time", "time / reference"),
            Column("quality", "quality"),
            Column("away", "against the reference"),
        ],
    )
    said = []
    for run in sorted(runs, key=lambda one: (one.label, one.steps)):
        ratio, mean = run.seconds / reference.seconds, statistics.fmean(run.quality.values())
        away = None if run is reference else paired_differences([(run.quality, reference.quality)])[0]
        table.rows.append(
            {
                "label": Cell(run.label, run.label, label=run.label),
                "steps": Cell(numbers.count(run.steps), run.steps),
                "time": exact_cell(numbers.ratio(ratio), ratio),
                "quality": exact_cell(f"{mean:.4g}", mean),
                "away": estimate_cell(away, signed=True),
            }
        )
        ends = {end: getattr(away, end) if away else None for end in ("value", "low", "high")}
        table.records.append(
            {"method": run.label, "steps": run.steps, "time_ratio": ratio, "quality": mean, "n": len(run.rows)} | ends
        )
        if away is not None and run.label != reference.label:
            said += _words(run, reference, ratio, away, row["direction"] != "min")
    return table, said


def _words(run: _Run, reference: _Run, ratio: float, away: Estimate, higher_is_better: bool) -> list[str]:
    equal_updates, equal_time = run.steps == reference.steps, 1 / _ABOUT_EQUAL < ratio < _ABOUT_EQUAL
    if not (equal_updates or equal_time) or away.low is None or away.high is None:
        return []
    better = away.low > 0 if higher_is_better else away.high < 0
    worse = away.high < 0 if higher_is_better else away.low > 0
    where = "better than" if better else "worse than" if worse else "not told apart from"
    at = "At as many meta-updates" if equal_updates else f"At about equal time ({numbers.ratio(ratio)})"
    half = away.high - away.value
    text = f"{away.value:+.3g} ± {half:.2g}".replace("-", "−")
    steps = "" if equal_updates else f" with {numbers.count(run.steps)} outer steps"
    return [f"{at} `{run.label}`{steps} is {where} `{reference.label}`: {text}."]


LENGTHS = Section("lengths", "Updates and time", _parts, order=13.5, module=__name__)
"""The section."""
