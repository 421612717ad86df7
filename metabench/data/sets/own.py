"""The data set of problems that read their own files, or draw their data: nothing is loaded for them."""

from __future__ import annotations

from metabench.data.contract import Dataset, DatasetCard, Read

CARD = DatasetCard(name="own", title="The problem's own data", task="none", source="The problem reads or draws them")


def _decode(read: Read) -> None:
    del read


DATASETS = (Dataset(CARD, _decode),)
