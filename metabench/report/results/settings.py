"""What makes results comparable: problem and data set, the setting, and where and how it was measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, TypeAlias

_SEPARATORS = "._- =,;:()[]/·"
_SLUG_AT_MOST = 120  # characters: file systems take names of 255 bytes, and others stand before and behind a slug
Row = dict[str, Any]


@dataclass(frozen=True, order=True)
class Task:
    """A problem on a data set: a section of the page."""

    problem: str
    dataset: str

    @property
    def slug(self) -> str:
        """Name for files."""
        return slug(self.problem, self.dataset)


@dataclass(frozen=True, order=True)
class Place:
    """Where and how a row was measured. Bytes and the last digits of qualities depend on the kernels, times on the hardware.

    kernels, instruction_set: of the CPU; empty on a GPU, and in rows of versions that did not record them.
    """

    device: str
    dtype: str
    kernels: str
    instruction_set: str
    hardware: str

    @classmethod
    def of(cls, row: Row) -> Place:
        """Return the place of a row."""
        used = row["instruction_set"] or ""
        return cls(row["device"], row["dtype"], (row["kernels"] or "") if used else "", used, row["hardware"])

    @property
    def kernel_words(self) -> str:
        """The CPU kernels, as 'portable kernels (AVX2)'; empty where they are not known."""
        return f"{self.kernels} kernels ({self.instruction_set})" if self.instruction_set else ""

    @property
    def caption_of_kernels(self) -> str:
        """The same for a caption, with a note that native kernels determine the bytes."""
        own = f", whose bytes are those of {self.instruction_set}" * (self.kernels == "native")
        return f"{self.kernel_words}{own}" if self.kernel_words else ""

    @property
    def caption(self) -> str:
        """Hardware and kernels for a caption."""
        return ", ".join(filter(None, (self.hardware, self.caption_of_kernels)))


@dataclass(frozen=True, order=True)
class Setting:
    """What two entries must share to be compared: task, size, the problem's options, experiment, kind and where they ran."""

    task: Task
    size: str
    problem_variant: str
    experiment: str
    kind: str
    trains: bool
    place: Place

    @classmethod
    def of(cls, row: Row) -> Setting:
        """Return the setting of a row."""
        return cls(
            Task(row["problem"], row["dataset"]),
            row["size"],
            row["problem_variant"],
            row["experiment"],
            row["kind"],
            row["outer_steps"] > 0,
            Place.of(row),
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """What it shares with a second run of its baseline, which does not train, and which experiments may share."""
        return (self.task, self.size, self.problem_variant, self.place)


Group: TypeAlias = tuple[Setting, int, int]
"""What comparable entries share: setting, inner steps and outer steps."""


def slug(*parts: str) -> str:
    """Join names into a file's name: lower-case ASCII letters, digits, '.', '_' and '-' only; a digest ends it if more is lost."""
    cleaned = (
        "".join(letter if (letter.isalnum() and letter.isascii()) or letter in "._" else "-" for letter in part)
        for part in parts
    )
    name = "-".join(text.strip("-") for text in cleaned if text.strip("-")).lower()
    lost = any(not (letter.isascii() and letter.isalnum()) and letter not in _SEPARATORS for letter in "".join(parts))
    if lost or len(name) > _SLUG_AT_MOST:
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
        name = "-".join(filter(None, (name[:_SLUG_AT_MOST].strip("-"), digest)))
    return name
