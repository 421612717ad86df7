"""Certification problems in linear models: one for each role of meta-parameters, with conditions that expose bugs found in the field.

Those of a tanh network are in `tanh_networks`. w are the inner parameters, l the meta-parameters; f is the inner loss, F the outer loss;
(X, y) is an inner batch, (Z, t) the outer one.
"""

from __future__ import annotations

from typing import Any

from metabench.certify.problem import ADAPTIVE, CertificationProblem
from metabench.core import Batch, MetaRole, Tree
from metabench.core.lazy import torch


def linear_data(problem: CertificationProblem, stream: torch.Generator) -> Batch:
    """Return inputs [n, d] and noisy linear targets [n]."""
    inputs = torch.randn(problem.examples, problem.features, generator=stream, dtype=torch.float64)
    noise = torch.randn(problem.examples, generator=stream, dtype=torch.float64)
    return {"inputs": inputs, "targets": inputs.sum(1) + 0.5 * noise}


class Ridge(CertificationProblem):
    """Linear regression, n > d, with an l2 penalty per feature. In one dimension, at other scales, with weight decay: variants of it."""

    name = "ridge"
    statement = "f = |Xw - y|^2 / 2n + sum_j exp(l_j) w_j^2 / 2,  F = |Zw - t|^2 / 2m"
    roles = frozenset({MetaRole.INNER_LOSS})

    def beginning(self) -> tuple[Tree, Tree]:
        """Return w and l."""
        return {"w": self.normal("w", self.features)}, {"l": 0.3 * self.normal("l", self.features) - 0.5}

    def draw(self, stream: torch.Generator) -> Batch:
        """Return (X, y)."""
        return linear_data(self, stream)

    def __init__(self, optimiser: str = "sgd", outer_scale: float = 1.0, **settings: Any) -> None:
        super().__init__(optimiser, **settings)
        self.outer_scale = outer_scale

    def fit(self, params: Tree, batch: Batch) -> torch.Tensor:
        """Return half the mean squared error."""
        return (batch["inputs"] @ params["w"] - batch["targets"]).square().mean() / 2

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        return self.fit(params, batch) + (meta["l"].exp() * params["w"].square()).sum() / 2

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F, times `outer_scale`."""
        return self.outer_scale * self.fit(params, batch)


class Quadratic(CertificationProblem):
    """One parameter, one meta-parameter: the EvoGrad toy. At the minimum dF/dl = (l - 1)/(l + 1)^3, zero at l = 1."""

    name = "quadratic_1d"
    statement = "f = (w - 1)^2 + l w^2,  F = (w - 1/2)^2"
    roles = frozenset({MetaRole.INNER_LOSS})

    def learning_rate(self) -> Any:
        """Return a step size for a curvature of 2 (1 + l)."""
        return super().learning_rate() / 2

    def beginning(self) -> tuple[Tree, Tree]:
        """Return w and l."""
        return {"w": torch.tensor(1.7, dtype=torch.float64)}, {"l": torch.tensor(0.4, dtype=torch.float64)}

    def draw(self, stream: torch.Generator) -> Batch:
        """Return nothing: there are no data."""
        return {}

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        return (params["w"] - 1) ** 2 + meta["l"] * params["w"] ** 2

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F."""
        return (params["w"] - 0.5) ** 2


class Logistic(CertificationProblem):
    """Logistic regression with an l2 penalty per feature: a Hessian that depends on w."""

    name = "logistic"
    statement = (
        "f = mean -log softmax(0, Xw + b)_y + sum_j exp(l_j) w_j^2 / 2 + b^2 / 20,  F = mean -log softmax(0, Zw + b)_t"
    )
    roles = frozenset({MetaRole.INNER_LOSS})

    def learning_rate(self) -> Any:
        """Return a longer step: the curvature is small."""
        return 2 * super().learning_rate()

    def beginning(self) -> tuple[Tree, Tree]:
        """Return w, b and l."""
        params = {"w": self.normal("w", self.features), "b": torch.tensor(0.2, dtype=torch.float64)}
        return params, {"l": 0.3 * self.normal("l", self.features) - 2}

    def draw(self, stream: torch.Generator) -> Batch:
        """Return X and the classes y in {0, 1}, indices, some of them on the wrong side; from 9 to all of the examples."""
        batch = linear_data(self, stream)
        count = int(torch.randint(9, self.examples + 1, (), generator=stream))
        classes = (batch["targets"] > 0.3).long()
        return {"inputs": batch["inputs"][:count], "classes": classes[:count]}

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        penalty = (meta["l"].exp() * params["w"].square()).sum() / 2 + params["b"] ** 2 / 20
        return self.outer_loss(params, meta, batch) + penalty

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F."""
        scores = batch["inputs"] @ params["w"] + params["b"]
        return torch.nn.functional.cross_entropy(torch.stack([torch.zeros_like(scores), scores], 1), batch["classes"])


class PenaltiesAndRate(Ridge):
    """Ridge regression of which the learning rate is learned, too: the meta-parameters enter the loss and the update."""

    name = "penalties_and_rate"
    statement = "w <- w - exp(r) u,  f = |Xw - y|^2 / 2n + sum_j exp(l_j) w_j^2 / 2,  F = |Zw - t|^2 / 2m"
    roles = frozenset({MetaRole.INNER_LOSS, MetaRole.UPDATE})

    def learning_rate(self) -> Any:
        """Return the map from r to the learning rate."""
        return lambda meta, step: meta["r"].exp()

    def beginning(self) -> tuple[Tree, Tree]:
        """Return w, and l and r."""
        params, meta = super().beginning()
        rate = -3.0 if self.optimiser_name in ADAPTIVE else -1.5
        return params, {**meta, "r": torch.tensor(rate, dtype=torch.float64)}


class ScaledStart(Ridge):
    """Ridge regression from a start that is not the meta-parameters themselves: its derivative is not the identity."""

    name = "scaled_start"
    statement = "w_0 = exp(l) c,  f = |Xw - y|^2 / 2n + |w|^2 / 10,  F = |Zw - t|^2 / 2m"
    roles = frozenset({MetaRole.START})
    restarts = True

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return w_0, with c the parameters that the problem begins with."""
        return {"w": meta["l"].exp() * params["w"]}

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        return self.fit(params, batch) + params["w"].square().sum() / 10


