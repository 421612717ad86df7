"""Labelling words of a language with few examples, with the help of one with many, whose hidden states are transformed.

f(w, l) = a CE(source | w, l) + b CE(target | w), where the hidden states h of the source, and of it alone, become
h + W2 relu(W1 h + c1) + c2 after one block of the encoder; l = (W1, c1, W2, c2), a bottleneck. F = CE(target | w). This is MetaXL, Xia et
al. 2021: joint training on both languages, with a meta-learned transformation of the source's representations.

W2 and c2 begin at zero, so the transformation begins as the identity, and method `none` is joint training as such. `mode` takes one of the
two languages out of f (a = 0 or b = 0): the baselines. A batch of both is drawn in every mode, so that runs differ in nothing else.

The outer loss reads the target's training examples, as in the official code, or `held_out` of them that f never reads.

The data set decides the task and its score: macro F1 of names by kind (cldr_names), accuracy of parts of speech (upos_pt_tr), or F1 of
whole named entities (own: a folder of WikiAnn's files, the option `folder`). An encoder on characters, or XLM-R, labels a word by the mean
of the hidden states of its tokens.

Defaults were chosen by joint training (`none`, seed 0, 300 steps) on 200 validation names each of Faroese, Swahili and Yoruba. Their mean
macro F1 was 63.0 at a learning rate of 0.003 and 62.1 at 0.01 with a tenth of the tokens hidden, and 64.1 at 0.003 with a fifth: no more
than seeds differ by. The outer learning rate was chosen in the same way by `t1t2` (200 steps, 100 names): 58.5 at 0.001, 56.9 at 0.01.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metabench.autodiff.optimisers import INNER_OPTIMISERS, inner_optimiser, scheduled
from metabench.core import Batch, MetaRole, Metric, Problem, ProblemCard, Tree, Window, once, option
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import PERCENT, OuterOptimiser, Setting
from metabench.core.randomness import generator
from metabench.core.schedules import read_schedule
from metabench.data.languages import Examples, Languages
from metabench.data.panx import panx, panx_files
from metabench.data.scores import score
from metabench.data.text.pieces import UNLABELLED, Characters, Encoded, Pieces, TrainedPieces, encoded
from metabench.models.encoders import ENCODERS, encoder

_LOSSES = {"joint": (1.0, 1.0), "source": (1.0, 0.0), "target": (0.0, 1.0)}
"""The factors of the source's and of the target's loss in each mode."""
_PARTS = ("tokens", "words", "labels")
_AT_ONCE = 256
"""Rows labelled at a time."""


def _weights_files(folder: str) -> list[Path]:
    if not folder:
        return []
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise MetabenchError(
            f"there is no folder {folder}: put config.json, model.safetensors and tokenizer.json of XLM-R there, as save_pretrained does"
        )
    return sorted(path for path in place.iterdir() if path.is_file())


@dataclass(frozen=True)
class Options:
    """Options of `cross_lingual`."""

    source: str = option("", help="language of many examples; empty for the data set's, of a folder 'en'")
    target: str = option("", help="language of few examples; empty for the first that the data set has")
    folder: str = option(
        "",
        needs=lambda folder: panx_files(folder) if folder else (),
        help="of WikiAnn's files, LANGUAGE/train, dev and test, for the data set 'own'",
    )
    mode: str = option("joint", choices=tuple(_LOSSES), help="languages in the inner loss: both, or one of them")
    transform: bool = option(True, help="whether the source's hidden states are transformed")
    layer: int = option(-1, minimum=-1, help="block after which they are; 0: the embedding, -1: the last")
    bottleneck: int = option(32, minimum=1, help="hidden units of the transformation")
    source_train: int = option(0, minimum=0, help="training examples of the source; 0 for all that it has")
    train: int = option(100, minimum=1, help="training examples of the target")
    held_out: int = option(0, minimum=0, help="of them for the outer loss alone; 0: it reads all")
    validation: int = option(100, minimum=1, help="validation examples of the target, by which options are chosen")
    test: int = option(1000, minimum=1, help="test examples of the target at most")
    length: int = option(20, minimum=1, help="tokens of an example at most; longer ones are cut between words")
    hide: float = option(
        0.1, minimum=0, maximum=1, help="share of the tokens of training batches that are hidden, as if never seen"
    )
    batch: int = option(32, minimum=1, help="examples of each language in an inner batch, and in an outer one")
    weights: str = option("", needs=_weights_files, help="folder of a trained XLM-R with its tokenizer.json")
    optimiser: str = option("adam", choices=INNER_OPTIMISERS, help="inner optimiser")
    learning_rate: float = option(3e-3, above=0, help="of the inner optimiser")
    schedule: str = option("constant", check=read_schedule, help="of the learning rate, over inner steps")
    weight_decay: float = option(0.0, minimum=0, help="of the inner optimiser")
    outer_learning_rate: float = option(1e-3, above=0, help="of the outer optimiser, Adam")


class CrossLingual(Problem):
    """Learn the transformation of the source's representations."""

    card = ProblemCard(
        title="labelling words of a language with few examples",
        datasets=("cldr_names", "upos_pt_tr", "own"),
        sizes=ENCODERS,
        default_size="chars-32",
        metrics=(
            Metric("test score (%)", "max", PERCENT),
            Metric("test accuracy (%)", "max", PERCENT),
            Metric("test cross-entropy (nat)", "min"),
        ),
        citation="xia2021metaxl",
        options=Options,
        inner_steps=1,
        outer_steps=200,
        references={"baseline": {}, "source only": {"mode": "source"}, "target only": {"mode": "target"}},
    )
    roles = frozenset({MetaRole.INNER_LOSS})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options: Options = setting.options
        rate = scheduled(options.learning_rate, read_schedule(options.schedule))
        self.optimiser = inner_optimiser(options.optimiser, rate, options.weight_decay)
        self.outer_optimiser = OuterOptimiser("Adam", options.outer_learning_rate)
        languages = self._languages()
        self._classes, self._score = languages.classes, languages.score
        self._examples = self._drawn(languages)
        _weights_files(options.weights)
        folder = Path(options.weights).expanduser() if options.weights else None
        seen = [word for part in ("source", "target") for words in self._examples[part].words for word in words]
        pieces: Pieces = TrainedPieces(folder) if folder else Characters(seen)
        self._unseen = pieces.unseen
        found = encoded(self._examples, pieces, options.length)
        self._rows_of = {name: part.example for name, part in found.items()}
        self._data = {name: self._place(part) for name, part in found.items()}
        self._encoder = encoder(setting.size, pieces.vocabulary, folder, setting.device)
        self._after = self._encoder.blocks if options.layer < 0 else options.layer
        if self._after > self._encoder.blocks:
            raise MetabenchError(
                f"the source is to be transformed after block {options.layer}: '{setting.size}' has {self._encoder.blocks}"
            )
        self._factors = _LOSSES[options.mode]
        self._sizes = {name: min(options.batch, len(part["tokens"])) for name, part in self._data.items()}
        self.batch = self._sizes["source"] + self._sizes["target"]

    def _languages(self) -> Languages:
        options = self.setting.options
        if self.setting.data is not None:
            return self.setting.data
        return panx(options.folder, options.source or "en", self._target_of_folder(options))

    @staticmethod
    def _target_of_folder(options: Options) -> str:
        if not options.target:
            languages = sorted({path.parent.name for path in panx_files(options.folder)} - {options.source or "en"})
            raise MetabenchError(f"name the target language: the folder {options.folder} has {', '.join(languages)}")
        return options.target

    def _drawn(self, languages: Languages) -> dict[str, Examples]:
        """Return the examples of the source, of the target for f and for F, for validation and for the test."""
        options, seed = self.setting.options, self.setting.seed
        source = options.source or languages.source
        known = languages.whole or languages.parts
        target = options.target or next(one for one in known if one != source)
        if target == source:
            raise MetabenchError(f"source and target are both '{source}': expected two languages")
        if options.held_out >= options.train:
            raise MetabenchError(
                f"{options.held_out} of {options.train} training examples of the target are held out: expected fewer"
            )
        sizes = {"train": options.train, "validation": options.validation, "test": options.test}
        parts = languages.split(target, sizes, seed)
        inner = options.train - options.held_out
        order = torch.randperm(options.train, generator=generator(seed, "held out")).tolist()
        return {
            "source": languages.all_of(source, options.source_train, seed),
            "target": parts["train"].take(order[:inner]),
            "outer": parts["train"].take(order[inner:] if options.held_out else order),
            "validation": parts["validation"],
            "test": parts["test"],
        }

    def _place(self, part: Encoded) -> Batch:
        return {name: torch.as_tensor(getattr(part, name)).to(self.setting.device) for name in _PARTS}

    def initial(self) -> Tree:
        """Return the transformation, which is the identity: its second layer is zero."""
        width, bottleneck = self._encoder.width, self.setting.options.bottleneck
        place = {"device": self.setting.device, "dtype": self.setting.dtype}
        drawn = torch.randn(
            bottleneck, width, generator=generator(self.setting.seed, "initial meta"), dtype=torch.float64
        )
        return {
            "down.weight": (drawn * (2 / width) ** 0.5).to(**place),
            "down.bias": torch.zeros(bottleneck, **place),
            "up.weight": torch.zeros(width, bottleneck, **place),
            "up.bias": torch.zeros(width, **place),
        }

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the loss on the source, which comes first in the batch and is transformed, and on the target."""
        count = self._sizes["source"]

        def change(states: torch.Tensor) -> torch.Tensor:
            source = states[:count]
            # Where it is off, times zero: meta-parameters that a loss does not read at all are refused.
            changed = source + float(self.setting.options.transform) * transformed(meta, source)
            return torch.cat([changed, states[count:]])

        scores = self._scores(params, batch, change)
        source, target = (
            cross_entropy(scores[rows], batch["labels"][rows]) for rows in (slice(count), slice(count, None))
        )
        return self._factors[0] * source + self._factors[1] * target

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the loss on the target."""
        return cross_entropy(self._scores(params, batch), batch["labels"])

    def _scores(self, params: Tree, batch: Batch, change: object = None) -> torch.Tensor:
        """Return the scores of every word, shape [n, words, classes]."""
        states = self._encoder(params, batch["tokens"], self._after, change or _unchanged)
        number = torch.arange(1, batch["labels"].shape[1] + 1, device=states.device)
        member = (batch["words"][:, None] == number[:, None]).to(states.dtype)
        words = (member @ states) / member.sum(-1, keepdim=True).clamp(min=1)
        return torch.nn.functional.linear(words, params["label.weight"], params["label.bias"])

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield windows over shuffled epochs of both languages; one run trains the encoder."""
        stream = generator(self.setting.seed, "initial params")
        params = self._encoder.initial(stream, self.setting.dtype)
        width, place = self._encoder.width, {"device": self.setting.device, "dtype": self.setting.dtype}
        drawn = torch.randn(len(self._classes), width, generator=stream, dtype=torch.float64) * width**-0.5
        params |= {"label.weight": drawn.to(**place), "label.bias": torch.zeros(len(self._classes), **place)}
        source, target, outer = (self._batches(part) for part in ("source", "target", "outer"))
        for begins in once({name: leaf.to(self.setting.device) for name, leaf in params.items()}):
            inner = []
            for _ in range(self.setting.inner_steps):
                both = next(source), next(target)
                inner.append({name: torch.cat([some[name] for some in both]) for name in _PARTS})
            yield [Window.ending_in(tuple(inner), next(outer), begins)]

    def _batches(self, part: str) -> Iterator[Batch]:
        stream = generator(self.setting.seed, f"{part} batches")
        whole = self._data[part]
        total, size = len(whole["tokens"]), self._sizes[part]
        while True:
            order = torch.randperm(total, generator=stream).to(self.setting.device)
            # A last batch that is smaller is left out, so that every batch of a run has one shape.
            for chosen in order[: total - total % size].split(size):
                batch = {name: values[chosen] for name, values in whole.items()}
                hidden = torch.rand(batch["tokens"].shape, generator=stream) < self.setting.options.hide
                # Of words alone: the tokens around them stay.
                hidden = hidden.to(self.setting.device) & (batch["words"] > 0)
                yield batch | {"tokens": torch.where(hidden, self._unseen, batch["tokens"])}

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the score, the accuracy and the cross-entropy on test examples of the target."""
        return dict(zip((metric.name for metric in self.card.metrics), self._judged(params, "test"), strict=True))

    def observe(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the score on the target's validation examples."""
        return {"validation score (%)": self._judged(params, "validation")[0]}

    def _judged(self, params: Tree, part: str) -> tuple[float, float, float]:
        whole = self._data[part]
        examples = self._examples[part]
        found: list[list[int]] = [[] for _ in examples.words]
        losses = []
        with torch.no_grad():
            for chosen in torch.arange(len(whole["tokens"])).split(_AT_ONCE):
                rows = {name: values[chosen] for name, values in whole.items()}
                scores = self._scores(params, rows)
                there = rows["labels"] != UNLABELLED
                losses.append(
                    torch.nn.functional.cross_entropy(scores[there], rows["labels"][there], reduction="none").double()
                )
                answers = zip(scores.argmax(-1).tolist(), there.sum(1).tolist(), strict=True)
                for row, (labels, words) in zip(chosen.tolist(), answers, strict=True):
                    found[int(self._rows_of[part][row])] += labels[:words]
        kinds = (self._score, "accuracy")
        value, accuracy = (100 * score(kind, examples.labels, found, self._classes) for kind in kinds)
        return value, accuracy, float(torch.cat(losses).mean())

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return how far the transformation is from the identity: the norm of its second layer."""
        return {"norm of the transformation's second layer": float(meta["up.weight"].norm())}


def transformed(meta: Tree, states: torch.Tensor) -> torch.Tensor:
    """Return what the bottleneck adds to hidden states [..., width]."""
    inside = torch.nn.functional.linear(states, meta["down.weight"], meta["down.bias"]).relu()
    return torch.nn.functional.linear(inside, meta["up.weight"], meta["up.bias"])


def cross_entropy(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy over the labelled words, for scores [n, words, classes] and labels [n, words]."""
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=UNLABELLED)


def _unchanged(states: torch.Tensor) -> torch.Tensor:
    return states
