"""Weights of a language model's losses: a small network weights each token or sequence of mixed text to serve one domain.

f(w, l) = sum_i v_i CE_i(w), where v = softmax over the batch of the scores S_l(x_i, CE_i), and F = the mean next-token
cross-entropy on the validation text of the target domain; i runs over tokens or over sequences, whose CE is their tokens' mean.
S_l reads the sum of its own embeddings of the sequence's tokens, over the square root of their number, for a token its own embedding
too, and the loss, through one layer of tanh. Inner batches mix the domains. This is the DataRater of Calian et al. 2025, whose scores
become weights in the same way.

Uneven weights make steps noisier, so the gain is small: with the default options, seed 0 and FOLDOC as the target, even weights end at
3.10 bits per byte and learned ones at 3.06, with two thirds more weight on the target; batches of the target alone would end at 2.77.
Learned faster (an outer learning rate of 0.05, or windows of one step) weights were more uneven, and runs of half that length ended worse
than with even weights.

S reads the losses as constants: the stop-gradient is part of f, and every method differentiates f with it. For windows of one
step this is also the derivative in the plain sense; with `detach: false` it is for longer ones. Methods that take differences of df/dl
between two points (darts, sama, f2sa, bome) or of whole runs (es, pes) see no stop-gradient: theirs is the plain derivative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metabench.autodiff.optimisers import INNER_OPTIMISERS, inner_optimiser
from metabench.core import Batch, MetaRole, Metric, ProblemCard, Tree, Window, once, option
from metabench.core.errors import MetabenchError, unknown
from metabench.core.lazy import torch
from metabench.core.problem import OuterOptimiser, Setting
from metabench.core.randomness import generator
from metabench.core.segments import LOSS, Segment
from metabench.data.text.corpus import corpus
from metabench.data.text.tokens import bits_per_byte
from metabench.models.attention_block import HIDDEN
from metabench.models.language import (
    LANGUAGE_MODELS,
    ChainProblem,
    LanguageOptions,
    drawn,
    language_model,
    nats_and_bytes,
    next_token_segments,
    spread,
    token_losses,
)
from metabench.models.transformer import TOKENS, Head


@dataclass(frozen=True)
class Options(LanguageOptions):
    """Options of `lm_loss_weights`."""

    weigh: str = option("sequence", choices=("token", "sequence"), help="what has its own weight")
    target: str = option("", help="domain of the outer loss and the metric; empty for the data set's first")
    share: float = option(
        0.1, minimum=0, maximum=1, help="of the target domain in inner batches; the rest come evenly from the others"
    )
    outer_batch: int = option(16, minimum=1, help="sequences in an outer batch")
    features: int = option(16, minimum=1, help="width of the weighting network's embeddings")
    weigher_hidden: int = option(32, minimum=1, help="hidden units of the weighting network")
    optimiser: str = option("adam", choices=INNER_OPTIMISERS, help="inner optimiser")
    learning_rate: float = option(3e-3, above=0, help="of the inner optimiser")
    outer_learning_rate: float = option(0.02, above=0, help="of the outer optimiser, Adam")
    detach: bool = option(True, help="whether the weighting network reads the losses as constants")


class LanguageModelLossWeights(ChainProblem):
    """Learn the network that weights the losses of mixed text."""

    card = ProblemCard(
        title="weighting mixed text for one domain",
        datasets=("jargon_foldoc",),
        sizes=LANGUAGE_MODELS,
        default_size="100k",
        metrics=(Metric("held-out loss of the target (bits per byte)", "min"),),
        citation="calian2025datarater",
        options=Options,
        inner_steps=4,
        outer_steps=200,
    )
    roles = frozenset({MetaRole.INNER_LOSS})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options
        self.batch = options.batch
        self.stops_gradients = options.detach
        self.optimiser = inner_optimiser(options.optimiser, options.learning_rate)
        self.outer_optimiser = OuterOptimiser("Adam", options.outer_learning_rate)
        self._corpus = corpus(setting.data, options.tokeniser, options.vocabulary, options.sequence + 1)
        domains = self._corpus.domains
        if len(domains) < 2:
            raise MetabenchError("weighting mixed text needs a data set of at least two domains, and this one has one")
        self._target = options.target or next(iter(domains))
        if self._target not in domains:
            raise unknown("domain for option 'target'", self._target, domains)
        self._model = language_model(setting.size, self._corpus.vocabulary, options)
        head = self._model.head
        weighed = Segment(
            "head and weighted loss",
            WeighedLoss(head, options.weigh, options.detach),
            self._model.head_names(),
            tuple(self._meta_shapes()),
            (TOKENS,),
        )
        self._inner_segments = (*self._model.body(), weighed)
        self._outer_segments = next_token_segments(self._model)
        self._train = {name: self._place(spans.train) for name, spans in domains.items()}
        self._valid, self._test = self._place(domains[self._target].valid), self._place(domains[self._target].test)

    @classmethod
    def examples_needed(cls, options: Options) -> int:
        """Return the bytes of one sequence: no token has less than one."""
        return options.sequence + 1

    def _place(self, tokens: object) -> torch.Tensor:
        return torch.as_tensor(tokens).to(self.setting.device)

    def _meta_shapes(self) -> dict[str, tuple[int, ...]]:
        options = self.setting.options
        seen = options.features * (2 if options.weigh == "token" else 1) + 1
        return {
            "tokens.weight": (self._model.vocabulary, options.features),
            "hidden.weight": (options.weigher_hidden, seen),
            "hidden.bias": (options.weigher_hidden,),
            "out.weight": (1, options.weigher_hidden),
        }

    def initial(self) -> Tree:
        """Return the weighting network's parameters; its scores differ little at first."""
        stream = generator(self.setting.seed, "initial meta")
        # Scores of about a tenth: weights that are nearly even.
        sizes_of = {name: shape[-1] ** -0.5 for name, shape in self._meta_shapes().items()} | {"tokens.weight": 1.0}
        sizes_of["out.weight"] *= 0.1
        meta = {
            name: (torch.randn(shape, generator=stream, dtype=torch.float64) * sizes_of[name]).to(self.setting.dtype)
            for name, shape in self._meta_shapes().items()
        }
        return {name: leaf.to(self.setting.device) for name, leaf in meta.items()}

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield windows of mixed sequences, and of sequences of the target's validation text; one run trains the model."""
        options = self.setting.options
        inner = self._mixed(generator(self.setting.seed, "inner batches"))
        stream = generator(self.setting.seed, "outer batches")
        for begins in once(self._initial_params()):
            batches = tuple(next(inner) for _ in range(self.setting.inner_steps))
            yield [Window.ending_in(batches, drawn(self._valid, options.outer_batch, options.sequence, stream), begins)]

    def _mixed(self, stream: torch.Generator) -> Iterator[Batch]:
        others = [name for name in self._train if name != self._target]
        share, sequence = self.setting.options.share, self.setting.options.sequence
        while True:
            # A sequence of every domain for each place, of which one is taken: all streams go on at one pace.
            candidates = [
                drawn(self._train[name], self.batch, sequence, stream)[TOKENS] for name in (self._target, *others)
            ]
            of_target = torch.rand(self.batch, generator=stream) < share
            other = 1 + torch.randint(len(others), (self.batch,), generator=stream)
            chosen = torch.where(of_target, 0, other).to(self.setting.device)
            yield {TOKENS: torch.stack(candidates)[chosen, torch.arange(self.batch, device=self.setting.device)]}

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the bits per byte of the target domain's test text."""
        tokens = spread(self._test, self.setting.options.evaluated, self.setting.options.sequence)
        found = nats_and_bytes(self._model, params, tokens, self._corpus.bytes_of)
        return {self.card.metrics[0].name: bits_per_byte(*found)}

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return the mean weight of the target's text over that of the other domains' at equal loss: above 1, the target counts more."""
        options = self.setting.options
        means = []
        for tokens in self._train.values():
            some = spread(tokens, options.evaluated, options.sequence)
            losses = torch.full(some[:, 1:].shape, 2.0, device=some.device, dtype=self.setting.dtype)
            means.append(scores(meta, some, losses, options.weigh).double().exp().mean())
        of_target = list(self._train).index(self._target)
        others = [mean for i, mean in enumerate(means) if i != of_target]
        return {"weight of the target / weight of the others": float(means[of_target] / torch.stack(others).mean())}


@dataclass(frozen=True)
class WeighedLoss:
    """The cross-entropy weighted token by token or sequence by sequence: the function of the last segment."""

    head: Head
    weigh: str
    detach: bool

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the loss."""
        losses = token_losses(self.head(params, hidden[HIDDEN]), batch[TOKENS])
        found = scores(meta, batch[TOKENS], losses.detach() if self.detach else losses, self.weigh)
        weighed = losses if self.weigh == "token" else losses.mean(1)
        return {LOSS: (found.flatten().softmax(0).view(found.shape) * weighed).sum()}


def scores(meta: Tree, tokens: torch.Tensor, losses: torch.Tensor, weigh: str) -> torch.Tensor:
    """Return S_l of every token, [n, sequence], or sequence, [n], for tokens [n, sequence + 1] and losses [n, sequence]."""
    embedded = torch.nn.functional.embedding(tokens, meta["tokens.weight"])
    # The mean, times the square root of the number of tokens: it varies as much between short sequences as between long ones.
    bag = embedded.sum(1) / tokens.shape[1] ** 0.5
    if weigh == "token":
        own = embedded[:, 1:]
        seen = torch.cat([bag[:, None].expand_as(own), own, losses[..., None]], -1)
    else:
        seen = torch.cat([bag, losses.mean(1)[:, None]], -1)
    hidden = torch.nn.functional.linear(seen, meta["hidden.weight"], meta["hidden.bias"]).tanh()
    return torch.nn.functional.linear(hidden, meta["out.weight"])[..., 0]
