"""Data sets: their sources, checksums, licences and arrays. Uses numpy, never torch.

`metabench.data.own` declares your own files; `metabench.data.fetching` fetches the sets that do not ship; `metabench.data.splits` draws
disjoint splits; `metabench.data.text.tokens` turns text into tokens.
"""

from __future__ import annotations

from metabench.data.contract import Classification, DataFile, Dataset, DatasetCard, Domains, Pictures, Text
from metabench.data.registry import card, datasets, is_available, load

__all__ = [
    "Classification",
    "DataFile",
    "Dataset",
    "DatasetCard",
    "Domains",
    "Pictures",
    "Text",
    "card",
    "datasets",
    "is_available",
    "load",
]
