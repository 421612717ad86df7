"""CIFAR-10's binary version: records of a label and the red, green and blue values of 32 x 32 pixels, in an archive."""

from __future__ import annotations

import io
import tarfile
import zlib

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError
from metabench.data.contract import Classification, Read

SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_FOLDER = "cifar-10-batches-bin"
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = ("test_batch.bin",)


def cifar10(read: Read, name: str, classes: tuple[str, ...]) -> Classification:
    """Return the data set in the archive `name`.

    Raises MetabenchError if it is no archive, lacks a file, or a file has no whole records or a label that is not that of a class.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(read(name)), mode="r:gz") as archive:
            train, test = ([_member(archive, file, name) for file in files] for files in (_TRAIN, _TEST))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise MetabenchError(f"{name}: not a whole archive: {error}") from error
    return Classification(*_decoded(train, name, len(classes)), *_decoded(test, name, len(classes)), classes)


def _member(archive: tarfile.TarFile, file: str, name: str) -> bytes:
    try:
        opened = archive.extractfile(f"{_FOLDER}/{file}")
    except KeyError:
        opened = None
    if opened is None:
        raise MetabenchError(f"{name}: there is no file {_FOLDER}/{file} in it")
    content = opened.read()
    if len(content) % _RECORD:
        raise MetabenchError(f"{name}: {file} has {len(content)} bytes, expected records of {_RECORD}")
    return content


def _decoded(contents: list[bytes], name: str, n_classes: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    records = np.frombuffer(b"".join(contents), dtype=np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int64)
    if len(labels) and labels.max() >= n_classes:
        raise MetabenchError(f"{name}: expected labels below {n_classes}, found {labels.max()}")
    return np.divide(records[:, 1:], np.float32(255), dtype=np.float32).reshape(-1, *SHAPE), labels
