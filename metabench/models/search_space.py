"""Spaces of architectures: which there are, by names that can be read, and what each costs.

A net is a stem, layers of one operation each, and a head. It is written as its operations in order, 'conv3-sep5-pool3', followed by '@24'
where the space has several widths. Two texts may be the same net: between layers that do not halve their maps an identity may stand before
or behind another operation. The canonical encoding has it behind. Only canonical encodings leave this module, so that a net is counted,
and paid for, once.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError, unknown
from metabench.core.randomness import stream_seed
from metabench.models.choice_blocks import BY_BATCH, Block, BlockNet, Choice, Head, Mixture, Stem
from metabench.models.operations import IDENTITY, OPERATIONS, Shapes

Genes = tuple[int, ...]
"""The number of each layer's operation, and of the width where there are several."""
MakeLayer = Callable[[int, bool], Choice | Mixture]
"""From the number of a layer, and whether pooling follows, to the layer."""
_LARGEST_LISTED = 200_000
"""Texts of a space that is listed whole."""


@dataclass(frozen=True)
class Space:
    """Nets of as many layers as `halves` has entries.

    Attributes:
        name: the word in a suite.
        title: one line for listings.
        operations: that each layer chooses from.
        halves: of each layer, whether it ends in pooling that halves the maps.
        widths: channels of a net, ascending.
        stem_halves: whether pooling follows the stem.
    """

    name: str
    title: str
    operations: tuple[str, ...]
    halves: tuple[bool, ...]
    widths: tuple[int, ...]
    stem_halves: bool = False

    @property
    def layers(self) -> int:
        """How many layers choose."""
        return len(self.halves)

    @functools.cached_property
    def choices(self) -> tuple[int, ...]:
        """How many values each gene has."""
        return (len(self.operations),) * self.layers + ((len(self.widths),) if len(self.widths) > 1 else ())

    @functools.cached_property
    def size(self) -> int:
        """How many nets there are, equal ones counted once."""
        found = len(self.widths)
        for length in self._runs:
            # An identity moves behind the other operations of its run: what counts is the others, in order.
            found *= (
                sum((len(self.operations) - 1) ** others for others in range(length + 1))
                if self._has_identity
                else (len(self.operations) ** length)
            )
        return found

    @property
    def _has_identity(self) -> bool:
        return IDENTITY in self.operations

    @functools.cached_property
    def _runs(self) -> tuple[int, ...]:
        """Lengths of the runs of layers between which maps keep their size."""
        ends = [place + 1 for place, halves in enumerate(self.halves[:-1]) if halves]
        return tuple(stop - start for start, stop in itertools.pairwise([0, *ends, self.layers]))

    def text(self, genes: Sequence[int]) -> str:
        """Return the canonical encoding of genes."""
        named = [self.operations[gene] for gene in genes[: self.layers]]
        ordered: list[str] = []
        for length in self._runs:
            run = named[len(ordered) : len(ordered) + length]
            ordered += sorted(run, key=lambda operation: operation == IDENTITY)
        width = f"@{self.widths[genes[self.layers]]}" if len(self.widths) > 1 else ""
        return "-".join(ordered) + width

    def read(self, text: str) -> str:
        """Return the canonical encoding of a text.

        Raises:
            MetabenchError: an operation or a width is unknown, or there are too few or too many layers; the nearest valid one is named.
        """
        return self.text(self._genes(text))

    def genes(self, encoding: str) -> Genes:
        """Return the genes of an encoding; raise MetabenchError as `read`."""
        return self._genes(self.read(encoding))

    def _genes(self, text: str) -> Genes:
        body, at, width = text.partition("@")
        named = [name.strip() for name in body.split("-")]
        for name in named:
            if name not in self.operations:
                raise unknown(f"operation of space '{self.name}' in '{text}'", name, self.operations)
        if len(named) != self.layers:
            nearest = self.text(
                [self.operations.index(name) for name in self._filled(named)] + [0] * (self.layers < len(self.choices))
            )
            raise MetabenchError(
                f"'{text}' has {len(named)} layers, and nets of space '{self.name}' have {self.layers}: for example '{nearest}'"
            )
        found = [self.operations.index(name) for name in named]
        if at or len(self.widths) > 1:
            found += self._gene_of(width.strip(), text)[: len(self.choices) - self.layers]
        return tuple(found)

    def _filled(self, named: list[str]) -> list[str]:
        """Return operations for every layer: those given, as far as there are layers, then identities or the first operation."""
        rest = IDENTITY if self._has_identity else self.operations[0]
        return (named + [rest] * self.layers)[: self.layers]

    def _gene_of(self, width: str, text: str) -> list[int]:
        if not width.isdecimal():
            said = ", ".join(map(str, self.widths))
            raise MetabenchError(
                f"'{text}' names no width: space '{self.name}' has {said}, as in '{text.split('@')[0]}@{self.widths[0]}'"
            )
        if int(width) not in self.widths:
            nearest = min(self.widths, key=lambda one: abs(one - int(width)))
            raise MetabenchError(f"'{text}': space '{self.name}' has no width {width}: the nearest is {nearest}")
        return [self.widths.index(int(width))]

    def operations_of(self, encoding: str) -> tuple[str, ...]:
        """Return the operation of each layer."""
        return tuple(self.operations[gene] for gene in self.genes(encoding)[: self.layers])

    def width_of(self, encoding: str) -> int:
        """Return the channels of a net."""
        genes = self.genes(encoding)
        return self.widths[genes[self.layers]] if len(self.widths) > 1 else self.widths[0]

    def all(self) -> tuple[str, ...]:
        """Return every encoding, in the order of genes.

        Raises:
            MetabenchError: there are more than can be listed.
        """
        if math.prod(self.choices) > _LARGEST_LISTED:
            raise MetabenchError(f"space '{self.name}' has {self.size:,} nets: too many to list; draw some")
        return self._all

    @functools.cached_property
    def _all(self) -> tuple[str, ...]:
        every = itertools.product(*(range(count) for count in self.choices))
        return tuple(dict.fromkeys(self.text(genes) for genes in every))

    def drawn(self, seed: int, purpose: str) -> Iterator[str]:
        """Yield encodings without repetition, in an order that the seed decides, until there are no more."""
        seen: set[str] = set()
        for number in itertools.count():
            if len(seen) == self.size:
                return
            raw = np.random.PCG64(stream_seed(seed, f"{purpose} {number}")).random_raw(len(self.choices))
            found = self.text([int(one % count) for one, count in zip(raw, self.choices, strict=True)])
            if found not in seen:
                seen.add(found)
                yield found

    def neighbours(self, encoding: str) -> tuple[str, ...]:
        """Return the nets that differ in one gene of any spelling, the net itself left out: whose neighbour a net is, is its neighbour."""
        canonical, found = self.read(encoding), dict[str, None]()
        for spelt in self._spellings(canonical):
            for place, count in enumerate(self.choices):
                for value in range(count):
                    found[self.text((*spelt[:place], value, *spelt[place + 1 :]))] = None
        return tuple(one for one in found if one != canonical)

    def _spellings(self, encoding: str) -> Iterator[Genes]:
        """Yield the genes of every text of a net: within a run identities may stand anywhere, the others keep their order."""
        genes = self.genes(encoding)
        runs, first = [], 0
        for length in self._runs:
            run = genes[first : first + length]
            others = [gene for gene in run if self.operations[gene] != IDENTITY]
            bare = self.operations.index(IDENTITY) if self._has_identity else 0
            places = itertools.combinations(range(length), len(others))
            runs.append([_at(chosen, others, length, bare) for chosen in places])
            first += length
        for run in itertools.product(*runs):
            yield (*itertools.chain.from_iterable(run), *genes[self.layers :])

    def one_hot(self, encodings: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the genes as one-hot vectors, shape [n, values of all genes]."""
        firsts = np.cumsum([0, *self.choices[:-1]])
        found = np.zeros((len(encodings), sum(self.choices)))
        for row, encoding in enumerate(encodings):
            found[row, firsts + np.array(self.genes(encoding))] = 1
        return found

    def net(self, encoding: str, shape: Sequence[int], ways: int, norm: str = BY_BATCH) -> BlockNet:
        """Return the net for images of a shape [channels, side, side].

        Raises:
            MetabenchError: as `read`; or the images are too small for its pooling.
        """
        width, operations = self.width_of(encoding), self.operations_of(encoding)
        return self.of_layers(lambda i, halves: Choice(operations[i], width, norm, halves), width, shape, ways, norm)

    def of_layers(self, layer: MakeLayer, width: int, shape: Sequence[int], ways: int, norm: str) -> BlockNet:
        """Return the net whose layers are made by `layer`: choices, or mixtures of several operations.

        Raises:
            MetabenchError: the images are too small for its pooling.
        """
        blocks: list[tuple[str, Block]] = [("stem", Stem(shape[0], width, norm, self.stem_halves))]
        for place, halves in enumerate(self.halves):
            made = layer(place, halves)
            blocks.append((part_name(place, made.operation) if isinstance(made, Choice) else f"layer{place}", made))
        return BlockNet(tuple(blocks), Head(ways, width, self.last_side(shape[-1])))

    def last_side(self, side: int) -> int:
        """Return the side of the last maps, for images of a side; raise MetabenchError if nothing is left."""
        times = sum(self.halves) + self.stem_halves
        last = side >> times
        if last < 1:
            raise MetabenchError(
                f"images of {side} x {side} pixels are too small for space '{self.name}', which halves them {times} times"
            )
        return last

    def shared_shapes(self, shape: Sequence[int], ways: int, norm: str = BY_BATCH) -> Shapes:
        """Return the shape of every weight that nets share: those of each operation at each layer, at the greatest width."""
        widest = self.widths[-1]
        parts = {"stem": Stem(shape[0], widest, norm, self.stem_halves).shapes()}
        for layer, halves in enumerate(self.halves):
            for operation in self.operations:
                parts[part_name(layer, operation)] = Choice(operation, widest, norm, halves).shapes()
        parts["head"] = Head(ways, widest, self.last_side(shape[-1])).shapes()
        return {f"{part}.{name}": size for part, shapes in parts.items() for name, size in shapes.items()}

    def largest(self) -> str:
        """Return the net with the most parameters: at each layer the operation that has most, at the greatest width."""
        weights = [sum(map(math.prod, OPERATIONS[one].shapes(self.widths[-1]).values())) for one in self.operations]
        width = [len(self.widths) - 1] if len(self.widths) > 1 else []
        return self.text([weights.index(max(weights))] * self.layers + width)

    def parameters(self, encoding: str, shape: Sequence[int], ways: int) -> int:
        """Return how many parameters a net has."""
        return self.net(encoding, shape, ways).parameters()

    def flops(self, encoding: str, shape: Sequence[int], ways: int) -> int:
        """Return the FLOPs of scoring one image of a shape [channels, side, side], as torch counts them, without building the net."""
        width, (inputs, *_, side) = self.width_of(encoding), shape
        found = 2 * 9 * inputs * width * side**2
        side = side // 2 if self.stem_halves else side
        for operation, halves in zip(self.operations_of(encoding), self.halves, strict=True):
            found += OPERATIONS[operation].flops(width, side)
            side = side // 2 if halves else side
        return found + 2 * ways * width * side**2


def _at(places: Sequence[int], values: Sequence[int], length: int, rest: int) -> Genes:
    """Return `values` at their places, and `rest` elsewhere."""
    found = [rest] * length
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return tuple(found)


def part_name(layer: int, operation: str) -> str:
    """Return the name of a layer's operation among the parts of a net, and of a supernet."""
    return f"layer{layer}.{operation}"
