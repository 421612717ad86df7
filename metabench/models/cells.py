"""Cells: blocks whose operations stand on the edges of a graph, as in DARTS, and the space of nets of one normal and one reduction cell.

A cell has two inputs and nodes in order. A node is the sum of what its edges make of the inputs and of all nodes before it; the cell's maps
are those of all nodes, side by side. In a reduction cell edges from the inputs end in pooling that halves the maps. Liu et al. 2019,
section 2.1; of two cells in Lian et al. 2020.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metabench.core.lazy import torch
from metabench.core.types import Batch, Tree
from metabench.models.batch_norm import Normalise, by_batch
from metabench.models.choice_blocks import BY_BATCH, MAP, BlockNet, Choice, Head, Mixture, Normalised, Stem, own
from metabench.models.operations import OPERATIONS, Shapes
from metabench.models.search_space import MakeLayer, Space

INPUTS = 2
NORMAL, REDUCTION = "normal", "reduction"
"""Names of the cells among the parts of a net."""


@dataclass(frozen=True)
class Cell:
    """A cell of a chain of blocks.

    Its first input are the first `width` channels of its maps [n, width + before, side, side]; the second are the others, by a convolution
    of 1 x 1 to `width` channels with normalisation and ReLU, or the first input again where there are none.

    Attributes:
        edges: those of the first node, from both inputs, then those of the second, and so on.
        nodes: how many.
        width: channels of every edge.
        before: channels of the maps behind the first input.
        norm: as in `choice_blocks.NORMS`.
        keeps: whether the first input goes on in front of the nodes' maps.
    """

    edges: tuple[Choice | Mixture, ...]
    nodes: int
    width: int
    before: int = 0
    norm: str = BY_BATCH
    keeps: bool = False

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        """The names of the edges; of one operation with its name, so that it has its own place among shared weights."""
        return tuple(
            f"edge{place}.{edge.operation}" if isinstance(edge, Choice) else f"edge{place}"
            for place, edge in enumerate(self.edges)
        )

    def shapes(self) -> Shapes:
        """Return the shape of every parameter by its name within the block."""
        found: Shapes = {}
        if self.before:
            found = {
                "weight": (self.width, self.before, 1, 1),
                "norm.weight": (self.width,),
                "norm.bias": (self.width,),
            }
        for name, edge in zip(self._names, self.edges, strict=True):
            found |= {f"{name}.{one}": shape for one, shape in edge.shapes().items()}
        return found

    def maps(self, params: Tree, maps: torch.Tensor, normalise: Normalise = by_batch, layer: str = "") -> torch.Tensor:
        """Return the maps of all nodes side by side, behind the first input if it goes on."""
        first, rest = maps[:, : self.width], maps[:, self.width :]
        known = [first, self._second(params, rest, normalise, layer) if self.before else first]
        edges = iter(zip(self._names, self.edges, strict=True))
        for _ in range(self.nodes):
            arriving = [
                edge.maps(own(params, name, edge.shapes()), source, normalise, f"{layer}.{name}")
                for source, (name, edge) in zip(list(known), edges, strict=False)
            ]
            known.append(functools.reduce(torch.add, arriving))
        return torch.cat([first, *known[INPUTS:]] if self.keeps else known[INPUTS:], 1)

    def _second(self, params: Tree, maps: torch.Tensor, normalise: Normalise, layer: str) -> torch.Tensor:
        found = torch.nn.functional.conv2d(maps, params["weight"])
        return Normalised(self.norm)(params, found, normalise, f"{layer}.second")

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the maps."""
        return {MAP: self.maps(params, hidden[MAP])}


def edges_of(nodes: int) -> Iterator[bool]:
    """Yield for each edge of a cell, in order, whether it comes from an input."""
    for node in range(nodes):
        yield from (True, True, *(False,) * node)


@dataclass(frozen=True)
class CellSpace(Space):
    """Nets of a stem, a normal cell, a reduction cell and a head: every edge of both cells chooses an operation.

    `halves` has an entry for each edge, the normal cell's first: whether pooling follows.

    Attributes:
        nodes: of each cell.
    """

    nodes: int = 4

    @property
    def _runs(self) -> tuple[int, ...]:  # type: ignore[override]
        # Edges do not follow each other: an identity has no other place.
        return (1,) * self.layers

    def net(self, encoding: str, shape: Sequence[int], ways: int, norm: str = BY_BATCH) -> BlockNet:
        """Return the net for images of a shape [channels, side, side]; raise MetabenchError as `Space.net`."""
        width, operations = self.width_of(encoding), self.operations_of(encoding)
        return self.of_layers(lambda i, halves: Choice(operations[i], width, norm, halves), width, shape, ways, norm)

    def of_layers(self, layer: MakeLayer, width: int, shape: Sequence[int], ways: int, norm: str) -> BlockNet:
        """Return the net whose edges are made by `layer`."""
        made = tuple(layer(place, halves) for place, halves in enumerate(self.halves))
        count = len(made) // 2
        blocks = (
            ("stem", Stem(shape[0], width, norm)),
            (NORMAL, Cell(made[:count], self.nodes, width, 0, norm, keeps=True)),
            (REDUCTION, Cell(made[count:], self.nodes, width, self.nodes * width, norm)),
        )
        return BlockNet(blocks, Head(ways, self.nodes * width, self.last_side(shape[-1]), means=True))

    def last_side(self, side: int) -> int:
        """Return the side of the last maps."""
        return side // 2

    def shared_shapes(self, shape: Sequence[int], ways: int, norm: str = BY_BATCH) -> Shapes:
        """Return the shape of every weight that nets share: those of each operation on each edge."""
        found: Shapes = {}
        for operation in self.operations:
            found |= self.net("-".join([operation] * self.layers), shape, ways, norm).shapes()
        # In the order of the parts of a net.
        return {
            name: found[name]
            for part in ("stem", NORMAL, REDUCTION, "head")
            for name in found
            if name.startswith(f"{part}.")
        }

    def flops(self, encoding: str, shape: Sequence[int], ways: int) -> int:
        """Return the FLOPs of scoring one image of a shape [channels, side, side], as torch counts them."""
        width, (inputs, *_, side) = self.width_of(encoding), shape
        operations, count = self.operations_of(encoding), self.layers // 2
        found = 2 * (9 * inputs + self.nodes * width) * width * side**2 + 2 * ways * self.nodes * width
        for place, operation in enumerate(operations):
            inner = place >= count and not self.halves[place]
            found += OPERATIONS[operation].flops(width, side // 2 if inner else side)
        return found


def darts(nodes: int = 4, width: int = 16) -> CellSpace:
    """Return the space of cells of DARTS and T-NAS."""
    from_input = list(edges_of(nodes))
    operations = ("sep3", "sep5", "dil3", "dil5", "max3", "pool3", "identity", "zero")
    halves = tuple(itertools.chain((False,) * len(from_input), from_input))
    title = f"a normal and a reduction cell of {nodes} nodes, {len(operations)} operations on each edge, for GPUs"
    return CellSpace("darts", title, operations, halves, (width,), nodes=nodes)
