"""Two domains of English prose that differ in style: the Jargon File and FOLDOC (embedded).

FOLDOC took over entries of an older Jargon File. Both are alphabetical and cut at nearly the same letters, so what they
share falls almost entirely in spans of the same kind: of the test span of jargon 3.2 % appear verbatim, in runs of at
least 60 bytes, in the training span of foldoc, of that of foldoc 0.7 % in the training span of jargon.
"""

from __future__ import annotations

import dataclasses

from metabench.data.contract import Dataset, DatasetCard, Domains, Read
from metabench.data.sets import foldoc, jargon

_PARTS = (*jargon.DATASETS, *foldoc.DATASETS)
_CARDS = tuple(part.card for part in _PARTS)

CARD = DatasetCard(
    name="jargon_foldoc",
    title="The Jargon File and FOLDOC, two domains",
    task="text",
    licence="; ".join(f"{card.name}: {card.licence}" for card in _CARDS),
    attribution="; ".join(card.attribution for card in _CARDS),
    source="The data sets jargon and foldoc, each with its own spans",
    citation=" ".join(card.citation for card in _CARDS),
    sizes={span: sum(card.sizes[span] for card in _CARDS) for span in ("train", "valid", "test")},
    domains=tuple(card.name for card in _CARDS),
    embedded=True,
    files=tuple(dataclasses.replace(file, belongs_to=card.name) for card in _CARDS for file in card.files),
)


def _decode(read: Read) -> Domains:
    return Domains({part.card.name: part.decode(read) for part in _PARTS})


DATASETS = (Dataset(CARD, _decode),)
