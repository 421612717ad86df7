"""Characters of many scripts beside handwritten digits and garments: domains that no script is like, to be tested on (embedded)."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from metabench.data.contract import Classification, Dataset, DatasetCard, Read
from metabench.data.few_shot import Domain, FewShot
from metabench.data.sets import digits, fashion_mnist, glyphs

_GLYPHS = next(part for part in glyphs.DATASETS if part.card is glyphs.SMALL)
_FAR = {
    "Handwritten": digits.DATASETS[0],
    "Garments": next(part for part in fashion_mnist.DATASETS if part.card is fashion_mnist.TENTH),
}
_PARTS = (_GLYPHS, *_FAR.values())
_CARDS = tuple(part.card for part in _PARTS)
_SIDE = glyphs.SMALL.input_shape[-1]

CARD = DatasetCard(
    name="glyphs_far",
    title=f"Characters of 14 scripts, handwritten digits and garments, {_SIDE} x {_SIDE}",
    task="few-shot",
    licence="; ".join(f"{card.name}: {card.licence}" for card in _CARDS),
    attribution="; ".join(card.attribution for card in _CARDS),
    source="The data sets glyphs, digits and fashion_mnist_10k; all digits and garments are test images, brought to one size by area",
    citation=" ".join(card.citation for card in _CARDS),
    sizes=dict(glyphs.SMALL.sizes)
    | {"test": glyphs.SMALL.sizes["test"] + sum(sum(card.sizes.values()) for card in _CARDS[1:])},
    input_shape=glyphs.SMALL.input_shape,
    domains=(*glyphs.SMALL.domains, *_FAR),
    embedded=True,
    files=tuple(
        dataclasses.replace(file, belongs_to=card.name) for card in _CARDS if card.embedded for file in card.files
    ),
)


def resized(images: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.uint8]:
    """Return images in [0, 1] of shape [n, 1, s, s] as bytes of shape [n, 1, side, side]: the mean over the area of each new pixel."""
    old = images.shape[-1]
    # Of each old pixel in a row, how much lies in each new one, whose length is the unit.
    starts, begins = np.arange(old) * side / old, np.arange(side)[:, None]
    inside = np.clip(np.minimum(starts + side / old, begins + 1) - np.maximum(starts, begins), 0, None)
    means = inside @ images.astype(np.float64) @ inside.T
    found: npt.NDArray[np.uint8] = np.rint(255 * means).astype(np.uint8)
    return found


def _domain(part: Dataset, read: Read) -> Domain:
    found: Classification = part.decode(read)
    images = np.concatenate([found.train_inputs, found.test_inputs])
    targets = np.concatenate([found.train_targets, found.test_targets])
    order = np.argsort(targets, kind="stable")
    return Domain(resized(images[order], _SIDE), targets[order], found.classes)


def _decode(read: Read) -> FewShot:
    scripts: FewShot = _GLYPHS.decode(read)
    far = {name: _domain(part, read) for name, part in _FAR.items()}
    return dataclasses.replace(scripts, test={**scripts.test, **far})


DATASETS = (Dataset(CARD, _decode),)
