"""No data: the data set of problems in closed form."""

from __future__ import annotations

from metabench.data.contract import Dataset, DatasetCard, Read

CARD = DatasetCard(
    name="analytic",
    title="No data (losses in closed form)",
    task="none",
    licence="",
    attribution="",
    source="The losses of the problem are formulae",
    citation="",
)


def _decode(read: Read) -> None:
    del read


DATASETS = (Dataset(CARD, _decode),)
