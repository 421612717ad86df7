"""Searches for architectures: what each strategy chose and paid, pair by pair against random search, and what ranks nets."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metabench.report import numbers
from metabench.report.blocks import Block, Sentence
from metabench.report.figure import Axis, Figure, Panel, Trace
from metabench.report.figures.parts import seeds
from metabench.report.palette import PALETTE, SHAPES, LabelStyle
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Task, slug
from metabench.report.section import Part, Section
from metabench.report.tables.cells import estimate_cell
from metabench.report.tables.table import Cell, Column, Table, exact_cell
from metabench.results import searches as names
from metabench.results.statistics import Estimate, paired_differences

Row = Mapping[str, Any]
_KIND, _RANDOM = "search", "random"
_WAYS = {
    "meta": "with weights meta-trained by {method}",
    "joint": "with weights trained jointly on all classes",
    "joint_meta": "with weights trained jointly, then meta-trained by {method}",
    "untrained": "with weights as drawn",
}
_RECONSTRUCTED = (
    "Meta-learned shared weights, and evolution over the nets that are parts of them, follow AT-NAS (Rong et al. 2021), reconstructed from "
    "its abstract: no number here is the paper's."
)


@dataclass(frozen=True)
class _Group:
    """Rows of searches that are judged alike: on one space, by one fitness, at one budget.

    Attributes:
        words: by what nets are judged.
        rows: one for each seed.
    """

    words: str
    rows: Sequence[Row]

    @property
    def entrants(self) -> list[str]:
        return names.entrants(self.rows[0]["meta_summary"])

    def by_seed(self, entrant: str, name: str) -> dict[int, float]:
        """Return an entrant's number, by seed; of seeds that have it."""
        key = names.of(entrant, name)
        return {row["seed"]: row["meta_summary"][key] for row in self.rows if key in row["meta_summary"]}


def _rows(suite: Suite) -> list[Row]:
    return [row for row in suite.rows if row["kind"] == _KIND and row["status"] == "ok" and row["meta_summary"]]


def _benches(suite: Suite) -> dict[tuple[str, str, int], list[_Group]]:
    """Return the groups by data set, space and budget, in the order of the suite."""
    cells: dict[tuple[str, str, int], dict[str, list[Row]]] = {}
    for row in _rows(suite):
        bench = (row["dataset"], row["problem_options"]["space"], row["kind_options"]["budget"])
        cells.setdefault(bench, {}).setdefault(_words(row), []).append(row)
    return {bench: [_Group(words, rows) for words, rows in groups.items()] for bench, groups in cells.items()}


def _words(row: Row) -> str:
    options = row["kind_options"]
    if options["fitness"] == "table":
        return f"looked up in the table, {options['tasks']} tasks"
    if options["fitness"] == "train":
        how = "jointly on all classes" if options["net_way"] == "joint" else "by MAML"
        return f"trained from nothing {how}, {options['net_steps']} steps"
    return _WAYS[options["way"]].format(method=row["label"])


def _parts(suite: Suite) -> list[Part]:
    found = []
    for place, ((dataset, space, budget), groups) in enumerate(_benches(suite).items()):
        blocks: list[Block | None] = [
            Sentence(_RECONSTRUCTED),
            *(Sentence(text) for text in _verdicts(groups)),
            _figure(suite, dataset, space, budget, groups),
            _table(dataset, space, budget, groups),
            _rankings(dataset, space, budget, groups),
        ]
        subtitle = f"space {space}, {dataset}, {budget} evaluations"
        found.append(
            Part(f"searches-{place}", "Architectures", [block for block in blocks if block is not None], subtitle)
        )
    return found


def _difference(group: _Group, entrant: str, name: str) -> Estimate | None:
    """Return by how much an entrant is above random search, seed by seed; None where one of them has no row."""
    if entrant == _RANDOM or _RANDOM not in group.entrants:
        return None
    return paired_differences([(group.by_seed(entrant, name), group.by_seed(_RANDOM, name))])[0]


