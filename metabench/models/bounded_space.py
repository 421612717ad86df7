"""A space of architectures within a bound on FLOPs: where the largest net is not the answer.

Genes of any net of the space give a net within the bound: while it is above, the layer that costs most takes the next cheaper operation. So
strategies mutate and cross as they do without a bound.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.models.operations import OPERATIONS
from metabench.models.search_space import Space


@dataclass(frozen=True)
class BoundedSpace(Space):
    """The nets of a space that score an image at no more than some FLOPs.

    Attributes:
        most: FLOPs.
        shape: of an image, [channels, side, side].
        ways: classes.
    """

    most: float = math.inf
    shape: tuple[int, ...] = (1, 16, 16)
    ways: int = 5

    @property
    def size(self) -> int:
        """How many nets there are, equal ones counted once."""
        return len(self._all)

    def within(self, encoding: str) -> bool:
        """Tell whether a net of the space is within the bound."""
        return self.flops(encoding, self.shape, self.ways) <= self.most

    def text(self, genes: Sequence[int]) -> str:
        """Return the canonical encoding of genes, or of the nearest cheaper ones that are within the bound."""
        found = list(genes)
        while not self.within(super().text(found)) and (cheaper := self._cheaper(found)) is not None:
            found = cheaper
        return super().text(found)

    def _cheaper(self, genes: Sequence[int]) -> list[int] | None:
        """Return genes whose most expensive layer has the next cheaper operation, or else the next smaller width; None: there are none."""
        width = self.widths[genes[self.layers]] if len(self.widths) > 1 else self.widths[0]
        costs = [OPERATIONS[one].flops(width, 1) for one in self.operations]
        side, paid = self.shape[-1] // 2 if self.stem_halves else self.shape[-1], []
        for gene, halves in zip(genes, self.halves, strict=False):
            paid.append(costs[gene] * side**2)
            side = side // 2 if halves else side
        place = paid.index(max(paid))
        below = [(cost, -gene) for gene, cost in enumerate(costs) if cost < costs[genes[place]]]
        if below:
            return [*genes[:place], -max(below)[1], *genes[place + 1 :]]
        if len(self.widths) > 1 and genes[self.layers] > 0:
            return [*genes[: self.layers], genes[self.layers] - 1]
        return None

    def read(self, text: str) -> str:
        """Return the canonical encoding of a text; raise MetabenchError as `Space.read`, or if the net is above the bound."""
        whole = super().text(self._genes(text))
        if not self.within(whole):
            raise MetabenchError(
                f"'{whole}' takes {self.flops(whole, self.shape, self.ways):,} FLOPs, above the bound of {self.most:,.0f}: for example "
                f"'{self.text(self._genes(text))}'"
            )
        return whole

    def genes(self, encoding: str) -> tuple[int, ...]:
        """Return the genes of an encoding; raise MetabenchError as `Space.genes`."""
        # Costs are asked of nets above the bound, too.
        return self._genes(super().text(self._genes(encoding)))

    @functools.cached_property
    def _all(self) -> tuple[str, ...]:
        return tuple(net for net in self._unbounded.all() if self.within(net))

    @functools.cached_property
    def _unbounded(self) -> Space:
        return Space(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Space)})

    def drawn(self, seed: int, purpose: str) -> Iterator[str]:
        """Yield encodings without repetition, in an order that the seed decides: those of the space without a bound that are within it."""
        return (net for net in self._unbounded.drawn(seed, purpose) if self.within(net))

    def neighbours(self, encoding: str) -> tuple[str, ...]:
        """Return the neighbours within the bound."""
        return tuple(net for net in self._unbounded.neighbours(encoding) if self.within(net))

    def largest(self) -> str:
        """Return the net with the most parameters within the bound."""
        return max(self._all, key=lambda net: self.parameters(net, self.shape, self.ways))


def bounded(space: Space, most: float, shape: Sequence[int], ways: int) -> BoundedSpace:
    """Return the nets of a space that score an image of a shape at no more than `most` FLOPs.

    Raises:
        MetabenchError: the space is of cells or too large to be listed, or no net is within the bound.
    """
    if type(space) is not Space:
        raise MetabenchError(f"space '{space.name}' has no bound on FLOPs: expected one of chains of layers")
    own = {field.name: getattr(space, field.name) for field in dataclasses.fields(Space)}
    found = BoundedSpace(**own, most=most, shape=tuple(shape), ways=ways)
    if not found.size:
        least = min(space.all(), key=lambda net: space.flops(net, shape, ways))
        raise MetabenchError(
            f"no net of space '{space.name}' takes {most:,.0f} FLOPs or fewer: '{least}' takes {space.flops(least, shape, ways):,}"
        )
    return found
