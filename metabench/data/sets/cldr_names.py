"""Names of territories, languages, scripts and currencies in English and 24 other languages: typing of entities (embedded)."""

from __future__ import annotations

import lzma

from metabench.data.contract import DataFile, Dataset, DatasetCard, Read
from metabench.data.formats.cldr import KINDS, read_table
from metabench.data.languages import Examples, Languages

SOURCE = "en"
TARGETS = (
    *("br", "cy", "de", "eu", "fo", "ga", "gd", "ha", "hu", "is", "kk", "kl"),
    *("lt", "mi", "mt", "qu", "se", "so", "sw", "tk", "tr", "uz", "wo", "yo"),
)

CARD = DatasetCard(
    name="cldr_names",
    title="Names of territories, languages, scripts and currencies in English and 24 other languages",
    task="languages",
    licence="Unicode-3.0 (the names), BSD-3-Clause (Babel)",
    attribution="Copyright © 2004-2025 Unicode, Inc., https://cldr.unicode.org; Copyright 2013-2026 by the Babel Team",
    source=(
        "the Unicode Common Locale Data Repository by the Python package babel 2.18.0: each name that has one class in its language, "
        "without those that are the same in English"
    ),
    citation="unicode2025cldr",
    sizes={"names": 21_928},
    embedded=True,
    files=(DataFile("names.tsv.xz", 119_196, "e7510a11d6863ccdfa5e805b77643bd6c63905b8074e22aafd9779bc0ef33c1e"),),
)


def _decode(read: Read) -> Languages:
    (file,) = CARD.files
    classes = tuple(KINDS)
    whole = {}
    for locale, rows in read_table(lzma.decompress(read(file.name)), file.name).items():
        whole[locale] = Examples(tuple((name,) for name, _ in rows), tuple((classes.index(kind),) for _, kind in rows))
    return Languages("the names of CLDR", classes, "macro F1", SOURCE, whole, {})


DATASETS = (Dataset(CARD, _decode),)
