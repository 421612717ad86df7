"""What a few-shot data set loads as: domains, each with labelled images of many classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Images(Protocol):
    """Images of one shape, in memory or read where they are indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number, channels, height and width."""
        ...

    def __getitem__(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the images of these numbers, shape [n, channels, height, width]."""
        ...


@dataclass(frozen=True, eq=False)
class Domain:
    """Labelled images of one domain, such as a script: targets int64 of shape [n], numbers of `classes`."""

    images: Images
    targets: npt.NDArray[np.int64]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class FewShot:
    """Domains by name whose classes few-shot tasks are drawn from: what a data set of the task 'few-shot' loads as.

    No class is in two of the parts; a domain may be in several, with other classes. `far` holds domains unlike those of training, which
    are tested on as well.
    """

    train: Mapping[str, Domain]
    validation: Mapping[str, Domain]
    test: Mapping[str, Domain]
    far: Mapping[str, Domain] = field(default_factory=dict)
