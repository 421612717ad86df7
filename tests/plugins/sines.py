"""A plugin: regression of sines in episodes of twenty steps, five to a window, with a warm-up of the inner rate and a curve over tasks.

Everything that it needs stands in this file: nothing else knows of episodes, schedules or curves.
"""

import itertools
from dataclasses import dataclass

from metabench.autodiff.inner import run
from metabench.autodiff.optimisers import SGD, scheduled
from metabench.core import InnerState, MetaRole, Metric, Problem, ProblemCard, Window, option
from metabench.core.curves import Curve
from metabench.core.lazy import torch
from metabench.core.problem import OuterOptimiser
from metabench.core.randomness import generator
from metabench.core.schedules import read_schedule

EPISODE = 20


@dataclass(frozen=True)
class Options:
    """Options of `sines`."""

    schedule: str = option("warm-up 5, cosine 20 to 0.1", help="factor on the inner rate, from step to step of an episode")
    learning_rate: float = option(0.05, above=0, help="of the inner SGD")


class Sines(Problem):
    """Learn a log penalty per tensor of a small network, over tasks."""

    card = ProblemCard(
        title="few-shot sines, with an l2 penalty per tensor",
        datasets=("analytic",),
        sizes={"mlp8": "MLP with 8 hidden units"},
        metrics=(Metric("test loss", "min"),),
        citation="",
        options=Options,
        inner_steps=5,
        outer_steps=8,
    )
    roles = frozenset({MetaRole.INNER_LOSS})
    outer_optimiser = OuterOptimiser("Adam", learning_rate=0.1)
    batch = 10

    def __init__(self, setting):
        super().__init__(setting)
        self.optimiser = SGD(scheduled(setting.options.learning_rate, read_schedule(setting.options.schedule)))

    def _draw(self, *shape, stream):
        return torch.randn(shape, generator=stream, dtype=torch.float64).to(self.setting.device, self.setting.dtype)

    def _params(self, stream):
        shapes = {"in": (1, 8), "shift": (8,), "out": (8, 1)}
        return {name: self._draw(*shape, stream=stream) for name, shape in shapes.items()}

    def _batch(self, phase, stream):
        inputs = 3 * self._draw(self.batch, 1, stream=stream)
        return {"inputs": inputs, "targets": (inputs + phase).sin()}

    def initial(self):
        """Return equal penalties."""
        like = self._draw(1, stream=generator(0, "like"))
        return {name: like.new_full((), -6.0) for name in ("in", "shift", "out")}

    def _error(self, params, batch):
        hidden = (batch["inputs"] @ params["in"] + params["shift"]).tanh()
        return (hidden @ params["out"] - batch["targets"]).square().mean()

    def inner_loss(self, params, meta, batch):
        """Return the penalised squared error."""
        penalties = [meta[name].exp() * leaf.square().sum() for name, leaf in params.items()]
        return self._error(params, batch) + torch.stack(penalties).sum()

    def outer_loss(self, params, meta, batch):
        """Return the squared error."""
        return self._error(params, batch)

    def windows(self):
        """Yield the windows of one episode after another: a new task and new parameters after every twenty steps."""
        steps = self.setting.inner_steps
        stream = generator(self.setting.seed, "tasks")
        for number in itertools.count():
            begins = number * steps % EPISODE == 0
            if begins:
                phase = self._draw(1, stream=stream)
            inner = tuple(self._batch(phase, stream) for _ in range(steps))
            yield [Window.ending_in(inner, self._batch(phase, stream), self._params(stream) if begins else None)]

    def evaluate(self, params, meta):
        """Return the test loss at the end of an episode, its median over five new tasks, and the loss along these episodes."""
        losses = []
        for task in range(5):
            stream = generator(self.setting.seed, f"test {task}")
            phase, start = self._draw(1, stream=stream), self._params(stream)
            test = self._batch(phase, stream)
            state, along = InnerState(start, self.optimiser.init(start)), [float(self._error(start, test))]
            for _ in range(EPISODE):
                state = run(self, state, meta, [self._batch(phase, stream)])
                along.append(float(self._error(state.params, test)))
            losses.append(along)
        curve = Curve.over_tasks(range(EPISODE + 1), losses, log_y=True)
        return {"test loss": curve.values[-1], "test loss along an episode": curve}
