"""A few claims of an exact method hold to their tolerance in float64, with whatever CPU kernels the tests run."""

from __future__ import annotations

import itertools

import pytest

from metabench.certify.claims import claims
from metabench.methods import method
from metabench.results.certificate import CERTIFIED, UNSUPPORTED

FEW = 12


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["unrolled", "t1t2"])
def test_an_exact_method_is_certified(name: str) -> None:
    found = (claim.check(method(name)) for claim in claims(method(name)))
    findings = list(itertools.islice((finding for finding in found if finding.verdict != UNSUPPORTED), FEW))
    assert len(findings) == FEW
    assert {finding.verdict for finding in findings} == {CERTIFIED}, [finding.message for finding in findings]
