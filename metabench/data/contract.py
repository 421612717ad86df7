"""What a data set declares, and what loading returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from metabench.core.registry import Declarable
from metabench.core.types import Progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Read = Callable[[str], bytes]
"""Returns the verified bytes of a data set's file by name."""


@dataclass(frozen=True)
class DataFile:
    """One file of a data set: its name, its size in bytes and its sha256, in hexadecimal.

    `belongs_to` names the data set whose folder holds the file, if that is another one: a set composed of
    others ships no copy of theirs.
    """

    name: str
    size: int
    sha256: str
    belongs_to: str = ""


@dataclass(frozen=True)
class DatasetCard:
    """Description of a data set, known without loading it.

    `task` says how it loads: 'classification' as `Classification`, 'text' as `Text` or `Domains`, 'pictures' as `Pictures`, 'weights'
    as the bytes of a file, 'none' as None, any other word as a problem with this word expects. `citation` is a key of
    `references.bib`, or several separated by spaces, or BibTeX. `sizes` counts examples per split, bytes for text, over all domains,
    numbers for weights. `input_shape` is the shape of one example, empty for text.
    `domains` names the domains of a text that loads as `Domains`, in order. `embedded` sets ship with the package;
    `fetched` sets need `metabench fetch NAME` first; `library` is the Python module that provides the set, if any. A set
    with none of the three has no data at all, or is the user's own.
    """

    name: str
    title: str
    task: str
    licence: str = ""
    attribution: str = ""
    source: str = ""
    citation: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    input_shape: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    embedded: bool = False
    fetched: bool = False
    library: str = ""
    files: tuple[DataFile, ...] = ()


@dataclass(frozen=True)
class Classification:
    """Labelled images: inputs float32 in [0, 1] of shape [n, channels, height, width], targets int64 of shape [n]."""

    train_inputs: npt.NDArray[np.float32]
    train_targets: npt.NDArray[np.int64]
    test_inputs: npt.NDArray[np.float32]
    test_targets: npt.NDArray[np.int64]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """Running text as bytes: three uint8 arrays, contiguous and disjoint spans of one text, in this order."""

    train: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.uint8]
    test: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Domains:
    """Texts of different domains by name, in the order of the data set; each has its own disjoint spans."""

    texts: Mapping[str, Text]


@dataclass(frozen=True)
class Pictures:
    """Colour pictures by name, uint8 arrays of shape [height, width, 3]: photographs by part, and styles, the first to train with."""

    train: Mapping[str, npt.NDArray[np.uint8]]
    validation: Mapping[str, npt.NDArray[np.uint8]]
    test: Mapping[str, npt.NDArray[np.uint8]]
    styles: Mapping[str, npt.NDArray[np.uint8]]


Data: TypeAlias = Any
"""The result of loading: what the problems that name the data set expect; None for a problem that needs no data."""


Run = Callable[[Sequence[str], Path], None]
"""Runs a command in a folder; raises SourceFailed if it is not installed or fails."""


class Source(Protocol):
    """A place to get files from."""

    @property
    def title(self) -> str:
        """What the place is called in messages."""
        ...

    def supply(self, files: Sequence[DataFile], folder: Path, progress: Progress, run: Run) -> None:
        """Put all of `files` into `folder`; if some fail, put the others there and raise SourceFailed with the reason."""
        ...


@dataclass(frozen=True)
class Dataset(Declarable):
    """A declared data set: its card, how its files become arrays, the sources of fetched files, and the user's own files.

    A module declares its data sets by naming them. `decode` reads the card's files through `Read`, which checks them, and `files`
    itself: their content becomes part of the hash of the cells that use them.
    """

    card: DatasetCard
    decode: Callable[[Read], Data]
    sources: tuple[Source, ...] = ()
    files: tuple[Path, ...] = ()
