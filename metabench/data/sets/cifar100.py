"""CIFAR-100 with its fine classes, fetched from its authors' page."""

from __future__ import annotations

import functools

from metabench.data.contract import DataFile, Dataset, DatasetCard
from metabench.data.fetch.sources import Address
from metabench.data.formats.cifar import SHAPE, cifar100

_ARCHIVE = "cifar-100-binary.tar.gz"
_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CARD = DatasetCard(
    name="cifar100",
    title="CIFAR-100, fine classes",
    task="classification",
    licence="none stated; the authors ask for a citation",
    attribution="Alex Krizhevsky, Vinod Nair and Geoffrey Hinton",
    source="https://www.cs.toronto.edu/~kriz/cifar.html, the binary version (its page gives the md5 03b5dce01913d631647c71ecec9e9cb8)",
    citation="krizhevsky2009learning",
    sizes={"train": 50_000, "test": 10_000},
    input_shape=SHAPE,
    classes=tuple(_CLASSES.split()),
    fetched=True,
    files=(DataFile(_ARCHIVE, 168_513_733, "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),),
)

DATASETS = (
    Dataset(
        CARD,
        functools.partial(cifar100, name=_ARCHIVE, classes=CARD.classes),
        sources=(Address("https://www.cs.toronto.edu/~kriz/"),),
    ),
)
