"""scikit-learn's digits: 8 x 8 images of handwritten digits, small enough for exact hypergradients."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError
from metabench.data.contract import Classification, DataFile, Dataset, DatasetCard, Read
from metabench.data.splits import disjoint

# The checksum is that of the table [1797, 65] of unsigned bytes, 64 pixels and the label: how it is packed may change.
_TABLE = DataFile("digits.csv.gz", 1797 * 65, "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2")

CARD = DatasetCard(
    name="digits",
    title="Optical recognition of handwritten digits (8 x 8)",
    task="classification",
    licence="CC BY 4.0 (UCI Machine Learning Repository); distributed in scikit-learn under BSD-3-Clause",
    attribution="E. Alpaydin and C. Kaynak, UCI Machine Learning Repository; copy of the test part in scikit-learn",
    source="sklearn.datasets.load_digits; split by metabench, stratified, seed 0",
    citation="alpaydin1998optdigits",
    sizes={"train": 1437, "test": 360},
    input_shape=(1, 8, 8),
    classes=tuple("0123456789"),
    library="sklearn",
    files=(_TABLE,),
)


def _decode(read: Read) -> Classification:
    del read  # no file of ours
    table = _table()
    found = hashlib.sha256(table.tobytes()).hexdigest()
    if found != _TABLE.sha256:
        raise MetabenchError(
            f"the digits of the installed scikit-learn are not those expected: sha256 {_TABLE.sha256}, found {found}"
        )
    images = (table[:, :64].astype(np.float32) / np.float32(16)).reshape(-1, 1, 8, 8)
    labels = table[:, 64].astype(np.int64)
    rows = disjoint(len(table), CARD.sizes, seed=0, targets=labels)
    train, test = rows["train"], rows["test"]
    return Classification(images[train], labels[train], images[test], labels[test], CARD.classes)


def _table() -> npt.NDArray[np.uint8]:
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise MetabenchError(
            "data set 'digits' comes from scikit-learn, which is not installed: pip install scikit-learn"
        )
    packed = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / _TABLE.name
    if packed.is_file():
        # Read beside scikit-learn, whose import takes longer than many a cell.
        rows = gzip.decompress(packed.read_bytes()).decode("ascii").split()
        return np.array([row.split(",") for row in rows], dtype=np.float64).astype(np.uint8)
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    bunch = load_digits()
    return np.concatenate([bunch.data, bunch.target[:, None]], axis=1).astype(np.uint8)


DATASETS = (Dataset(CARD, _decode),)
