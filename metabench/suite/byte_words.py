"""Human-readable numbers of bytes."""

from __future__ import annotations


def human_bytes(count: int) -> str:
    """Return a human-readable number of bytes, as '4 GiB' or '61.23 GiB'."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.4g} {unit}"
