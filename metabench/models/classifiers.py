"""All named classifiers, of every family: those of this folder, of other installed packages and of plugins."""

from __future__ import annotations

from collections.abc import Callable

from metabench.core.lazy import torch
from metabench.core.registry import Registry, pick
from metabench.core.types import Tree
from metabench.models.modules import as_function
from metabench.models.named import NamedClassifier, Network, check_made, models_of

CLASSIFIERS: Registry[NamedClassifier] = models_of(NamedClassifier, "classifier", "metabench.classifiers")


def classifier(
    size: str,
    input_shape: tuple[int, ...],
    classes: int,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Network:
    """Return the classifier of a named size for inputs of a shape (without the examples' dimension).

    device, dtype: where a `torch.nn.Module` computes; any other network computes where its parameters are.

    Raises:
        MetabenchError: no network has that name, and the nearest valid one is named; what is made is none; a module as `as_function`.
    """

    def make() -> Network | torch.nn.Module:
        return declared.make(input_shape, classes)

    declared = pick("size", size, CLASSIFIERS.loaded())
    made = make()
    if isinstance(made, torch.nn.Module):
        return _ModuleNetwork(make, device, dtype)
    check_made(made, size, ("initial",), "a torch.nn.Module, or a network with initial(generator, dtype)")
    return made


class _ModuleNetwork:
    """A `torch.nn.Module` as a network. Its frozen parameters and buffers are constants, the same for every generator."""

    def __init__(
        self, make: Callable[[], torch.nn.Module], device: torch.device | None, dtype: torch.dtype | None
    ) -> None:
        self._make, self._device = make, device
        _, self._function = as_function(self._drawn(0), device, dtype)

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return parameters as the module's constructor draws them, with the generator's seed."""
        return as_function(self._drawn(generator.initial_seed()), self._device, dtype)[0]

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return class scores, shape [n, classes]."""
        return self._function(params, inputs)

    def _drawn(self, seed: int) -> torch.nn.Module:
        # A constructor draws from global random numbers.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._make()
