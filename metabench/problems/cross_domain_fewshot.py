"""Few-shot classification that generalises to unseen domains: feature-wise transformation layers. Tseng et al. 2020; Bohdal et al. 2021.

A metric network is trained on N-way K-shot tasks. After the last normalisation of each block its features z become (1 + a) z + b per
channel, with a ~ N(0, s(g)^2) and b ~ N(0, s(h)^2), one draw per batch: as if the images were of another domain. The meta-parameters are
g and h of every channel; s is softplus, with the steepness 100 of the official code, so that s(g) is about g. f is the loss on a task of
one training domain with these layers, F that on a task of another, pseudo-unseen one without them.

Reported is the accuracy on tasks of test domains, by the network without the layers, with the 95 % interval over tasks, and the distance
to the nearest centroid of pixels on the same tasks. Statistics of normalisation are those of training tasks: no test image enters them.
Unlike the papers' runs, these begin without a network trained to classify the training classes, and without its auxiliary loss.

On `glyphs`, 5-way 5-shot, Conv-4 of 16 channels, two seeds: none 91.4 and 91.5 %, fixed 90.8 and 91.5 %, learned by `evograd` 90.5 and
91.3 %, each +- 0.4, and the nearest centroid of pixels 86.1 %. The noise of the papers' scales helps no unseen script here.

`transform: none` trains as without the layers, and `fixed` with their initial scales: both ignore the meta-parameters, and go with the
method `none`. They cost as much as `learned`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from metabench.autodiff.optimisers import INNER_OPTIMISERS, inner_optimiser, scheduled
from metabench.core import Batch, MetaRole, Metric, Problem, ProblemCard, Tree, Window, once, option
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError, unknown
from metabench.core.lazy import torch
from metabench.core.problem import PERCENT, OuterOptimiser, Setting, meta_step_option
from metabench.core.randomness import generator, stream_seed
from metabench.core.schedules import read_schedule
from metabench.data import load
from metabench.data.episodes import Episode, Episodes, Shape
from metabench.data.few_shot import Domain, FewShot
from metabench.models.batch_norm import SHOWN, Normalise, by_batch, for_evaluation
from metabench.models.few_shot import HEADS, SIZES, metric_network

_NONE, _FIXED, _LEARNED = "none", "fixed", "learned"
_FAR = "fashion_mnist_10k"
"""A far domain for every data set."""


@dataclass(frozen=True)
class Options:
    """Options of `cross_domain_fewshot`."""

    transform: str = option(
        _LEARNED,
        choices=(_NONE, _FIXED, _LEARNED),
        help="feature-wise transformation layers, and whether their scales are learned",
    )
    head: str = option(HEADS[0], choices=HEADS, help="comparison with class means by distance, or by a relation module")
    ways: int = option(5, minimum=2, help="classes of a test task")
    train_ways: int = option(20, minimum=2, help="classes of a training task: more teach more per step")
    shots: int = option(5, minimum=1, help="labelled images per class of a task")
    queries: int = option(5, minimum=1, help="images per class of a task that its loss and accuracy are of")
    unseen: str = option(
        "", help="the domain that is left out of training and tested on; '': the data set's test domains"
    )
    optimiser: str = option("adam", choices=INNER_OPTIMISERS, help="inner optimiser")
    learning_rate: float = option(1e-2, above=0, help="of the inner optimiser")
    schedule: str = option(
        "cosine 300", check=read_schedule, help="of the learning rate, over inner steps: 'warm-up 10, cosine 100'"
    )
    scale: float = option(0.3, above=0, help="initial scale of the multiplicative noise")
    shift: float = option(0.5, above=0, help="initial scale of the additive noise")
    outer_learning_rate: float = option(0.03, above=0, help="of the outer optimiser, Adam")
    outer_weight_decay: float = option(1e-8, minimum=0, help="of the outer optimiser")
    tested: int = option(600, minimum=2, help="tasks per test domain")
    meta_step: str = meta_step_option()


class CrossDomainFewShot(Problem):
    """Learn the scales of the noise of feature-wise transformation layers."""

    card = ProblemCard(
        title="feature-wise transformations for cross-domain few-shot classification",
        datasets=("glyphs", "glyphs28", "omniglot", "cross_domain_84", "cross_domain_224"),
        sizes=SIZES,
        default_size="conv4w16",
        metrics=(
            Metric("accuracy on unseen domains (%)", "max", PERCENT),
            Metric("95 % interval over tasks (%)", "min"),
            Metric("above nearest centroid of pixels (%)", "max"),
            Metric("accuracy on far domains (%)", "max", PERCENT),
        ),
        citation="tseng2020cross",
        options=Options,
        inner_steps=1,
        outer_steps=300,
        references={"baseline": {"transform": "none"}, "fixed transformations": {"transform": "fixed"}},
    )
    roles = frozenset({MetaRole.INNER_LOSS})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options: Options = setting.options
        data: FewShot = setting.data
        self._shape = Shape(options.train_ways, options.shots, options.queries)
        self._tested = Shape(options.ways, options.shots, options.queries)
        self.batch = self._shape.ways * self._shape.per_class
        self.optimiser = inner_optimiser(
            options.optimiser, scheduled(options.learning_rate, read_schedule(options.schedule))
        )
        self.outer_optimiser = OuterOptimiser(
            "Adam", options.outer_learning_rate, weight_decay=options.outer_weight_decay
        )
        if options.unseen and options.unseen not in data.test:
            raise unknown("test domain", options.unseen, data.test)
        self._train = {name: domain for name, domain in data.train.items() if name != options.unseen}
        self._test = {options.unseen: data.test[options.unseen]} if options.unseen else dict(data.test)
        if len(self._train) < 2:
            raise MetabenchError(
                f"cross_domain_fewshot: training needs two domains, one of them pseudo-unseen, found {', '.join(self._train) or 'none'}"
            )
        first = next(iter(self._train.values()))
        self._network = metric_network(setting.size, options.head, first.images.shape[1:])
        self._tasks = [
            (self._reader(domain), self._episodes(name, domain, "training", self._shape)[1])
            for name, domain in self._train.items()
        ]

    def _targets_of(self, shape: Shape) -> torch.Tensor:
        return torch.arange(shape.ways, device=self.setting.device).repeat_interleave(shape.queries)

    def _episodes(self, name: str, domain: Domain, purpose: str, shape: Shape) -> tuple[Domain, Episodes]:
        return domain, Episodes(name, domain, shape, self.setting.seed, f"{purpose} tasks")

    def initial(self) -> Tree:
        """Return g and h of every channel of every transformed layer."""
        options: Options = self.setting.options
        meta = {}
        for layer, channels in self._network.transformed.items():
            for name, value in (("scale", options.scale), ("shift", options.shift)):
                meta[f"{layer}.{name}"] = torch.full(
                    (channels,), value, dtype=self.setting.dtype, device=self.setting.device
                )
        return meta

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the cross-entropy of a task's queries, with the transformations."""
        transform = self.setting.options.transform
        # What is off is multiplied by zero: meta-parameters that a loss does not read at all are refused.
        strength = float(transform != _NONE)
        noise = batch["noise"].split([count for count in self._network.transformed.values() for _ in range(2)])
        places = {layer: 2 * i for i, layer in enumerate(self._network.transformed)}
        scales = meta
        if transform == _FIXED:
            scales = {name: leaf + 0 * meta[name] for name, leaf in self.initial().items()}

        def transformed(layer: str, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            found = by_batch(layer, hidden, weight, bias)
            if layer not in places:
                return found
            factor = 1 + strength * noise[places[layer]] * positive(scales[f"{layer}.scale"])
            shift = strength * noise[places[layer] + 1] * positive(scales[f"{layer}.shift"])
            return found * factor[:, None, None] + shift[:, None, None]

        return self._loss(params, batch, transformed)

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the cross-entropy of a task's queries, without transformations."""
        return self._loss(params, batch, by_batch)

    def _loss(self, params: Tree, batch: Batch, normalise: Normalise) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self._scores(params, batch["images"], normalise), batch["targets"])

    def _scores(self, params: Tree, images: torch.Tensor, normalise: Normalise) -> torch.Tensor:
        """Return the scores of a task's queries, which follow the support among its images; all are normalised together."""
        features = self._network(params, images, normalise)
        support = self._shape.ways * self._shape.shots
        labelled = features[:support].unflatten(0, (self._shape.ways, self._shape.shots))
        return self._network.scores(params, labelled, features[support:], normalise)

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield windows whose inner tasks are of all training domains but the one that the outer task is of; one run trains the network."""
        return self.windows_after(0)

    def windows_after(self, outer_steps: int) -> Iterator[Sequence[Window]]:
        """Yield the windows after the first ones, which need not be drawn: tasks are drawn by number."""
        params = self._network.initial(generator(self.setting.seed, "initial params"), self.setting.dtype)
        begins = once({name: leaf.to(self.setting.device) for name, leaf in params.items()})
        if outer_steps:
            next(begins)
        step = outer_steps
        while True:
            places = self._places(step)
            drawn = [self._batch(place, step * len(places) + i) for i, place in enumerate(places)]
            outer = {name: leaf for name, leaf in drawn[-1].items() if name != "noise"}
            yield [Window.ending_in(tuple(drawn[:-1]), outer, next(begins))]
            step += 1

    def _places(self, step: int) -> list[int]:
        """Return the numbers of the domains of an outer step's tasks: of the inner ones in order, then the pseudo-unseen one."""
        inner_steps, count = self.setting.inner_steps, len(self._tasks)
        raw = np.random.PCG64(stream_seed(self.setting.seed, f"domains {step}")).random_raw(inner_steps + 1)
        unseen = int(raw[-1] % count)
        others = [place for place in range(count) if place != unseen]
        return [others[int(one % len(others))] for one in raw[:-1]] + [unseen]

    def _batch(self, place: int, number: int) -> dict[str, torch.Tensor]:
        read, episodes = self._tasks[place]
        channels = 2 * sum(self._network.transformed.values())
        stream = generator(self.setting.seed, f"noise {number}")
        noise = torch.randn(channels, generator=stream, dtype=torch.float64)
        return {
            "images": read(_in_order(episodes[number])),
            "targets": self._targets_of(self._shape),
            "noise": noise.to(self.setting.device, self.setting.dtype),
        }

    def _reader(self, domain: Domain) -> Callable[[np.ndarray], torch.Tensor]:
        """Return the function from numbers of images to the images as steps see them: those in memory are scaled once."""
        if not isinstance(domain.images, np.ndarray):
            return functools.partial(self._placed, domain)
        held = self._scaled(domain.images)
        return lambda chosen: held[torch.as_tensor(chosen, device=held.device)]

    def _placed(self, domain: Domain, chosen: np.ndarray) -> torch.Tensor:
        return self._scaled(domain.images[chosen])

    def _scaled(self, images: np.ndarray) -> torch.Tensor:
        """Return images with values from -1 to 1."""
        return torch.as_tensor(images).to(self.setting.device, self.setting.dtype) / 127.5 - 1

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float | Curve]:
        """Return the metrics over test tasks, and the accuracy per domain with the 95 % interval over its tasks."""
        normalise = self._statistics(params)
        far = {**self.setting.data.far, _FAR: _far_domain(next(iter(self._train.values())).images.shape[1:])}
        domains = {**self._test, **{f"far: {name}": domain for name, domain in far.items()}}
        found, pixels = {}, {}
        for name, domain in domains.items():
            # Ten digits make no 20-way task: a far domain's tasks are of as many classes as it has.
            ways = self._tested.ways if name in self._test else min(self._tested.ways, len(domain.classes))
            _, episodes = self._episodes(name, domain, "test", dataclasses.replace(self._tested, ways=ways))
            found[name], pixels[name] = self._accuracies(params, domain, episodes, normalise)
        unseen = torch.cat([found[name] for name in self._test])
        above = unseen - torch.cat([pixels[name] for name in self._test])
        distant = torch.cat([found[f"far: {name}"] for name in far])
        values = (unseen.mean(), _interval(unseen), above.mean(), distant.mean())
        means = [float(one.mean()) for one in found.values()]
        halves = [float(_interval(one)) for one in found.values()]
        return {
            **{metric.name: float(value) for metric, value in zip(self.card.metrics, values, strict=True)},
            "accuracy per domain": Curve(
                range(1, len(means) + 1),
                means,
                "%",
                "domain: " + ", ".join(f"{i} {name}" for i, name in enumerate(found, 1)),
                [mean - half for mean, half in zip(means, halves, strict=True)],
                [mean + half for mean, half in zip(means, halves, strict=True)],
                self.setting.options.tested,
            ),
        }

    def validation_accuracy(self, params: Tree, tasks: int = 200) -> float:
        """Return the accuracy on tasks of the validation domains (%), by which the defaults were chosen."""
        normalise = self._statistics(params)
        found = [
            self._accuracies(
                params, domain, self._episodes(name, domain, "validation", self._tested)[1], normalise, tasks
            )[0]
            for name, domain in self.setting.data.validation.items()
            if name != self.setting.options.unseen
        ]
        return float(torch.cat(found).mean())

    def _statistics(self, params: Tree) -> Normalise:
        """Return the normalisation by the statistics of training tasks, without transformations."""
        count = -(-SHOWN // self.batch)

        def shown() -> Iterator[torch.Tensor]:
            streams = [self._episodes(name, domain, "statistics", self._shape) for name, domain in self._train.items()]
            for number in range(count):
                domain, episodes = streams[number % len(streams)]
                yield self._placed(domain, _in_order(episodes[number]))

        return for_evaluation(_Shown(self._scores), params, shown())(None)

    def _accuracies(
        self, params: Tree, domain: Domain, episodes: Episodes, normalise: Normalise, tasks: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the accuracy (%) per task, by the network and by the nearest centroid of pixels, shape [tasks] each."""
        total = domain.images.shape[0]
        drawn = [episodes[number] for number in range(tasks or self.setting.options.tested)]
        used = np.unique(np.concatenate([_in_order(task) for task in drawn]))
        row = np.zeros(total, np.int64)
        row[used] = np.arange(len(used))
        with torch.no_grad():
            # Each image goes through the network once: with given statistics its features do not depend on the task.
            pieces = [self._placed(domain, piece) for piece in np.array_split(used, -(-len(used) // 256))]
            features = torch.cat([self._network(params, piece, normalise) for piece in pieces])
            flat = torch.cat([piece.flatten(1) for piece in pieces])
            targets = self._targets_of(episodes.shape)
            hits, by_pixels = [], []
            for task in drawn:
                support, query = torch.as_tensor(row[task.support]), torch.as_tensor(row[task.query].ravel())
                scores = self._network.scores(params, features[support], features[query], normalise)
                centroids = flat[support].mean(1)
                hits.append((scores.argmax(1) == targets).double().mean())
                nearest = torch.cdist(flat[query], centroids).argmin(1)
                by_pixels.append((nearest == targets).double().mean())
        return 100 * torch.stack(hits), 100 * torch.stack(by_pixels)

    def observe(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the mean scale of the noise in every layer."""
        return self.summary(meta)

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return the mean scales of the noise, multiplicative and additive, in every transformed layer."""
        return {f"mean of {name}": float(positive(leaf).mean()) for name, leaf in meta.items()}


class _Shown:
    """The scoring of tasks as a network that is shown training tasks, and then gives its normalisation away."""

    batch_normalised: ClassVar[bool] = True

    def __init__(self, scores: Callable[[Tree, torch.Tensor, Normalise], torch.Tensor]) -> None:
        self._scores = scores

    def __call__(self, params: Tree, inputs: torch.Tensor | None, normalise: Normalise) -> Normalise:
        if inputs is not None:
            self._scores(params, inputs, normalise)
        return normalise


def positive(values: torch.Tensor) -> torch.Tensor:
    """Return the scales of the noise: softplus with steepness 100, nearly the values themselves where they are above 0.05."""
    return torch.nn.functional.softplus(values, beta=100)


def _in_order(task: Episode) -> np.ndarray:
    return np.concatenate([task.support.ravel(), task.query.ravel()])


def _interval(accuracies: torch.Tensor) -> torch.Tensor:
    """Return half the 95 % interval of a mean."""
    return 1.96 * accuracies.std() / math.sqrt(len(accuracies))


def _far_domain(input_shape: tuple[int, ...]) -> Domain:
    """Return the test images of Fashion-MNIST as images of a shape."""
    from PIL import Image

    data = load(_FAR)
    channels, side = input_shape[0], input_shape[-1]
    images = [
        np.asarray(Image.fromarray(np.uint8(255 * image[0])).resize((side, side), Image.Resampling.BOX))
        for image in data.test_inputs
    ]
    stacked = np.repeat(np.stack(images)[:, None], channels, axis=1)
    return Domain(stacked, data.test_targets, data.classes)
