"""The certification problems: one for each role of meta-parameters, each with conditions that expose bugs found in the field.

w are the inner parameters, l the meta-parameters; f is the inner loss, F the outer loss; (X, y) is an inner batch, (Z, t) the outer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metabench.certify.problem import ADAPTIVE, CertificationProblem
from metabench.core import Batch, MetaRole, Tree, tree
from metabench.core.lazy import torch
from metabench.core.segments import LOSS, Segment

HIDDEN = 2


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

    def initial(self) -> tuple[Tree, Tree]:
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

    def initial(self) -> tuple[Tree, Tree]:
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

    def initial(self) -> tuple[Tree, Tree]:
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


class TanhNetwork(CertificationProblem):
    """A two-layer tanh network with a pseudo-Huber penalty per tensor: d2f/dl dw is curved in w, as no square would be.

    The outer loss is charged for the penalties: dF/dl has a direct term. Outer batches hold other names than inner ones.
    """

    name = "tanh_network"
    statement = (
        "f = mean (v' tanh(Ux + b) - y)^2 + sum_ij exp(l_i) (sqrt(1 + w_ij^2) - 1),  "
        "F = mean (v' tanh(Uz + b) - t)^2 + sum_i cos(l_i) / 10"
    )
    roles = frozenset({MetaRole.INNER_LOSS, MetaRole.OUTER_LOSS})
    # One of which the minimum is well conditioned (20), so that solvers can be held to tight tolerances there.
    seed = 7

    def learning_rate(self) -> Any:
        """Return a shorter step: the curvature is large."""
        return super().learning_rate() / 2

    def initial(self) -> tuple[Tree, Tree]:
        """Return (U, b, v) and l."""
        params = {
            "U": 0.7 * self.normal("U", self.features, HIDDEN),
            "b": 0.7 * self.normal("b", HIDDEN),
            "v": 0.7 * self.normal("v", HIDDEN),
        }
        return params, self.initial_meta(params)

    def initial_meta(self, params: Tree) -> Tree:
        """Return l."""
        return {name: torch.tensor(-1.0 - 0.3 * place, dtype=torch.float64) for place, name in enumerate(params)}

    def draw(self, stream: torch.Generator) -> Batch:
        """Return (X, y), y a bounded function of the inputs."""
        batch = linear_data(self, stream)
        return {"inputs": batch["inputs"], "targets": 2 * batch["targets"].sin()}

    def draw_outer(self, stream: torch.Generator) -> Batch:
        """Return (Z, t)."""
        batch = self.draw(stream)
        return {"Z": batch["inputs"], "t": batch["targets"]}

    def fit(self, params: Tree, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error of the network."""
        hidden = (inputs @ params["U"] + params["b"]).tanh()
        return (hidden @ params["v"] - targets).square().mean()

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        penalties = [meta[name].exp() * ((1 + leaf.square()).sqrt() - 1).sum() for name, leaf in params.items()]
        return self.fit(params, batch["inputs"], batch["targets"]) + torch.stack(penalties).sum()

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F."""
        return self.fit(params, batch["Z"], batch["t"]) + torch.stack([leaf.cos() for leaf in meta.values()]).sum() / 10

    def inner_segments(self) -> Sequence[Segment]:
        """Return f as three segments; v is tied between the first, which has the penalties, and the last."""
        names = tuple((name, name) for name in ("U", "b", "v"))
        return (
            Segment("penalties and inputs", _penalties_and_inputs, names, ("U", "b", "v"), ("inputs",)),
            Segment("tanh", _tanh),
            Segment("fit", _Fit(self.scale), (("v", "v"),), batch=("targets",)),
        )

    def outer_segments(self) -> Sequence[Segment]:
        """Return F likewise; its direct term is in the last."""
        return _fit_in_segments(_OUTER, 1.0, ("U", "b", "v"))


_INNER, _OUTER = ("inputs", "targets"), ("Z", "t")
"""What batches hold."""


def _fit_in_segments(names: tuple[str, str], scale: float, direct: tuple[str, ...] = ()) -> tuple[Segment, ...]:
    """Return the mean squared error as three segments; the last adds the direct term of the meta-parameters `direct`."""
    inputs, targets = names
    return (
        Segment("inputs", _inputs, (("U", "U"), ("b", "b")), batch=(inputs,)),
        Segment("tanh", _tanh),
        Segment("fit", _Fit(scale), (("v", "v"),), direct, (targets,)),
    )


def _inputs(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    (inputs,) = batch.values()
    return {"sums": inputs @ params["U"] + params["b"]}


def _penalties_and_inputs(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    penalties = [meta[name].exp() * ((1 + leaf.square()).sqrt() - 1).sum() for name, leaf in params.items()]
    return {**_inputs(params, meta, batch, hidden), "penalty": torch.stack(penalties).sum()}


def _tanh(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    return {**hidden, "hidden": hidden["sums"].tanh()}


@dataclass(frozen=True)
class _Fit:
    """The last segment: what was handed on, fitted to the targets."""

    scale: float

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        (targets,) = batch.values()
        error = (hidden["hidden"] @ params["v"] - targets).square().mean()
        direct = torch.stack([leaf.cos() for leaf in meta.values()]).sum() / 10 if meta else 0
        return {LOSS: self.scale * (error + hidden.get("penalty", 0)) + direct}


class LearningRates(TanhNetwork):
    """The meta-parameters are log learning rates, one per tensor: a minimum does not see them."""

    name = "learning_rate"
    statement = (
        "w_i <- w_i - exp(l_i) u_i,  f = F = mean (v' tanh(Ux + b) - y)^2, F summed over the steps where it is due"
    )
    roles = frozenset({MetaRole.UPDATE})

    def learning_rate(self) -> Any:
        """Return the map from l to the learning rates."""
        return lambda meta: tree.tree_map(torch.exp, meta)

    def initial_meta(self, params: Tree) -> Tree:
        """Return l."""
        base = -3.0 if self.optimiser_name in ADAPTIVE else -1.5
        return {name: torch.tensor(base - 0.2 * place, dtype=torch.float64) for place, name in enumerate(params)}

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        return self.fit(params, batch["inputs"], batch["targets"])

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F."""
        return self.fit(params, batch["Z"], batch["t"])

    def inner_segments(self) -> Sequence[Segment]:
        """Return f as three segments: there are no penalties."""
        return _fit_in_segments(_INNER, self.scale)

    def outer_segments(self) -> Sequence[Segment]:
        """Return F likewise: it has no direct term."""
        return _fit_in_segments(_OUTER, 1.0)


