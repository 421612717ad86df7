"""What a finished run is summed up as, in a few lines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from metabench.results.certificate import FAILED
from metabench.results.store import read_metadata, read_rows


def told(results: Path) -> str:
    """Return how the rows of a file ended, what the certificates say, and which methods are not what they claim."""
    rows = read_rows(results)
    statuses = Counter(rows["status"].to_pylist())
    certificates = read_metadata(results).certificates
    verdicts = Counter(certificate["verdict"] for certificate in certificates.values())
    failed = [method for method, certificate in certificates.items() if certificate["verdict"] == FAILED]
    cells = len(set(rows["cell"].to_pylist()))
    return (
        f"{cells} cells, {statuses.total()} rows: {_listed(statuses)}\n"
        f"Certificates: {_listed(verdicts)}"
        + (f"\nNot what they claim: {', '.join(failed)}" if failed else "")
    )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.most_common()) or "none"
