"""Checking one claim: the method runs, and what it returns is compared. Whatever a method does wrong is a finding, never an exception."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

from metabench.certify.cases import Case
from metabench.certify.claims import STREAM, Claim
from metabench.core import Batch, Hypergradient, InnerState, MetabenchError, Method, Tree, Unsupported, Window, tree
from metabench.core.checks import check_hypergradient, non_finite
from metabench.core.lazy import torch
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.results.certificate import AS_DECLARED, CERTIFIED, FAILED, UNSUPPORTED

STATE_TOLERANCE = 1e-7
"""Of the inner state and the outer loss: libraries round their optimisers otherwise by up to 1e-9."""


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
        verdict = FAILED if message or not within else held
        if claim.exact is not None:
            size, exact_size = float(tree.norm(found)), float(tree.norm(claim.exact))
            cosine = float(tree.dot(found, claim.exact)) / (size * exact_size) if size else 0.0
            ratio = size / exact_size
        if within:
            found = None  # right by itself: nothing is to be read from it
    elif message and not verdict:
        verdict = FAILED
    return Finding(claim, verdict, found, error, cosine, ratio, message, time.perf_counter() - begun)


def _answer(method: Method, claim: Claim) -> tuple[Tree | None, str, str]:
    """Return the hypergradient, or None with a verdict; and what is wrong beside the hypergradient, or instead of it."""
    case = claim.case
    options = build(method.options, claim.options, f"method '{method.name}'")
    # Copies: a method that writes into its arguments must not spoil the case for those that come after it.
    state, meta, window = copy.deepcopy((case.state, case.meta, case.window))
    try:
        result = method(case.problem, state, meta, window, options, generator(0, STREAM))
        check_hypergradient(result, case.state, case.meta)
    except Unsupported as reason:
        return None, UNSUPPORTED, str(reason)
    except MetabenchError as mistake:  # in words already
        return None, FAILED, str(mistake)
    except Exception as error:
        return None, FAILED, f"raised {type(error).__name__}: {error}"
    if claim.expected is None and claim.kind != "undeclared":
        size = float(tree.norm(result.meta))
        return (
            result.meta,
            FAILED,
            f"answered with a hypergradient of norm {size:.2g} where there is none: it has to raise Unsupported and say why",
        )
    wrong = non_finite(result) or _changed(case, state, meta, window)
    return (None, FAILED, wrong) if wrong else (result.meta, "", _astray(method, case, result))


def _changed(case: Case, state: InnerState, meta: Tree, window: Window) -> str:
    """Return which argument a method wrote into; empty if none."""
    pairs: list[tuple[str, Batch, Batch]] = [
        ("the meta-parameters", meta, case.meta),
        ("the parameters", state.params, case.state.params),
        *(("the optimiser's state", state.optimiser[slot], leaves) for slot, leaves in case.state.optimiser.items()),
    ]
    batches = zip((*window.inner, *window.outer), (*case.window.inner, *case.window.outer), strict=True)
    pairs += [("the batches", after, before) for after, before in batches if after is not None and before is not None]
    for what, after, before in pairs:
        if any(not torch.equal(after[name], leaf) for name, leaf in before.items()):
            return f"it writes into its arguments: {what} are others after the call"
    return ""


def _astray(method: Method, case: Case, result: Hypergradient) -> str:
    """Return what is wrong with the inner state or the outer loss that came with the hypergradient; empty if nothing is."""
    away = _relative(tree.subtract(result.state.params, case.end.params), case.end.params)
    if away > STATE_TOLERANCE:
        return f"the inner state returned is not where plain training ends: relative distance {away:.2g}"
    # A method that draws may report the loss where its draws led.
    if not method.stochastic and abs(result.outer_loss - case.objective) > STATE_TOLERANCE * max(1.0, abs(case.objective)):
        return f"the outer loss returned is {result.outer_loss:g}, and plain training has {case.objective:g}"
    return ""


def _relative(difference: Tree, expected: Tree) -> float:
    size = float(tree.norm(expected))
    return float(tree.norm(difference)) / size if size else float(tree.norm(difference))
