"""mini-ImageNet by the classes of Ravi & Larochelle, from a folder of the user's: 100 classes of ImageNet with 600 photographs each.

It has no address that stays: the folder is 'mini_imagenet' where fetched data are, and `read_ravi` says what goes there.
"""

from __future__ import annotations

from pathlib import Path

from metabench.data.contract import Dataset, DatasetCard, Read
from metabench.data.fetch.files import data_root
from metabench.data.few_shot import FewShot

FOLDER = "mini_imagenet"
_SIDE = 84

CARD = DatasetCard(
    name="mini_imagenet",
    title="mini-ImageNet, 84 x 84, from a folder",
    task="few-shot",
    licence="ImageNet's: research that is not commercial",
    attribution="the authors of ImageNet; classes by Sachin Ravi and Hugo Larochelle",
    source=(
        f"The folder {FOLDER} where fetched data are ($METABENCH_DATA): in it train.csv, val.csv and test.csv of "
        "https://github.com/twitter-research/meta-learning-lstm, and the folder images"
    ),
    citation="ravi2017optimization",
    input_shape=(3, _SIDE, _SIDE),
)


def _decode(read: Read) -> FewShot:
    del read  # neither embedded nor fetched
    # Here: listing the data sets loads this module.
    from metabench.data.folders import read_ravi

    return read_ravi(data_root() / FOLDER, _SIDE, "photographs")


def _split_files() -> tuple[Path, ...]:
    """Return the split files that are there: cells depend on their content, and with it on which images are used."""
    return tuple(sorted((data_root() / FOLDER).glob("*.csv")))


DATASETS = (Dataset(CARD, _decode, files=_split_files()),)
