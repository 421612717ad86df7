"""Few-shot regression by wide networks: learning the initial parameters from which K steps on a support fit the queries of a task.

f(w) = mean over a support of (g(x) - y)^2 / 2 ; F = the same on the task's queries, at w_K, which starts from the meta-parameters. Finn,
Abbeel & Levine 2017 (MAML). All tasks of a fixed pool are in every outer step, so meta-training is gradient descent without noise, and in
the limit of infinite width it has a closed form: Wang, Sun & Li 2020. `infinite` is a size like any other: on the points of its tasks, an
infinitely wide network *is* the linear model on a factor of their tangent kernel, and every method runs on it unchanged.

With a proximal term c / 2 |w - l|^2 in f it is iMAML (Rajeswaran et al. 2019), which implicit methods can answer: the meta-parameters
enter the inner loss, too. Where the head alone adapts, it is ANIL (Raghu et al. 2020): the body is a meta-parameter of both losses.

Networks are centred: g(x) = h(x; w) - h(x; w_0), with w_0 as drawn, so all begin at zero.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metabench.autodiff.inner import detached, run
from metabench.autodiff.optimisers import SGD
from metabench.autodiff.traced.flat_graph import unseen
from metabench.core import Batch, MetaRole, Metric, Problem, ProblemCard, Tree, Window, option, tree
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import OuterOptimiser, Setting
from metabench.core.randomness import generator
from metabench.core.types import InnerState
from metabench.kernels.activations import ACTIVATIONS, activation
from metabench.kernels.dense import MLP
from metabench.kernels.empirical import Empirical
from metabench.kernels.flow import SINGULAR, Flow
from metabench.kernels.meta_kernel import Episode, MetaKernel
from metabench.kernels.meta_kernel import labels as labels_of
from metabench.kernels.names import (
    CONDITION,
    DISTANCE,
    INFINITE,
    LEAST_LOSS,
    LIMIT_RATE,
    OWN_RATE,
    PREDICTED,
    QUERY,
    RELATIVE,
    TEST_LOSS,
    TEST_OUTPUTS,
    TRAINING_LOSS,
    TRAINING_OUTPUTS,
)
from metabench.kernels.responses import Steps
from metabench.models.wide import LinearModel, WideMLP, factor
from metabench.tasks.regression import PLANE, SINUSOIDS, drawn_tasks

_WIDTHS = (256, 64, 128, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True)
class Options:
    """Options of `few_shot_regression`."""

    tasks: int = option(6, minimum=1, help="tasks trained on, all of them in every outer step")
    test_tasks: int = option(8, minimum=1, help="tasks of the test")
    shots: int = option(5, minimum=1, help="examples of a support: of each class, for images")
    queries: int = option(5, minimum=1, help="examples that are queried, likewise")
    amplitude: float = option(1.0, above=0, help="largest amplitude of sinusoids; the least is a fiftieth")
    reach: float = option(2.0, above=0, help="inputs of sinusoids are drawn from -reach to reach")
    family: str = option(
        SINUSOIDS,
        choices=(SINUSOIDS, PLANE),
        help=f"tasks of the data set 'analytic'; '{PLANE}': two of one example each, on which first-order MAML diverges in the limit",
    )
    spread: float = option(1.0, minimum=0, help="how far sinusoids differ in amplitude and phase; 0: all tasks are one")
    noise: float = option(0.0, minimum=0, help="standard deviation of noise on the labels of all tasks")
    shared_queries: bool = option(
        False,
        help="all tasks query the same inputs; those on images then tell the same two classes apart, with signs drawn",
    )
    depth: int = option(1, minimum=1, help="hidden layers")
    activation: str = option("relu", choices=tuple(ACTIVATIONS), help="of the hidden layers")
    W_std: float = option(2**0.5, above=0, help="of weights, before the division by the root of the fan-in")
    b_std: float = option(0.1, minimum=0, help="of biases; 0: there are none")
    parametrisation: str = option(
        "ntk",
        choices=("ntk", "standard"),
        help="of a finite width: 'standard' trains mostly the last layer, and has no limit that trains",
    )
    adapts: str = option(
        "all", choices=("all", "head"), help="what the inner run adapts: all layers, or the last alone (ANIL)"
    )
    proximal: float = option(
        0.0, minimum=0, help="c of the proximal term c / 2 |w - l|^2 in the inner loss (iMAML); 0: there is none"
    )
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
        metrics=(Metric(TEST_LOSS, "min"), Metric(TRAINING_LOSS, "min"), Metric(DISTANCE, "min")),
        citation="wang2020global",
        options=Options,
        inner_steps=5,
        outer_steps=50,
        illustration=True,
    )

    roles = frozenset({MetaRole.START})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options: Options = setting.options
        self._network_kernel = _kernel_of(options, setting.size)
        # Rates and features are numbers of the tasks, wanted where a prediction runs the rest without values, too.
        with unseen():
            drawn = drawn_tasks(setting)
            rate = options.learning_rate * min(2 / (self._largest(one) + options.proximal) for one in drawn)
            steps = Steps(setting.inner_steps, rate, options.proximal)
            self.limit = MetaKernel(self._network_kernel.kernels, steps, head=options.adapts == "head")
            self._episodes, self._test_episodes = drawn[: options.tasks], drawn[options.tasks :]
            outer_rate = options.outer_learning_rate * self._largest_outer_rate()
            points = torch.cat([part for one in drawn for part in (one.support, one.queries)])
            given = self._features(points) if setting.size == INFINITE else points
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
        self._adapted = self._network.head if options.adapts == "head" else tuple(self._start)
        body, proximal = options.adapts == "head", options.proximal > 0
        inner, outer = [MetaRole.INNER_LOSS] * (body or proximal), [MetaRole.OUTER_LOSS] * body
        self.roles = frozenset({MetaRole.START, *inner, *outer})
        self.start_only = frozenset(self._adapted if body and not proximal else ())

    @property
    def episodes(self) -> tuple[Sequence[Episode], Sequence[Episode]]:
        """The tasks trained on and those of the test, in float64 on the CPU: inputs, and labels of shape [n, 1]."""
        return self._episodes, self._test_episodes

    def _largest(self, one: Episode) -> float:
        """Return the largest curvature of the loss on a support, in the limit."""
        found = self._network_kernel.kernels(one.support)
        kernel = found.nngp if self.setting.options.adapts == "head" else found.ntk
        return float(torch.linalg.eigvalsh(kernel)[-1]) / len(one.support)

    def _features(self, points: torch.Tensor) -> torch.Tensor:
        """Return features of the tangent kernel, [n, n]; where the head alone adapts, those of the body and of the head, [n, 2 n]."""
        found = self._network_kernel.kernels(points)
        if self.setting.options.adapts == "all":
            return factor(found.ntk)
        return torch.cat([factor(found.ntk - found.nngp), factor(found.nngp)], 1)

    def _largest_outer_rate(self) -> float:
        """Return the outer rate from which on MAML diverges, in the limit.

        Raises:
            MetabenchError: adaptation alone fits every query.
        """
        self._phi = self.limit.between(self._episodes, self._episodes)
        largest = float(torch.linalg.eigvalsh((self._phi + self._phi.mT) / 2)[-1])
        if not largest > 0:
            raise MetabenchError("few_shot_regression: adaptation alone fits every query: nothing is left to learn")
        return 2 * len(self._phi) / largest

    def _made(self, dimensions: int) -> WideMLP | LinearModel:
        options, size = self.setting.options, self.setting.size
        if size == INFINITE:
            if options.adapts == "all":
                return LinearModel({"weight": dimensions})
            return LinearModel({"body": dimensions // 2, "head": dimensions // 2})
        between = activation(options.activation)
        standard = options.parametrisation == "standard"
        return WideMLP(
            dimensions, _width(size), options.depth, between, options.W_std, options.b_std, standard=standard
        )

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
        """Return the meta-parameters that are adapted: every inner run starts there."""
        return {name: meta[name] for name in self._adapted}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean over a support of (g(x) - y)^2 / 2, and the proximal term."""
        loss = self.outer_loss(params, meta, batch)
        if proximal := self.setting.options.proximal:
            loss = loss + proximal / 2 * sum((params[name] - meta[name]).square().sum() for name in self._adapted)
        return loss

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean over queries of (g(x) - y)^2 / 2."""
        return self._away(params, meta, batch).square().mean() / 2

    def _away(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return g(x) - y, shape [n]; what is not adapted is a meta-parameter."""
        whole = params if len(self._adapted) == len(self._start) else {**meta, **params}
        return self._network(whole, batch["inputs"]) - batch["targets"]

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the windows of all tasks, the same in every outer step."""
        begins = self.start({}, self._start)
        windows = [
            Window.ending_in((support,) * self.setting.inner_steps, queries, begins) for support, queries in self._train
        ]
        yield from itertools.repeat(windows)

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the mean loss of queries after adaptation, of test tasks and of those trained on, and |l - l_0|."""
        return {
            TEST_LOSS: self._adapted_loss(meta, self._test),
            TRAINING_LOSS: self._adapted_loss(meta, self._train),
            DISTANCE: float(tree.norm(tree.subtract(meta, self._start))),
        }

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return how far the network moved relative to where it began, and what MAML does in the limit in as many outer steps.

        How far it moves, and its rate: that of the limit, and that of the network's own kernel where it began.
        """
        found = {}
        with unseen():
            phi = self._phi
            values = torch.linalg.eigvalsh((phi + phi.mT) / 2)
            if values[0] > SINGULAR * values[-1]:
                found[CONDITION] = float(values[-1] / values[0])
            if steps := self.setting.outer_steps:
                flow = self._flow(self.limit)
                found[PREDICTED] = flow.distance(flow.after_steps(steps, self.outer_optimiser.learning_rate)[1])
                found[LIMIT_RATE] = self._rate(flow)
            if isinstance(self._network, WideMLP):
                found[RELATIVE] = float(tree.norm(tree.subtract(meta, self._start)) / tree.norm(self._start))
                if steps:
                    start = {name: leaf.double().cpu() for name, leaf in self._start.items()}
                    own = Empirical(self._network, start, head=self._network.head)
                    found[OWN_RATE] = self._rate(self._flow(dataclasses.replace(self.limit, kernel=own.kernels)))
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _flow(self, kernel: MetaKernel) -> Flow:
        """Return the meta-training by MAML that a kernel predicts."""
        joint = kernel.joint(self._episodes)
        return Flow(joint.phi, joint.adapted - joint.labels)

    def _rate(self, flow: Flow) -> float:
        """Return the fall of the log training loss in an outer step over the second half of a run; NaN where there is none."""
        end, rate = self.setting.outer_steps, self.outer_optimiser.learning_rate
        half = (end + 1) // 2
        before, after = flow.loss(half, rate), flow.loss(end, rate)
        known = half < end and LEAST_LOSS < after < math.inf and before < math.inf
        return (math.log(before) - math.log(after)) / (end - half) if known else math.nan

    def observe(self, params: Tree, meta: Tree) -> dict[str, float | Curve]:
        """Return the losses along the run, and the adapted outputs at the queries of all tasks."""
        found: dict[str, float | Curve] = {}
        tests, trained = self._test_episodes, self._episodes
        for loss, name, tasks, episodes in (
            (TEST_LOSS, TEST_OUTPUTS, self._test, tests),
            (TRAINING_LOSS, TRAINING_OUTPUTS, self._train, trained),
        ):
            away = self._adapted_residual(meta, tasks)
            outputs = away + labels_of(episodes)[:, 0].to(away)
            found[loss] = _half_mean_square(away)
            found[name] = Curve(range(len(outputs)), outputs.tolist(), along=QUERY)
        return found

    def _adapted_loss(self, meta: Tree, tasks: Sequence[tuple[Batch, Batch]]) -> float:
        return _half_mean_square(self._adapted_residual(meta, tasks))

    def _adapted_residual(self, meta: Tree, tasks: Sequence[tuple[Batch, Batch]]) -> torch.Tensor:
        """Return g(x) - y at the queries of all tasks after adaptation, shape [queries]."""
        params = self.start({}, meta)
        start = detached(InnerState(params, self.optimiser.init(params)))
        found = []
        for support, queries in tasks:
            adapted = run(self, start, meta, (support,) * self.setting.inner_steps)
            with torch.no_grad():
                found.append(self._away(adapted.params, meta, queries))
        return torch.cat(found)


def _width(size: str) -> int:
    return int(size.removeprefix("w"))


def _kernel_of(options: Options, size: str) -> MLP:
    """Return the kernel of the network in the limit; in the standard parametrisation it is that of its width.

    Raises:
        MetabenchError: the width is infinite, and the parametrisation the standard one.
    """
    if options.parametrisation == "ntk":
        return MLP(options.depth, options.activation, options.W_std, options.b_std)
    if size == INFINITE:
        raise MetabenchError(
            "few_shot_regression: in the standard parametrisation the tangent kernel grows with the width: no size 'infinite'"
        )
    widths = [_width(size)] * options.depth
    return MLP(options.depth, options.activation, options.W_std, options.b_std, "standard", widths)


def _half_mean_square(away: torch.Tensor) -> float:
    return float(away.square().mean() / 2)
