"""Problems whose inner run adapts a chain of blocks to a few-shot task, and their accuracy on unseen classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from metabench.core import Batch, Problem, Tree, Window
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import MetaRole, Setting
from metabench.core.randomness import generator
from metabench.core.segments import Segment, chain_loss
from metabench.core.types import OptimiserState
from metabench.data.episodes import Shape
from metabench.models.batch_norm import EPSILON, Normalise, by_batch
from metabench.models.block_losses import from_meta
from metabench.models.choice_blocks import BY_BATCH, BlockNet, image_batch
from metabench.tasks.accuracy import interval
from metabench.tasks.images import TEST, VALIDATION, ImageTasks, Stack

_FURTHER = 2
"""How many times as many steps as in training the curve over adaptation follows."""


class Answers(NamedTuple):
    """How many queries of each task are answered rightly, integers.

    Attributes:
        together: after each of the numbers of steps asked for, all queries normalised together, shape [numbers, tasks].
        alone: after K steps, each query normalised by the statistics of the support, shape [tasks]; zero unless asked for.
        pixels: by the nearest support image, shape [tasks].
    """

    together: torch.Tensor
    alone: torch.Tensor
    pixels: torch.Tensor


class AdaptingClassifier(Problem):
    """A few-shot classifier that is a chain of blocks; a subclass sets the network, its optimisers and roles when it is made.

    Its options have `ways`, `shots`, `queries`, `tasks`, `norm` and `tested`.
    """

    net: BlockNet
    tasks: ImageTasks
    _adapted: frozenset[str]
    _inner: tuple[Segment, ...]
    _outer: tuple[Segment, ...]

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options
        shape = Shape(options.ways, options.shots, options.queries)
        self.tasks = ImageTasks(setting.data, shape, setting.seed, setting.device, setting.dtype)
        self.batch = options.ways * options.shots

    def _take(self, net: BlockNet, adapted: Sequence[str]) -> None:
        """Make a net the network of this problem; what does not adapt is a meta-parameter of both losses."""
        self.net, self._adapted = net, frozenset(adapted)
        self._inner = self._outer = from_meta(net.segments(), self._adapted)

    def _drawn(self) -> Tree:
        """Return the network's parameters, drawn from the seed."""
        params = self.net.initial(generator(self.setting.seed, "initial params"), self.setting.dtype)
        return {name: leaf.to(self.setting.device) for name, leaf in params.items()}

    def _begins(self) -> Tree:
        """Return the parameters that every inner run begins with, before `start`."""
        return {name: leaf for name, leaf in self._drawn().items() if name in self._adapted}

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return the meta-parameters that adapt, where they are initial parameters: every inner run starts there."""
        if MetaRole.START not in self.roles:
            return params
        return {name: meta[name] for name in self.net.shapes() if name in self._adapted}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f, the mean cross-entropy of a support, block by block."""
        return chain_loss(self._inner, params, meta, batch)

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F, the mean cross-entropy of a task's queries, block by block."""
        return chain_loss(self._outer, params, meta, batch)

    def inner_segments(self) -> tuple[Segment, ...]:
        """Return f as a chain: a stem, each block, and the head with the loss."""
        return self._inner

    def outer_segments(self) -> tuple[Segment, ...]:
        """Return F as a chain."""
        return self._outer

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the windows of a few training tasks for each outer step, of the domains in turn."""
        return self.windows_after(0)

    def windows_after(self, outer_steps: int) -> Iterator[Sequence[Window]]:
        """Yield the windows after the first ones, which need not be drawn: tasks are drawn by number."""
        begins, count, step = self._begins(), self.setting.options.tasks, outer_steps
        while True:
            yield [self.window(number, begins) for number in range(step * count, (step + 1) * count)]
            step += 1

    def window(self, number: int, begins: Tree) -> Window:
        """Return the window of a training task, whose run begins with some parameters."""
        support, query = self.tasks.training(number)
        return Window.ending_in((support,) * self.setting.inner_steps, query, begins)

    def tested(self, meta: Tree, alone: bool = True) -> tuple[torch.Tensor, torch.Tensor, Curve]:
        """Return the accuracy (%) on each test task after as many steps as in training, and the curve against the steps.

        Returns:
            With all queries normalised together, after no step and after K, shape [2, tasks]; after K steps each query by itself (zero
            without `alone`), and by the nearest pixels, shape [2, tasks]; and the curve of the first, with the 95 % interval over tasks.
        """
        steps, count = self.setting.inner_steps, self.setting.options.tested
        found = self.answers(meta, TEST, count, range(_FURTHER * steps + 1), alone=alone)
        together, singly, pixels = (self.percent(one) for one in found)
        means, halves = [float(one.mean()) for one in together], [interval(one) for one in together]
        curve = Curve(
            range(len(means)),
            means,
            "%",
            "steps of adaptation",
            [mean - half for mean, half in zip(means, halves, strict=True)],
            [mean + half for mean, half in zip(means, halves, strict=True)],
            count,
        )
        return torch.stack([together[0], together[steps]]), torch.stack([singly, pixels]), curve

    def test_accuracies(self, meta: Tree) -> torch.Tensor:
        """Return the accuracy (%) on each test task after as many steps as in training, all queries normalised together, shape [tasks]."""
        return self.percent(self.answers(meta, TEST, self.setting.options.tested, [self.setting.inner_steps]).together)[0]

    def percent(self, right: torch.Tensor) -> torch.Tensor:
        """Return accuracies (%) for numbers of right answers per task."""
        return 100 * right.double() / len(self.tasks.query_targets)

    def validation_accuracy(self, meta: Tree, count: int = 200, first: int = 0) -> float:
        """Return the accuracy on tasks of the validation domains (%), by which defaults were chosen; test tasks are not touched."""
        steps = self.setting.inner_steps
        return float(self.percent(self.answers(meta, VALIDATION, count, [steps], first=first).together).mean())

    def answers(
        self, meta: Tree, part: str, count: int, after: Sequence[int], *, first: int = 0, alone: bool = False
    ) -> Answers:
        """Return how many queries of each task are answered rightly.

        Args:
            meta: from which the network adapts.
            part: of the classes, as in `ImageTasks`.
            count: tasks.
            after: numbers of steps of adaptation, ascending, after each of which answers are counted.
            first: number of the first task.
            alone: whether queries are also answered one at a time.
        """
        # One task after another would cost several times as much: small networks wait for Python.
        together = torch.zeros(len(after), count, dtype=torch.int64)
        single, pixels = (torch.zeros(count, dtype=torch.int64) for _ in range(2))
        last = max(*after, self.setting.inner_steps) if alone else max(after)
        meta = {name: leaf.detach() for name, leaf in meta.items()}
        for numbers, stack in self.tasks.stacks(part, count, first=first):
            rows = torch.tensor(numbers) - first
            pixels[rows] = stack.nearest().cpu()
            for step, params in enumerate(self._adapting(meta, stack.support, last)):
                if step in after:
                    together[after.index(step), rows] = self._right(params, meta, stack, alone=False)
                if alone and step == self.setting.inner_steps:
                    single[rows] = self._right(params, meta, stack, alone=True)
        return Answers(together, single, pixels)

    def check_halves(self) -> None:
        """Raise MetabenchError if a support cannot be divided."""
        if self.tasks.shape.shots < 2:
            raise MetabenchError(
                f"{self.tasks.shape.shots} image a class: a support of its own is judged in two halves, so expected `shots: 2` or more"
            )

    def halved_answers(self, meta: Tree, part: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the accuracy (%) on each task, shape [count]: by cross-validation of its support in two halves, and on its queries.

        Each half has every class; of an odd number of images the second has one more. Queries are answered after adapting to the whole.

        Raises:
            MetabenchError: a support cannot be divided.
        """
        self.check_halves()
        shape, steps = self.tasks.shape, self.setting.inner_steps
        meta = {name: leaf.detach() for name, leaf in meta.items()}
        inside, outside = (torch.zeros(count, dtype=torch.float64) for _ in range(2))
        first = torch.arange(shape.shots).repeat(shape.ways) < shape.shots // 2
        for numbers, stack in self.tasks.stacks(part, count):
            right = torch.zeros(len(numbers), dtype=torch.int64)
            for known in (first, ~first):
                half = stack.support[:, known]
                *_, params = self._adapting(meta, half, steps, self.tasks.support_targets[known])
                other = Stack(shape, half, stack.support[:, ~known])
                right += self._right(params, meta, other, alone=False, targets=self.tasks.support_targets[~known])
            inside[numbers] = 100 * right.double() / len(first)
            *_, params = self._adapting(meta, stack.support, steps)
            outside[numbers] = self.percent(self._right(params, meta, stack, alone=False))
        return inside, outside

    def _adapting(
        self, meta: Tree, support: torch.Tensor, steps: int, targets: torch.Tensor | None = None
    ) -> Iterator[Tree]:
        """Yield the parameters of every task after 0, 1, ..., `steps` steps, each leaf with the tasks as its first dimension."""
        classes = self.tasks.support_targets if targets is None else targets

        def step(params: Tree, state: OptimiserState, images: torch.Tensor) -> tuple[Tree, OptimiserState]:
            batch = image_batch(images, classes)
            gradient = torch.func.grad(self.inner_loss)(params, meta, batch)
            return self.optimiser.update(gradient, params, state, meta)

        count, start = len(support), self.start(self._begins(), meta)
        slots = self.optimiser.init(start)
        params, *kept = (
            {name: leaf.expand(count, *leaf.shape) for name, leaf in one.items()} for one in (start, *slots.values())
        )
        state = dict(zip(slots, kept, strict=True))
        yield params
        for _ in range(steps):
            with torch.no_grad():
                params, state = torch.func.vmap(step)(params, state, support)
            yield params

    def _right(
        self, params: Tree, meta: Tree, stack: Stack, *, alone: bool, targets: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return how many queries of each task are answered rightly, normalised together or each by the support's statistics.

        A task on which the network diverges has no right answer: the first class is the greatest of scores that are not numbers.
        """

        def scores(own: Tree, support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
            whole: Tree = {**meta, **own}
            if not alone or self.setting.options.norm != BY_BATCH:
                return self.net.scores(whole, query)
            known: _Statistics = {}
            self.net.scores(whole, support, _remembering(known))
            return self.net.scores(whole, query, _by(known))

        with torch.no_grad():
            found = torch.func.vmap(scores)(params, stack.support, stack.query)
        right = found.argmax(2) == (self.tasks.query_targets if targets is None else targets)
        return (right & found.isfinite().all(2)).sum(1).cpu()


_Statistics = dict[str, tuple["torch.Tensor", "torch.Tensor"]]
"""The mean and variance of each channel, by layer."""


def _remembering(known: _Statistics) -> Normalise:
    """Return the normalisation by the batch that leaves its statistics in `known`."""

    def normalise(layer: str, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        known[layer] = (hidden.mean((0, 2, 3)), hidden.var((0, 2, 3), correction=0))
        return by_batch(layer, hidden, weight, bias)

    return normalise


def _by(known: _Statistics) -> Normalise:
    """Return the normalisation by given statistics."""

    def normalise(layer: str, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        mean, variance = known[layer]
        scale = weight / (variance + EPSILON).sqrt()
        return (hidden - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]

    return normalise
