"""Characters of many scripts drawn with free fonts: class = character, example = font family, domain = script.

Drawn at 16 x 16 pixels (ships with the package) and at 28 x 28 (fetched: drawn on this machine).
"""

from __future__ import annotations

import functools

from metabench.data.contract import DataFile, Dataset, DatasetCard, Read
from metabench.data.fetch.fonts import DrawnFonts
from metabench.data.few_shot import Domain, FewShot

TRAIN = ("Latin", "Greek", "Cyrillic", "Georgian", "Ethiopic", "Devanagari", "Thai", "Hiragana")
VALIDATION = ("Hebrew", "Khmer")
TEST = ("Arabic", "Telugu", "Malayalam", "Katakana")
FAR = ("Digits",)
"""Greek and Cyrillic share forms with Latin: all three are trained on."""

_LICENCE = "free licences, per font: GPL with font exception, OFL-1.1, Apache-2.0, LPPL and others; LICENSE lists them"
_ATTRIBUTION = "The makers of the fonts in 105 packages of Debian 12, listed in LICENSE"
_SOURCE = (
    "105 font packages of Debian 12, drawn by metabench with Pillow 13.0.0: one image per character and font family, in the upright face "
    "nearest to regular weight, scaled to its longer edge and centred; characters that at least ten families draw differently"
)


def _card(name: str, side: int, images: tuple[int, int, int, int], file: DataFile, embedded: bool) -> DatasetCard:
    return DatasetCard(
        name=name,
        title=f"Characters of 14 scripts and digits drawn with 271 font families, {side} x {side}",
        task="few-shot",
        licence=_LICENCE,
        attribution=_ATTRIBUTION,
        source=_SOURCE,
        citation="debian2023fonts",
        sizes=dict(zip(("train", "validation", "test", "far"), images, strict=True)),
        input_shape=(1, side, side),
        domains=(*TRAIN, *VALIDATION, *TEST, *FAR),
        embedded=embedded,
        fetched=not embedded,
        files=(file,),
    )


def _decode(read: Read, name: str) -> FewShot:
    # Here: listing the data sets loads this module.
    import numpy as np

    from metabench.data.formats.glyphs import decode

    glyphs = decode(read(name), name)
    domains, first = {}, 0
    for script, characters in glyphs.scripts.items():
        start, stop = np.searchsorted(glyphs.characters, [first, first + len(characters)])
        targets = glyphs.characters[start:stop].astype(np.int64) - first
        domains[script] = Domain(glyphs.images[start:stop, None], targets, tuple(characters))
        first += len(characters)
    parts = ({script: domains[script] for script in part} for part in (TRAIN, VALIDATION, TEST, FAR))
    return FewShot(*parts)


SMALL = _card(
    "glyphs",
    16,
    (15_850, 1_497, 5_163, 1_880),
    DataFile("glyphs.xz", 1_895_588, "a83c33cdefd17ce9ff9a3d7619dae04df07318c85d636c4faab68c9ff290461e"),
    embedded=True,
)
LARGE = _card(
    "glyphs28",
    28,
    (15_856, 1_499, 5_163, 1_881),
    DataFile("glyphs28.bin", 19_238_891, "704941891ae217b1510c04d7d6dd391008a0587aae9f2ffb01d69c8fdcfe6038"),
    embedded=False,
)

DATASETS = (
    Dataset(SMALL, functools.partial(_decode, name="glyphs.xz")),
    Dataset(LARGE, functools.partial(_decode, name="glyphs28.bin"), sources=(DrawnFonts(28),)),
)
