"""CIFAR-10, fetched from its authors' page."""

from __future__ import annotations

import functools

from metabench.data.contract import DataFile, Dataset, DatasetCard
from metabench.data.fetch.sources import Address
from metabench.data.formats.cifar import SHAPE, cifar10

_ARCHIVE = "cifar-10-binary.tar.gz"

CARD = DatasetCard(
    name="cifar10",
    title="CIFAR-10",
    task="classification",
    licence="none stated; the authors ask for a citation",
    attribution="Alex Krizhevsky, Vinod Nair and Geoffrey Hinton",
    source="https://www.cs.toronto.edu/~kriz/cifar.html, the binary version (its page gives the md5 c32a1d4ab5d03f1284b67883e8d87530)",
    citation="krizhevsky2009learning",
    sizes={"train": 50_000, "test": 10_000},
    input_shape=SHAPE,
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    fetched=True,
    files=(DataFile(_ARCHIVE, 170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),),
)

DATASETS = (
    Dataset(
        CARD,
        functools.partial(cifar10, name=_ARCHIVE, classes=CARD.classes),
        sources=(Address("https://www.cs.toronto.edu/~kriz/"),),
    ),
)
