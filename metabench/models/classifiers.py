"""All named classifiers, of every family."""

from __future__ import annotations

from collections.abc import Mapping

from metabench.core.registry import pick
from metabench.models import convnet, mlp
from metabench.models.convnet import ConvNet
from metabench.models.mlp import MLP


def sizes() -> Mapping[str, str]:
    """Return every named size with one line about it."""
    return {size: family.describe(size) for family in (mlp, convnet) for size in family.SIZES}


def classifier(size: str, input_shape: tuple[int, ...], classes: int) -> MLP | ConvNet:
    """Return the classifier of a named size for inputs of a shape (without the examples' dimension).

    Raises:
        MetabenchError: no network has that name; the nearest valid one is named.
    """
    pick("size", size, sizes())
    family = MLP if size in mlp.SIZES else ConvNet
    return family.named(size, input_shape, classes)
