"""What declares a model: the word in `sizes:` of a suite, and how the model is made. Each file of networks declares its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from metabench.core.declarations import check_fields
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.registry import Declarable, Registry
from metabench.core.segments import Segment
from metabench.core.types import Tree


class Network(Protocol):
    """A network as a pair of pure functions."""

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return parameters drawn from the generator, the same in every dtype up to rounding."""

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return class scores [n, classes] of inputs [n, ...], or the next tokens' logits [n, sequence, vocabulary] of tokens."""


class LanguageModel(Network, Protocol):
    """A network on tokens that is a chain of segments, as `Transformer`."""

    vocabulary: int
    """Number of tokens."""
    head: Callable[[Tree, torch.Tensor], torch.Tensor]
    """From the head's parameters, by its own names, and the last hidden state to logits."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name."""

    def body(self) -> tuple[Segment, ...]:
        """Return all segments but the last, which a problem makes of the head and its loss."""

    def head_names(self) -> tuple[tuple[str, str], ...]:
        """Return the parameters of the head: (name within, name in the tree) each."""


@dataclass(frozen=True)
class NamedModel(Declarable):
    """A model that problems offer by name: a `NamedClassifier` or a `NamedLanguageModel`.

    Attributes:
        name: the word in `sizes:`.
        title: one line for listings.
        family: what it is a size of, as "MLP": cost is comparable along sizes of one family only.
        make: from what a problem knows to the model.
        order: its place in listings.
    """

    name: str
    title: str
    family: str
    make: Callable[..., Any]
    order: float = math.inf


class NamedClassifier(NamedModel):
    """A classifier: `make(input_shape, classes)` returns a `Network`, or a `torch.nn.Module` with parameters as its constructor draws them.

    `input_shape` is that of one example, as (channels, height, width).
    """


class NamedLanguageModel(NamedModel):
    """A language model: `make(vocabulary, compute)` returns a `LanguageModel`.

    `vocabulary` is the least number of tokens; `compute` is the dtype of the arithmetic, "" for that of the parameters.
    """


def check_model(model: NamedModel, name: str) -> None:
    """Raise MetabenchError if a model's declaration cannot be listed or planned."""
    what = f"model '{name}'"
    check_fields(model, {"title": (str,), "family": (str,), "order": (int, float)}, what)
    if not callable(model.make):
        raise MetabenchError(f"{what}: make is {model.make!r}, expected a function")


def models_of(kind: type[NamedModel], sort: str, group: str) -> Registry[Any]:
    """Return the registry of one kind of model."""
    return Registry(
        sort=sort,
        kind=kind,
        package=__package__,
        group=group,
        name=lambda model, stem: model.name,
        check=check_model,
        hint=f"name a {kind.__module__}.{kind.__name__}",
    )


def check_made(made: Any, size: str, parts: Sequence[str], expected: str) -> None:
    """Raise MetabenchError if what a model's `make` returned lacks one of its `parts`, attributes by name."""
    lacking = [part for part in parts if not hasattr(made, part)]
    if lacking or not callable(made):
        lacks = f"lacks {lacking[0]!r}" if lacking else "cannot be called"
        raise MetabenchError(f"model '{size}': it makes a {type(made).__name__}, which {lacks}: expected {expected}")
