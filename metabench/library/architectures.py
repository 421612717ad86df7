"""Networks to rank on tasks of `few_shot_regression`: their kernels, in closed form and as drawn, and their losses after meta-training."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from metabench.core.errors import Diverged, MetabenchError, Unsupported, unknown
from metabench.core.lazy import torch
from metabench.core.problem import Setting
from metabench.core.randomness import generator
from metabench.kernels.activations import activation
from metabench.kernels.condition import Architecture
from metabench.kernels.convolutional import ConvNet
from metabench.kernels.dense import MLP, Kernels
from metabench.kernels.empirical import Empirical
from metabench.kernels.flow import Flow
from metabench.kernels.meta_kernel import Episode, Kernel, MetaKernel
from metabench.kernels.responses import Steps
from metabench.methods import method
from metabench.models.wide import WideMLP
from metabench.problems.few_shot_regression import INFINITE, FewShotRegression, Options
from metabench.training.loop import train
from metabench.training.run import Run

SINUSOIDS = "sinusoids"
"""The name of tasks that need no data set."""


@dataclass(frozen=True)
class Tasks:
    """Where tasks come from.

    Attributes:
        dataset: 'sinusoids', or a data set of `few_shot_regression` with classes.
        options: of that problem; depth and activation are those of each architecture.
        inner_steps: K of meta-training.
    """

    dataset: str = "digits"
    options: Options = dataclasses.field(default_factory=Options)
    inner_steps: int = 5

    def loaded(self) -> Any:
        """Return the data; raise MetabenchError for a data set without such tasks."""
        from metabench import data

        known = [SINUSOIDS, *(name for name in FewShotRegression.card.datasets if name != "analytic")]
        if self.dataset not in known:
            raise unknown("data set with tasks of few_shot_regression", self.dataset, known)
        return data.load("analytic" if self.dataset == SINUSOIDS else self.dataset)

    def problem(self, of: Mlp, seed: int, loaded: Any) -> FewShotRegression:
        """Return the problem of an architecture: its tasks depend on the seed alone."""
        options = dataclasses.replace(self.options, depth=of.depth, activation=of.activation)
        # Of finite networks rounding is far below what their width does.
        dtype = torch.float64 if of.width is None else torch.float32
        return FewShotRegression(Setting(of.size, options, self.inner_steps, seed, torch.device("cpu"), dtype, loaded))

    def drawn(self, seed: int, loaded: Any) -> Sequence[Episode]:
        """Return the tasks trained on; raise MetabenchError where there are too few classes or images."""
        return self.problem(Mlp(1, None, self.options.activation), seed, loaded).episodes[0]


@dataclass(frozen=True)
class Mlp:
    """An MLP: hidden layers, their width, None if infinite, and a name of an activation with a kernel."""

    depth: int
    width: int | None
    activation: str

    def __post_init__(self) -> None:
        """Raise MetabenchError where there is no such network."""
        if self.depth < 1 or (self.width is not None and self.width < 1):
            raise MetabenchError(
                f"an MLP with {self.depth} hidden layers of width {self.width}: expected 1 or more of each"
            )
        activation(self.activation)

    @property
    def kind(self) -> str:
        """Return what sort of network it is, for tables."""
        return "MLP"

    @property
    def size(self) -> str:
        """Return the size of `few_shot_regression` that this is."""
        return INFINITE if self.width is None else f"w{self.width}"

    @property
    def name(self) -> str:
        """Return a name for tables."""
        return f"{self.activation} {self.depth} x {INFINITE if self.width is None else self.width}"

    def architecture(self, inputs: int, options: Options) -> Architecture:
        """Return what is scored; inputs: dimensions of one."""
        kernel = MLP(self.depth, self.activation, options.W_std, options.b_std).kernels
        if self.width is None:
            return Architecture(self.name, math.inf, kernel)
        between = activation(self.activation)
        network = WideMLP(inputs, self.width, self.depth, between, options.W_std, options.b_std)
        sizes = [inputs, *[self.width] * self.depth, 1]
        count = sum(fan_out * (fan_in + (options.b_std > 0)) for fan_in, fan_out in itertools.pairwise(sizes))

        def drawn(seed: int) -> Empirical:
            params = network.initial(generator(seed, f"draw of {self.name}"), torch.float64)
            return Empirical(network, params, network.head)

        return Architecture(self.name, count, kernel, drawn)


@dataclass(frozen=True)
class Convolutional:
    """An infinitely wide network of 3 x 3 convolutions on square images of one channel.

    Attributes:
        depth: convolutions.
        activation: a name of an activation with a kernel.
        readout: 'flatten', 'pool' or 'gap', as `ConvNet` has it.
    """

    depth: int
    activation: str
    readout: str

    width: ClassVar[None] = None

    def __post_init__(self) -> None:
        """Raise MetabenchError where there is no such network."""
        ConvNet(self.depth, self.activation, readout=self.readout)

    @property
    def kind(self) -> str:
        """Return what sort of network it is, for tables."""
        return f"convolutions, {self.readout}"

    @property
    def name(self) -> str:
        """Return a name for tables."""
        return f"{self.activation} {self.depth} convolutions, {self.readout}"

    def architecture(self, inputs: int, options: Options) -> Architecture:
        """Return what is scored; inputs: pixels of an image.

        Raises:
            MetabenchError: inputs are no square images.
        """
        side = math.isqrt(inputs)
        if side < 2 or side**2 != inputs:
            raise MetabenchError(
                f"inputs of {inputs} dimensions are not square images, which convolutions need: rank them on a data set of images"
            )
        network = ConvNet(self.depth, self.activation, options.W_std, options.b_std, self.readout)

        def kernel(rows: torch.Tensor, columns: torch.Tensor) -> Kernels:
            images = [flat.unflatten(1, (1, side, side)) for flat in (rows, columns)]
            return network.kernels(images[0], None if columns is rows else images[1])

        return Architecture(self.name, math.inf, kernel)


Candidate: TypeAlias = "Mlp | Convolutional"


def convolutions(depths: Sequence[int], activations: Sequence[str], readouts: Sequence[str]) -> list[Convolutional]:
    """Return a convolutional network per depth, activation and readout, each once; raise MetabenchError as `Convolutional`."""
    return list(dict.fromkeys(Convolutional(*of) for of in itertools.product(depths, activations, readouts)))


def mlps(depths: Sequence[int], widths: Sequence[int | None], activations: Sequence[str]) -> list[Mlp]:
    """Return an MLP per depth, width and activation, each once; raise MetabenchError as `Mlp`."""
    return list(dict.fromkeys(Mlp(*of) for of in itertools.product(depths, widths, activations)))


@dataclass(frozen=True)
class Losses:
    """Mean losses of queries after adaptation, of test tasks and of those trained on; infinite where meta-training diverges."""

    test: float
    training: float


def trained(of: Candidate, tasks: Tasks, seed: int, loaded: Any, outer_steps: int, by: str = "unrolled") -> Losses:
    """Return the losses after meta-training.

    By a method of the suite; of infinite width `unrolled` has a closed form, which is MAML's.

    Raises:
        MetabenchError: the method is unknown, cannot learn initial parameters, or would train convolutions of infinite width; or the
            tasks cannot be drawn.
    """
    problem = tasks.problem(of if isinstance(of, Mlp) else Mlp(1, None, of.activation), seed, loaded)
    if of.width is None and by == "unrolled":
        kernel = of.architecture(problem.episodes[0][0].support.shape[1], tasks.options).kernel
        assert kernel is not None
        return in_closed_form(kernel, problem, outer_steps)
    if isinstance(of, Convolutional):
        raise MetabenchError(
            f"method '{by}' with convolutions of infinite width: their meta-training has a closed form for 'unrolled' alone"
        )
    called = method(by)
    run = Run.fresh(problem, generator(seed, "training"))
    try:
        for _ in train(problem, called, called.options(), run, outer_steps):
            pass
    except Diverged:
        return Losses(math.inf, math.inf)
    except Unsupported as error:
        raise MetabenchError(f"method '{by}' cannot learn initial parameters: {error}") from error
    found = problem.evaluate({}, run.meta)
    return Losses(found["test loss"], found["training loss"])


def in_closed_form(kernel: Kernel, problem: FewShotRegression, outer_steps: int) -> Losses:
    """Return the losses of an infinitely wide network with a kernel on the tasks of a problem, after meta-training as MAML.

    The rates are the parts of the largest ones that the problem's options name: those of this kernel, whatever the problem's own.

    Raises:
        MetabenchError: as the kernel and the flow.
    """
    options, (of, others) = problem.setting.options, problem.episodes
    head = options.adapts == "head"
    least = math.inf
    for one in (*of, *others):
        gram = kernel(one.support, one.support)
        curvature = float(torch.linalg.eigvalsh(gram.nngp if head else gram.ntk)[-1]) / len(one.support)
        least = min(least, 2 / (curvature + options.proximal))
    steps = Steps(problem.setting.inner_steps, options.learning_rate * least, options.proximal)
    found = MetaKernel(kernel, steps, head=head).joint([*of, *others])
    first, residual = found.first(len(of)), found.adapted - found.labels
    flow = Flow(found.phi[first][:, first], residual[first])
    left, change = flow.after_steps(outer_steps, options.outer_learning_rate * flow.largest_rate())
    away = residual[~first] + found.phi[~first][:, first] @ change
    return Losses(*(float(one.square().mean() / 2) for one in (away, left)))
