"""One parameter, one meta-parameter, and a hypergradient in closed form: the toy problem of EvoGrad.

f(x, l) = (x - 1)^2 + l x^2 and F(x) = (x - 1/2)^2. The inner minimum is x* = 1/(1 + l), the implicit hypergradient
(l - 1)/(l + 1)^3, and the best l is 1. Bohdal et al. 2021, section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metabench.autodiff.optimisers import INNER_OPTIMISERS, inner_optimiser
from metabench.core import Batch, MetaRole, Metric, Problem, ProblemCard, Tree, Window, once, option
from metabench.core.lazy import torch
from metabench.core.problem import OuterOptimiser, Setting
from metabench.core.randomness import generator


@dataclass(frozen=True)
class Options:
    """Options of `toy_1d`."""

    optimiser: str = option("sgd", choices=INNER_OPTIMISERS, help="inner optimiser")
    learning_rate: float = option(0.1, above=0, help="of the inner optimiser")
    outer_learning_rate: float = option(1.0, above=0, help="of the outer optimiser, SGD")
    starts: str = option(
        "drawn",
        choices=("drawn", "paper"),
        help="initial x and l: drawn, or by seed one of the five of the paper's figure",
    )


PAPER_STARTS = ((-1.8, 0.2), (-0.9, 1.2), (0.9, 0.8), (1.3, 0.2), (1.5, 1.7))
"""Initial (x, l) of the trajectories of Bohdal et al. 2021, figure 2."""


class Toy1D(Problem):
    """Learn the l at which the minimum of f is the minimum of F."""

    card = ProblemCard(
        title="a quadratic in one dimension, with its hypergradient in closed form",
        datasets=("analytic",),
        sizes={"scalar": "one parameter, one meta-parameter"},
        metrics=(Metric("outer loss at the inner minimum", "min"),),
        citation="bohdal2021evograd",
        options=Options,
        inner_steps=20,
        outer_steps=100,
        illustration=True,
    )
    roles = frozenset({MetaRole.INNER_LOSS})
    batch = 0

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options: Options = setting.options
        self.optimiser = inner_optimiser(options.optimiser, options.learning_rate)
        self.outer_optimiser = OuterOptimiser("SGD", options.outer_learning_rate)

    def _start(self) -> tuple[Tree, Tree]:
        """Return x drawn from a standard normal and l drawn uniformly from [0.1, 2], or those of the paper."""
        if self.setting.options.starts == "paper":
            x, penalty = torch.tensor(PAPER_STARTS[self.setting.seed % len(PAPER_STARTS)], dtype=torch.float64)
        else:
            stream = generator(self.setting.seed, "initial")
            x = torch.randn((), generator=stream, dtype=torch.float64)
            penalty = 0.1 + 1.9 * torch.rand((), generator=stream, dtype=torch.float64)
        place = {"device": self.setting.device, "dtype": self.setting.dtype}
        return {"x": x.to(**place)}, {"l": penalty.to(**place)}

    def initial(self) -> Tree:
        """Return l."""
        return self._start()[1]

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f(x, l)."""
        return (params["x"] - 1) ** 2 + meta["l"] * params["x"] ** 2

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F(x)."""
        return (params["x"] - 0.5) ** 2

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the same window: there are no data. One run begins, at the initial x."""
        for begins in once(self._start()[0]):
            yield [Window.ending_in(({},) * self.setting.inner_steps, {}, begins)]

    def implicit_hypergradient(self, meta: float) -> float:
        """Return dF/dl at the inner minimum of l = `meta`."""
        return (meta - 1) / (meta + 1) ** 3

    def observe(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return x and l, from a start of the paper: where its trajectories lead."""
        return {"x": float(params["x"]), "l": float(meta["l"])} if self.setting.options.starts == "paper" else {}

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return F at the inner minimum of the learned l."""
        return {self.card.metrics[0].name: (1 / (1 + float(meta["l"])) - 0.5) ** 2}

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return l; the best is 1."""
        return {"l": float(meta["l"])}
