"""What a finished run is summed up as, in two lines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from metabench.results.store import read_metadata, read_rows


def told(results: Path) -> str:
    """Return how the rows of a file ended, and what the certificates say."""
    rows = read_rows(results)
    statuses = Counter(rows["status"].to_pylist())
    verdicts = Counter(certificate["verdict"] for certificate in read_metadata(results).certificates.values())
    cells = len(set(rows["cell"].to_pylist()))
    return (
        f"{cells} cells, {statuses.total()} rows: {_listed(statuses)}\n"
        f"Certificates: {_listed(verdicts)}"
    )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.most_common()) or "none"
