"""FC100: the classes of CIFAR-100 by superclass, so that test classes are unlike those of training; fetched from its authors' page."""

from __future__ import annotations

from metabench.data.contract import Dataset, DatasetCard, Read
from metabench.data.few_shot import FewShot
from metabench.data.sets.cifar100 import CARD as HUNDRED
from metabench.data.sets.cifar100 import DATASETS as OF_HUNDRED

_SUPERCLASSES = {
    "train": (1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19),
    "validation": (8, 11, 13, 16),
    "test": (0, 7, 12, 14),
}

CARD = DatasetCard(
    name="fc100",
    title="FC100: CIFAR-100 by superclass",
    task="few-shot",
    licence=HUNDRED.licence,
    attribution=f"{HUNDRED.attribution}; divided by Boris Oreshkin, Pau Rodríguez López and Alexandre Lacoste",
    source=HUNDRED.source,
    citation="oreshkin2018tadam",
    sizes={"train": 36_000, "validation": 12_000, "test": 12_000},
    input_shape=HUNDRED.input_shape,
    fetched=True,
    files=HUNDRED.files,
)


def _decode(read: Read) -> FewShot:
    # Here: listing the data sets loads this module.
    from metabench.data.formats.cifar import fc100

    found = fc100(read, HUNDRED.files[0].name, HUNDRED.classes, _SUPERCLASSES)
    return FewShot(*({"photographs": found[part]} for part in _SUPERCLASSES))


DATASETS = (Dataset(CARD, _decode, sources=OF_HUNDRED[0].sources),)