class Initialisation(LearningRates):
    """The meta-parameters are the initial hidden layer, as in MAML; the output layer starts fixed."""

    name = "initialisation"
    statement = "w_0 = (l, v_0),  f = F = mean (v' tanh(Ux + b) - y)^2"
    roles = frozenset({MetaRole.START})
    carry = False

    def learning_rate(self) -> Any:
        """Return a number: nothing is learned about it."""
        return CertificationProblem.learning_rate(self)

    def initial_meta(self, params: Tree) -> Tree:
        """Return l: the hidden layer."""
        return {name: params[name] + 0.3 for name in ("U", "b")}

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return w_0."""
        return {name: meta.get(name, leaf) for name, leaf in params.items()}


class PenaltiesAndRate(Ridge):
    """Ridge regression of which the learning rate is learned, too: the meta-parameters enter the loss and the update."""

    name = "penalties_and_rate"
    statement = "w <- w - exp(r) u,  f = |Xw - y|^2 / 2n + sum_j exp(l_j) w_j^2 / 2,  F = |Zw - t|^2 / 2m"
    roles = frozenset({MetaRole.INNER_LOSS, MetaRole.UPDATE})

    def learning_rate(self) -> Any:
        """Return the map from r to the learning rate."""
        return lambda meta: meta["r"].exp()

    def initial(self) -> tuple[Tree, Tree]:
        """Return w, and l and r."""
        params, meta = super().initial()
        rate = -3.0 if self.optimiser_name in ADAPTIVE else -1.5
        return params, {**meta, "r": torch.tensor(rate, dtype=torch.float64)}


class ScaledStart(Ridge):
    """Ridge regression from a start that is not the meta-parameters themselves: its derivative is not the identity."""

    name = "scaled_start"
    statement = "w_0 = exp(l) c,  f = |Xw - y|^2 / 2n + |w|^2 / 10,  F = |Zw - t|^2 / 2m"
    roles = frozenset({MetaRole.START})
    carry = False

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

    def initial(self) -> tuple[Tree, Tree]:
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

    def initial(self) -> tuple[Tree, Tree]:
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
