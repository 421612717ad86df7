"""Checking one claim: the method runs, and what it returns is compared. Whatever a method does wrong is a finding, never an exception."""

from __future__ import annotations

import time
from dataclasses import dataclass

from metabench.certify.claims import STREAM, Claim
from metabench.core import MetabenchError, Method, Tree, Unsupported, tree
from metabench.core.checks import check_hypergradient
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.results.certificate import AS_DECLARED, CERTIFIED, FAILED, UNSUPPORTED


@dataclass(frozen=True)
class Finding:
    """What came of a claim. `found` is None where the method gave no hypergradient; `message` says why, or what is wrong with it."""

    claim: Claim
    verdict: str
    found: Tree | None
    error: float | None
    cosine: float | None
    norm_ratio: float | None
    message: str
    seconds: float

    @property
    def differs(self) -> bool:
        """Whether there is a hypergradient and a value that it should have had: then their difference can be read."""
        return self.verdict == FAILED and self.found is not None and self.claim.expected is not None


def check(method: Method, claim: Claim) -> Finding:
    """Return what comes of `claim`."""
    begun = time.perf_counter()
    found, verdict, message = _answer(method, claim)
    error = cosine = ratio = None
    if found is not None and claim.expected is not None:
        error = _relative(tree.subtract(found, claim.expected), claim.expected)
        within = error <= claim.tolerance
        held = CERTIFIED if claim.kind in ("exact", "none") else AS_DECLARED
        verdict = held if within else FAILED
        if claim.exact is not None:
            size, exact_size = float(tree.norm(found)), float(tree.norm(claim.exact))
            cosine = float(tree.dot(found, claim.exact)) / (size * exact_size) if size else 0.0
            ratio = size / exact_size
    return Finding(claim, verdict, found, error, cosine, ratio, message, time.perf_counter() - begun)


def _answer(method: Method, claim: Claim) -> tuple[Tree | None, str, str]:
    case = claim.case
    options = build(method.options, claim.options, f"method '{method.name}'")
    try:
        result = method(case.problem, case.state, case.meta, case.window, options, generator(0, STREAM))
        check_hypergradient(result, case.state, case.meta)
    except Unsupported as reason:
        return None, UNSUPPORTED, str(reason)
    except MetabenchError as mistake:  # in words already
        return None, FAILED, str(mistake)
    except Exception as error:
        return None, FAILED, f"raised {type(error).__name__}: {error}"
    if claim.expected is None:
        size = float(tree.norm(result.meta))
        return (
            result.meta,
            FAILED,
            f"answered with a hypergradient of norm {size:.2g} where there is none: it has to raise Unsupported and say why",
        )
    if not tree.all_finite(result.meta):
        return None, FAILED, "returned a hypergradient that is not finite"
    return result.meta, "", ""


def _relative(difference: Tree, expected: Tree) -> float:
    size = float(tree.norm(expected))
    return float(tree.norm(difference)) / size if size else float(tree.norm(difference))
