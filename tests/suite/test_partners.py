"""A/A comparison: each timed cell of the baseline has a partner, the same computation in a process of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from kernel_choice import KERNELS

from metabench.core.errors import MetabenchError
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.labels import title
from metabench.suite.plan.plan import Plan, load_suite, plan
from metabench.suite.predict.cells import predict_cells
from metabench.suite.predict.one_cell import Prediction
from metabench.suite.predict.predictions import Predictions
from metabench.suite.run.run_cell import run_cell

TOY: dict[str, Any] = {"problem": "toy_1d", "inner_steps": [3], "outer_steps": 2, "methods": ["unrolled", "t1t2"]}
COST = {"problem": "toy_1d", "inner_steps": [3], "kind": "cost", "methods": ["unrolled"]}


def planned(experiments: dict[str, Any], **changes: Any) -> Plan:
    suite = {"name": "trial", "seeds": [0, 1], "kernels": KERNELS, "experiments": experiments}
    return plan(load_suite(suite | changes))


def partners(found: Plan) -> list[Cell]:
    return [cell for cell in found.cells if cell.replicate]


def test_the_partner_of_a_trained_cell_measures_cost_alone() -> None:
    found = planned({"toy": TOY})
    first, (partner,) = found.cells[0], partners(found)
    assert (first.method, first.kind, first.replicate) == ("unrolled", "quality", 0)
    assert partner == dataclasses.replace(first, kind="cost", outer_steps=0, replicate=1)
    assert found.row_file(partner) != found.row_file(planned({"cost": COST}).cells[0])
    assert title(partner) == "toy_1d/analytic/scalar · unrolled · 3 inner steps · again · 2 seeds"
    assert "again" not in title(first)
    assert Cell.from_json(partner.to_json(), "here") == partner


def test_one_partner_serves_all_cells_with_the_same_timed_part() -> None:
    (partner,) = partners(planned({"toy": TOY, "cost": COST | {"seeds": [1, 2]}}))
    assert (partner.experiment, partner.seeds) == ("toy", [0, 1, 2])


@pytest.mark.parametrize("change", [{"aa": False}, {"timing": "shared"}])
def test_there_are_none_where_they_are_not_asked_for_or_times_not_compared(change: dict[str, Any]) -> None:
    assert partners(planned({"toy": TOY})) and not partners(planned({"toy": TOY}, **change))


def test_a_kind_without_a_timed_part_has_none(tmp_path: Path) -> None:
    plugin = tmp_path / "kinds.py"
    text = (
        "from metabench.core.kind import Kind\n"
        "def norm(subject):\n    yield dict()\n"
        "NORM = Kind('norm', 'a norm', stages=(norm,), columns=(), module=__name__{})\n"
    )
    plugin.write_text(text.format(""), encoding="utf-8")
    norm = COST | {"kind": "norm"}
    assert not partners(planned({"norm": norm}, plugins=[str(plugin)]))
    other = tmp_path / "others.py"
    other.write_text(text.format(", partner='costs'"), encoding="utf-8")
    with pytest.raises(
        MetabenchError, match="unknown partner of kind of experiment 'norm' 'costs': did you mean 'cost'"
    ):
        planned({"norm": norm}, plugins=[str(other)])


def test_a_partner_is_predicted_as_its_original() -> None:
    asked: list[Cell] = []

    def predictor(cell: Cell, device: str | None) -> Prediction:
        asked.append(cell)
        return Prediction(3, 1, 2, 5, 7)

    cells = planned({"toy": TOY}).cells
    found = predict_cells(cells, Predictions(), lambda *progress: None, predictor=predictor)
    assert [cell.method for cell in asked] == ["unrolled", "t1t2"]
    assert [entry.peak_bytes for entry in found] == [3, 3, 3]
    assert found[0].cell != found[2].cell == cells[2].hash


def test_the_rows_of_a_partner_say_so_and_compute_the_same() -> None:
    found = planned({"cost": COST}, seeds=[0], measure={"time_repeats": 1, "error_windows": 0}).cells
    first, again = (next(run_cell(cell, lambda *progress: None)) for cell in found)
    assert (first["replicate"], again["replicate"]) == (0, 1)
    assert first["status"] == again["status"] == "ok"
    for name in ("hypergradient_digest", "peak_bytes", "label", "seed"):
        assert first[name] == again[name]
    assert first["cell"] != again["cell"]


def test_two_methods_that_compute_the_same_have_the_same_digest_and_bytes() -> None:
    """One step: the exact hypergradient and T1-T2 are one graph; mixed mode gives the same bits in fewer bytes."""
    one = {
        "problem": "regularisation",
        "inner_steps": [1],
        "kind": "cost",
        "methods": ["unrolled", "t1t2", "mixflow", "ift_cg"],
    }
    cells = planned({"one": one}, aa=False, measure={"time_repeats": 1, "error_windows": 0}).cells
    rows = {
        cell.method: [
            (row["hypergradient_digest"], row["peak_bytes"]) for row in run_cell(cell, lambda *progress: None)
        ]
        for cell in cells
    }
    assert rows["unrolled"] == rows["t1t2"]
    assert len(set(rows["unrolled"])) == 2, "each seed has its own"
    digest, size = rows["unrolled"][0]
    assert rows["mixflow"][0][0] == digest and rows["mixflow"][0][1] < size
    assert rows["ift_cg"][0][0] != digest
