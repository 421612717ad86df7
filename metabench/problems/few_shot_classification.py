"""Few-shot classification of unseen characters by wide networks, when few characters are there to learn from.

f(w) = mean over a support of |g(x) - y|^2 / 2, summed over outputs; F = the same on the task's queries, at w_K, which starts from the
meta-parameters (MAML). Tasks have `way` classes of `shots` images. Meta-training is as in `few_shot_regression`: a fixed pool of tasks,
all in every outer step, on centred networks in NTK parametrisation, of which `infinite` is one. The test is on classes that no training
task has, of other scripts: Latin is trained on, Greek and Cyrillic are unseen. All of a task's classes are of one script, but some
characters look alike across the three (Latin o, Greek omicron): unseen in name, not in form. The seed decides which are trained on.

Labels are centred one-hot vectors, whose order means nothing, so little can be learned from them; or embeddings of the classes, as in Wang,
Sun & Li 2020 (arXiv 2006.14606v1, section 5), by linear discriminants of the training characters, or by a convolutional network trained to
tell them apart (`labels: network`). A support image has the embedding of its class's support as a label, and a query trained on the mean
one of its character. What is predicted is the class whose label is nearest to the outputs.

With a proximal term in f it is iMAML, and ANIL where the head alone adapts, as in `few_shot_regression`. Networks may be of convolutions,
whose kernels take minutes: they are prepared once for all cells, and kept in files.

Reported is the accuracy after the last outer step, never the best of several evaluations, beside that of the same episodes without
meta-learning, and of the nearest support image by pixels, and by embedding.

`infinite` is the linear model on a factor of the tangent kernel of the *training* images. A test image has features in their span, and a
part orthogonal to it that no method meets while it steps along gradients of training tasks. The inner run of a test task meets it, and is
known: outputs h become h(Q) + A (Y - h(S)), with A = Theta(Q, S) T. So the evaluation is in closed form, and exact.

On `glyphs`, 5-way 1-shot, three draws of 5, 10, 20 and all 38 Latin characters, by `unrolled`: 73.0, 83.4, 87.6 and 89.9 % on `infinite`,
71.9, 82.3, 86.7 and 89.2 on `w256`, each +- 0.4 to 0.7; the embedding alone 65.8, 80.5, 86.6 and 88.5, pixels 81.3. With one-hot labels
meta-learning harms, and the more characters the more: `infinite` has 81.9 without and 68.4, 65.2, 61.4 and 58.9 with it. With 5 characters
nothing that is learned is as good as that. `without meta-learning` has the same labels and the same few inner steps, so the gain includes
what meta-learning makes up for these.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metabench.autodiff.inner import detached, run
from metabench.autodiff.optimisers import SGD
from metabench.autodiff.traced.flat_graph import unseen
from metabench.core import Batch, MetaRole, Metric, Problem, ProblemCard, Tree, Window, option
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import PERCENT, OuterOptimiser, Setting
from metabench.core.randomness import generator
from metabench.core.types import InnerState
from metabench.data.episodes import Shape
from metabench.kernels.activations import ACTIVATIONS, Quadrature, activation
from metabench.kernels.convolutional import ConvNet
from metabench.kernels.dense import MLP, Kernels
from metabench.kernels.few_shot import Adaptation, Grams, Tasks, meta_kernel, within_gram
from metabench.kernels.gram import Gram
from metabench.kernels.names import (
    ACCURACY,
    EMBEDDING,
    INFINITE,
    INTERVAL,
    MNK,
    MNK_GAIN,
    MNK_INTERVAL,
    PIXELS,
    TRAINING_LOSS,
    WITHOUT,
)
from metabench.kernels.responses import Steps
from metabench.models.wide import LinearModel, WideConvNet, WideMLP, coordinates, factor
from metabench.tasks.accuracy import interval
from metabench.tasks.episodes import EMBEDDINGS, LABELS, NETWORK, ONE, ORDERS, accuracies, draw

_WIDTHS = (256, 16, 64, 128, 512, 1024, 2048, 4096)
_DENSE = "mlp"
_BLOCKS = {_DENSE: 1024, "flatten": 256, "pool": 64, "gap": 32}
"""Points in the rows of a block of a Gram matrix: a second or so."""
_OF_TRAINING = frozenset({"labels", "adapts", "proximal", "ridge", "learning_rate", "outer_learning_rate"})
"""Options on which no kernel depends."""
_OBSERVED = 20
"""Test tasks that are followed along a run: with finite networks each is an inner run."""


@dataclass(frozen=True)
class Options:
    """Options of `few_shot_classification`."""

    way: int = option(5, minimum=2, help="classes of a task")
    shots: int = option(1, minimum=1, help="images per class of a support")
    queries: int = option(10, minimum=1, help="images per class that are queried")
    characters: int = option(20, minimum=0, help="classes trained on, drawn by the seed; 0: all")
    tasks: int = option(20, minimum=1, help="tasks trained on, all of them in every outer step")
    test_tasks: int = option(600, minimum=2, help="tasks of the test, of its domains in turn")
    train_on: str = option(
        "Latin", help="domains joined by '+'; '': the data set's; without domains, half of the classes"
    )
    test_on: str = option("Greek + Cyrillic", help="likewise; without domains, the other half")
    labels: str = option(
        EMBEDDINGS,
        choices=LABELS,
        help="embeddings of the classes, by linear discriminants or by a trained network; or centred one-hot vectors",
    )
    orders: str = option(
        ONE, choices=ORDERS, help="of one-hot labels: as drawn, or each training task once per order of its classes"
    )
    network: str = option(
        _DENSE,
        choices=tuple(_BLOCKS),
        help="an MLP, or a convolutional network with flattening, pooling or global average pooling before its dense layer",
    )
    depth: int = option(1, minimum=1, help="hidden layers, or convolutions")
    activation: str = option("relu", choices=tuple(ACTIVATIONS), help="of the hidden layers")
    W_std: float = option(2**0.5, above=0, help="of weights, before the division by the root of the fan-in")
    b_std: float = option(0.1, minimum=0, help="of biases; 0: there are none")
    adapts: str = option(
        "all", choices=("all", "head"), help="what the inner run adapts: all layers, or the last alone (ANIL)"
    )
    proximal: float = option(
        0.0, minimum=0, help="c of the proximal term c / 2 |w - l|^2 in the inner loss (iMAML); 0: there is none"
    )
    ridge: float = option(
        1e-2, minimum=0, help="of Meta Neural Kernels, as a part of the mean of the kernel's diagonal"
    )
    learning_rate: float = option(
        0.5,
        above=0,
        help="of SGD on a support, as a part of the rate at which the steepest direction of any support diverges",
    )
    outer_learning_rate: float = option(
        0.5, above=0, help="of SGD on the meta-parameters, as a part of the rate at which MAML in the limit diverges"
    )


class FewShotClassification(Problem):
    """Learn initial parameters of a wide network, from tasks of few characters."""

    card = ProblemCard(
        title="few-shot classification of unseen characters by wide networks",
        datasets=("glyphs", "digits", "fashion_mnist_10k", "glyphs28", "omniglot"),
        sizes={f"w{width}": f"{width} units, or channels, in a layer" for width in _WIDTHS}
        | {INFINITE: "infinite width: linear in features of the network's tangent kernel"},
        metrics=(
            Metric(ACCURACY, "max", PERCENT),
            Metric(INTERVAL, "min"),
            Metric("gain by meta-learning (%)", "max"),
            Metric("95 % interval of the gain (%)", "min"),
            Metric(WITHOUT, "max", PERCENT),
            Metric(PIXELS, "max", PERCENT),
            Metric(EMBEDDING, "max", PERCENT),
            Metric(TRAINING_LOSS, "min"),
        ),
        citation="wang2020global",
        options=Options,
        inner_steps=5,
        outer_steps=50,
    )
    roles = frozenset({MetaRole.START})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options: Options = setting.options
        head, limit = options.adapts == "head", setting.size == INFINITE
        # Rates, features and labels are numbers of the tasks, wanted where a prediction runs the rest without values, too.
        with unseen():
            self.study = draw(
                setting.data,
                Shape(options.way, options.shots, options.queries),
                seed=setting.seed,
                characters=options.characters,
                tasks=options.tasks,
                tests=options.test_tasks,
                labels=options.labels,
                orders=options.orders,
                train_on=options.train_on,
                test_on=options.test_on,
                folder=setting.prepared,
                simulated=setting.simulated,
            )
            train, test = self.study.train, self.study.test
            self._grams = Grams.of(self._gram(), train, test, across=limit)
            trained, self._tested = (
                _adapting(of, head) for of in (within_gram(self._grams.trained, train), self._grams.tested)
            )
            shots = train.support.shape[1]
            largest = max(float(torch.linalg.eigvalsh(one[:, :shots]).max()) for one in (trained, self._tested))
            rate = options.learning_rate * 2 / (largest / shots + options.proximal)
            self.response = Steps(setting.inner_steps, rate, options.proximal)
            outer_rate = options.outer_learning_rate * self._largest_outer_rate(trained)
            self._features = _features(self._grams.trained, head) if limit else None
            given = (train.images if self._features is None else torch.cat(self._features, 1)).numpy()
            tasks = list(_arrays(train))
        self.optimiser = SGD(rate)
        self.outer_optimiser = OuterOptimiser("SGD", outer_rate)
        self.batch = shots
        self._network = self._made(given.shape[1], tasks[0][1].shape[-1])
        self._drawn = self._network.initial(generator(setting.seed, "initial params"), torch.float64)
        self._train = list(self._placed(given, tasks))
        self._start = {name: leaf.to(setting.device, setting.dtype) for name, leaf in self._drawn.items()}
        self._adapted = self._network.head if head else tuple(self._start)
        inner, outer = [MetaRole.INNER_LOSS] * (head or options.proximal > 0), [MetaRole.OUTER_LOSS] * head
        self.roles = frozenset({MetaRole.START, *inner, *outer})
        self.start_only = frozenset(self._adapted if head and not options.proximal else ())

    @classmethod
    def prepares(cls, size: str, options: Options) -> dict[str, Any]:
        """Return what kernels of convolutions, and an embedding that is trained, depend on."""
        embedding = options.labels == NETWORK
        if options.network == _DENSE and not embedding:
            return {}
        on = {name: value for name, value in dataclasses.asdict(options).items() if name not in _OF_TRAINING}
        return {**on, "infinite": size == INFINITE, "embedding": embedding}

    def _gram(self) -> Gram:
        """Return what computes the kernels of the study's images, [n, dimensions], at infinite width."""
        setting, options, image = self.setting, self.setting.options, self.study.image
        if setting.simulated:
            return Gram(_stand_in, "", block=1 << 20)
        if options.network == _DENSE:
            dense = MLP(options.depth, options.activation, options.W_std, options.b_std)
            return Gram(dense.kernels, repr(dense), block=_BLOCKS[_DENSE])
        net = self._convolutions()
        # Its nodes, and so its memory, depend on the images.
        by_quadrature = isinstance(activation(options.activation), Quadrature)

        def kernel(rows: torch.Tensor, columns: torch.Tensor) -> Kernels:
            ours = rows.to(setting.device).unflatten(1, image)
            theirs = ours if columns is rows else columns.to(setting.device).unflatten(1, image)
            found = net.kernels(ours, theirs)
            return Kernels(found.nngp.cpu(), found.ntk.cpu())

        return Gram(
            kernel,
            f"{net!r} {image}",
            setting.prepared,
            block=_BLOCKS[options.network],
            block_bytes=None if by_quadrature else lambda rows, columns: net.block_bytes((rows, *image), columns),
            report=lambda said: print(f"{setting.size}, seed {setting.seed}: {said}", file=sys.stderr),
        )

    def _convolutions(self) -> ConvNet:
        options = self.setting.options
        return ConvNet(options.depth, options.activation, options.W_std, options.b_std, options.network)

    def _largest_outer_rate(self, kernels: torch.Tensor) -> float:
        """Return the outer rate from which on MAML diverges, in the limit.

        Raises:
            MetabenchError: adaptation alone fits every query.
        """
        phi = meta_kernel(Adaptation.of(self.study.train, kernels, self.response).moved(), self._grams.trained.ntk)
        largest = float(torch.linalg.eigvalsh(phi)[-1])
        if not largest > 0:
            raise MetabenchError("few_shot_classification: adaptation alone fits every query: nothing is left to learn")
        return 2 * len(phi) / largest

    def _made(self, dimensions: int, outputs: int) -> WideMLP | WideConvNet | LinearModel:
        options, size = self.setting.options, self.setting.size
        if size == INFINITE:
            if options.adapts == "all":
                return LinearModel({"weight": dimensions}, outputs)
            return LinearModel({"body": dimensions // 2, "head": dimensions // 2}, outputs)
        width, between = int(size.removeprefix("w")), activation(options.activation)
        if options.network == _DENSE:
            return WideMLP(dimensions, width, options.depth, between, options.W_std, options.b_std, outputs)
        pooling, gap = self._convolutions().pooling, options.network == "gap"
        scales = (options.W_std, options.b_std)
        return WideConvNet(self.study.image, width, options.depth, between, *scales, pooling, gap, outputs)

    def _placed(self, points: np.ndarray, tasks: Iterable[Sequence[np.ndarray]]) -> Iterator[tuple[Batch, Batch]]:
        """Yield the batches of support and queries of each task: rows of a table of points, and labels, of either.

        What is fitted is h(x; w) with targets y + h(x; w_0), which is the same as g(x) with targets y.
        """
        table = torch.as_tensor(points)

        def batch(rows: np.ndarray, labels: np.ndarray) -> Batch:
            inputs = table[torch.as_tensor(rows)]
            with torch.no_grad():
                targets = torch.as_tensor(labels) + self._network(self._drawn, inputs)
            return {
                "inputs": inputs.to(self.setting.device, self.setting.dtype),
                "targets": targets.to(self.setting.device, self.setting.dtype),
            }

        for support, support_labels, queries, query_labels in tasks:
            yield batch(support, support_labels), batch(queries, query_labels)

    def initial(self) -> Tree:
        """Return the parameters as drawn; zero for the limit."""
        return dict(self._start)

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return the meta-parameters that are adapted: every inner run starts there."""
        return {name: meta[name] for name in self._adapted}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean over a support of |g(x) - y|^2 / 2, and the proximal term."""
        loss = self.outer_loss(params, meta, batch)
        if proximal := self.setting.options.proximal:
            loss = loss + proximal / 2 * sum((params[name] - meta[name]).square().sum() for name in self._adapted)
        return loss

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean over queries of |g(x) - y|^2 / 2."""
        away = self._network(self._whole(params, meta), batch["inputs"]) - batch["targets"]
        return away.square().sum() / (2 * len(away))

    def _whole(self, params: Tree, meta: Tree) -> Tree:
        """Return all parameters: what is not adapted is a meta-parameter."""
        return params if len(self._adapted) == len(self._start) else {**meta, **params}

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the windows of all tasks, the same in every outer step."""
        begins = self.start({}, self._start)
        windows = [
            Window.ending_in((support,) * self.setting.inner_steps, queries, begins) for support, queries in self._train
        ]
        yield from itertools.repeat(windows)

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the metrics: accuracies with the 95 % interval over test tasks, and the mean loss of the queries trained on."""
        study = self.study
        found, without = self._accuracies(meta), self._unlearned
        gain = found - without
        values = (
            float(found.mean()),
            interval(found),
            float(gain.mean()),
            interval(gain),
            float(without.mean()),
            float(study.accuracy(study.nearest(study.test.images)).mean()),
            float(study.accuracy(study.nearest(study.embedded)).mean()),
            self._training_loss(meta),
        )
        named = {metric.name: value for metric, value in zip(self.card.metrics, values, strict=True)}
        return named | (self._regression if self._features is not None else {})

    @functools.cached_property
    def _regression(self) -> dict[str, float]:
        """The accuracy of Meta Neural Kernels, trained for ever with a ridge, and what meta-learning adds to their own kernel."""
        found = accuracies(self.study, self._grams, math.inf, math.inf, self.setting.options.ridge)
        gain = found["MNK"] - found["no meta-learning"]
        return {MNK: float(found["MNK"].mean()), MNK_GAIN: float(gain.mean()), MNK_INTERVAL: interval(gain)}

    def observe(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the training loss and the accuracy on some of the test tasks along the run, by which nothing is chosen."""
        accuracy = self._accuracies(meta, _OBSERVED).mean()
        return {f"accuracy on {_OBSERVED} test tasks (%)": float(accuracy), TRAINING_LOSS: self._training_loss(meta)}

    @functools.cached_property
    def _unlearned(self) -> torch.Tensor:
        """The accuracy per test task of networks that adapt from the start as drawn: in the limit, kernel regression."""
        return self._accuracies(self._start)

    def _accuracies(self, meta: Tree, tests: int | None = None) -> torch.Tensor:
        """Return the accuracy per test task (%), shape [tests], of the first ones where their number is given."""
        study = self.study if tests is None else self.study.first(tests)
        return study.accuracy(study.predicted(self.adapted(meta, tests)))

    def adapted(self, meta: Tree, tests: int | None = None) -> torch.Tensor:
        """Return the adapted outputs g at the queries of test tasks, shape [tests, m, outputs], in float64 on the CPU.

        Args:
            meta: the initial parameters.
            tests: how many test tasks, from the first one on; None: all.
        """
        test = (self.study if tests is None else self.study.first(tests)).test
        if self._features is not None:
            before = sum(self._coordinates[name] @ meta[name].detach().cpu().double() for name in meta)
            return Adaptation.of(test, self._tested[: len(test.support)], self.response).outputs(before)
        found = []
        for support, queries in self._placed(test.images.numpy(), _arrays(test)):
            after = self._after(meta, support)
            with torch.no_grad():
                whole = self._whole(after, meta)
                away = self._network(whole, queries["inputs"]) - self._network(self._start, queries["inputs"])
            found.append(away)
        return torch.stack(found).cpu().double()

    def _after(self, meta: Tree, support: Batch) -> Tree:
        """Return the parameters after an inner run from meta-parameters."""
        params = self.start({}, meta)
        start = detached(InnerState(params, self.optimiser.init(params)))
        return run(self, start, meta, (support,) * self.setting.inner_steps).params

    @functools.cached_property
    def _coordinates(self) -> dict[str, torch.Tensor]:
        """By parameter, the features of the test's images in the span of those trained on, shape [v, u]."""
        across = self._grams.across
        kernels = [across.ntk] if len(self._features) == 1 else [across.ntk - across.nngp, across.nngp]
        parts = zip(self._start, self._features, kernels, strict=True)
        return {name: coordinates(features, kernel) for name, features, kernel in parts}

    def _training_loss(self, meta: Tree) -> float:
        losses = []
        for support, queries in self._train:
            after = self._after(meta, support)
            with torch.no_grad():
                losses.append(float(self.outer_loss(after, meta, queries)))
        return sum(losses) / len(losses)


def _adapting(of: Kernels, head: bool) -> torch.Tensor:
    """Return the kernel by which the inner run adapts."""
    return of.nngp if head else of.ntk


def _features(of: Kernels, head: bool) -> list[torch.Tensor]:
    """Return features of the tangent kernel, [u, u]; where the head alone adapts, those of the body and those of the head."""
    return [factor(of.ntk - of.nngp), factor(of.nngp)] if head else [factor(of.ntk)]


def _stand_in(rows: torch.Tensor, columns: torch.Tensor) -> Kernels:
    """Return a kernel that costs nothing, where shapes alone count."""
    found = rows @ columns.mT / rows.shape[1]
    return Kernels(found, 2 * found)


def _arrays(tasks: Tasks) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield rows and labels of each task's support, then of its queries."""
    parts = (tasks.support, tasks.support_labels, tasks.queries, tasks.query_labels)
    return zip(*(part.numpy() for part in parts), strict=True)
