"""The spaces of architectures, by name."""

from __future__ import annotations

from metabench.core.errors import unknown
from metabench.models.cells import darts
from metabench.models.search_space import Space

_FIVE = ("conv3", "sep3", "sep5", "pool3", "identity")
SPACES = {
    space.name: space
    for space in (
        Space("tiny", "3 layers of 5 operations: 125 nets", _FIVE, (True, True, False), (16,), True),
        Space("small", "4 layers of 5 operations, 2 widths: 1,250 nets", _FIVE, (True, True, True, False), (8, 16)),
        Space(
            "large",
            "8 layers of 7 operations, 3 widths, for GPUs",
            ("conv3", "conv5", "sep3", "sep5", "dil3", "pool3", "identity"),
            (False, True) * 4,
            (16, 32, 64),
        ),
        darts(),
    )
}


def space(name: str) -> Space:
    """Return a space by name; raise MetabenchError if there is none."""
    if name not in SPACES:
        raise unknown("space", name, SPACES)
    return SPACES[name]
