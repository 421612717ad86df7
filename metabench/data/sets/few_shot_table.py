"""A table of 125 small networks, each trained from nothing with three seeds: how many queries each answers, task by task."""

from __future__ import annotations

from metabench.data.contract import DataFile, Dataset, DatasetCard, Read

_FILE = "few_shot_table.xz"

CARD = DatasetCard(
    name="few_shot_table",
    title="Answers of the 125 nets of the space 'tiny' on 800 few-shot tasks of unseen scripts, three seeds of training",
    task="net table",
    licence="that of metabench",
    attribution="The makers of metabench; of the characters, the makers of the fonts of `glyphs`",
    source="metabench table build --shards shards --out few_shot_table.xz, or config/suites/few_shot_table.yaml: an hour on two cores",
    citation="debian2023fonts",
    sizes={"validation": 300, "test": 500},
    embedded=True,
    files=(DataFile(_FILE, 667_672, "663d8bc02e2e777fb48738e707829d1ea82ad4eec181cea7931995ef8d0de864"),),
)


def _decode(read: Read) -> object:
    # Here: listing the data sets loads this module.
    from metabench.data.formats.net_table import decode

    return decode(read(_FILE), _FILE)


DATASETS = (Dataset(CARD, _decode),)