def _verdicts(groups: Sequence[_Group]) -> list[str]:
    """Return who beats random search on test tasks, by what nets are judged by."""
    said = []
    for group in groups:
        better, worse, level = [], [], 0
        for entrant in group.entrants:
            found = _difference(group, entrant, names.TEST)
            if entrant == names.BY_HAND or found is None or found.low is None or found.high is None:
                continue
            if found.low > 0:
                better.append(entrant)
            elif found.high < 0:
                worse.append(entrant)
            else:
                level += 1
        words = [f"above random search: {numbers.some(better, 6)}"] * bool(better)
        words += [f"below it: {numbers.some(worse, 6)}"] * bool(worse)
        words += [f"not told apart from it: {numbers.plural(level, 'strategy', 'strategies')}"] * bool(level)
        if words:
            said.append(f"On test tasks, nets {group.words}: {'; '.join(words)}.")
    return said


def _figure(suite: Suite, dataset: str, space: str, budget: int, groups: Sequence[_Group]) -> Figure | None:
    """Return the validation fitness of the best net so far against evaluations: a panel for each way to judge nets."""
    labels = list(dict.fromkeys(entrant for group in groups for entrant in group.entrants if entrant != names.BY_HAND))
    styles = {
        label: LabelStyle(f"c{place % len(PALETTE)}", PALETTE[place % len(PALETTE)][0], SHAPES[place % len(SHAPES)])
        for place, label in enumerate(labels)
    }
    panels, counts = [], []
    for group in groups:
        traces = []
        for entrant in labels:
            curves = [
                curve
                for row in group.rows
                if (curve := suite.curves.get((row["cell"], row["seed"]), {}).get(names.of(entrant, names.BEST)))
                is not None
            ]
            if not curves:
                continue
            x = [at for at in curves[0].x if all(at in curve.x for curve in curves)]
            values = [[dict(zip(curve.x, curve.values, strict=True))[at] for curve in curves] for at in x]
            means = tuple(statistics.fmean(mine) for mine in values)
            low, high = (tuple(end(mine) for mine in values) for end in (min, max))
            traces.append(Trace(entrant, tuple(map(float, x)), means, low, high, len(curves)))
            counts.append(len(curves))
        axes = (Axis("evaluations", "count", log=False), Axis(names.BEST, "plain", log=False))
        panels.append(Panel(f"Nets {group.words}", *axes, traces=traces))
    if not counts:
        return None
    figure = Figure(
        slug("searches", dataset, space, str(budget)),
        "searches",
        "The best net so far, on validation tasks",
        f"Means over {seeds(counts)}; bands: least to greatest. What is best on validation tasks need not be on test tasks: see the table.",
        panels,
        styles=styles,
    )
    figure.keep(4)
    return figure


def _table(dataset: str, space: str, budget: int, groups: Sequence[_Group]) -> Table:
    """Return a row for each way to judge nets and each strategy."""
    table = Table(
        slug("searches", dataset, space, str(budget)),
        "What was chosen, and what it cost",
        f"Means over seeds; at most {budget} full evaluations each. Above random: paired by seed, with its 95 % interval. Regret: how far "
        "the net is below the best of the table when it is trained from nothing. Costs: of the search alone; the shared weights have a "
        "column of their own. Test tasks are touched once, after the choice.",
        [
            Column("judged", "nets", numeric=False),
            Column("entrant", "strategy", numeric=False),
            Column("validation", "chosen", "validation (%)"),
            Column("validation_above", "above random", "validation (%)"),
            Column("test", "chosen", "test (%)"),
            Column("test_above", "above random", "test (%)"),
            Column("won", "won, lost", "test (%)"),
            Column("regret", "regret (points)"),
            Column("parameters", "parameters"),
            Column("runs", "search", "inner runs"),
            Column("shared", "shared weights", "inner runs"),
            Column("flops", "GFLOPs of the search"),
        ],
    )
    for group in groups:
        for entrant in group.entrants:
            mean = {
                key: statistics.fmean(found) if (found := list(group.by_seed(entrant, name).values())) else None
                for key, name in (
                    ("validation", names.VALIDATION),
                    ("test", names.TEST),
                    ("regret", names.REGRET),
                    ("parameters", names.PARAMETERS),
                    ("runs", names.ADAPTATIONS),
                    ("flops", names.FLOPS),
                )
            }
            mean["flops"] = None if mean["flops"] is None else mean["flops"] / 1e9
            trained = list(group.by_seed(names.TRAINING, names.ADAPTATIONS).values())
            mean["shared"] = statistics.fmean(trained) if trained else None
            above = {
                key: _difference(group, entrant, name)
                for key, name in (("validation_above", names.VALIDATION), ("test_above", names.TEST))
            }
            won = _won(group, entrant)
            table.rows.append(
                {"judged": Cell(group.words, group.words), "entrant": Cell(entrant, entrant), "won": won}
                | {
                    key: _cell(value, "" if key in ("parameters", "runs", "shared") else ".2f")
                    for key, value in mean.items()
                }
                | {key: estimate_cell(found, signed=True) for key, found in above.items()}
            )
            ends = {
                f"{key}_{end}": getattr(found, end) if found else None
                for key, found in above.items()
                for end in ("value", "low", "high")
            }
            table.records.append({"judged": group.words, "entrant": entrant, "n": len(group.rows)} | mean | ends)
    table.drop_absent(("regret", "shared", "validation_above", "test_above", "won"))
    return table


