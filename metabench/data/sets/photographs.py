"""Photographs that scikit-learn and scikit-image ship, reduced in size, to make pictures of (embedded)."""

from __future__ import annotations

import lzma
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.data.contract import DataFile, Dataset, DatasetCard, Pictures, Read


@dataclass(frozen=True)
class Credit:
    """A picture, what it is drawn for, and whose it is."""

    name: str
    part: str
    credit: str


CREDITS = (
    Credit("china", "train", "danielbuechele, https://www.flickr.com/photos/danielbuechele/6061409035/, CC BY 2.0"),
    Credit("coffee", "train", "Rachel Michetti, CC0"),
    Credit("rocket", "train", "SpaceX, https://www.flickr.com/photos/spacexphotos/16511594820/, public domain"),
    Credit("camera", "train", "Lav Varshney, CC0"),
    Credit("chelsea", "validation", "Stefan van der Walt, CC0"),
    Credit("coins", "validation", "Brooklyn Museum, no known copyright restrictions"),
    Credit("astronaut", "test", "NASA, https://flic.kr/p/r9qvLn, public domain"),
    Credit("flower", "test", "vultilion, https://www.flickr.com/photos/vultilion/6056698931/, CC BY 2.0"),
    Credit("tissue", "style", "Center for Microscopy and Molecular Imaging, no known copyright restrictions"),
    Credit("galaxies", "style", "NASA, Hubble eXtreme Deep Field, public domain"),
    Credit("gravel", "style", "CC0Textures, Gravel04, CC0"),
)
"""The order is that in the files: photographs, then styles. The first style is the one to train with."""

SHAPES = {"photographs": (160, 224, 3), "styles": (160, 160, 3)}
"""Height, width and channels of what each file holds."""

CARD = DatasetCard(
    name="photographs",
    title="Photographs and textures of scikit-learn and scikit-image, 160 pixels high",
    task="pictures",
    licence="CC BY 2.0, CC0 and public domain, per picture",
    attribution="; ".join(f"{one.name}: {one.credit}" for one in CREDITS),
    source=(
        "sklearn/datasets/images of scikit-learn 1.9.1 and skimage/data of scikit-image 0.26.0: the middle of each, reduced to 160 x 224 "
        "pixels (styles: 160 x 160) with the antialiasing of Pillow's Lanczos filter; grey pictures with three equal channels"
    ),
    citation="pedregosa2011scikit vanderwalt2014scikit",
    sizes={part: sum(one.part == part for one in CREDITS) for part in ("train", "validation", "test", "style")},
    embedded=True,
    files=(
        DataFile("photographs.xz", 402_972, "0bf5739b406178b42c2e885fc9eb47cde71ab53100a05c853d06af2aa7d53234"),
        DataFile("styles.xz", 126_992, "0f5bc106e9501f6c1351d83b49a376fd9bac3012aa4845aba41d59a6ae2f4e7f"),
    ),
)


def _decode(read: Read) -> Pictures:
    # Here: listing the data sets loads this module.
    import numpy as np

    found = []
    for name, shape in SHAPES.items():
        found += list(np.frombuffer(lzma.decompress(read(f"{name}.xz")), np.uint8).reshape(-1, *shape))
    if len(found) != len(CREDITS):
        raise MetabenchError(f"data set 'photographs': expected {len(CREDITS)} pictures, found {len(found)}")
    named = {part: {} for part in CARD.sizes}
    for one, picture in zip(CREDITS, found, strict=True):
        named[one.part][one.name] = picture
    return Pictures(named["train"], named["validation"], named["test"], named["style"])


DATASETS = (Dataset(CARD, _decode),)
