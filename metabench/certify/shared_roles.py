"""Problems in which one tensor is in several places: in several roles, under two names, as the start of two parameters."""

from __future__ import annotations

from typing import Any

from metabench.certify.problem import ADAPTIVE, CertificationProblem
from metabench.certify.problems import linear_data
from metabench.core import Batch, MetaRole, Tree
from metabench.core.lazy import torch


class SharedRoles(CertificationProblem):
    """One tensor l in several roles at once, any of the four: in f, in F, as the learning rates, and as the initial w itself.

    A role that is counted for another, or twice, shows where they meet; one more meta-parameter may be in the start alone.
    """

    statement = (
        "f = |Xw + b - y|^2 / 2n + sum_j (1 - cos w_j) / 5 [+ sum_j exp(l_j) w_j^2 / 2],  "
        "F = |Zw + b - t|^2 / 2m [+ sum_j cos(l_j) (1 + w_j) / 10],  [rates sigmoid(l_1), sigmoid(l_2),]  [w_0 = l]  [b_0 = first]"
    )

    def __init__(
        self,
        optimiser: str = "sgd",
        roles: tuple[str, ...] = ("inner_loss", "start"),
        idle: bool = False,
        alone: bool = False,
        **settings: Any,
    ) -> None:
        """With `idle`, one more parameter that F alone reads, and one that neither loss reads; with `alone`, b starts where l says, too."""
        self.idle, self.alone = idle, alone
        self.roles = frozenset(MetaRole(role) for role in roles)
        self.start_only = frozenset({"first"} if alone else ())
        self.name = "_and_".join(roles) + ("_alone" if alone else "")
        self.restarts = MetaRole.START in self.roles
        super().__init__(optimiser, **{"features": 3, **settings})

    def learning_rate(self) -> Any:
        """Return the map from l to the learning rates, or a number."""
        if MetaRole.UPDATE not in self.roles:
            return super().learning_rate()
        scale = 0.1 if self.optimiser_name in ADAPTIVE else 0.5
        return lambda meta, step: {
            name: scale * meta["l"][place % 2].sigmoid() for place, name in enumerate(self.beginning()[0])
        }

    def momentum(self, meta: Tree) -> Any:
        """Return the scheduled optimiser's momentum: learned, too, where the rates are."""
        return meta["l"][2].sigmoid() if MetaRole.UPDATE in self.roles else super().momentum(meta)

    def beginning(self) -> tuple[Tree, Tree]:
        """Return (w, b) and l."""
        params = {"w": self.normal("w", self.features), "b": torch.tensor(0.3, dtype=torch.float64)}
        if self.idle:
            params |= {"late": self.normal("late", 2), "unread": self.normal("unread", 2)}
        meta = {"l": 0.5 * self.normal("l", self.features) - 0.4}
        return params, meta | ({"first": self.normal("first", 1)[0]} if self.alone else {})

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return w_0: the meta-parameters themselves, where they are the start."""
        if MetaRole.START not in self.roles:
            return params
        return {**params, "w": meta["l"]} | ({"b": meta["first"]} if self.alone else {})

    def draw(self, stream: torch.Generator) -> Batch:
        """Return (X, y)."""
        return linear_data(self, stream)

    def fit(self, params: Tree, batch: Batch) -> torch.Tensor:
        """Return half the mean squared error."""
        return (batch["inputs"] @ params["w"] + params["b"] - batch["targets"]).square().mean() / 2

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        loss = self.fit(params, batch) + (1 - params["w"].cos()).sum() / 5
        if MetaRole.INNER_LOSS in self.roles:
            loss = loss + (meta["l"].exp() * params["w"].square()).sum() / 2
        return loss

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F."""
        direct = (meta["l"].cos() * (1 + params["w"])).sum() / 10 if MetaRole.OUTER_LOSS in self.roles else 0
        late = (params["late"] * params["w"][:2]).sum() if self.idle else 0
        return self.fit(params, batch) + direct + late


class LinearIMAML(CertificationProblem):
    """Implicit MAML of a linear model, more weights than examples: l is the start, and pulls w to it. Rajeswaran et al. 2019.

    Whatever a method takes dw_K/dl to be has a closed form here: see `metabench.certify.spectral`.
    """

    name = "linear_imaml"
    statement = "[w_0 = l,]  f = |X (u, v) - y|^2 / 2n + |w - l|^2,  F = |Z (u, v) - t|^2 / 2m,  w = (u, v)"
    examples = 3
    proximal = 2.0

    def __init__(self, optimiser: str = "sgd", begins: bool = True, **settings: Any) -> None:
        """Without `begins` the run has begun before the window, and l is in the inner loss alone."""
        self.restarts = begins
        self.roles = frozenset({MetaRole.INNER_LOSS} | ({MetaRole.START} if begins else set()))
        self.name += "" if begins else "_begun"
        super().__init__(optimiser, **{"features": 5, **settings})

    def learning_rate(self) -> Any:
        """Return a step with which SGD comes to rest in 80."""
        return super().learning_rate() * 2 / 3

    def beginning(self) -> tuple[Tree, Tree]:
        """Return w in two pieces, and l."""
        params, meta = ({"u": self.normal(f"{of} u", 2), "v": self.normal(f"{of} v", self.features - 2)} for of in "wl")
        return params, meta

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return w_0."""
        return dict(meta) if self.restarts else params

    def draw(self, stream: torch.Generator) -> Batch:
        """Return (X, y)."""
        return linear_data(self, stream)

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        away = sum((params[name] - leaf).square().sum() for name, leaf in meta.items())
        return self.outer_loss(params, meta, batch) + self.proximal / 2 * away

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F."""
        return (batch["inputs"] @ torch.cat([params["u"], params["v"]]) - batch["targets"]).square().mean() / 2


class TiedStart(CertificationProblem):
    """Two parameters start as one and the same tensor; two more are one tensor under two names, and stay fixed at the start."""

    name = "tied_start"
    statement = (
        "w_0 = (l, l, c, c),  f = |a|^2 / 2 + 3 |b|^2 / 2 + sum a c sin(d) + |x' (a + b) - y|^2 / 4n,  "
        "F = (|a + b|^2 + |c - d|^2) / 2"
    )
    roles = frozenset({MetaRole.START})
    restarts = True

    def learning_rate(self) -> Any:
        """Return a shorter step: the curvature is large."""
        return super().learning_rate() / 3

    def beginning(self) -> tuple[Tree, Tree]:
        """Return (a, b, c, d), c and d the same tensor, and l."""
        shared = self.normal("c", self.features)
        params = {"a": torch.zeros_like(shared), "b": torch.zeros_like(shared), "c": shared, "d": shared}
        return params, {"l": self.normal("l", self.features)}

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return w_0."""
        return {**params, "a": meta["l"], "b": meta["l"]}

    def draw(self, stream: torch.Generator) -> Batch:
        """Return (X, y)."""
        return linear_data(self, stream)

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f."""
        a, b, c, d = (params[name] for name in "abcd")
        fit = (batch["inputs"] @ (a + b) - batch["targets"]).square().mean() / 4
        return a.square().sum() / 2 + 3 * b.square().sum() / 2 + (a * c * d.sin()).sum() + fit

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F."""
        return ((params["a"] + params["b"]).square().sum() + (params["c"] - params["d"]).square().sum()) / 2
