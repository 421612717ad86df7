"""What a declaration comes to: a limit that holds or cannot be used, none at all, refusals, and options that must not matter."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from metabench.autodiff.implicit.hypergradient import implicit_hypergradient
from metabench.autodiff.implicit.linear_solvers import Operator, Solution, conjugate_gradients
from metabench.certify import certificate_rows, failures
from metabench.certify.rows import certificate_row
from metabench.core import Cost, Hypergradient, Limit, Method, Target, Tree, Unsupported, option, tree
from metabench.methods import method
from metabench.results.certificate import certificates

pytestmark = pytest.mark.usefixtures("few_cases")


@dataclasses.dataclass(frozen=True)
class Scaled:
    """Options of a solver that works on scale * H."""

    steps: int = option(10, minimum=1, help="steps")
    scale: float = option(1.0, above=0, help="factor on the Hessian inside the solver")


def scaled_conjugate_gradients(on_residual: bool) -> Method:
    """Return implicit differentiation by CG on (scale H) q = scale v; without `on_residual` the scale misses the right-hand side."""

    def function(problem: Any, state: Any, meta: Any, window: Any, options: Any, generator: Any) -> Hypergradient:
        def solve(hessian: Operator, target: Tree, start: Any) -> Solution:
            right = tree.scale(options.scale, target) if on_residual else target
            return conjugate_gradients(
                lambda v: tree.scale(options.scale, hessian(v)), right, options.steps, 0.0, start
            )

        return implicit_hypergradient(problem, state, meta, window, solve)

    return Method(
        name="scaled_cg",
        title="CG on a scaled Hessian",
        function=function,
        target=Target.IMPLICIT,
        exact=False,
        cost=Cost(),
        citation="",
        options=Scaled,
        limit=Limit(lambda at: [{"steps": at.dimension}, {"steps": at.dimension, "scale": 0.1}]),
    )


def test_a_scale_that_misses_the_residual_is_named() -> None:
    """betty's CG: right where the scale is 1, which is the default, and wrong everywhere else."""
    assert not failures(certificate_rows(scaled_conjugate_gradients(on_residual=True)))
    failed = failures(certificate_rows(scaled_conjugate_gradients(on_residual=False)))
    assert failed
    for row in failed:
        assert "scale=0.1" in row["options"]
        assert "wrong with scale 0.1: is the scale applied to the residual" in row["message"]
    assert any("10 times as long: that is 1 / option scale" in row["message"] for row in failed)


def test_a_method_that_declares_nothing_is_not_certified() -> None:
    silent = dataclasses.replace(scaled_conjugate_gradients(on_residual=True), limit=None)
    (row,) = certificate_rows(silent)
    assert row["verdict"] == "undeclared"
    assert row["cosine"] == pytest.approx(1.0)
    assert "limit=Limit" in row["message"]


def test_a_method_that_declines_what_it_could_answer_is_not_certified() -> None:
    right = method("unrolled")

    def shy(problem: Any, state: Any, meta: Any, window: Any, options: Any, generator: Any) -> Hypergradient:
        if problem.name != "ridge":
            raise Unsupported("not today")
        return right(problem, state, meta, window, options, generator)

    who = {
        "method": "shy",
        "method_hash": "0",
        "title": "",
        "target": "unrolled",
        "torch_version": "",
        "metabench_version": "",
    }
    rows = [certificate_row(**(who | row)) for row in certificate_rows(dataclasses.replace(right, function=shy, module="theirs"))]
    found = certificates(rows)["shy"]
    assert found.claims["certified"] < found.claims["unsupported"]
    assert found.verdict == "unsupported"


def test_a_declaration_that_cannot_be_used_fails_and_stops_nothing() -> None:
    def no_limit(at: Any) -> dict[str, Any]:
        raise ZeroDivisionError("condition number")

    for limit, words in (
        (Limit(lambda at: {"step": 3}), "unknown option"),
        (Limit(no_limit), "ZeroDivisionError: condition number"),
    ):
        planted = dataclasses.replace(method("ift_cg"), name="mine", limit=limit)
        (row,) = certificate_rows(planted)
        assert row["verdict"] == "FAILED"
        assert words in row["message"]


def test_a_sampling_method_of_somebody_else_is_undeclared_and_not_called_wrong() -> None:
    (row,) = certificate_rows(dataclasses.replace(method("es"), name="mine"))
    assert row["verdict"] == "undeclared"
