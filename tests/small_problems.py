"""Problems that exist for tests alone: one for each place where meta-parameters can enter, and one with a closed form.

`Tanh` is regression by a two-layer tanh network; its subclasses move the meta-parameters about. `Ridge` is linear regression with an
l2 penalty per feature: its Hessian, its minimum and its implicit hypergradient are a few lines of dense algebra.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from metabench.autodiff.optimisers import PerParameter, inner_optimiser, scheduled
from metabench.core import (
    Batch,
    InnerState,
    MetaRole,
    Metric,
    OptimiserState,
    Problem,
    ProblemCard,
    Tree,
    Window,
    once,
    tree,
)
from metabench.core.method import NoOptions
from metabench.core.problem import OuterOptimiser, Setting
from metabench.core.randomness import generator
from metabench.core.schedules import Cosine, WarmUp

FEATURES, HIDDEN, EXAMPLES = 3, 4, 12


def _setting(inner_steps: int, seed: int, dtype: torch.dtype) -> Setting:
    return Setting("small", NoOptions(), inner_steps, seed, torch.device("cpu"), dtype, None)


def _card(title: str) -> ProblemCard:
    return ProblemCard(title, ("analytic",), {"small": title}, (Metric("outer loss", "min"),), "", NoOptions, 3, 10)


class Beginning(Problem):
    """A problem whose inner runs begin with the parameters of `beginning`: one run, or one for every window if it `restarts`."""

    restarts = False

    def beginning(self) -> tuple[Tree, Tree]:
        """Return the parameters that inner runs begin with, and the initial meta-parameters."""
        raise NotImplementedError

    def initial(self) -> Tree:
        """Return the initial meta-parameters."""
        return self.beginning()[1]

    def begins(self) -> Iterator[Tree | None]:
        """Yield what each window begins with."""
        params, _ = self.beginning()
        return itertools.repeat(params) if self.restarts else once(params)

    def initial_state(self) -> tuple[InnerState, Tree]:
        """Return the state and the meta-parameters at the beginning; no batch is drawn."""
        params, meta = self.beginning()
        return InnerState(params, self.optimiser.init(params)), meta


class Tanh(Beginning):
    """Learn log l2 penalties, one a parameter tensor."""

    card = _card("regression by a tanh network")
    roles = frozenset({MetaRole.INNER_LOSS})
    outer_optimiser = OuterOptimiser("SGD", learning_rate=0.1)
    batch = EXAMPLES

    def __init__(
        self, optimiser: str = "sgd", inner_steps: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__(_setting(inner_steps, seed, dtype))
        self.optimiser = inner_optimiser(optimiser, self.learning_rate(optimiser))
        self._stream = generator(seed, "data")
        self._outer = self._draw()

    def learning_rate(self, optimiser: str) -> Any:
        """Return what the inner optimiser is built with."""
        return 0.02 if optimiser in ("adam", "adamw", "rmsprop") else 0.1

    def _draw(self) -> Batch:
        place = {"generator": self._stream, "dtype": torch.float64}
        inputs = torch.randn(EXAMPLES, FEATURES, **place)
        targets = (inputs.sum(1).sin() + 0.1 * torch.randn(EXAMPLES, **place))[:, None]
        return {name: leaf.to(self.setting.dtype) for name, leaf in {"inputs": inputs, "targets": targets}.items()}

    def beginning(self) -> tuple[Tree, Tree]:
        """Return the network and the meta-parameters."""
        stream = generator(self.setting.seed, "initial")
        shapes = {"in": (FEATURES, HIDDEN), "shift": (HIDDEN,), "out": (HIDDEN, 1)}
        params = {k: 0.7 * torch.randn(shape, generator=stream, dtype=torch.float64) for k, shape in shapes.items()}
        params = tree.cast(params, self.setting.dtype)
        return params, self.initial_meta(params)

    def initial_meta(self, params: Tree) -> Tree:
        """Return the meta-parameters at their start."""
        return {name: torch.tensor(-2.0 - i, dtype=self.setting.dtype) for i, name in enumerate(params)}

    def errors(self, params: Tree, batch: Batch) -> torch.Tensor:
        """Return the squared error of every example, shape [n]."""
        hidden = (batch["inputs"] @ params["in"] + params["shift"]).tanh()
        return (hidden @ params["out"] - batch["targets"]).square()[:, 0]

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the penalised mean squared error."""
        penalties = [meta[name].exp() * leaf.square().sum() for name, leaf in params.items()]
        return self.errors(params, batch).mean() + torch.stack(penalties).sum()

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean squared error."""
        return self.errors(params, batch).mean()

    def window(self) -> Window:
        """Return one window of fresh inner batches."""
        return Window.ending_in(tuple(self._draw() for _ in range(self.setting.inner_steps)), self._outer)

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield a window an outer step."""
        for begins in self.begins():
            yield [replace(self.window(), begins=begins)]

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the outer loss."""
        return {"outer loss": float(self.outer_loss(params, meta, self._outer))}


class LearningRates(Tanh):
    """The meta-parameters are log learning rates, one a parameter tensor: they enter the update alone."""

    roles = frozenset({MetaRole.UPDATE})

    def learning_rate(self, optimiser: str) -> Any:
        """Return the map from the meta-parameters to learning rates."""
        return lambda meta, step: tree.tree_map(torch.exp, meta)

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean squared error."""
        return self.errors(params, batch).mean()


