"""Parts of speech in Portuguese news and in Turkish Wikipedia articles, on one set of tags (fetched)."""

from __future__ import annotations

from metabench.data.contract import DataFile, Dataset, DatasetCard, Read
from metabench.data.fetch.sources import PythonPackage
from metabench.data.formats.tagged import UPOS, conllu
from metabench.data.languages import Languages

_PORTUGUESE, _TURKISH = "annotated.conllu", "wiki.conllu"

CARD = DatasetCard(
    name="upos_pt_tr",
    title="Universal parts of speech, Portuguese (Porttinari-base) and Turkish (Google's wiki treebank)",
    task="languages",
    licence="MIT (dante-corpora; the terms of the news texts themselves are not stated), Apache-2.0 (turkish-treebanks)",
    attribution="Copyright 2024 DANTE-POeTiSA; Copyright Google LLC, https://github.com/google-research-datasets/turkish-treebanks",
    source=(
        "dante/data/porttinari/annotated.conllu of the Python package dante-corpora 2.0.5 and data/wiki.conllu of turkish-treebanks 1.0.0; "
        "Turkish words are divided into inflectional groups, each with a tag"
    ),
    citation="duran2023dawn kayadelen2020gold",
    sizes={"pt": 8_420, "tr": 2_310},
    fetched=True,
    files=(
        DataFile(_PORTUGUESE, 9_989_825, "a0b82a9a56fe2b987823f1eb59cdfe4af1a31b3ebbfb40a8a8961757ef337962"),
        DataFile(_TURKISH, 4_442_922, "58f049fae8d0653ba0940a58168c17c7cebbc50f88cad2985d12d34ac1b9acde"),
    ),
)


def _decode(read: Read) -> Languages:
    files = {"pt": _PORTUGUESE, "tr": _TURKISH}
    whole = {language: conllu(read(file).decode("utf-8"), file) for language, file in files.items()}
    return Languages("universal parts of speech", UPOS, "accuracy", "pt", whole, {})


DATASETS = (
    Dataset(
        CARD,
        _decode,
        # Each gives its own file; in this order, because a package's source ends at the first file that it lacks.
        sources=(
            PythonPackage(
                "dante-corpora",
                "2.0.5",
                "e050761fd00d09a99beabf81658419b284267341c96afd6dd1225468a9d73bb0",
                "dante/data/porttinari/",
            ),
            PythonPackage(
                "turkish-treebanks",
                "1.0.0",
                "5a009c29a8e96e8f7e25059d59ac293c3baead6d746bf0fa4c9d3349b1e37ba0",
                "data/",
            ),
        ),
    ),
)
