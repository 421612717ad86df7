"""Photographs for few-shot tasks in a folder of your own, listed in split files as those of Chen et al. 2019 and Tseng et al. 2020.

Each folder in it with base.json, val.json and novel.json is a domain. A split file has `label_names`, the classes; `image_names`, paths
of images, absolute or from the folder of the split file; and `image_labels`, for each image the number of its class.
"""

from __future__ import annotations

import collections
import csv
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError, unknown
from metabench.data.contract import Dataset, DatasetCard, Read
from metabench.data.few_shot import Domain, FewShot

SPLITS = {"train": "base.json", "validation": "val.json", "test": "novel.json"}
"""Names of the split files, by the part that they list."""

_KEYS = ("label_names", "image_names", "image_labels")
_KEPT = 2**30
"""Bytes of decoded images that a split keeps."""


def few_shot_folder(path: Path | str, side: int, *, name: str = "", licence: str = "", citation: str = "") -> Dataset:
    """Return the data set, loaded as `FewShot`, of the photographs in a folder, as square images [3, side, side]; for a plugin.

    Raises:
        MetabenchError: as `read_folder`.
    """
    place = Path(path).expanduser()
    domains = _domains(place)
    card = DatasetCard(
        name=name or place.name,
        title=f"Own photographs {place.name}, {side} x {side}",
        task="few-shot",
        licence=licence,
        source=str(place),
        citation=citation,
        input_shape=(3, side, side),
        domains=tuple(domains),
    )
    files = tuple(folder / file for folder in domains.values() for file in SPLITS.values())
    return Dataset(card, functools.partial(_decode, place, side), files=files)


def _decode(place: Path, side: int, read: Read) -> FewShot:
    del read  # neither embedded nor fetched
    return read_folder(place, side)


def read_folder(place: Path, side: int) -> FewShot:
    """Return the domains of a folder; images are read where they are indexed: the centre, reduced to `side` x `side` pixels, in colour.

    Raises:
        MetabenchError: there is no such folder, or no domain in it, with what to put there; a split file is damaged, disagrees with
            itself, or shares a class with another of its domain.
    """
    parts: dict[str, dict[str, Domain]] = {part: {} for part in SPLITS}
    for name, folder in _domains(place).items():
        seen: dict[str, str] = {}
        for part, file in SPLITS.items():
            domain = _read_split(folder / file, side)
            for label in np.unique(domain.targets):
                first = seen.setdefault(domain.classes[label], file)
                if first != file:
                    raise MetabenchError(
                        f"{folder}: class '{domain.classes[label]}' is in {first} and in {file}: splits must be disjoint"
                    )
            parts[part][name] = domain
    return FewShot(**parts)


RAVI = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
"""Names of the split files of Ravi & Larochelle 2017, by the part that they list."""


def read_ravi(place: Path, side: int, name: str) -> FewShot:
    """Return the one domain of a folder with the split files of Ravi & Larochelle, and the images that they name in its folder `images`.

    Images as `read_folder`.

    Raises:
        MetabenchError: a split file is missing, with what to put there, or damaged; or a class is in two of them.
    """
    if missing := [file for file in RAVI.values() if not (place / file).is_file()]:
        raise MetabenchError(
            f"{place} has no {', '.join(missing)}: put there the split files of https://github.com/twitter-research/meta-learning-lstm "
            f"({', '.join(RAVI.values())}, columns filename and label) and the images that they name, in {place / 'images'}"
        )
    seen: dict[str, str] = {}
    parts = {part: {name: _read_csv(place, file, side, seen)} for part, file in RAVI.items()}
    return FewShot(**parts)


