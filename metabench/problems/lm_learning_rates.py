"""Learning rates of a language model: one per parameter tensor, learned while the model trains.

f = F = mean next-token cross-entropy, f on the training text and F on the validation text; the inner optimiser's step of
a parameter tensor p is multiplied by exp(l_p). One run continues from window to window, so its rates are those
of its next steps. Kemaev et al. 2025, section 5 (learning adaptive learning rates).

Windows are short and the run is long: the rate learned is the one that helps most within K steps, which is eventually too small if
gradients are noisy (Wu et al. 2018, short-horizon bias). With the default options and seed 0, fixed rates of 3e-4, 1e-3, 3e-3, 1e-2 and
3e-2 end at 3.63, 3.16, 3.03, 3.25 and 3.90 bits per byte. Learned from 1e-3 they end at 3.08 and from 1e-2 at 3.21: better than
their start, but not than the best fixed rate; started from that rate they end at 3.11.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metabench.autodiff.optimisers import INNER_OPTIMISERS, PerParameter, inner_optimiser
from metabench.core import Batch, MetaRole, Metric, ProblemCard, Tree, Window, once, option
from metabench.core.lazy import torch
from metabench.core.problem import OuterOptimiser, Setting
from metabench.core.randomness import generator
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
    """Options of `lm_learning_rates`."""

    optimiser: str = option("adam", choices=INNER_OPTIMISERS, help="inner optimiser")
    learning_rate: float = option(1e-3, above=0, help="of every parameter tensor, before anything is learned")
    outer_learning_rate: float = option(
        0.1, above=0, help="of the outer optimiser, Adam, for the logarithms of the rates"
    )


class LanguageModelLearningRates(ChainProblem):
    """Learn a learning rate for every parameter tensor of a language model."""

    card = ProblemCard(
        title="learning rates of a language model, one per parameter tensor",
        datasets=("jargon", "foldoc", "jargon_foldoc"),
        sizes=LANGUAGE_MODELS,
        default_size="100k",
        metrics=(Metric("held-out loss (bits per byte)", "min"),),
        citation="kemaev2025scalable",
        options=Options,
        inner_steps=4,
        outer_steps=100,
    )
    roles = frozenset({MetaRole.UPDATE})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options
        self.batch = options.batch
        self.optimiser = inner_optimiser(options.optimiser, PerParameter(torch.Tensor.exp))
        self.outer_optimiser = OuterOptimiser("Adam", options.outer_learning_rate)
        self._corpus = corpus(setting.data, options.tokeniser, options.vocabulary, options.sequence + 1)
        self._model = language_model(setting.size, self._corpus.vocabulary, options)
        self._inner_segments = self._outer_segments = next_token_segments(self._model)
        # Of several domains one text is made.
        self._train, self._valid, self._test = (
            torch.cat([torch.as_tensor(getattr(spans, name)) for spans in self._corpus.domains.values()]).to(
                setting.device
            )
            for name in ("train", "valid", "test")
        )

    @classmethod
    def examples_needed(cls, options: Options) -> int:
        """Return the bytes of one sequence: no token has less than one."""
        return options.sequence + 1

    def initial(self) -> Tree:
        """Return the logarithm of a learning rate for each of the model's parameter tensors."""
        start = math.log(self.setting.options.learning_rate)
        place = {"device": self.setting.device, "dtype": self.setting.dtype}
        return {name: torch.tensor(start, **place) for name in self._model.shapes()}

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield windows of sequences from random places in the training and the validation text."""
        inner, outer = self._batches(self._train, "inner batches"), self._batches(self._valid, "outer batches")
        for begins in once(self._initial_params()):
            batches = tuple(next(inner) for _ in range(self.setting.inner_steps))
            yield [Window.ending_in(batches, next(outer), begins)]

    def _batches(self, part: torch.Tensor, purpose: str) -> Iterator[Batch]:
        stream = generator(self.setting.seed, purpose)
        while True:
            yield drawn(part, self.batch, self.setting.options.sequence, stream)

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the bits per byte of the test text."""
        tokens = spread(self._test, self.setting.options.evaluated, self.setting.options.sequence)
        found = nats_and_bytes(self._model, params, tokens, self._corpus.bytes_of)
        return {self.card.metrics[0].name: bits_per_byte(*found)}

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return the geometric mean of the learning rates, and the largest over the smallest."""
        logarithms = torch.stack(list(meta.values())).double()
        return {
            "geometric mean learning rate": float(logarithms.mean().exp()),
            "largest / smallest learning rate": float((logarithms.max() - logarithms.min()).exp()),
        }
