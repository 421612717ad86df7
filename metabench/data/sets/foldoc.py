"""FOLDOC: 5.6 MB of English prose on computing under the GNU Free Documentation License (embedded)."""

from __future__ import annotations

from metabench.data.contract import DataFile, DatasetCard
from metabench.data.text.spans import packed_text

CARD = DatasetCard(
    name="foldoc",
    title="The Free On-line Dictionary of Computing, 19 January 2023",
    task="text",
    licence="GFDL-1.1-or-later, no invariant sections, no cover texts; the licence is one of the text's entries",
    attribution=(
        "The Free On-line Dictionary of Computing, http://foldoc.org/, Editor Denis Howe; copyright 1985 by Denis Howe"
    ),
    source=(
        "http://foldoc.org/Dictionary.gz by Debian's package dict-foldoc: UTF-8, entries in alphabetical order; without "
        "the header that says where it comes from, Debian's own entries and the list of letters"
    ),
    citation="howe2023foldoc",
    # The entries up to "tr" are for training, as in the Jargon File, of which an older version is part of FOLDOC: what the
    # two share is then nearly all in spans of the same kind.
    sizes={"train": 5_025_322, "valid": 300_000, "test": 250_000},
    embedded=True,
    files=(DataFile("foldoc.txt.xz", 1_574_212, "2b1e56797b14e02846ea2755c295dd723d6888fb17ee4598056d562b888e07ce"),),
)

DATASETS = (packed_text(CARD),)
