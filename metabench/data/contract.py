"""What a data set declares, and what loading returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from metabench.core.types import Progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Task = Literal["classification", "text", "none"]

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

    `citation` is a key of `references.bib`, or several separated by spaces. `sizes` counts examples per split for
    classification and bytes per split for text, over all domains. `input_shape` is the shape of one example, empty for
    text. `domains` names the domains of a text that loads as `Domains`, in order. `embedded` sets ship with the package;
    `fetched` sets need `metabench fetch NAME` first; `library` is the Python module that provides the set, if any. A set
    with none of the three has no data at all, or is the user's own.
    """

    name: str
    title: str
    task: Task
    licence: str
    attribution: str
    source: str
    citation: str
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


Data = Classification | Text | Domains | None
"""The result of loading; None for a problem that needs no data."""


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
class Dataset:
    """A declared data set: its card, how its files become arrays, and the sources of fetched files.

    A module of `metabench.data.sets` declares its data sets in a tuple named `DATASETS`; the registry finds them there.
    """

    card: DatasetCard
    decode: Callable[[Read], Data]
    sources: tuple[Source, ...] = ()
