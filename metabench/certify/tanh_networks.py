"""Certification problems on a tanh network: curved in every parameter, and stated as chains of segments, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metabench.certify.problem import ADAPTIVE, CertificationProblem
from metabench.certify.problems import linear_data
from metabench.core import Batch, MetaRole, Tree, tree
from metabench.core.lazy import torch
from metabench.core.segments import LOSS, Segment

HIDDEN = 2


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

    def beginning(self) -> tuple[Tree, Tree]:
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
        return lambda meta, step: tree.tree_map(torch.exp, meta)

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
    restarts = True

    def learning_rate(self) -> Any:
        """Return a number: nothing is learned about it."""
        return CertificationProblem.learning_rate(self)

    def initial_meta(self, params: Tree) -> Tree:
        """Return l: the hidden layer."""
        return {name: params[name] + 0.3 for name in ("U", "b")}

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return w_0."""
        return {name: meta.get(name, leaf) for name, leaf in params.items()}
