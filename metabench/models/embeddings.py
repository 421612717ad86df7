"""An embedding of images by a network that was trained to tell classes apart, and what stands for any embedding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from metabench.core.arrays import read_arrays, write_arrays
from metabench.core.lazy import torch
from metabench.core.randomness import generator
from metabench.models.discriminants import unit

Floats = npt.NDArray[np.float64]

_CHANNELS, _EMBEDDING = 32, 64
_STEPS, _BATCH, _RATE = 400, 64, 2e-3


class Embedding(Protocol):
    """From flat images with values in [0, 1], shape [n, dimensions], to vectors of length 1."""

    def __call__(self, images: Floats) -> Floats:
        """Return the embeddings, shape [n, embedding]."""
        ...

    def of_classes(self, images: Floats, targets: npt.NDArray[np.int64]) -> Floats:
        """Return the embeddings of the classes 0, 1, ... of labelled images, shape [classes, embedding]."""
        ...


@dataclass(frozen=True, eq=False)
class TrainedEmbedding:
    """The last hidden layer of three 3 x 3 convolutions with pooling, centred on the training images, and scaled to length 1.

    Attributes:
        image: channels, height and width.
        weights: by name.
        mean: of the hidden layer over the training images, shape [64].
    """

    image: tuple[int, int, int]
    weights: Mapping[str, npt.NDArray[np.float32]]
    mean: npt.NDArray[np.float32]

    @classmethod
    def fit(
        cls,
        images: npt.NDArray[np.uint8],
        targets: npt.NDArray[np.int64],
        seed: int,
        folder: Path | None = None,
        steps: int | None = None,
    ) -> TrainedEmbedding:
        """Train on images [n, channels, height, width] of labelled classes [n], by cross-entropy: 400 steps of Adam on batches of 64.

        Args:
            images: with values to 255.
            targets: 0, 1, ...
            seed: of the initialisation and the batches.
            folder: where weights are kept, under a hash of all this; None: nowhere.
            steps: of training; None: 400.

        Raises:
            MetabenchError: a file in the folder is of other images, or cannot be written.
        """
        steps = _STEPS if steps is None else steps
        image = (images.shape[1], images.shape[2], images.shape[3])
        said = json.dumps([image, seed, steps, _CHANNELS, _EMBEDDING, _BATCH, _RATE])
        key = hashlib.sha256(said.encode() + images.tobytes() + targets.tobytes()).hexdigest()[:32]
        path = folder / f"embedding-{key}.npz" if folder else None
        found = read_arrays(path, key) if path else None
        if found is None:
            found = _trained(torch.as_tensor(images).float() / 255, torch.as_tensor(targets), seed, steps)
            if path:
                write_arrays(path, key, found)
        mean = found.pop("mean")
        return cls(image, found, mean)

    def __call__(self, images: Floats) -> Floats:
        """Return the embeddings of flat images [n, dimensions], shape [n, 64], of length 1."""
        given = torch.as_tensor(np.asarray(images, np.float32)).unflatten(1, self.image)
        weights = {name: torch.as_tensor(value) for name, value in self.weights.items()}
        with torch.no_grad():
            hidden = torch.cat([_hidden(weights, part) for part in given.split(512)])
        return unit((hidden.numpy() - self.mean).astype(np.float64))

    def of_classes(self, images: Floats, targets: npt.NDArray[np.int64]) -> Floats:
        """Return the mean embedding of each class 0, 1, ..., shape [classes, 64], of length 1."""
        found = self(images)
        return unit(np.stack([found[targets == one].mean(0) for one in range(int(targets.max()) + 1)]))


def _hidden(weights: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    functional: Any = torch.nn.functional
    found = images
    for layer in range(3):
        found = functional.relu(
            functional.conv2d(found, weights[f"{layer}.weight"], weights[f"{layer}.bias"], padding=1)
        )
        found = functional.avg_pool2d(found, 2, ceil_mode=True)
    return functional.relu(functional.linear(found.flatten(1), weights["3.weight"], weights["3.bias"]))


def _trained(images: torch.Tensor, targets: torch.Tensor, seed: int, steps: int) -> dict[str, npt.NDArray[np.float32]]:
    stream = generator(seed, "embedding")
    side = [images.shape[2], images.shape[3]]
    for _ in range(3):
        side = [-(-one // 2) for one in side]
    classes = int(targets.max()) + 1
    shapes = [(_CHANNELS, images.shape[1], 3, 3), *[(_CHANNELS, _CHANNELS, 3, 3)] * 2]
    shapes += [(_EMBEDDING, _CHANNELS * side[0] * side[1]), (classes, _EMBEDDING)]
    weights = {}
    for layer, shape in enumerate(shapes):
        fan_in = int(np.prod(shape[1:]))
        weights[f"{layer}.weight"] = torch.randn(shape, generator=stream) * (2 / fan_in) ** 0.5
        weights[f"{layer}.bias"] = torch.zeros(shape[0])
    leaves = [leaf.requires_grad_() for leaf in weights.values()]
    optimiser = torch.optim.Adam(leaves, lr=_RATE)
    drawn = generator(seed, "embedding's batches")
    with torch.enable_grad():
        for _ in range(steps):
            batch = torch.randint(len(images), (_BATCH,), generator=drawn)
            logits = torch.nn.functional.linear(_hidden(weights, images[batch]), weights["4.weight"], weights["4.bias"])
            loss = torch.nn.functional.cross_entropy(logits, targets[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    kept = {name: leaf.detach() for name, leaf in weights.items() if not name.startswith("4.")}
    with torch.no_grad():
        mean = torch.cat([_hidden(kept, part) for part in images.split(512)]).mean(0)
    return {name: leaf.numpy() for name, leaf in kept.items()} | {"mean": mean.numpy()}
