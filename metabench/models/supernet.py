"""A supernet: one set of weights, of which every net of a space is a part.

Each layer holds every operation at the greatest width. A narrower net takes the first channels; an operation that two nets share at a layer
is the same tensor in both. `cut` gives a net its part as views, `scatter` is its transpose: it puts a hypergradient back where it belongs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.types import Tree
from metabench.models.choice_blocks import BY_BATCH, BlockNet, drawn_weights
from metabench.models.operations import Shapes
from metabench.models.search_space import Space


@dataclass(frozen=True)
class Supernet:
    """The shared weights of a space, for images of one shape.

    Attributes:
        space: of the nets.
        shape: of an image, [channels, side, side].
        ways: classes that the head tells apart.
        norm: as in `choice_blocks.NORMS`.
    """

    space: Space
    shape: tuple[int, ...]
    ways: int
    norm: str = BY_BATCH

    @functools.cached_property
    def shapes(self) -> Shapes:
        """The shape of every weight by name."""
        return self.space.shared_shapes(self.shape, self.ways, self.norm)

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return weights as `BlockNet.initial`."""
        return drawn_weights(self.shapes, generator, dtype)

    def net(self, encoding: str) -> BlockNet:
        """Return a net of the space."""
        return self.space.net(encoding, self.shape, self.ways, self.norm)

    def cut(self, shared: Tree, encoding: str) -> Tree:
        """Return a net's weights: views of the shared ones.

        Raises:
            MetabenchError: these are not the weights of this supernet.
        """
        self._check(shared)
        return {name: shared[name][first(shape)] for name, shape in self.net(encoding).shapes().items()}

    def scatter(self, encoding: str, leaves: Tree) -> Tree:
        """Return the transpose of `cut`: leaves of a net in their places among zeros shaped as the shared weights."""
        some = next(iter(leaves.values()))
        found = {name: some.new_zeros(shape) for name, shape in self.shapes.items()}
        for name, leaf in leaves.items():
            found[name][first(leaf.shape)] = leaf
        return found

    def _check(self, shared: Tree) -> None:
        expected = self.shapes
        if list(shared) != list(expected):
            unlike = sorted(set(shared) ^ set(expected)) or ["the order"]
            raise MetabenchError(f"these are not the weights of space '{self.space.name}': they differ in {unlike[0]}")
        for name, leaf in shared.items():
            if tuple(leaf.shape) != expected[name]:
                raise MetabenchError(
                    f"the shared weight '{name}' has the shape {tuple(leaf.shape)}, and space '{self.space.name}' has {expected[name]}"
                )


def first(shape: Sequence[int]) -> tuple[slice, ...]:
    """Return the index of the first channels of each dimension."""
    return tuple(slice(size) for size in shape)
