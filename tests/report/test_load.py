"""Partners of the baseline are kept apart from what the report shows of a suite."""

from __future__ import annotations

from types import ModuleType
from typing import Any


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
