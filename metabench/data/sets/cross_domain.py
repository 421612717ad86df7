"""The photographs of cross-domain few-shot learning: mini-ImageNet, CUB, Cars, Places and Plantae, from a folder of the user's.

They have no one address: the folder is 'cross_domain' where fetched data are, and `read_folder` says what goes there.
"""

from __future__ import annotations

import functools
from pathlib import Path

from metabench.data.contract import Dataset, DatasetCard, Read
from metabench.data.fetch.files import data_root
from metabench.data.few_shot import FewShot

FOLDER = "cross_domain"


def _card(side: int) -> DatasetCard:
    return DatasetCard(
        name=f"cross_domain_{side}",
        title=f"mini-ImageNet, CUB, Cars, Places and Plantae, {side} x {side}, from a folder",
        task="few-shot",
        licence="each set's own",
        attribution="the authors of ImageNet, CUB-200-2011, Stanford Cars, Places and iNaturalist",
        source=(
            f"The folder {FOLDER} where fetched data are ($METABENCH_DATA): in it, per domain, a folder with base.json, val.json and "
            "novel.json as in https://github.com/hytseng0509/CrossDomainFewShot"
        ),
        citation="tseng2020cross",
        input_shape=(3, side, side),
    )


def _decode(side: int, read: Read) -> FewShot:
    del read  # neither embedded nor fetched
    # Here: listing the data sets loads this module.
    from metabench.data.folders import read_folder

    return read_folder(data_root() / FOLDER, side)


def _split_files() -> tuple[Path, ...]:
    """Return the split files that are there: cells depend on their content, and with it on which images are used."""
    return tuple(sorted((data_root() / FOLDER).glob("*/*.json")))


DATASETS = tuple(Dataset(_card(side), functools.partial(_decode, side), files=_split_files()) for side in (84, 224))
