"""One running text cut into its train, valid and test spans."""

from __future__ import annotations

import lzma
from collections.abc import Mapping

from metabench.core.errors import MetabenchError
from metabench.data.contract import Dataset, DatasetCard, Text


def packed_text(card: DatasetCard) -> Dataset:
    """Return the data set of a text whose only file is packed by xz."""
    (file,) = card.files
    return Dataset(card, lambda read: spans(lzma.decompress(read(file.name)), card.sizes, file.name))


def spans(text: bytes, sizes: Mapping[str, int], where: str) -> Text:
    """Return consecutive spans of `text`, of `sizes` in bytes: "train", "valid" and "test", in this order.

    Raises MetabenchError, naming `where` the text comes from, if it has another length than the spans together.
    """
    if len(text) != sum(sizes.values()):
        raise MetabenchError(f"{where}: expected {sum(sizes.values())} bytes of text, found {len(text)}")
    # Imported here: listing the data sets loads this module.
    import numpy as np

    ends = np.cumsum([sizes["train"], sizes["valid"]])
    return Text(*np.split(np.frombuffer(text, dtype=np.uint8), ends))
