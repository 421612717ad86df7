"""The table of certificates: what each method declares, and whether it holds."""

from __future__ import annotations

from typing import Any

from metabench.report import numbers
from metabench.report.results.certified import GRAVITY, NOT_CERTIFIED, OTHER_SOURCE, verdict
from metabench.report.results.entries import Suite
from metabench.report.tables.certificate_words import state_exactness
from metabench.report.tables.table import Cell, Column, Table
from metabench.results.certificate import VERDICTS, Certificate

_FAILURES_AT_MOST = 2  # before the rest is folded away


def certificate_table(suite: Suite) -> Table:
    """Return a row for each method of the suite, certified or not."""
    made_with = sorted(
        {f"torch {one.torch_version} ({one.instruction_set} kernels)" for one in suite.certificates.values()}
    )
    table = Table(
        "certificates",
        "Whether each method is what it declares to be",
        "Each method against its own reference, in float64, on small problems with known answers. "
        + " ".join(f"{verdict}: {words}." for verdict, words in VERDICTS.items())
        + f" {NOT_CERTIFIED}: the method has no certificate, or one of other source than these rows (the hashes differ). "
        "A method that samples is judged by a test of the mean of its draws, not by one draw. Error: relative, the largest of the claims "
        "that have a tolerance, those in float32 apart; cosine and norm ratio: against the exact value of the target, the lowest, and the "
        "range." + (f" Certified with {', '.join(made_with)}." if made_with else ""),
        [
            Column("label", "method", numeric=False),
            Column("target", "target", numeric=False, description="what the method estimates"),
            Column("verdict", "verdict", numeric=False, description="verdict over all claims"),
            Column(
                "claims",
                "claims",
                numeric=False,
                description="combinations of problem, optimiser and options, by verdict",
            ),
            Column("error", "worst error", description="largest relative error against the method's reference"),
            Column("error_float32", "in float32", description="the same, for calls in float32"),
            Column("cosine", "lowest cosine", description="with the exact value of its target"),
            Column("norm_ratio", "norm ratio", description="norm over that of the exact value of its target"),
            Column("why", "what failed, and what is unsupported", numeric=False),
            Column("hash", "source", numeric=False, description="hash of the source that the method depends on"),
        ],
    )
    for method, hashes in suite.method_hashes.items():
        certificate = suite.certificates.get(method)
        found = verdict(certificate, hashes)
        # The figures of a certificate of other source say nothing about these rows.
        shown = None if found == OTHER_SOURCE else certificate
        table.rows.append(
            _row(
                suite,
                method,
                found,
                shown,
                _hash_text(found, certificate, hashes),
                suite.inexact_methods.get(method, ""),
            )
        )
        table.records.append(_record(suite, method, found, shown, certificate, hashes))
    state_exactness(table, suite.entries)
    return table


def _row(
    suite: Suite, method: str, found: str, shown: Certificate | None, source: str, inexact: str
) -> dict[str, Cell]:
    absent = Cell(numbers.ABSENT)
    row = {
        "label": Cell(method, method, label=method, title=_title(suite, method), inexact=inexact),
        "target": Cell(target) if (target := _target(suite, method)) else absent,
        "verdict": Cell("", float(GRAVITY.index(found)), verdict=found),
        "claims": absent,
        "error": absent,
        "error_float32": absent,
        "cosine": absent,
        "norm_ratio": absent,
        "why": absent,
        "hash": Cell(source, source, tone="prose" if " " in source else "") if source else absent,
    }
    if shown is None:
        return row
    row["claims"] = Cell(_counts(shown.claims), float(sum(shown.claims.values())), tone="lines")
    for name, error in (("error", shown.error), ("error_float32", shown.error_float32)):
        row[name] = Cell(numbers.plain(error, 2), error, title="" if error is None else repr(error))
    row["cosine"] = Cell(
        numbers.cosine(shown.cosine), shown.cosine, title="" if shown.cosine is None else repr(shown.cosine)
    )
    if shown.norm_ratio is not None:
        row["norm_ratio"] = Cell(_range(*shown.norm_ratio), shown.norm_ratio[0], title=repr(shown.norm_ratio))
    if shown.failures or shown.unsupported:
        more, reasons = shown.failures[_FAILURES_AT_MOST:], shown.unsupported
        folded = (
            (f"{numbers.count(len(more))} more failed", more),
            (f"unsupported: {numbers.plural(len(reasons), 'reason')}", reasons),
        )
        row["why"] = Cell(
            "; ".join(shown.failures[:_FAILURES_AT_MOST]),
            float(len(shown.failures)),
            tone="prose",
            folded=tuple((words, lines) for words, lines in folded if lines),
        )
    return row


def _record(
    suite: Suite, method: str, found: str, shown: Certificate | None, certificate: Certificate | None, hashes: list[str]
) -> dict[str, Any]:
    claims = shown.claims if shown else {}
    low, high = shown.norm_ratio if shown and shown.norm_ratio else (None, None)
    return {
        "method": method,
        "title": _title(suite, method),
        "target": _target(suite, method),
        "certificate": found,
        **{f"claims_{verdict}": claims.get(verdict, 0) if shown else None for verdict in VERDICTS},
        "worst_error": shown.error if shown else None,
        "worst_error_float32": shown.error_float32 if shown else None,
        "lowest_cosine": shown.cosine if shown else None,
        "lowest_norm_ratio": low,
        "highest_norm_ratio": high,
        "failures": "; ".join(shown.failures) if shown else "",
        "unsupported": "; ".join(shown.unsupported) if shown else "",
        "method_hash_of_rows": "; ".join(hashes),
        "method_hash_certified": certificate.method_hash if certificate else "",
        "torch_version": certificate.torch_version if certificate else "",
        "instruction_set": certificate.instruction_set if certificate else "",
    }


def _target(suite: Suite, method: str) -> str:
    certificate = suite.certificates.get(method)
    return str(suite.card("methods", method).get("target") or (certificate.target if certificate else ""))


def _title(suite: Suite, method: str) -> str:
    certificate = suite.certificates.get(method)
    return str(suite.card("methods", method).get("title") or (certificate.title if certificate else ""))


def _hash_text(found: str, certificate: Certificate | None, hashes: list[str]) -> str:
    if found == OTHER_SOURCE and certificate is not None:
        return f"rows: {', '.join(hashes)}; certified: {certificate.method_hash}"
    return ", ".join(hashes) or (certificate.method_hash if certificate else "")


def _counts(claims: dict[str, int]) -> str:
    return ",\n".join(f"{number} {verdict}" for verdict, number in claims.items())


def _range(low: float, high: float) -> str:
    written = numbers.significant(low), numbers.significant(high)
    return written[0] if written[0] == written[1] else f"{written[0]} to {written[1]}"
