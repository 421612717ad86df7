"""From rows to entries: partners of the baseline are kept apart, and intervals end where values do."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest


def test_rows_of_partners_are_in_no_entry(load_rows: Any, synthetic: ModuleType) -> None:
    rows = [synthetic.row(method, seed) for method in ("unrolled", "t1t2") for seed in range(3)]
    again = [
        synthetic.row("unrolled", seed, kind="cost", time_median_s=9.0) | {"replicate": 1, "cell": "0000000a"}
        for seed in range(3)
    ]
    plain, both = load_rows(rows), load_rows([*rows, *again])
    assert [row["time_median_s"] for row in both.partners] == [9.0] * 3
    assert plain.partners == []
    assert both.rows == plain.rows and list(map(vars, both.entries)) == list(map(vars, plain.entries))


def test_an_interval_of_accuracies_ends_at_0_and_at_100(load_rows: Any, synthetic: ModuleType) -> None:
    """One seed of three that turns the wrong way made it 56 [-245, 247]."""
    made = synthetic.metadata()
    problems = json.loads(made["problems"])
    rows = [synthetic.row("t1t2", seed, quality=value) for seed, value in enumerate((1.2, 83.8, 82.9))]
    for bounds, ends in ((None, (-244.0, 247.0)), ([0.0, 100.0], (0.0, 100.0))):
        problems["label_noise"]["metrics"] = [{"name": rows[0]["metric"], "direction": "max", "bounds": bounds}]
        (entry,) = load_rows(rows, problems=json.dumps(problems)).entries
        assert entry.quality is not None and entry.quality.value == pytest.approx(55.97, abs=0.01)
        assert (entry.quality.low, entry.quality.high) == pytest.approx(ends, abs=1)
