"""Tables of nets: how good nets trained from nothing are, how easy the space is, and how far rankings of them agree with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metabench.report import numbers
from metabench.report.blocks import Facts, Sentence
from metabench.report.results.entries import Suite
from metabench.report.results.settings import slug
from metabench.report.section import Part, Section
from metabench.report.tables.cells import estimate_cell, kendall_cells
from metabench.report.tables.table import Cell, Column, Table, exact_cell
from metabench.results import net_tables as names
from metabench.results.statistics import Estimate

_KIND = "net_table"


def _parts(suite: Suite) -> list[Part]:
    found = []
    rows = [row for row in suite.rows if row["kind"] == _KIND and row["status"] == "ok" and row["meta_summary"]]
    for place, row in enumerate(rows):
        said, space = row["meta_summary"], row["problem_options"]["space"]
        subtitle = f"space {space}, {row['dataset']}, trained by {row['label']}"
        name = (row["dataset"], space, row["label"], *([str(place)] if place else []))
        blocks = (_verdict(said), _facts(said), _rankings(said, name), _domains(said, name))
        found.append(Part(f"net-tables-{place}", "A table of nets", blocks, subtitle))
    return found


def _verdict(said: Mapping[str, float]) -> Sentence:
    above = said[names.QUARTER]
    trained = "so nets are trained enough for the best to say something" if above > 0 else "so no net is trained enough"
    where = f"{abs(above):.1f} points {'above' if above > 0 else 'below'} the nearest pixels"
    return Sentence(
        f"The best quarter of {numbers.count(round(said[names.NETS]))} nets is {where} on test tasks, {trained}."
    )


def _facts(said: Mapping[str, float]) -> Facts:
    validation, test = (numbers.count(round(said[name])) for name in (names.VALIDATION_COUNT, names.TEST_COUNT))
    pairs = [
        ("test accuracy over nets", f"{said[names.MEAN]:.1f} ± {said[names.SPREAD]:.1f} % (sd)"),
        ("the best net", f"{said[names.BEST]:.1f} %"),
        ("the net that is best on validation tasks", f"{said[names.CHOSEN]:.1f} %"),
        ("the nearest pixels", f"{said[names.PIXELS]:.1f} %"),
        ("R² of a ridge on one-hot operations", f"{said[names.ADDITIVE]:.2f}"),
        ("seeds of training", numbers.count(round(said[names.SEEDS]))),
        ("tasks", f"{validation} of validation domains, {test} of test domains"),
        ("to train a net", f"{said[names.SECONDS]:.1f} s"),
        ("file", numbers.memory(round(said[names.BYTES]))),
    ]
    return Facts(pairs)


def _rankings(said: Mapping[str, float], name: Sequence[str]) -> Table:
    """Return how far rankings of the table agree."""
    table = Table(
        slug("net-table", *name),
        "How far rankings agree",
        "Kendall's tau-b of all nets, with the 95 % interval over nets, and of the best quarter by the second ranking, where it is "
        "lower. Two seeds of training agree as far as their noise lets them.",
        [
            Column("ranked", "rankings", numeric=False),
            Column("kendall", "all nets", "Kendall"),
            Column("best", "best quarter", "Kendall"),
        ],
    )
    for ranking in names.rankings(said):
        found = [said.get(names.of(ranking, key)) for key in names.OF_RANKING]
        table.rows.append({"ranked": Cell(ranking, ranking)} | kendall_cells(*found))
        table.records.append({"ranked": ranking} | dict(zip(("kendall", "low", "high", "best"), found, strict=True)))
    return table


def _domains(said: Mapping[str, float], name: Sequence[str]) -> Table:
    """Return what a net of each test domain's own is worth."""
    table = Table(
        slug("net-table-domains", *name),
        "A net for each domain",
        "By how many points the net that half of a domain's tasks choose is above the one that half of all tasks choose, on the other "
        "half: the best of many nets, judged where it was chosen, would look better than it is. 95 % interval over tasks.",
        [
            Column("domain", "domain", numeric=False),
            Column("net", "best net", numeric=False),
            Column("gain", "gain (points)"),
            Column("tasks", "tasks"),
        ],
    )
    for domain, net in names.domains(said):
        keys = (names.GAIN, names.GAIN_HALF, names.TASKS)
        gain, half, tasks = (said[names.of_domain(domain, net, key)] for key in keys)
        table.rows.append(
            {
                "domain": Cell(domain, domain),
                "net": Cell(net, net),
                "gain": estimate_cell(Estimate(gain, gain - half, gain + half, round(tasks)), signed=True),
                "tasks": exact_cell(numbers.count(round(tasks)), tasks),
            }
        )
        table.records.append({"domain": domain, "net": net, "gain": gain, "half": half, "tasks": round(tasks)})
    return table


NET_TABLES = Section("net-tables", "Tables of nets", _parts, order=17, module=__name__)
"""The section."""
