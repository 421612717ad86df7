"""Options that validation chose from grids for methods that train with them."""

from __future__ import annotations

from metabench.report import numbers
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Row
from metabench.report.results.tuned import chosen, chosen_words, is_tuned
from metabench.report.section import Part, Section
from metabench.report.tables.table import Cell, Column, Table, exact_cell


def _parts(suite: Suite) -> list[Part]:
    cells: dict[str, list[Row]] = {}
    for row in suite.rows:
        if is_tuned(row) and row["target"] != "none":
            cells.setdefault(row["cell"], []).append(row)
    return [Part("choices", "Tuned options", [_table(suite, cells)], "chosen by validation")] if cells else []


def _table(suite: Suite, cells: dict[str, list[Row]]) -> Table:
    table = Table(
        "choices",
        "Tuned options",
        "Each method is trained at every point of a grid of the problem's options; the point with the best validation is chosen, seed by "
        "seed, and tested once. At the edge of a grid, a better value may lie beyond.",
        [
            Column("problem", "problem", numeric=False),
            Column("size", "size", numeric=False),
            Column("label", "method", numeric=False),
            Column("grid", "grid", numeric=False),
            Column("chosen", "chosen", numeric=False, description="by validation; each value with its number of seeds"),
            Column("quality", "quality", description="of the choice, on test data, mean over seeds"),
        ],
    )
    for rows in cells.values():
        first, finished = rows[0], [row for row in rows if row["status"] == "ok"]
        words: dict[str, int] = {}
        for row in finished:
            words[chosen_words(row)] = words.get(chosen_words(row), 0) + 1
        told = "; ".join(f"{text} × {count}" for text, count in words.items()) or numbers.ABSENT
        values = [row["quality"] for row in finished if row["quality"] is not None]
        mean = sum(values) / len(values) if values else None
        table.rows.append(
            {
                "problem": Cell(f"{first['problem']} on {first['dataset']}"),
                "size": Cell(first["size"]),
                "label": Cell(first["label"], first["label"], label=first["label"]),
                "grid": Cell(first["kind_options"]["over"]),
                "chosen": Cell(told),
                "quality": exact_cell(numbers.ABSENT if mean is None else f"{mean:.4g}", mean),
            }
        )
        table.records += [
            {
                "problem": row["problem"],
                "dataset": row["dataset"],
                "size": row["size"],
                "label": row["label"],
                "seed": row["seed"],
                "grid": row["kind_options"]["over"],
                **{f"chosen_{axis}": value for axis, (value, _) in chosen(row).items()},
                **{f"{axis}_at_edge": edge for axis, (_, edge) in chosen(row).items()},
                "quality": row["quality"],
            }
            for row in rows
        ]
    return table


CHOICES = Section("choices", "Tuned options", _parts, order=14, module=__name__)
