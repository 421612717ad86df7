"""The table of certificates: what each method declares, and whether it holds."""

from __future__ import annotations

from metabench.report import numbers
from metabench.report.results.certified import GRAVITY, NOT_CERTIFIED, OTHER_SOURCE, verdict
from metabench.report.results.entries import Suite
from metabench.report.tables.certificate_words import state_exactness
from metabench.report.tables.table import Cell, Column, Table, exact_cell
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
        card = suite.card("methods", method)
        title, target = (str(card.get(name) or getattr(certificate, name, "")) for name in ("title", "target"))
        found = verdict(certificate, hashes)
        # The figures of a certificate of other source say nothing about these rows.
        shown = None if found == OTHER_SOURCE else certificate
        source = ", ".join(hashes) or getattr(certificate, "method_hash", "")
        if certificate is not None and found == OTHER_SOURCE:
            source = f"rows: {source}; certified: {certificate.method_hash}"
        inexact = suite.inexact_methods.get(method, "")
        table.rows.append(
            {
                "label": Cell(method, method, label=method, title=title, inexact=inexact),
                "target": Cell(target or numbers.ABSENT),
                "verdict": Cell("", float(GRAVITY.index(found)), verdict=found),
                **(_claims(shown) if shown else dict.fromkeys(_CLAIMS, Cell(numbers.ABSENT))),
                "hash": Cell(source or numbers.ABSENT, source, tone="prose" if " " in source else ""),
            }
        )
        low, high = shown.norm_ratio if shown and shown.norm_ratio else (None, None)
        table.records.append(
            {
                "method": method,
                "title": title,
                "target": target,
                "certificate": found,
                **{f"claims_{name}": shown.claims.get(name, 0) if shown else None for name in VERDICTS},
                "worst_error": getattr(shown, "error", None),
                "worst_error_float32": getattr(shown, "error_float32", None),
                "lowest_cosine": getattr(shown, "cosine", None),
                "lowest_norm_ratio": low,
                "highest_norm_ratio": high,
                "computes_instead": getattr(shown, "instead", ""),
                "failures": "; ".join(getattr(shown, "failures", ())),
                "unsupported": "; ".join(getattr(shown, "unsupported", ())),
                "method_hash_of_rows": "; ".join(hashes),
                **{
                    column: getattr(certificate, name, "")
                    for column, name in (
                        ("method_hash_certified", "method_hash"),
                        ("torch_version", "torch_version"),
                        ("instruction_set", "instruction_set"),
                    )
                },
            }
        )
    state_exactness(table, suite.entries)
    return table


_CLAIMS = ("claims", "error", "error_float32", "cosine", "norm_ratio", "why")


def _claims(shown: Certificate) -> dict[str, Cell]:
    """Return the cells of what was checked."""
    ratio = list(dict.fromkeys(map(numbers.significant, shown.norm_ratio or ())))
    more, reasons = shown.failures[_FAILURES_AT_MOST:], shown.unsupported
    folded = (
        (f"{numbers.count(len(more))} more failed", more),
        (f"unsupported: {numbers.plural(len(reasons), 'reason')}", reasons),
    )
    instead = (f"computes instead: {shown.instead}",) if shown.instead else ()
    why = Cell(
        "; ".join((*instead, *shown.failures[:_FAILURES_AT_MOST])),
        float(len(shown.failures)),
        tone="prose",
        folded=tuple((words, lines) for words, lines in folded if lines),
    )
    counts = (f"{number} {name}" for name, number in shown.claims.items())
    return {
        "claims": Cell(",\n".join(counts), float(sum(shown.claims.values())), tone="lines"),
        "error": exact_cell(numbers.plain(shown.error, 2), shown.error),
        "error_float32": exact_cell(numbers.plain(shown.error_float32, 2), shown.error_float32),
        "cosine": exact_cell(numbers.cosine(shown.cosine), shown.cosine),
        "norm_ratio": Cell(" to ".join(ratio), shown.norm_ratio[0], repr(shown.norm_ratio))
        if shown.norm_ratio
        else Cell(numbers.ABSENT),
        "why": why if instead or shown.failures or reasons else Cell(numbers.ABSENT),
    }