class ExampleWeights(CertificationProblem):
    """Linear regression with a weight per example: more meta-parameters than parameters."""

    name = "example_weights"
    statement = "f = sum_i sigmoid(l_i) (x_i' w - y_i)^2 / 2n + |w|^2 / 10,  F = |Zw - t|^2 / 2m"
    roles = frozenset({MetaRole.INNER_LOSS})

    def beginning(self) -> tuple[Tree, Tree]:
        """Return w in two pieces, and l."""
        half = self.features // 2
        params = {"0.left": self.normal("left", half), "0.right": self.normal("right", self.features - half)}
        return params, {"net.l": self.normal("l", self.examples)}

    def draw(self, stream: torch.Generator) -> Batch:
        """Return (X, y)."""
        return linear_data(self, stream)

    def errors(self, params: Tree, batch: Batch) -> torch.Tensor:
        """Return half the squared error of every example, shape [n]."""
        fitted = batch["inputs"] @ torch.cat([params["0.left"], params["0.right"]])
        return (fitted - batch["targets"]).square() / 2

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        penalty = (params["0.left"].square().sum() + params["0.right"].square().sum()) / 10
        return (meta["net.l"].sigmoid() * self.errors(params, batch)).mean() + penalty

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F."""
        return self.errors(params, batch).mean()


class ManyWeights(ExampleWeights):
    """More meta-parameters than forward mode carries in one pass by default, the last pass with two."""

    name = "many_weights"
    examples = 34


class Layouts(CertificationProblem):
    """Parameters and meta-parameters as tensors may be: transposed, strided, expanded, without dimensions and without elements.

    Outer batches hold other names than inner ones, and other numbers of examples.
    """

    name = "layouts"
    statement = "f = |X (V 1 + s + e) - y|^2 / 2n + sum_i exp(l_i) |w_i|^2 / 2 + sum p V^2 / 9,  F = |Z (V 1 + s + e) - t|^2 / 2m"
    roles = frozenset({MetaRole.INNER_LOSS})

    def beginning(self) -> tuple[Tree, Tree]:
        """Return V transposed, s without dimensions, e expanded and n empty; l strided, p transposed, x expanded and m empty."""
        params = {
            "V": self.normal("V", 2, self.features).T,
            "s": self.normal("s"),
            "e": self.normal("e", 1).expand(self.features),
            "n": self.normal("n", 0),
        }
        meta = {
            "l": self.normal("l", 4, 2)[:, 0] / 3 - 1,
            "p": self.normal("p", 2, self.features).T.exp(),
            "x": self.normal("x", 1).expand(2),
            "m": self.normal("m", 0),
        }
        return params, meta

    def draw(self, stream: torch.Generator) -> Batch:
        """Return (X, y), X transposed."""
        batch = linear_data(self, stream)
        return {"inputs": batch["inputs"].T.contiguous().T, "targets": batch["targets"]}

    def draw_outer(self, stream: torch.Generator) -> Batch:
        """Return (Z, t) of the first ten examples."""
        batch = linear_data(self, stream)
        return {"Z": batch["inputs"][:10], "t": batch["targets"][:10]}

    def fit(self, params: Tree, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return half the mean squared error."""
        weights = params["V"].sum(1) + params["s"] + params["e"]
        return (inputs @ weights - targets).square().mean() / 2 + params["n"].sum()

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        pairs = zip(meta["l"], params.values(), strict=True)
        penalties = [l_i.exp() * leaf.square().sum() for l_i, leaf in pairs]
        penalty = torch.stack(penalties).sum() / 2 + (meta["p"] * params["V"].square()).sum() / 9
        spread = (meta["x"] * params["V"].sin().sum(0)).sum() / 20 + meta["m"].sum() * params["n"].sum()
        return self.fit(params, batch["inputs"], batch["targets"]) + penalty + spread

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F."""
        return self.fit(params, batch["Z"], batch["t"])
