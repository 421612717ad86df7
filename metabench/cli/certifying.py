"""What `metabench certify` prints: a line per method, and an explanation of each failure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metabench.cli.output import print_table
from metabench.results.certificate import UNSUPPORTED, VERDICTS, Certificate, certificates

_COLUMNS = ("method", "target", "verdict", "claims", "worst error", "in float32", "lowest cosine", "norm ratio")
_CLAIM_COLUMNS = ("method", "case", "options", "claim", "verdict", "error", "cosine", "norm ratio", "what is wrong")
_SHOWN = 5
"""Failures printed per method; the file has all of them."""


def print_certificates(rows: Sequence[dict[str, Any]], every_claim: bool) -> None:
    """Print a table of certificates, then explain each failure; with `every_claim` a table of all claims first."""
    if every_claim:
        claims = [row for row in rows if row["kind"] == "claim"]
        print_table("claims", _CLAIM_COLUMNS, [_claim(row) for row in claims])
    found = certificates(rows)
    print_table("certificates", _COLUMNS, [_line(one) for one in found.values()], right=_COLUMNS[4:])
    for one in found.values():
        if one.instead and one.verdict != UNSUPPORTED:
            print(f"{one.method} computes instead: {one.instead}")
    for one in found.values():
        _print_failures(one, rows)


def summary(rows: Sequence[dict[str, Any]], out: Path) -> str:
    """Return one line: how many methods have each verdict, and where the rows are."""
    verdicts = [one.verdict for one in certificates(rows).values()]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in verdicts)
    return f"{len(verdicts)} methods: {counts}: {out}"


def _line(one: Certificate) -> tuple[str, ...]:
    claims = ", ".join(f"{count} {verdict}" for verdict, count in one.claims.items())
    low, high = one.norm_ratio or (None, None)
    ratio = (
        _number(low)
        if low is None or high is None or _number(low) == _number(high)
        else f"{_number(low)} to {_number(high)}"
    )
    return (
        one.method,
        one.target,
        one.verdict,
        claims,
        _error(one.error),
        _error(one.error_float32),
        _number(one.cosine),
        ratio,
    )


def _claim(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["method"],
        row["case"],
        row["options"] or "-",
        row["claim"],
        row["verdict"],
        _error(row.get("relative_error")),
        _number(row.get("cosine")),
        _number(row.get("norm_ratio")),
        row["message"] or "-",
    )


def _print_failures(one: Certificate, rows: Sequence[dict[str, Any]]) -> None:
    failed = [
        row for row in rows if row["method"] == one.method and row["kind"] == "claim" and row["verdict"] == "FAILED"
    ]
    if not failed:
        return
    print(f"\n{one.method} FAILED {len(failed)} of {sum(one.claims.values())} claims:")
    told: dict[str, dict[str, Any]] = {}
    for row in failed:
        told.setdefault(row["message"], row)
    for message, row in list(told.items())[:_SHOWN]:
        where = ", ".join(filter(None, (row["case"], row["options"])))
        print(f"  {where or one.method}: {message}")
    if len(told) > _SHOWN:
        print(f"  and {len(told) - _SHOWN} more: --claims shows all")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
