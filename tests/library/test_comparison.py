"""Methods are compared on a user's losses, or on a problem of the suite, in one table."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from bilevel import call, make_problem
from small_problems import Tanh

import metabench
from metabench import MetabenchError
from metabench.core import tree
from metabench.core.problem import Problem
from metabench.library.comparison import COLUMNS
from metabench.measure.memory.meter import measure_memory
from metabench.methods import method
from metabench.results.certificate import CERTIFICATE_COLUMNS, write_certificates
from metabench.suite.plan.code_hash import method_hash

METHODS = ["reptile", "t1t2", "unrolled", ("ift_cg", {"steps": 2}), "mixflow"]


def arguments(of: Problem) -> tuple[Any, ...]:
    """Return a problem's losses and data as those of a user."""
    state, meta = of.initial_state()
    window = next(of.windows())[0]
    return of.inner_loss, of.outer_loss, state.params, meta, window.inner, window.outer[-1]


def compare(*given: Any, **settings: Any) -> pd.DataFrame:
    return metabench.compare(*given, **{"methods": METHODS, "budget": 60.0} | settings)


def test_a_users_losses_by_error_memory_and_time() -> None:
    of = Tanh("momentum")
    table = compare(*arguments(of), optimiser=of.optimiser)
    assert list(table.columns) == COLUMNS
    assert set(table["label"][:2]) == {"unrolled", "mixflow"}
    assert list(table["label"][2:]) == ["t1t2", "ift_cg (steps=2)", "reptile"]
    assert list(table["status"]) == ["ok"] * 4 + ["unsupported"]
    assert "Reptile moves only those" in table["message"][4]
    assert (table["relative_error"][:2] < 1e-12).all()
    assert table["peak_bytes"][0] <= table["peak_bytes"][1]
    assert (table["time_s"][:4] > 0).all()
    assert set(table["error_dtype"]) == {"float64"}

    state, meta = of.initial_state()
    window = next(Tanh("momentum").windows())[0]
    exact, other = (call(name, of, state, meta, window).meta for name in ("unrolled", "t1t2"))
    expected = float(tree.norm(tree.subtract(other, exact)) / tree.norm(exact))
    row = table.set_index("method").loc["t1t2"]
    assert row["relative_error"] == pytest.approx(expected, rel=1e-9)
    assert row["target_error"] < 1e-12
    given = (state.params, state.optimiser, meta, window.inner, window.outer)
    _, memory = measure_memory(lambda: call("t1t2", of, state, meta, window), given, "cpu")
    assert row["peak_bytes"] == memory.peak_bytes


def test_single_precision_is_compared_in_double_where_the_losses_allow_it() -> None:
    of = Tanh(dtype=torch.float32)
    table = compare(*arguments(of), optimiser=of.optimiser, methods=["unrolled", "mixflow"])
    assert set(table["error_dtype"]) == {"float64"}
    assert (table["relative_error"] < 1e-12).all()

    network, inputs = torch.nn.Linear(2, 1), torch.linspace(-1, 1, 12).reshape(6, 2)

    def outer(network: Any, penalty: Any, chosen: Any) -> torch.Tensor:
        return (network(inputs[chosen]) - 1).square().mean()

    def inner(network: Any, penalty: Any, chosen: Any) -> torch.Tensor:
        return outer(network, penalty, chosen) + penalty.exp() * network.weight.square().sum()

    first, last = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])
    table = compare(
        inner,
        outer,
        network,
        torch.tensor(-1.0),
        [first] * 3,
        last,
        optimiser=metabench.SGD(0.1),
        methods=["unrolled", "mixflow"],
    )
    assert set(table["error_dtype"]) == {"float32"}
    assert list(table["status"]) == ["ok", "ok"]
    assert (table["relative_error"] < 1e-5).all()


def test_a_problem_of_the_suite() -> None:
    table = compare(make_problem("toy_1d", dtype=torch.float32), methods=["unrolled", "truncated", "es"]).set_index(
        "method"
    )
    assert list(table["status"]) == ["ok"] * 3
    assert table["relative_error"]["unrolled"] < 1e-12
    assert "smoothed, is out of reach here" in table["message"]["es"]
    with pytest.raises(MetabenchError, match="a problem of the suite has its own losses and data, and nothing reads"):
        metabench.compare(make_problem("toy_1d"), optimiser=metabench.SGD(0.1))


def test_a_certificate_counts_for_the_source_that_it_certifies(tmp_path: Path) -> None:
    def claim(name: str, source: str) -> dict[str, Any]:
        row = {column.name: "" if str(column.type) == "string" else 0 for column in CERTIFICATE_COLUMNS}
        return row | {
            "method": name,
            "method_hash": source,
            "kind": "claim",
            "verdict": "certified",
            "relative_error": 0.0,
            "tolerance": 1.0,
        }

    path = tmp_path / "certificates.parquet"
    write_certificates(path, [claim("unrolled", method_hash("unrolled")), claim("mixflow", "of another day")])
    of = Tanh()
    table = compare(
        *arguments(of), optimiser=of.optimiser, methods=["unrolled", "mixflow", "t1t2"], certificates=[path]
    )
    assert dict(zip(table["method"], table["certificate"], strict=True)) == {
        "unrolled": "certified",
        "mixflow": "not certified: hash differs",
        "t1t2": "not certified: never run",
    }
    namesake = dataclasses.replace(method("t1t2"), name="unrolled")
    (row,) = compare(*arguments(of), optimiser=of.optimiser, methods=[namesake], certificates=[path]).to_dict("records")
    assert row["certificate"] == "not certified: hash differs" and row["relative_error"] > 1e-3


def test_what_takes_longer_than_its_share_is_a_row_that_says_so() -> None:
    of = Tanh()
    table = compare(*arguments(of), optimiser=of.optimiser, methods=["es"], budget=0.01)
    assert table["status"][0] == "timeout"
    assert "passed the time limit of 0.0" in table["message"][0]
    assert math.isnan(table["relative_error"][0])


def test_mistakes_are_named_before_anything_is_measured() -> None:
    of = Tanh()
    state, _ = of.initial_state()
    with pytest.raises(MetabenchError, match="unknown method 'unroled': did you mean 'unrolled'"):
        compare(*arguments(of), optimiser=of.optimiser, methods=["unroled"])
    with pytest.raises(MetabenchError, match="unknown option of method 'ift_cg' 'step': did you mean 'steps'"):
        compare(*arguments(of), optimiser=of.optimiser, methods=[("ift_cg", {"step": 1})])
    with pytest.raises(MetabenchError, match="a comparison begins an inner run"):
        compare(*arguments(of), optimiser=of.optimiser, state=state)
