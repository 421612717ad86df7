"""The certificate of one method: every claim, every mean, and the curve of its error against its budget, as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from metabench.certify.carried import Carried, carried, errors
from metabench.certify.cases import Case, moving, settled
from metabench.certify.check import Finding, check
from metabench.certify.claims import STREAM, Claim, claims, complete, exact_value
from metabench.certify.diagnosis import explain
from metabench.certify.means import LEVEL, Mean, judge_mean, means
from metabench.certify.problems import Ridge, TanhNetwork
from metabench.certify.rows import case_columns, certificate_row, identity
from metabench.core import Curvature, MetabenchError, Method, Target, tree
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.methods import method as method_named
from metabench.results.certificate import AS_DECLARED, FAILED, UNDECLARED

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]
"""(what runs, how much is done, of how much)."""

CURVE_DRAWS = 8
"""Draws of which a point of the curve is the mean error, for methods that draw."""


def certify(name: str, plugins: Iterable[Path] = (), progress: Progress | None = None) -> list[Row]:
    """Return the certificate of the method `name` as rows, see `metabench.results.certificate`.

    Raises:
        MetabenchError: there is no such method, or a plugin cannot be imported. What the method itself does wrong is in the rows.
    """
    plugins = tuple(plugins)
    who = identity(name, plugins)
    return [certificate_row(**(who | row)) for row in certificate_rows(method_named(name, plugins), progress)]


def certificate_rows(method: Method, progress: Progress | None = None) -> list[Row]:
    """Return the rows of a method's certificate, without what says which source it has."""
    tell = progress or (lambda stage, done, total: None)
    try:
        wanted = list(claims(method))
    except Exception as error:  # the declaration is the author's code, too: a limit may raise, or name options that are not there
        return [_declaration_row(method, error)]
    findings = []
    for done, claim in enumerate(wanted):
        tell(f"{method.name}: {claim.case.text}", done, len(wanted))
        findings.append(check(method, claim))
    sentences = explain(findings, method.target)
    rows = [_claim_row(method, finding, sentences.get(place)) for place, finding in enumerate(findings)]
    for mean in means(method.name):
        tell(f"{method.name}: mean of {mean.draws} draws", len(wanted), len(wanted))
        rows.append(_mean_row(method, mean))
    for one in carried(method.name):
        rows.append(_carried_row(method, one))
    if not rows:
        rows.append(_undeclared_row(method))
    rows += _curve(method)
    return rows


def _claim_row(method: Method, finding: Finding, sentence: str | None) -> Row:
    claim = finding.claim
    return case_columns(method, claim.case, claim.options) | {
        "kind": "claim",
        "claim": claim.kind,
        "verdict": finding.verdict,
        "relative_error": finding.error,
        "cosine": finding.cosine,
        "norm_ratio": finding.norm_ratio,
        "tolerance": claim.tolerance if claim.expected is not None else None,
        "message": sentence or finding.message,
        "seconds": finding.seconds,
    }


def _mean_row(method: Method, mean: Mean) -> Row:
    begun = time.perf_counter()
    row = case_columns(method, mean.case, mean.options) | {"kind": "claim", "claim": "mean", "level": LEVEL, "draws": mean.draws}
    try:
        outcome = judge_mean(method, mean)
    except MetabenchError as mistake:  # in words already
        return row | {"verdict": FAILED, "message": str(mistake)}
    except Exception as error:  # a method may raise what it likes: it is a finding
        return row | {"verdict": FAILED, "message": f"raised {type(error).__name__}: {error}"}
    return row | {
        "verdict": AS_DECLARED if outcome.holds else FAILED,
        "relative_error": outcome.error,
        "cosine": outcome.cosine,
        "norm_ratio": outcome.norm_ratio,
        "standard_error": outcome.standard_error,
        "p_value": outcome.p_value,
        "message": outcome.words,
        "seconds": time.perf_counter() - begun,
    }


def _carried_row(method: Method, of: Carried) -> Row:
    begun = time.perf_counter()
    row = case_columns(method, of.case, of.options) | {"kind": "claim", "claim": "carried", "tolerance": of.tolerance}
    try:
        first, last = errors(method, of)
    except Exception as error:  # a method may raise what it likes: it is a finding
        return row | {"verdict": FAILED, "message": f"raised {type(error).__name__}: {error}"}
    holds = last <= of.tolerance < first
    return row | {
        "verdict": AS_DECLARED if holds else FAILED,
        "relative_error": last,
        "message": ""
        if holds
        else f"what it keeps does not bring it to the target: relative error {first:.2g} after one window, {last:.2g} after {of.windows}",
        "seconds": time.perf_counter() - begun,
    }


def _declaration_row(method: Method, error: Exception) -> Row:
    said = str(error) if isinstance(error, MetabenchError) else f"{type(error).__name__}: {error}"
    return {
        "kind": "claim",
        "claim": "exact" if method.exact else "limit",
        "verdict": FAILED,
        "message": f"what it declares cannot be used: {said}",
    }


def _undeclared_row(method: Method) -> Row:
    """Return the row of a method that claims nothing: how far it is from its target on one case, and what it might declare."""
    case = settled(Ridge()) if method.target is Target.IMPLICIT else moving(Ridge())
    options = complete(method, {})
    exact = exact_value(method.target, case, options)
    finding = check(method, Claim("undeclared", case, options, exact, exact, float("inf")))
    failed = finding.verdict == FAILED
    return _claim_row(method, finding, None) | {
        "verdict": FAILED if failed else UNDECLARED,
        "tolerance": None,
        "message": finding.message
        or "it is not declared exact and declares no limit: say with limit=Limit(...) under which options it reaches its target",
    }


def _curve(method: Method) -> Iterator[Row]:
    """Yield the points of the error against the budget, against the exact target."""
    limit = method.limit
    if limit is None or not limit.budget or method.target in (Target.SMOOTHED, Target.PERSISTENT):
        return
    case = settled(Ridge(features=8)) if method.target is Target.IMPLICIT else moving(TanhNetwork())
    curvature = case.minimum.curvature if case.minimum else Curvature(12, 0.2, 5.0)
    first = limit.option_sets(curvature)[0]  # these were built for the claims already
    for value in limit.values:
        given = {**first, **limit.curve, limit.budget: value}
        try:
            options = build(method.options, given, f"method '{method.name}'")
        except MetabenchError as error:
            yield {**_declaration_row(method, error), "budget_option": limit.budget}
            return
        exact = exact_value(method.target, case, complete(method, given))
        if exact is None:
            return
        row = case_columns(method, case, given) | {
            "kind": "budget",
            "claim": "limit",
            "verdict": AS_DECLARED,
            "message": "",
            "budget_option": limit.budget,
            "budget": float(value),
        }
        draws = CURVE_DRAWS if method.stochastic else 1
        try:
            errors = [
                float(tree.norm(tree.subtract(_call(method, case, options, draw), exact)) / tree.norm(exact))
                for draw in range(draws)
            ]
        except Exception as error:  # the claims above tell of it; the curve has no point here
            yield row | {"verdict": FAILED, "message": f"raised {type(error).__name__}: {error}"}
            continue
        yield row | {"relative_error": sum(errors) / draws, "draws": draws if method.stochastic else None}


def _call(method: Method, case: Case, options: Any, draw: int) -> Any:
    stream = generator(draw, STREAM)
    return method(case.problem, case.state, case.meta, case.window, options, stream).meta


def failures(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of claims that failed."""
    return [row for row in rows if row["kind"] == "claim" and row["verdict"] == FAILED]
