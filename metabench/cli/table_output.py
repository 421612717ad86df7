"""What `metabench table query` prints: nets with their accuracies and costs, and how far rankings agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from metabench.cli.output import print_json, print_table
from metabench.data.formats.net_table import TEST, VALIDATION, NetTable
from metabench.models.spaces import space
from metabench.search.agreement import Agreement, additive, of_itself

_BEST = 10


def print_query(table: NetTable, nets: Sequence[str], as_json: bool) -> None:
    """Print some nets of a table, or the best ones by validation, and its rankings; raise MetabenchError if the table lacks a net."""
    of = space(table.about["space"])
    validation, test = table.accuracies(VALIDATION), table.accuracies(TEST)
    chosen = [of.read(net) for net in nets] or [
        table.nets[row] for row in np.argsort(-validation, kind="stable")[:_BEST]
    ]
    rows = []
    for net in chosen:
        row = table.row(net)
        spread = float(
            np.std([table.accuracies(TEST, seeds=[seed])[row] for seed in table.seeds], ddof=len(table.seeds) > 1)
        )
        rows.append(
            {
                "net": net,
                "validation": float(validation[row]),
                "test": float(test[row]),
                "sd over seeds": spread,
                "regret": float(test.max() - test[row]),
                "parameters": int(table.costs["parameters"][row]),
                "flops": int(table.costs["flops"][row]),
                "seconds": float(table.costs["seconds"][row]),
            }
        )
    rankings = of_itself(table)
    easy = additive(table, of.one_hot(table.nets))
    pixels = {part: table.pixel_accuracy(part) for part in (VALIDATION, TEST)}
    best = np.sort(test)[-max(1, len(test) // 4) :]
    if as_json:
        print_json(
            {
                "nets": rows,
                "rankings": [dataclasses.asdict(one) for one in rankings],
                "pixels": pixels,
                "additive_r2": easy,
                "mean_test": float(test.mean()),
                "best_quarter_test": [float(best.min()), float(best.max())],
            }
        )
        return
    print_table(
        "nets, accuracies (%) with as many steps as in training",
        ("net", "validation", "test", "sd over seeds", "regret", "parameters", "FLOPs", "seconds"),
        [_line(row) for row in rows],
        right=("validation", "test", "sd over seeds", "regret", "parameters", "FLOPs", "seconds"),
    )
    print_table(
        "rankings that agree",
        ("of what", "Kendall [95 % interval]", "Spearman", "Kendall, best quarter"),
        [_ranking(one) for one in rankings],
    )
    print(
        f"Nearest pixels: {pixels[VALIDATION]:.1f} % on validation, {pixels[TEST]:.1f} % on test tasks. All nets: "
        f"{test.mean():.1f} ± {test.std():.1f} %; the best quarter {best.min():.1f} to {best.max():.1f} %."
    )
    print(f"An additive ridge on one-hot operations explains {easy:.2f} of the variance of the test accuracy.")


def _line(row: dict[str, Any]) -> list[str]:
    shown = [f"{row[key]:.1f}" for key in ("validation", "test", "sd over seeds", "regret")]
    return [row["net"], *shown, f"{row['parameters']:,}", f"{row['flops']:,}", f"{row['seconds']:.1f}"]


def _ranking(one: Agreement) -> list[str]:
    return [one.what, f"{one.kendall:.2f} [{one.low:.2f}, {one.high:.2f}]", f"{one.spearman:.2f}", f"{one.best:.2f}"]
