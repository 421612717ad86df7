"""What the table of a suite's results says beside its rows."""

from __future__ import annotations

import json
from collections.abc import Callable

from metabench.results.certificate import Certificate
from metabench.suite.plan.plan import Plan
from metabench.suite.run.provenance import results_metadata


def certificate(method: str) -> Certificate:
    return Certificate(
        method, "abc", "", "one_step", "certified", {"certified": 3}, 1e-12, 1.0, (1.0, 1.0), (), (), (), "2"
    )


def test_the_certificates_of_the_suites_methods_are_kept_and_no_others(planned: Callable[..., Plan]) -> None:
    found = json.loads(
        results_metadata(planned(), {name: certificate(name) for name in ("t1t2", "es")})["certificates"]
    )
    assert list(found) == ["t1t2"]
    assert Certificate.from_json(found["t1t2"]) == certificate("t1t2")


def test_without_certificates_there_are_none(planned: Callable[..., Plan]) -> None:
    assert json.loads(results_metadata(planned())["certificates"]) == {}
