"""The certificate of one method: every claim, every mean, and the curve of its error against its budget, as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from metabench.certify.again import again
from metabench.certify.carried import carried
from metabench.certify.cases import Case, moving, settled
from metabench.certify.check import STREAM, ask, astray, compared, relative
from metabench.certify.claims import Finding, claims, complete, exact_value
from metabench.certify.diagnosis import explain
from metabench.certify.means import means
from metabench.certify.problems import Ridge
from metabench.certify.rows import case_columns, certificate_row, identity
from metabench.certify.shared_roles import SharedRoles
from metabench.certify.tanh_networks import TanhNetwork
from metabench.core import Curvature, MetabenchError, Method, Target, tree
from metabench.core.lazy import torch
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.core.types import Progress
from metabench.methods import method as method_named
from metabench.results.certificate import AS_DECLARED, FAILED, UNDECLARED

Row = dict[str, Any]


class Check(Protocol):
    """Something to check about a method."""

    @property
    def text(self) -> str:
        """The claim, in words that are the same at every run."""

    def check(self, method: Method) -> Finding:
        """Return the outcome for a method."""


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
        wanted = checks(method)
    except (
        Exception
    ) as error:  # the declaration is the author's code, too: a limit may raise, or name options that are not there
        return [_declaration_row(method, error)]
    findings = []
    for done, one in enumerate(wanted):
        tell(f"{method.name}: {one.text}", done, len(wanted))
        findings.append(one.check(method))
    sentences = explain(findings, method.target)
    rows = [_finding_row(method, finding, sentences.get(place)) for place, finding in enumerate(findings)]
    if not rows:
        rows.append(undeclared_row(method))
    if never_draws := _never_draws(method):
        rows.append(never_draws)
    rows += _curve(method)
    return rows


def checks(method: Method) -> list[Check]:
    """Return all claims of a method, in the order in which they are checked; each can be checked alone.

    Raises:
        Exception: whatever the method's declaration raises when it is read.
    """
    return [*claims(method), *again(method), *means(method), *carried(method)]


def _finding_row(method: Method, finding: Finding, sentence: str | None) -> Row:
    assert finding.case is not None
    return (
        case_columns(method, finding.case, finding.options)
        | {
            "kind": "claim",
            "claim": finding.kind,
            "verdict": finding.verdict,
            "relative_error": finding.error,
            "cosine": finding.cosine,
            "norm_ratio": finding.norm_ratio,
            "tolerance": finding.tolerance,
            "dtype": "float32" if finding.single else "float64",
            "message": sentence or finding.message,
            "seconds": finding.seconds,
        }
        | finding.columns
    )


def _never_draws(method: Method) -> Row | None:
    """Return the row of a method that is declared stochastic but gives the same answer for every seed; None if it draws."""
    if not method.stochastic or method.exact:
        return None
    case = (
        settled(Ridge())
        if method.target.of_minimum
        else moving(SharedRoles("sgd", ("inner_loss", "outer_loss")))
    )
    options = complete(method, {})
    built = build(method.options, options, f"method '{method.name}'")
    answers = [ask(method, case, built, seed=seed).result for seed in range(3)]
    found = [tree.flatten(one.meta) for one in answers if one is not None]
    if len(found) < 2 or any(not torch.equal(found[0], other) for other in found[1:]):
        return None
    words = "it is declared stochastic, and three seeds of its generator give one and the same answer"
    return _finding_row(method, Finding("drawn", case, options, FAILED, words), None)


def _declaration_row(method: Method, error: Exception) -> Row:
    said = str(error) if isinstance(error, MetabenchError) else f"{type(error).__name__}: {error}"
    return {
        "kind": "claim",
        "claim": "exact" if method.exact else "limit",
        "verdict": FAILED,
        "message": f"what it declares cannot be used: {said}",
    }


def undeclared_row(method: Method) -> Row:
    """Return the row of a method that claims nothing: its distance from the target on one case, and what it might declare."""
    case = settled(Ridge()) if method.target.of_minimum else moving(Ridge())
    options = complete(method, {})
    answer = ask(method, case, build(method.options, options, f"method '{method.name}'"))
    wrong = answer.wrong or (answer.result is not None and astray(method, case, answer.result)) or ""
    exact = exact_value(method.target, case, options)
    verdict = answer.verdict or (FAILED if wrong else UNDECLARED)
    error = cosine = ratio = None
    if answer.result is not None and exact is not None:
        error, (cosine, ratio) = relative(answer.result.meta, exact), compared(answer.result.meta, exact)
    finding = Finding(
        "undeclared", case, options, verdict, wrong or _WHAT_TO_DECLARE, error=error, cosine=cosine, norm_ratio=ratio
    )
    return _finding_row(method, finding, None)


_WHAT_TO_DECLARE = (
    "it is not declared exact, and declares neither a limit nor a formula nor a mean: say with limit=Limit(...) under which options it "
    "reaches its target and what it equals, or with mean=Mean(...) what its draws have for their mean"
)


def _curve(method: Method) -> Iterator[Row]:
    """Yield the points of the error against the budget, against the exact target."""
    limit = method.limit
    if (
        limit is None
        or limit.options is None
        or not limit.budget
        or method.target in (Target.SMOOTHED, Target.PERSISTENT)
    ):
        return
    case = settled(Ridge(features=8)) if method.target.of_minimum else moving(TanhNetwork())
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