def _read_csv(place: Path, file: str, side: int, seen: dict[str, str]) -> Domain:
    """Return the images that a file of columns `filename` and `label` lists, by class; `seen` are the classes of other files."""
    with (place / file).open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    if (
        not rows
        or not {"filename", "label"} <= rows[0].keys()
        or any(None in (row["filename"], row["label"]) for row in rows)
    ):
        raise MetabenchError(f"split file {place / file}: expected rows of the columns filename and label")
    classes = tuple(dict.fromkeys(row["label"] for row in rows))
    for label in classes:
        if label in seen:
            raise MetabenchError(f"{place}: class '{label}' is in {seen[label]} and in {file}: splits must be disjoint")
        seen[label] = file
    targets = np.array([classes.index(row["label"]) for row in rows], np.int64)
    order = np.argsort(targets, kind="stable")
    paths = tuple(place / "images" / rows[row]["filename"] for row in order)
    return Domain(_Photographs(paths, side), targets[order], classes)


def _domains(place: Path) -> dict[str, Path]:
    found = {
        folder.name: folder
        for folder in (sorted(place.iterdir()) if place.is_dir() else ())
        if any((folder / file).exists() for file in SPLITS.values())
    }
    if not found:
        raise MetabenchError(
            f"{place} {'holds no domain' if place.is_dir() else 'is missing'}: put there one folder per domain, such as miniImagenet, "
            f"cub, cars, places and plantae, each with {', '.join(SPLITS.values())} in the format of "
            "https://github.com/hytseng0509/CrossDomainFewShot (filelists), and the images that they name"
        )
    for folder in found.values():
        if missing := [file for file in SPLITS.values() if not (folder / file).is_file()]:
            raise MetabenchError(
                f"{folder} has no {' and no '.join(missing)}: a domain needs {', '.join(SPLITS.values())}"
            )
    return found


def _read_split(file: Path, side: int) -> Domain:
    try:
        held: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MetabenchError(f"split file {file} cannot be read: {error}") from error
    if not isinstance(held, Mapping):
        raise MetabenchError(
            f"split file {file}: expected an object with {', '.join(_KEYS)}, found a {type(held).__name__}"
        )
    for key in _KEYS:
        if key not in held:
            raise unknown(f"key of split file {file}", key, list(held))
        if not isinstance(held[key], list):
            raise MetabenchError(f"split file {file}: {key} is {held[key]!r}, expected a list")
    names, images, labels = (held[key] for key in _KEYS)
    if len(images) != len(labels) or not images:
        raise MetabenchError(
            f"split file {file}: {len(images)} image_names and {len(labels)} image_labels, expected as many"
        )
    wrong = next((one for one in labels if not isinstance(one, int) or not 0 <= one < len(names)), None)
    if wrong is not None:
        raise MetabenchError(
            f"split file {file}: the label {wrong!r} is not the number of one of its {len(names)} label_names"
        )
    paths = tuple(file.parent / str(image) for image in images)
    return Domain(_Photographs(paths, side), np.asarray(labels, np.int64), tuple(map(str, names)))


class _Photographs:
    """Images read from files where they are indexed; the last ones stay in memory."""

    def __init__(self, paths: tuple[Path, ...], side: int) -> None:
        self._paths, self._side = paths, side
        self._kept: collections.OrderedDict[int, npt.NDArray[np.uint8]] = collections.OrderedDict()

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self._paths), 3, self._side, self._side

    def __getitem__(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return np.stack([self._one(int(number)) for number in chosen])

    def _one(self, number: int) -> npt.NDArray[np.uint8]:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        image = self._kept[number] = _photograph(self._paths[number], self._side)
        while len(self._kept) * image.nbytes > _KEPT:
            self._kept.popitem(last=False)
        return image


def _photograph(path: Path, side: int) -> npt.NDArray[np.uint8]:
    """Return the middle of a picture, shape [3, side, side]: its shorter edge is cut by an eighth, as is usual for evaluation."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except OSError as error:
        raise MetabenchError(f"image {path} cannot be read: {error}") from error
    edge = min(picture.size) * 0.875
    left, top = (picture.width - edge) / 2, (picture.height - edge) / 2
    reduced = picture.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + edge, top + edge))
    return np.asarray(reduced, np.uint8).transpose(2, 0, 1).copy()
