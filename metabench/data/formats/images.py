"""Images and labels like those of MNIST: from bytes 0..255 to float32 in [0, 1] with a channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError
from metabench.data.contract import Classification, Read
from metabench.data.formats import idx

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
"""What MNIST and its kin call their files."""


def classification(read: Read, names: Sequence[str], classes: tuple[str, ...]) -> Classification:
    """Return the data set in four IDX files, `names`: train images, train labels, test images, test labels.

    Raises MetabenchError if images and labels differ in number or a label is not that of a class.
    """
    train_images, train_labels, test_images, test_labels = names
    train = _pair(read, train_images, train_labels, len(classes))
    test = _pair(read, test_images, test_labels, len(classes))
    return Classification(*train, *test, classes)


def _pair(
    read: Read, images_name: str, labels_name: str, n_classes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    images = idx.decode(read(images_name), images_name, dimensions=3)
    labels = idx.decode(read(labels_name), labels_name, dimensions=1)
    if len(images) != len(labels):
        raise MetabenchError(f"{images_name} holds {len(images)} images, {labels_name} {len(labels)} labels")
    if len(labels) and labels.max() >= n_classes:
        raise MetabenchError(f"{labels_name}: expected labels below {n_classes}, found {labels.max()}")
    return np.divide(images[:, None], np.float32(255), dtype=np.float32), labels.astype(np.int64)
