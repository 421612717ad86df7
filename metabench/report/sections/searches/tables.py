"""Tables of searches: what was chosen at what cost, what ranks nets, and the figures of neighbours in print."""

from __future__ import annotations

from metabench.papers.read import papers
from metabench.report import numbers
from metabench.report.results.settings import slug
from metabench.report.sections.searches.groups import Bench, Group
from metabench.report.tables.cells import estimate_cell, kendall_cells
from metabench.report.tables.table import Cell, Column, Table, exact_cell
from metabench.results import net_tables
from metabench.results import searches as names

_NEIGHBOURS = ("at_nas", "t_nas")
_WHOLE = ("parameters", "runs", "shared")


def outcomes(bench: Bench) -> Table:
    """Return a row for each way to judge nets and each strategy."""
    table = Table(
        slug("searches", bench.name),
        "What was chosen, and what it cost",
        f"Means over seeds; at most {bench.budget} full evaluations each. Above random: paired by seed, or by search where a seed has "
        "several, with its 95 % interval: then over searches, given the nets and weights that were trained. Regret: how far the net is "
        "below the best of the table when it is trained from nothing. Costs of the search and of the shared weights are apart. Test "
        "tasks are touched once, after the choice.",
        [
            Column("judged", "nets", numeric=False),
            Column("entrant", "strategy", numeric=False),
            Column("validation", "chosen", "validation (%)"),
            Column("validation_above", "above random", "validation (%)"),
            Column("test", "chosen", "test (%)"),
            Column("test_above", "above random", "test (%)"),
            Column("won", "won, lost", "test (%)"),
            Column("regret", "regret", "points"),
            Column("regret_above", "above random", "points"),
            Column("parameters", "parameters"),
            Column("runs", "search", "inner runs"),
            Column("shared", "shared weights", "inner runs"),
            Column("flops", "search", "TFLOPs"),
            Column("shared_flops", "shared weights", "TFLOPs"),
        ],
    )
    for group in bench.groups:
        for entrant in group.entrants:
            _add(table, group, entrant)
    table.drop_absent(("regret", "regret_above", "shared", "shared_flops", "validation_above", "test_above", "won"))
    return table


def _add(table: Table, group: Group, entrant: str) -> None:
    mean = {
        "validation": group.mean(entrant, names.VALIDATION),
        "test": group.mean(entrant, names.TEST),
        "regret": group.mean(entrant, names.REGRET),
        "parameters": group.mean(entrant, names.PARAMETERS),
        "runs": group.mean(entrant, names.ADAPTATIONS),
        "shared": group.mean(names.TRAINING, names.ADAPTATIONS),
        "flops": _tera(group.mean(entrant, names.FLOPS)),
        "shared_flops": _tera(group.mean(names.TRAINING, names.FLOPS)),
    }
    above = {
        key: group.above(entrant, name)
        for key, name in (
            ("validation_above", names.VALIDATION),
            ("test_above", names.TEST),
            ("regret_above", names.REGRET),
        )
    }
    table.rows.append(
        {
            "judged": Cell(group.words, group.words),
            "entrant": Cell(entrant, entrant),
            "won": _won(group, entrant),
        }
        | {key: _cell(value, "" if key in _WHOLE else ".2f") for key, value in mean.items()}
        | {key: estimate_cell(found, signed=True) for key, found in above.items()}
    )
    ends = {
        f"{key}_{end}": getattr(found, end) if found else None
        for key, found in above.items()
        for end in ("value", "low", "high")
    }
    table.records.append({"judged": group.words, "entrant": entrant, "n": len(group.rows)} | mean | ends)


def _tera(value: float | None) -> float | None:
    return None if value is None else value / 1e12


def _won(group: Group, entrant: str) -> Cell:
    found = group.won_and_lost(entrant)
    return Cell(numbers.ABSENT) if found is None else Cell(f"{found[0]}, {found[1]}", float(found[0] - found[1]))


def rankings(bench: Bench) -> Table | None:
    """Return how well nets are ranked by shared weights, by what costs less, and by the table itself; None: by nothing."""
    table = Table(
        slug("rankings", bench.name),
        "What ranks nets",
        "Kendall's tau-b with the test accuracy of the table, of all nets and of its best quarter, where it is lower, and the "
        "95 % interval over nets: means over seeds. The number of parameters costs nothing: it is the baseline to beat. The last rows "
        "are the table against itself: two rankings of the same nets, each with its noise.",
        [
            Column("judged", "nets", numeric=False),
            Column("ranked", "ranked by", numeric=False),
            Column("kendall", "all nets", "Kendall"),
            Column("best", "best quarter", "Kendall"),
        ],
    )
    seen: set[str] = set()
    for group in bench.groups:
        for ranked in group.ranked:
            # All but the shared weights is of the table alone, and the same for every group.
            if ranked in seen:
                continue
            seen |= {ranked} - {names.SHARED}
            found = [group.mean(ranked, key) for key in net_tables.OF_RANKING]
            judged = group.words if ranked == names.SHARED else "of the table"
            table.rows.append(
                {
                    "judged": Cell(judged, judged),
                    "ranked": Cell(ranked, ranked),
                }
                | kendall_cells(*found)
            )
            record = {"judged": judged, "ranked": ranked, "n": len(group.by_seed(ranked, net_tables.KENDALL))}
            table.records.append(record | dict(zip(("kendall", "low", "high", "best"), found, strict=True)))
    order = sorted(range(len(table.records)), key=lambda place: table.records[place]["ranked"] in net_tables.OF_ITSELF)
    table.rows[:], table.records[:] = [table.rows[i] for i in order], [table.records[i] for i in order]
    return table if table.rows else None


def neighbours() -> Table:
    """Return what AT-NAS and its neighbours have in print; none of it is in a ranking here."""
    table = Table(
        "search-neighbours",
        "In print",
        "As the papers print it, with their protocols: photographs, other spaces, budgets and checkpoints. Nothing of it is in a ranking "
        "here.",
        [
            Column("system", "system", numeric=False),
            Column("what", "quantity", numeric=False),
            Column("value", "published", numeric=False),
            Column("model", "model and data", numeric=False),
            Column("differs", "how the protocols differ", numeric=False),
        ],
    )
    known = papers()
    for paper in (known[name] for name in _NEIGHBOURS):
        for figure in paper.figures:
            system = {"unrolled": "MAML", "first_order": "MAML, first order"}.get(figure.method, figure.method)
            system += ", reconstructed here" if system == "AT-NAS" else ""
            system += f" against {figure.against}" if figure.against else ""
            model = f"{figure.setting.model}; {figure.setting.data}"
            texts = {"system": system, "what": figure.what, "value": figure.text, "model": model}
            table.rows.append(
                {key: Cell(text, text) for key, text in texts.items()} | {"differs": Cell(figure.differs, tone="prose")}
            )
            table.records.append(texts | {"differs": figure.differs, "source": figure.source, "paper": paper.title})
    return table


def _cell(value: float | None, form: str) -> Cell:
    if value is None:
        return Cell(numbers.ABSENT)
    return exact_cell(f"{value:{form}}" if form else numbers.count(round(value)), value)
