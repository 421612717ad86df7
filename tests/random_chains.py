"""Losses drawn at random that are chains of segments: with ties, unused parameters, several tensors handed on, tokens in the batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from small_problems import EXAMPLES, Tanh
from small_problems import _card as card

from metabench.autodiff.optimisers import inner_optimiser
from metabench.core import Batch, MetaRole, Tree, Window, tree
from metabench.core.randomness import generator
from metabench.core.segments import LOSS, Segment, chain_loss

WIDTH, TOKENS = 4, 7


@dataclass(frozen=True)
class Embed:
    """Looks tokens up and adds inputs; hands on two tensors."""

    penalised: bool = False

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the stream and the sum of penalties, of which there is none but perhaps this one."""
        stream = params["table"][batch["tokens"]] + batch["inputs"]
        penalty = params["table"].square().sum()
        return {"stream": stream, "penalty": penalty * meta["rate"].exp() if self.penalised else 0.01 * penalty}


@dataclass(frozen=True)
class Layer:
    """A residual tanh layer; its penalty is a meta-parameter's if it is penalised."""

    kind: str = "tanh"
    penalised: bool = False

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return stream and penalty."""
        inside = hidden["stream"] @ params["weight"]
        inside = inside.tanh() if self.kind == "tanh" else torch.nn.functional.gelu(inside) * inside.sigmoid()
        penalty = hidden["penalty"]
        if self.penalised:
            penalty = penalty + meta["rate"].exp() * params["weight"].square().sum()
        return {"stream": hidden["stream"] + inside, "penalty": penalty}


@dataclass(frozen=True)
class Pass:
    """A segment without parameters and meta-parameters."""

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the stream normed, the penalty passed through."""
        return {**hidden, "stream": torch.nn.functional.layer_norm(hidden["stream"], (WIDTH,))}


@dataclass(frozen=True)
class Head:
    """The loss: weighted cross-entropy of the next token."""

    weighted: bool = False

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the loss."""
        logits = hidden["stream"] @ params["weight"].t()
        losses = torch.nn.functional.cross_entropy(logits, batch["targets"], reduction="none")
        if self.weighted:
            losses = losses * (meta["weights"][batch["targets"]]).sigmoid()
        return {LOSS: losses.mean() + hidden["penalty"]}


class Chained(Tanh):
    """A classifier of tokens, whose loss is a chain drawn with the seed `shape`."""

    card = card("a chain of segments")
    roles = frozenset({MetaRole.INNER_LOSS, MetaRole.UPDATE})

    def __init__(
        self,
        shape: int = 0,
        optimiser: str = "sgd",
        inner_steps: int = 3,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        depth: int | None = None,
        whole: bool = False,
    ) -> None:
        draw = random.Random(shape)
        self.depth = draw.randint(1, 4) if depth is None else depth
        tied_head, tied_layers, first, last = (draw.random() < 0.5 for _ in range(4))
        kinds = [draw.choice(("tanh", "gelu")) for _ in range(self.depth)]
        penalised = [draw.random() < 0.5 for _ in range(self.depth)]
        last = last or not (first or any(penalised))
        layers: list[Segment] = []
        for i, (kind, with_meta) in enumerate(zip(kinds, penalised, strict=True)):
            name = "layer0" if tied_layers and i % 2 else f"layer{i}"
            layers.append(
                Segment(f"layer {i}", Layer(kind, with_meta), (("weight", name),), ("rate",) if with_meta else ())
            )
            if draw.random() < 0.3:
                layers.append(Segment(f"norm {i}", Pass()))
        table = Segment(
            "embedding", Embed(first), (("table", "table"),), ("rate",) if first else (), ("tokens", "inputs")
        )
        head_weight = (("weight", "table" if tied_head else "head"),)
        head = Segment("head", Head(last), head_weight, ("weights",) if last else (), ("targets",))
        self.chain = (table, *layers, head)
        self._whole = whole
        super().__init__(optimiser, inner_steps, seed, dtype)
        self.optimiser = inner_optimiser(optimiser, lambda meta, step: meta["log_step"].exp())

    def _draw(self) -> Batch:
        stream = self._stream
        inputs = 0.3 * torch.randn(EXAMPLES, WIDTH, generator=stream, dtype=torch.float64)
        tokens = torch.randint(TOKENS, (EXAMPLES, 2), generator=stream)
        return {"inputs": inputs.to(self.setting.dtype), "tokens": tokens[:, 0], "targets": tokens[:, 1]}

    def beginning(self) -> tuple[Tree, Tree]:
        """Return all parameters, of which ties and the seed leave some unused, and the meta-parameters."""
        stream = generator(self.setting.seed, "initial")
        shapes = {
            "table": (TOKENS, WIDTH),
            **{f"layer{i}": (WIDTH, WIDTH) for i in range(self.depth)},
            "head": (TOKENS, WIDTH),
        }
        params = {k: 0.6 * torch.randn(shape, generator=stream, dtype=torch.float64) for k, shape in shapes.items()}
        meta = {"rate": torch.tensor(-2.0), "weights": torch.linspace(-1, 1, TOKENS), "log_step": torch.tensor(-2.5)}
        return tree.cast(params, self.setting.dtype), tree.cast(meta, self.setting.dtype)

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the chain's loss."""
        return chain_loss(self.chain, params, meta, batch)

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the plain cross-entropy, in one piece, of the stream after the last layer."""
        hidden: Tree = {}
        for segment in self.chain[:-1]:
            hidden = segment(params, tree.detach(meta), batch, hidden)
        logits = hidden["stream"] @ self.chain[-1].params_of(params)["weight"].t()
        return torch.nn.functional.cross_entropy(logits, batch["targets"])

    def inner_segments(self) -> Sequence[Segment]:
        """Return the chain, or nothing where the loss is to be taken whole."""
        return () if self._whole else self.chain

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield a window an outer step."""
        for begins in self.begins():
            yield [replace(self.window(), begins=begins)]
