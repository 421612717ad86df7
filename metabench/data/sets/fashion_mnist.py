"""Fashion-MNIST, whole (fetched) and a balanced tenth part of it (ships with the package)."""

from __future__ import annotations

import functools
from pathlib import Path

from metabench.data.contract import DataFile, Dataset, DatasetCard
from metabench.data.fetch.sources import Address, DebianPackage, LocalFolder
from metabench.data.formats.images import IDX_FILES, classification

_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_LICENCE = "MIT"
_ATTRIBUTION = "Copyright 2017 Zalando SE, https://tech.zalando.com"
_INSTALLED = "/usr/share/datasets/fashion-mnist"

WHOLE = DatasetCard(
    name="fashion_mnist",
    title="Fashion-MNIST",
    task="classification",
    licence=_LICENCE,
    attribution=_ATTRIBUTION,
    source="https://github.com/zalandoresearch/fashion-mnist, the standard files",
    citation="xiao2017fashion",
    sizes={"train": 60_000, "test": 10_000},
    input_shape=(1, 28, 28),
    classes=_CLASSES,
    fetched=True,
    files=(
        DataFile(IDX_FILES[0], 26_421_856, "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"),
        DataFile(IDX_FILES[1], 29_491, "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"),
        DataFile(IDX_FILES[2], 4_422_079, "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"),
        DataFile(IDX_FILES[3], 5_125, "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"),
    ),
)

TENTH = DatasetCard(
    name="fashion_mnist_10k",
    title="Fashion-MNIST, 10,000 train and 2,000 test images",
    task="classification",
    licence=_LICENCE,
    attribution=_ATTRIBUTION,
    source=(
        "1,000 images per class of Fashion-MNIST's train file and 200 per class of its test file: the first of each class "
        "in the order of the sha256 of the image's 784 bytes, kept in the order of the files"
    ),
    citation="xiao2017fashion",
    sizes={"train": 10_000, "test": 2_000},
    input_shape=(1, 28, 28),
    classes=_CLASSES,
    embedded=True,
    files=(
        DataFile(IDX_FILES[0], 4_376_360, "0cf2502f8daccfe84f767fbf8e0abc68c6b6f883b68722118b6c15f4fa40e0bf"),
        DataFile(IDX_FILES[1], 5_096, "a1d7ca22c4e9bab1915a85d7e0ee2215d414f78aca9ebfd67649198142a9e9eb"),
        DataFile(IDX_FILES[2], 877_036, "1ffb2fb0fe7c72a895426c94081e50f433d285801d418b13516fbc9f23e4480a"),
        DataFile(IDX_FILES[3], 1_037, "5b426638f3248381cb3b64701faddc690737184917bee604dca7f03692a2b552"),
    ),
)

_decode = functools.partial(classification, names=IDX_FILES, classes=_CLASSES)

DATASETS = (
    Dataset(
        WHOLE,
        _decode,
        sources=(
            LocalFolder(Path(_INSTALLED)),
            Address("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
            Address("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"),
            DebianPackage("dataset-fashion-mnist", inside=_INSTALLED),
        ),
    ),
    Dataset(TENTH, _decode),
)
