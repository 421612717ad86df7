"""The initial parameters of a language model that adapts to a topic in a few steps: MAML on text.

A topic is a contiguous span of a domain's text, such as neighbouring entries of a dictionary. An inner run adapts to it
with K steps on sequences of its first half, the support; F is the loss on sequences of its second half, the query; the
meta-parameters are the start of every inner run. Topics of an outer step are drawn from the domains in turn. Finn et al. 2017.

The metric uses topics of the test text, never seen in training: the model adapts to them as in training and is measured on their
queries. The same loss before any step shows how much adaptation contributes. With the default options and seed 0 a random model
adapts from 8.44 to 5.96 bits per byte, and a learned one from 6.34 to 4.67.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metabench.autodiff.inner import detached, run
from metabench.autodiff.optimisers import INNER_OPTIMISERS, inner_optimiser
from metabench.core import InnerState, MetaRole, Metric, ProblemCard, Tree, Window, option
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import OuterOptimiser, Setting
from metabench.core.randomness import generator, stream_seed
from metabench.data.text.corpus import corpus
from metabench.data.text.tokens import bits_per_byte
from metabench.models.language import (
    LANGUAGE_MODELS,
    ChainProblem,
    LanguageOptions,
    drawn,
    language_model,
    nats_and_bytes,
    next_token_segments,
    spread,
)


@dataclass(frozen=True)
class Options(LanguageOptions):
    """Options of `lm_initialisation`."""

    batch: int = option(8, minimum=1, help="sequences in an inner and in an outer batch")
    topic: int = option(4096, minimum=4, help="tokens of a topic: half of them support, half query")
    tasks: int = option(4, minimum=1, help="topics per outer step")
    test_topics: int = option(
        12, minimum=1, help="topics of the test text used by the metric, evenly spread over each domain"
    )
    evaluated: int = option(
        32, minimum=1, help="sequences of each test topic's query used by the metric, evenly spread"
    )
    optimiser: str = option("sgd", choices=INNER_OPTIMISERS, help="inner optimiser")
    learning_rate: float = option(0.3, above=0, help="of the inner optimiser")
    outer_learning_rate: float = option(3e-3, above=0, help="of the outer optimiser, Adam")


class LanguageModelInitialisation(ChainProblem):
    """Learn the parameters from which a language model adapts to a topic in K steps."""

    card = ProblemCard(
        title="initial parameters of a language model that adapts to topics",
        datasets=("jargon_foldoc", "jargon", "foldoc"),
        sizes=LANGUAGE_MODELS,
        default_size="100k",
        metrics=(
            Metric("adapted to held-out topics (bits per byte)", "min"),
            Metric("before adaptation (bits per byte)", "min"),
        ),
        citation="finn2017model",
        options=Options,
        inner_steps=3,
        outer_steps=150,
    )
    roles = frozenset({MetaRole.START})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options
        self.batch = options.batch
        self.optimiser = inner_optimiser(options.optimiser, options.learning_rate)
        self.outer_optimiser = OuterOptimiser("Adam", options.outer_learning_rate)
        shortest = options.sequence + 1
        if options.topic // 2 < shortest:
            raise MetabenchError(
                f"half a topic of {options.topic:,} tokens is shorter than one sequence with the token after it, {shortest:,}: "
                f"a 'topic' needs at least {2 * shortest:,} tokens"
            )
        self._corpus = corpus(
            setting.data, options.tokeniser, options.vocabulary, options.topic, unit="a topic", key="topic"
        )
        self._model = language_model(setting.size, self._corpus.vocabulary, options)
        self._inner_segments = self._outer_segments = next_token_segments(self._model)
        self._train = [self._topics(spans.train) for spans in self._corpus.domains.values()]
        tested = [self._topics(spans.test) for spans in self._corpus.domains.values()]
        self._tested = [topic for topics in tested for topic in _evenly(topics, -(-options.test_topics // len(tested)))]

    @classmethod
    def examples_needed(cls, options: Options) -> int:
        """Return the bytes of one topic: no token has less than one."""
        return options.topic

    def _topics(self, tokens: object) -> list[torch.Tensor]:
        """Return consecutive topics of equal length; a remainder at the end is dropped."""
        placed = torch.as_tensor(tokens).to(self.setting.device)
        size = self.setting.options.topic
        return list(placed[: len(placed) - len(placed) % size].split(size))

    def initial(self) -> Tree:
        """Return the model's parameters as drawn."""
        return self._initial_params()

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return the meta-parameters: every inner run starts there, whatever it begins with."""
        return dict(meta)

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the windows of one batch of topics after another; topics within an outer step differ if there are enough."""
        stream = generator(self.setting.seed, "topics")
        # Python's random numbers: which topic is next must be known where tensors have no values, as in a prediction.
        order = random.Random(stream_seed(self.setting.seed, "order of topics"))
        orders = [_endlessly(topics, order) for topics in self._train]
        turn = itertools.cycle(orders)
        begins = self.initial()
        while True:
            yield [
                dataclasses.replace(self._window(next(next(turn)), stream), begins=begins)
                for _ in range(self.setting.options.tasks)
            ]

    def _window(self, topic: torch.Tensor, stream: torch.Generator) -> Window:
        support, query = self._halves(topic)
        sequence = self.setting.options.sequence
        inner = tuple(drawn(support, self.batch, sequence, stream) for _ in range(self.setting.inner_steps))
        return Window.ending_in(inner, drawn(query, self.batch, sequence, stream))

    def _halves(self, topic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = len(topic) // 2
        return topic[:half], topic[half:]

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the bits per byte of the test topics' queries after K steps on their supports, and before."""
        start = detached(InnerState(self.start(params, meta), self.optimiser.init(meta)))
        stream = generator(self.setting.seed, "test topics")
        after, before = [], []
        for topic in self._tested:
            window = self._window(topic, stream)
            options = self.setting.options
            query = spread(self._halves(topic)[1], options.evaluated, options.sequence)
            adapted = run(self, start, meta, window.inner)
            for found, model in ((after, adapted.params), (before, start.params)):
                found.append(nats_and_bytes(self._model, model, query, self._corpus.bytes_of))
        values = (bits_per_byte(*map(sum, zip(*found, strict=True))) for found in (after, before))
        return {metric.name: value for metric, value in zip(self.card.metrics, values, strict=True)}


def _evenly(topics: list[torch.Tensor], count: int) -> list[torch.Tensor]:
    """Return up to `count` of the topics, evenly spread."""
    chosen = min(count, len(topics))
    return [topics[i * len(topics) // chosen] for i in range(chosen)]


def _endlessly(topics: list[torch.Tensor], order: random.Random) -> Iterator[torch.Tensor]:
    """Yield the topics in one random order after another."""
    while True:
        yield from order.sample(topics, len(topics))
