"""Omniglot: 1,623 characters of 50 alphabets, each drawn by twenty people, fetched from its authors. Domain = alphabet."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

from metabench.core.errors import MetabenchError
from metabench.data.contract import DataFile, Dataset, DatasetCard, Read
from metabench.data.fetch.sources import Address
from metabench.data.few_shot import Domain, FewShot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SIDE = 28
_VALIDATION = 5
"""Background alphabets that validate: those with the fewest characters, to keep the most for training."""
_BACKGROUND, _EVALUATION = "images_background", "images_evaluation"

CARD = DatasetCard(
    name="omniglot",
    title="Omniglot, 28 x 28",
    task="few-shot",
    licence="MIT",
    attribution="Copyright 2015 Brenden M. Lake, Ruslan Salakhutdinov and Joshua B. Tenenbaum",
    source=(
        "https://github.com/brendenlake/omniglot, reduced from 105 x 105, white on black; train and validation: the 30 background "
        "alphabets, validation the five with the fewest characters; test: the 20 evaluation alphabets"
    ),
    citation="lake2015human",
    sizes={"train": 17_660, "validation": 1_620, "test": 13_180},
    input_shape=(1, _SIDE, _SIDE),
    fetched=True,
    files=(
        DataFile(f"{_BACKGROUND}.zip", 9_464_212, "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"),
        DataFile(f"{_EVALUATION}.zip", 6_462_886, "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"),
    ),
)


def _decode(read: Read) -> FewShot:
    background, test = (_alphabets(read(f"{part}.zip"), part) for part in (_BACKGROUND, _EVALUATION))
    smallest = sorted(background, key=lambda name: (len(background[name].classes), name))[:_VALIDATION]
    train = {name: domain for name, domain in background.items() if name not in smallest}
    return FewShot(train, {name: background[name] for name in smallest}, test)


def _alphabets(content: bytes, part: str) -> dict[str, Domain]:
    """Return the alphabets of an archive of files PART/ALPHABET/CHARACTER/DRAWING.png."""
    # Here: listing the data sets loads this module.
    import numpy as np

    found: dict[str, dict[str, list[npt.NDArray[np.uint8]]]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for path in sorted(name for name in archive.namelist() if name.endswith(".png")):
                _, alphabet, character, _ = path.split("/")
                found.setdefault(alphabet, {}).setdefault(character, []).append(_image(archive.read(path)))
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise MetabenchError(
            f"{part}.zip: expected drawings as {part}/ALPHABET/CHARACTER/DRAWING.png: {error}"
        ) from error
    return {
        alphabet: Domain(
            np.stack([image for images in characters.values() for image in images])[:, None],
            np.repeat(np.arange(len(characters)), [len(images) for images in characters.values()]),
            tuple(characters),
        )
        for alphabet, characters in found.items()
    }


def _image(png: bytes) -> npt.NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    drawn = Image.open(io.BytesIO(png)).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return 255 - np.asarray(drawn, np.uint8)


DATASETS = (Dataset(CARD, _decode, sources=(Address("https://github.com/brendenlake/omniglot/raw/master/python/"),)),)