class LearnedSchedule(LearningRates):
    """The learning rates decay, and the speed is learned, too."""

    def learning_rate(self, optimiser: str) -> Any:
        """Return the map from the meta-parameters and the step to learning rates."""
        return lambda meta, step: {
            name: (leaf - step * meta["decay"].exp()).exp() for name, leaf in meta.items() if name != "decay"
        }

    def initial_meta(self, params: Tree) -> Tree:
        """Return the log learning rates and the log decay."""
        return super().initial_meta(params) | {"decay": torch.tensor(-1.5, dtype=self.setting.dtype)}


class ScheduledRates(LearningRates):
    """The learning rates are learned, a tensor's by itself, and fall by a cosine."""

    def learning_rate(self, optimiser: str) -> Any:
        """Return the scheduled rates."""
        return scheduled(PerParameter(torch.exp), WarmUp(2, Cosine(6, 0.1)))


class SummedOuter(LearningRates):
    """The same, and an outer loss is due after every inner step, as where an optimiser is learned."""

    def window(self) -> Window:
        """Return a window with an outer loss at every step."""
        inner = tuple(self._draw() for _ in range(self.setting.inner_steps))
        return Window(inner, tuple(self._draw() for _ in inner))


class LearnedUpdate(SummedOuter):
    """The update is a learned recurrent cell that acts on every coordinate: h <- tanh(a h + b g + d), w <- w - exp(c) h."""

    def __init__(self, inner_steps: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__("sgd", inner_steps, seed, dtype)
        self.optimiser = RecurrentCell()

    def initial_meta(self, params: Tree) -> Tree:
        """Return the cell's parameters."""
        values = {"remember": 0.8, "read": 1.2, "shift": 0.01, "log_step": -3.0}
        return {name: torch.tensor(value, dtype=self.setting.dtype) for name, value in values.items()}


class RecurrentCell:
    """An inner optimiser of which every constant is a meta-parameter."""

    def init(self, params: Tree) -> OptimiserState:
        """Return the cell's state."""
        return {"hidden": tree.zeros_like(params)}

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and state."""
        hidden = tree.tree_map(
            lambda h, g: (meta["remember"] * h + meta["read"] * g + meta["shift"]).tanh(), state["hidden"], gradient
        )
        return tree.add_scaled(params, -meta["log_step"].exp(), hidden), {"hidden": hidden}


class LearnedStart(Tanh):
    """The meta-parameters are initial parameters, as in MAML; those named in `fixed` start where the problem's state has them."""

    roles = frozenset({MetaRole.START})
    restarts = True
    fixed: tuple[str, ...] = ()

    def initial_meta(self, params: Tree) -> Tree:
        """Return the learned initial parameters."""
        return {name: leaf + 0.3 for name, leaf in params.items() if name not in self.fixed}

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return the learned initial parameters, and the fixed ones."""
        return {name: meta.get(name, leaf) for name, leaf in params.items()}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean squared error."""
        return self.errors(params, batch).mean()


class LearnedStartOfBody(LearnedStart):
    """Only a part of the initial parameters is learned; the head starts fixed."""

    fixed = ("out",)


class OuterPenalty(Tanh):
    """The meta-parameters enter both losses: the outer one is charged for their size."""

    roles = frozenset({MetaRole.INNER_LOSS, MetaRole.OUTER_LOSS})

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean squared error with a charge on the penalties."""
        charges = [(leaf.exp() * params[name].square().mean()).cos() for name, leaf in meta.items()]
        return self.errors(params, batch).mean() + 0.1 * torch.stack(charges).sum()


class OuterOnly(OuterPenalty):
    """The meta-parameters enter the outer loss alone."""

    roles = frozenset({MetaRole.OUTER_LOSS})

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean squared error."""
        return self.errors(params, batch).mean()


class WeightedExamples(Tanh):
    """One meta-parameter an example: the logit of its weight. `examples` of them, of which each batch reads twelve."""

    def __init__(
        self,
        optimiser: str = "sgd",
        inner_steps: int = 3,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        examples: int = EXAMPLES,
    ) -> None:
        self._examples = examples
        super().__init__(optimiser, inner_steps, seed, dtype)

    def initial_meta(self, params: Tree) -> Tree:
        """Return logits of equal weights."""
        return {"logit": torch.zeros(self._examples, dtype=self.setting.dtype)}

    def window(self) -> Window:
        """Return a window whose inner batches know which examples they hold."""
        inner = []
        for _ in range(self.setting.inner_steps):
            index = torch.randint(self._examples, (EXAMPLES,), generator=self._stream)
            inner.append({**self._draw(), "index": index})
        return Window.ending_in(tuple(inner), self._outer)

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the weighted mean squared error."""
        return (meta["logit"][batch["index"]].sigmoid() * self.errors(params, batch)).mean()


class Tasks(Tanh):
    """Three tasks an outer step, each with its own data and its own inner run."""

    restarts = True

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield three windows an outer step."""
        for begins in self.begins():
            yield [replace(self.window(), begins=begins) for _ in range(3)]


class Ridge(Beginning):
    """f(w, l) = 1/(2n) |X w - y|^2 + 1/2 sum_j exp(l_j) w_j^2, all times `scale`; F(w) = 1/(2m) |Z w - t|^2."""

    card = _card("ridge regression with a penalty per feature")
    roles = frozenset({MetaRole.INNER_LOSS})
    outer_optimiser = OuterOptimiser("SGD", learning_rate=0.1)
    batch = EXAMPLES

    def __init__(self, features: int = 5, inner_steps: int = 1, scale: float = 1.0, learning_rate: float = 0.1) -> None:
        super().__init__(_setting(inner_steps, 0, torch.float64))
        self.optimiser = inner_optimiser("sgd", learning_rate / scale)
        self.scale = scale
        self.features = features
        stream = generator(0, "ridge")

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=stream, dtype=torch.float64)

        self.x, self.y, self.z, self.t = draw(20, features), draw(20), draw(15, features), draw(15)

    def beginning(self) -> tuple[Tree, Tree]:
        """Return some point; nothing is special about it."""
        ramp = torch.linspace(-1, 1, self.features + 1, dtype=torch.float64)[1:]
        return {"w": ramp}, {"log_penalty": ramp - 1}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        fit = (self.x @ params["w"] - self.y).square().mean() / 2
        return self.scale * (fit + (meta["log_penalty"].exp() * params["w"].square()).sum() / 2)

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F."""
        return (self.z @ params["w"] - self.t).square().mean() / 2

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the same window: every batch is all of the data, which the problem holds."""
        for begins in self.begins():
            yield [Window.ending_in(({},) * self.setting.inner_steps, {}, begins)]

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return F."""
        return {"outer loss": float(self.outer_loss(params, meta, {}))}

    def hessian(self, meta: Tree) -> torch.Tensor:
        """Return d2f/dw2, dense."""
        return self.scale * (self.x.T @ self.x / len(self.y) + torch.diag(meta["log_penalty"].exp()))

    def outer_slope(self, params: Tree) -> torch.Tensor:
        """Return dF/dw."""
        return self.z.T @ (self.z @ params["w"] - self.t) / len(self.t)

    def mixed(self, params: Tree, meta: Tree) -> torch.Tensor:
        """Return d2f/dl dw, which is diagonal, as a vector."""
        return self.scale * meta["log_penalty"].exp() * params["w"]

    def minimum(self, meta: Tree) -> Tree:
        """Return the minimum of f."""
        return {"w": torch.linalg.solve(self.hessian(meta), self.scale * self.x.T @ self.y / len(self.y))}

    def implicit(self, params: Tree, meta: Tree, damping: float = 0.0) -> Tree:
        """Return -(d2f/dl dw) (H + damping I)^-1 dF/dw, dense."""
        hessian = self.hessian(meta) + damping * torch.eye(self.features, dtype=torch.float64)
        return {"log_penalty": -self.mixed(params, meta) * torch.linalg.solve(hessian, self.outer_slope(params))}


class Counting:
    """A problem that counts how often its inner loss is evaluated."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self.inner_losses = problem, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._problem, name)

    def inner_loss(self, *arguments: Any) -> torch.Tensor:
        """Return the problem's inner loss."""
        self.inner_losses += 1
        return self._problem.inner_loss(*arguments)


def at_minimum(problem: Ridge, decay: float = 0.0) -> tuple[InnerState, Tree, Window]:
    """Return the checkpoint at the minimum of f + decay/2 |w|^2, where further training leads nowhere."""
    _, meta = problem.initial_state()
    hessian = problem.hessian(meta) + decay * torch.eye(problem.features, dtype=torch.float64)
    params = {"w": torch.linalg.solve(hessian, problem.scale * problem.x.T @ problem.y / len(problem.y))}
    return InnerState(params, problem.optimiser.init(params)), meta, next(problem.windows())[0]