def _won(group: _Group, entrant: str) -> Cell:
    if entrant == _RANDOM or _RANDOM not in group.entrants:
        return Cell(numbers.ABSENT)
    ours, theirs = group.by_seed(entrant, names.TEST), group.by_seed(_RANDOM, names.TEST)
    away = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    won, lost = sum(one > 0 for one in away), sum(one < 0 for one in away)
    return Cell(f"{won}, {lost}", float(won - lost))


def _rankings(dataset: str, space: str, budget: int, groups: Sequence[_Group]) -> Table | None:
    """Return how well shared weights rank the nets of a table, beside what costs nothing and the ceiling; None where nothing ranks."""
    table = Table(
        slug("rankings", dataset, space, str(budget)),
        "What ranks nets",
        "Kendall's tau-b with the test accuracy of the table, of all nets and of its best quarter, where it is lower: means over seeds, "
        "and the interval over nets of the first seed. The number of parameters costs nothing: it is the baseline to beat. Another seed of "
        "training is the ceiling: more agreement is not to be had.",
        [
            Column("judged", "nets", numeric=False),
            Column("ranked", "ranked by", numeric=False),
            Column("kendall", "all nets", "Kendall"),
            Column("best", "best quarter", "Kendall"),
        ],
    )
    for group in groups:
        for ranked in names.RANKED:
            found = list(group.by_seed(ranked, names.RANKING).values())
            if not found:
                continue
            low, high = (
                next(iter(group.by_seed(ranked, name).values())) for name in (names.RANKING_LOW, names.RANKING_HIGH)
            )
            best = statistics.fmean(group.by_seed(ranked, names.RANKING_BEST).values())
            value = statistics.fmean(found)
            table.rows.append(
                {
                    "judged": Cell(group.words, group.words),
                    "ranked": Cell(ranked, ranked),
                    "kendall": exact_cell(f"{value:.2f} [{low:.2f}, {high:.2f}]", value),
                    "best": exact_cell(f"{best:.2f}", best),
                }
            )
            table.records.append(
                {
                    "judged": group.words,
                    "ranked": ranked,
                    "kendall": value,
                    "low": low,
                    "high": high,
                    "best": best,
                    "n": len(found),
                }
            )
    return table if table.rows else None


def _cell(value: float | None, form: str) -> Cell:
    if value is None:
        return Cell(numbers.ABSENT)
    return exact_cell(f"{value:{form}}" if form else numbers.count(round(value)), value)


def _headline(suite: Suite) -> str:
    """Return the first verdict where the suite searches and does little else."""
    found = _rows(suite)
    if not found or len(found) * 2 < len(suite.rows):
        return ""
    said = [text for groups in _benches(suite).values() for text in _verdicts(groups)]
    return said[0] if said else ""


def _draws(suite: Suite, task: Task, name: str) -> bool:
    return name.endswith(f": {names.BEST}")


SEARCHES = Section("searches", "Architectures", _parts, _headline, _draws, order=16, module=__name__)
