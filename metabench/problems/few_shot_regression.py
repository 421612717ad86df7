"""Few-shot regression by wide networks: learning the initial parameters from which K steps on a support fit the queries of a task.

f(w) = mean over a support of (g(x) - y)^2 / 2 ; F = the same on the task's queries, at w_K, which starts from the meta-parameters. Finn,
Abbeel & Levine 2017 (MAML). All tasks of a fixed pool are in every outer step, so meta-training is gradient descent without noise, and in
the limit of infinite width it has a closed form: Wang, Sun & Li 2020. `infinite` is a size like any other: on the points of its tasks, an
infinitely wide network *is* the linear model on a factor of their tangent kernel, and every method runs on it unchanged.

Networks are centred: g(x) = h(x; w) - h(x; w_0), with w_0 as drawn, so all begin at zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.inner import detached, run
from metabench.autodiff.optimisers import SGD
from metabench.autodiff.traced.flat_graph import unseen
from metabench.core import Batch, MetaRole, Metric, Problem, ProblemCard, Tree, Window, option, tree
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import OuterOptimiser, Setting
from metabench.core.randomness import generator
from metabench.core.types import InnerState
from metabench.kernels.activations import ACTIVATIONS, activation
from metabench.kernels.dense import MLP
from metabench.kernels.meta_kernel import Episode, MetaKernel
from metabench.kernels.responses import Steps
from metabench.models.wide import LinearModel, WideMLP, factor

INFINITE = "infinite"
_WIDTHS = (256, 64, 128, 512, 1024, 2048, 4096, 8192, 16384)
_LOSS, _TRAINING, _MOVED = "test loss", "training loss", "distance from the initial parameters"


@dataclass(frozen=True)
class Options:
    """Options of `few_shot_regression`."""

    tasks: int = option(6, minimum=1, help="tasks trained on, all of them in every outer step")
    test_tasks: int = option(8, minimum=1, help="tasks of the test")
    shots: int = option(5, minimum=1, help="examples of a support: of each class, for images")
    queries: int = option(5, minimum=1, help="examples that are queried, likewise")
    amplitude: float = option(1.0, above=0, help="largest amplitude of sinusoids; the least is a fiftieth")
    reach: float = option(2.0, above=0, help="inputs of sinusoids are drawn from -reach to reach")
    depth: int = option(1, minimum=1, help="hidden layers")
    activation: str = option("relu", choices=tuple(ACTIVATIONS), help="of the hidden layers")
    W_std: float = option(2**0.5, above=0, help="of weights, before the division by the root of the fan-in")
    b_std: float = option(0.1, minimum=0, help="of biases; 0: there are none")
    learning_rate: float = option(
        0.5,
        above=0,
        help="of SGD on a support, as a part of the rate at which the steepest direction of any support diverges",
    )
    outer_learning_rate: float = option(
        0.5, above=0, help="of SGD on the meta-parameters, as a part of the rate at which MAML in the limit diverges"
    )


class FewShotRegression(Problem):
    """Learn initial parameters of a wide network."""

    card = ProblemCard(
        title="few-shot regression by wide networks, from learned initial parameters",
        datasets=("digits", "fashion_mnist_10k", "analytic"),
        sizes={f"w{width}": f"MLP, {width} units in a hidden layer" for width in _WIDTHS}
        | {INFINITE: "MLP of infinite width: linear in features of its tangent kernel"},
        metrics=(Metric(_LOSS, "min"), Metric(_TRAINING, "min"), Metric(_MOVED, "min")),
        citation="wang2020global",
        options=Options,
        inner_steps=5,
        outer_steps=50,
    )
    roles = frozenset({MetaRole.START})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options: Options = setting.options
        self._network_kernel = MLP(options.depth, options.activation, options.W_std, options.b_std)
        # Rates and features are numbers of the tasks, wanted where a prediction runs the rest without values, too.
        with unseen():
            drawn = _tasks(setting)
            rate = options.learning_rate * min(2 * len(one.support) / self._largest(one) for one in drawn)
            self.limit = MetaKernel(self._network_kernel.kernels, Steps(setting.inner_steps, rate))
            self._episodes, self._test_episodes = drawn[: options.tasks], drawn[options.tasks :]
            outer_rate = options.outer_learning_rate * self._largest_outer_rate()
            points = torch.cat([part for one in drawn for part in (one.support, one.queries)])
            given = factor(self._network_kernel.kernels(points).ntk) if setting.size == INFINITE else points
            labels = [part[:, 0].numpy() for one in drawn for part in (one.support_labels, one.query_labels)]
            inputs = given.numpy()
        self.optimiser = SGD(rate)
        self.outer_optimiser = OuterOptimiser("SGD", outer_rate)
        self.batch = len(labels[0])
        self._network = self._made(inputs.shape[1])
        self._start = self._network.initial(generator(setting.seed, "initial params"), torch.float64)
        placed = self._placed(torch.as_tensor(inputs), [torch.as_tensor(one) for one in labels])
        pairs = list(zip(placed[::2], placed[1::2], strict=True))
        self._train, self._test = pairs[: options.tasks], pairs[options.tasks :]
        self._start = {name: leaf.to(setting.device, setting.dtype) for name, leaf in self._start.items()}

    @property
    def episodes(self) -> tuple[Sequence[Episode], Sequence[Episode]]:
        """The tasks trained on and those of the test, in float64 on the CPU: inputs, and labels of shape [n, 1]."""
        return self._episodes, self._test_episodes

    def _largest(self, one: Episode) -> float:
        """Return the largest eigenvalue of the tangent kernel of a support, in the limit."""
        return float(torch.linalg.eigvalsh(self._network_kernel.kernels(one.support).ntk)[-1])

    def _largest_outer_rate(self) -> float:
        """Return the outer rate from which on MAML diverges, in the limit.

        Raises:
            MetabenchError: adaptation alone fits every query.
        """
        phi = self.limit.between(self._episodes, self._episodes)
        largest = float(torch.linalg.eigvalsh((phi + phi.mT) / 2)[-1])
        if not largest > 0:
            raise MetabenchError("few_shot_regression: adaptation alone fits every query: nothing is left to learn")
        return 2 * len(phi) / largest

    def _made(self, dimensions: int) -> WideMLP | LinearModel:
        options, size = self.setting.options, self.setting.size
        if size == INFINITE:
            return LinearModel(dimensions)
        between = activation(options.activation)
        return WideMLP(dimensions, int(size.removeprefix("w")), options.depth, between, options.W_std, options.b_std)

    def _placed(self, inputs: torch.Tensor, labels: Sequence[torch.Tensor]) -> list[Batch]:
        """Return a batch of each support and of each part that is queried.

        What is fitted is h(x; w) with targets y + h(x; w_0), which is the same as g(x) with targets y.
        """
        with torch.no_grad():
            targets = torch.cat(list(labels)) + self._network(self._start, inputs)
        sizes = [len(one) for one in labels]
        return [
            {
                "inputs": x.to(self.setting.device, self.setting.dtype),
                "targets": y.to(self.setting.device, self.setting.dtype),
            }
            for x, y in zip(inputs.split(sizes), targets.split(sizes), strict=True)
        ]

    def initial(self) -> Tree:
        """Return the parameters as drawn; zero for the limit."""
        return dict(self._start)

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return the meta-parameters: every inner run starts there."""
        return dict(meta)

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean over a support of (g(x) - y)^2 / 2."""
        return self._loss(params, batch)

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean over queries of (g(x) - y)^2 / 2."""
        return self._loss(params, batch)

    def _loss(self, params: Tree, batch: Batch) -> torch.Tensor:
        return (self._network(params, batch["inputs"]) - batch["targets"]).square().mean() / 2

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the windows of all tasks, the same in every outer step."""
        begins = self.initial()
        windows = [
            Window.ending_in((support,) * self.setting.inner_steps, queries, begins) for support, queries in self._train
        ]
        yield from itertools.repeat(windows)

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the mean loss of queries after adaptation, of test tasks and of those trained on, and |l - l_0|."""
        return {
            _LOSS: self._adapted_loss(meta, self._test),
            _TRAINING: self._adapted_loss(meta, self._train),
            _MOVED: float(tree.norm(tree.subtract(meta, self._start))),
        }

    def observe(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the losses along the run."""
        return {_LOSS: self._adapted_loss(meta, self._test), _TRAINING: self._adapted_loss(meta, self._train)}

    def _adapted_loss(self, meta: Tree, tasks: Sequence[tuple[Batch, Batch]]) -> float:
        start = detached(InnerState(self.start(meta, meta), self.optimiser.init(meta)))
        losses = []
        for support, queries in tasks:
            adapted = run(self, start, meta, (support,) * self.setting.inner_steps)
            with torch.no_grad():
                losses.append(float(self._loss(adapted.params, queries)))
        return sum(losses) / len(losses)


def _tasks(setting: Setting) -> list[Episode]:
    """Return the tasks trained on, then those of the test, drawn one by one."""
    options: Options = setting.options
    numbers = [f"training task {n}" for n in range(options.tasks)] + [
        f"test task {n}" for n in range(options.test_tasks)
    ]
    streams = (generator(setting.seed, number) for number in numbers)
    if setting.data is None or not hasattr(setting.data, "train_inputs"):
        return [_sinusoid(options, stream) for stream in streams]
    images = {
        "training": _by_class(setting.data.train_inputs, setting.data.train_targets, options),
        "test": _by_class(setting.data.test_inputs, setting.data.test_targets, options),
    }
    return [_pair(images[number.split()[0]], options, stream) for number, stream in zip(numbers, streams, strict=True)]


def _sinusoid(options: Options, stream: torch.Generator) -> Episode:
    """Return y = A sin(x + phase), A from amplitude / 50 to amplitude. Finn et al. 2017, section 5.1, with A from 0.1 to 5 on [-5, 5]."""
    share, phase = torch.rand(2, generator=stream, dtype=torch.float64)
    amplitude, phase = options.amplitude * (0.02 + 0.98 * share), math.pi * phase
    inputs = options.reach * (
        2 * torch.rand((options.shots + options.queries, 1), generator=stream, dtype=torch.float64) - 1
    )
    labels = amplitude * torch.sin(inputs + phase)
    support = options.shots
    return Episode(inputs[:support], labels[:support], inputs[support:], labels[support:])


def _by_class(inputs: Any, targets: Any, options: Options) -> list[torch.Tensor]:
    """Return the images of each class, flattened, of norm sqrt(dimensions).

    Raises:
        MetabenchError: there are fewer than two classes, or a class has fewer images than a task takes.
    """
    flat = torch.as_tensor(inputs).flatten(1).to(torch.float64)
    flat = flat * flat.shape[1] ** 0.5 / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)
    labels = torch.as_tensor(targets)
    found = [flat[labels == label] for label in labels.unique()]
    least = min(map(len, found))
    if len(found) < 2 or least < options.shots + options.queries:
        raise MetabenchError(
            f"few_shot_regression: a task has two classes with {options.shots + options.queries} images each, and of {len(found)} classes "
            f"one has {least}"
        )
    return found


def _pair(images: Sequence[torch.Tensor], options: Options, stream: torch.Generator) -> Episode:
    """Return a task that tells two classes apart: labels 1 and -1."""
    parts = []
    for label, place in zip((1.0, -1.0), torch.randperm(len(images), generator=stream)[:2].tolist(), strict=True):
        chosen = images[place][torch.randperm(len(images[place]), generator=stream)[: options.shots + options.queries]]
        parts.append((chosen, torch.full((len(chosen), 1), label, dtype=torch.float64)))
    shots = options.shots
    support, queries = (
        [torch.cat(two) for two in zip(*((inputs[cut], labels[cut]) for inputs, labels in parts), strict=True)]
        for cut in (slice(shots), slice(shots, None))
    )
    return Episode(*support, *queries)
