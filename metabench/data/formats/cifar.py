"""The binary versions of CIFAR-10 and CIFAR-100: records of labels and the red, green and blue values of 32 x 32 pixels, in an archive."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError
from metabench.data.contract import Classification, Read
from metabench.data.few_shot import Domain

SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


class _Layout(NamedTuple):
    """Where an archive has its records, and how many labels stand before the pixels; the last one is that of the class."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: int


_TEN = _Layout("cifar-10-batches-bin", tuple(f"data_batch_{n}.bin" for n in range(1, 6)), ("test_batch.bin",), 1)
_HUNDRED = _Layout("cifar-100-binary", ("train.bin",), ("test.bin",), 2)


def cifar10(read: Read, name: str, classes: tuple[str, ...]) -> Classification:
    """Return CIFAR-10 from the archive `name`.

    Raises MetabenchError if it is no archive, lacks a file, or a file has no whole records or a label that is not that of a class.
    """
    return _read(read, name, classes, _TEN)


def cifar100(read: Read, name: str, classes: tuple[str, ...]) -> Classification:
    """Return CIFAR-100 with its 100 fine classes from the archive `name`. Raises as `cifar10`."""
    return _read(read, name, classes, _HUNDRED)


def fc100(
    read: Read, name: str, classes: tuple[str, ...], superclasses: Mapping[str, Collection[int]]
) -> dict[str, Domain]:
    """Return a domain for each set of superclasses of CIFAR-100, by name: training and test images of its fine classes, as bytes.

    Raises as `cifar10`.
    """
    contents = [content for part in _contents(read, name, _HUNDRED) for content in part]
    records = np.frombuffer(b"".join(contents), dtype=np.uint8).reshape(-1, _HUNDRED.labels + _PIXELS)
    coarse, fine = records[:, 0], records[:, 1].astype(np.int64)
    if len(fine) and fine.max() >= len(classes):
        raise MetabenchError(f"{name}: expected labels below {len(classes)}, found {fine.max()}")
    found = {}
    for part, chosen in superclasses.items():
        rows = np.isin(coarse, list(chosen))
        known, targets = np.unique(fine[rows], return_inverse=True)
        images = records[rows, _HUNDRED.labels :].reshape(-1, *SHAPE)
        # By class, as every domain has its images.
        order = np.argsort(targets, kind="stable")
        found[part] = Domain(images[order], targets[order], tuple(classes[label] for label in known))
    return found


def _contents(read: Read, name: str, layout: _Layout) -> list[list[bytes]]:
    """Return the records of an archive's training and of its test files."""
    try:
        with tarfile.open(fileobj=io.BytesIO(read(name)), mode="r:gz") as archive:
            return [
                [_member(archive, f"{layout.folder}/{file}", name, layout.labels) for file in files]
                for files in (layout.train, layout.test)
            ]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise MetabenchError(f"{name}: not a whole archive: {error}") from error


def _read(read: Read, name: str, classes: tuple[str, ...], layout: _Layout) -> Classification:
    train, test = _contents(read, name, layout)
    decoded = (part for contents in (train, test) for part in _decoded(contents, name, len(classes), layout.labels))
    return Classification(*decoded, classes)


def _member(archive: tarfile.TarFile, path: str, name: str, labels: int) -> bytes:
    try:
        opened = archive.extractfile(path)
    except KeyError:
        opened = None
    if opened is None:
        raise MetabenchError(f"{name}: there is no file {path} in it")
    content = opened.read()
    if len(content) % (labels + _PIXELS):
        file = path.rpartition("/")[2]
        raise MetabenchError(f"{name}: {file} has {len(content)} bytes, expected records of {labels + _PIXELS}")
    return content


def _decoded(
    contents: list[bytes], name: str, n_classes: int, labels: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    records = np.frombuffer(b"".join(contents), dtype=np.uint8).reshape(-1, labels + _PIXELS)
    targets = records[:, labels - 1].astype(np.int64)
    if len(targets) and targets.max() >= n_classes:
        raise MetabenchError(f"{name}: expected labels below {n_classes}, found {targets.max()}")
    return np.divide(records[:, labels:], np.float32(255), dtype=np.float32).reshape(-1, *SHAPE), targets
