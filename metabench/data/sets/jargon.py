"""The Jargon File: 1.4 MB of English prose in the public domain, for language models on bytes (embedded)."""

from __future__ import annotations

from metabench.data.contract import DataFile, DatasetCard
from metabench.data.text.spans import packed_text

CARD = DatasetCard(
    name="jargon",
    title="The Jargon File 4.4.7, lexicon",
    task="text",
    licence="public domain",
    attribution="The on-line hacker Jargon File, version 4.4.7, 29 Dec 2003, edited by Eric S. Raymond",
    source=(
        "http://catb.org/~esr/jargon/ by Debian's package dict-jargon: UTF-8, entries in alphabetical order; without "
        "the dictionary's own header and list of letters"
    ),
    citation="raymond2003jargon",
    sizes={"train": 1_277_300, "valid": 70_000, "test": 70_000},
    embedded=True,
    files=(DataFile("jargon.txt.xz", 436_808, "428579f5fa65047b859d3fb466f2211c37fe9e748aa760d005315bec81863f19"),),
)

DATASETS = (packed_text(CARD),)
