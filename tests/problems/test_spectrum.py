"""The kind 'spectrum': eigenvalues of a method's map are those of its meta kernel, and an exact method's map is symmetric."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from bilevel import make_problem

from metabench.kernels.meta_kernel import MetaKernel
from metabench.kernels.responses import Nothing, Response
from metabench.problems.few_shot_regression import FewShotRegression
from metabench.results.spectra import ASYMMETRY, EIGENVALUES, LARGEST, LEAST
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.run_cell import run_cell

PLANE = {"family": "plane", "tasks": 2, "test_tasks": 1, "activation": "erf", "b_std": 0.0, "learning_rate": 0.25}


def row_of(method: Any, kind: Any = "spectrum", problem: str = "few_shot_regression", **experiment: Any) -> dict[str, Any]:
    given = {"problem": problem, "kind": kind, "methods": [method], **experiment}
    suite = {"name": "x", "seeds": [0], "aa": False, "rounds": 0, "experiments": {"a": given}}
    (cell,) = plan(load_suite(suite)).cells
    (row,) = run_cell(cell, lambda *told: None)
    return row


def expected(estimated: Response | None, dataset: str, **options: Any) -> torch.Tensor:
    on = make_problem("few_shot_regression", size="infinite", dataset=dataset, inner_steps=5, **options)
    assert isinstance(on, FewShotRegression)
    tasks = on.episodes[0]
    phi = MetaKernel(on.limit.kernel, on.limit.response, estimated).between(tasks, tasks)
    found = torch.linalg.eigvals(phi) / len(phi)
    return found[found.abs() > 1e-9].real.sort().values


@pytest.mark.parametrize(("method", "estimated"), [("unrolled", None), ("first_order", Nothing())])
@pytest.mark.parametrize(
    ("dataset", "options"),
    [("analytic", PLANE), ("digits", {"tasks": 2, "test_tasks": 1, "shots": 2, "queries": 2})],
)
def test_eigenvalues_are_those_of_the_meta_kernel(
    method: str, estimated: Response | None, dataset: str, options: dict[str, Any]
) -> None:
    row = row_of(method, datasets=[dataset], sizes=["infinite"], options=options)
    assert row["status"] == "ok", row["message"]
    curve = row["curves"][EIGENVALUES]
    found = torch.tensor([x for x, y in zip(curve.x, curve.values, strict=True) if abs(x) > 1e-9], dtype=torch.float64)
    assert torch.allclose(found, expected(estimated, dataset, **options), rtol=1e-8)
    assert row["meta_summary"][LEAST] == min(curve.x)
    assert (row["meta_summary"][ASYMMETRY] < 1e-9) == (method == "unrolled")


def test_first_order_maml_has_an_eigenvalue_below_zero_where_maml_has_none() -> None:
    least = {
        name: row_of(name, datasets=["analytic"], sizes=["infinite"], options=PLANE)["meta_summary"][LEAST]
        for name in ("unrolled", "first_order")
    }
    assert least["unrolled"] > -1e-12
    assert least["first_order"] == pytest.approx(-0.1071006 / 2, rel=1e-5)


def test_a_map_that_is_not_linear_is_differentiated_where_it_begins() -> None:
    row = row_of("t1t2", problem="toy_1d")
    assert row["status"] == "ok" and len(row["curves"][EIGENVALUES].x) == 1
    assert row["meta_summary"][LARGEST] == abs(row["curves"][EIGENVALUES].x[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "none"}, "method 'none' has no hypergradients"),
        ({"method": "unrolled", "kind": {"spectrum": {"most": 1}}}, "for each of 24 meta-parameters .*: `most` allows 1"),
    ],
)
def test_what_has_no_spectrum_is_refused(changes: dict[str, Any], words: str) -> None:
    options = {"tasks": 1, "test_tasks": 1, "shots": 3, "queries": 3}
    row = row_of(datasets=["digits"], sizes=["infinite"], options=options, **changes)
    assert row["status"] == "error"
    assert re.search(words, row["message"])
