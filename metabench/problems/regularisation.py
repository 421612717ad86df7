"""Logistic regression with one l2 penalty per feature, learned on validation data.

f(W, l) = mean cross-entropy on few training examples + 1/2 sum_j exp(l_j) |W_j|^2 ; F = mean cross-entropy on validation data.
A standard hyperparameter problem: Pedregosa 2016, section 5; Hataya & Yamada 2023, section 5.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metabench.autodiff.optimisers import INNER_OPTIMISERS, inner_optimiser, scheduled
from metabench.core import Batch, MetaRole, Metric, Problem, ProblemCard, Tree, Window, once, option
from metabench.core.lazy import torch
from metabench.core.problem import PERCENT, OuterOptimiser, Setting
from metabench.core.schedules import read_schedule
from metabench.data.splits import disjoint


@dataclass(frozen=True)
class Options:
    """Options of `regularisation`."""

    train: int = option(100, minimum=1, help="training examples")
    validation: int = option(500, minimum=1, help="meta-validation examples")
    optimiser: str = option("sgd", choices=INNER_OPTIMISERS, help="inner optimiser")
    learning_rate: float = option(0.5, above=0, help="of the inner optimiser")
    schedule: str = option("constant", check=read_schedule, help="of the learning rate, over inner steps: 'warm-up 10, cosine 100'")
    start: float = option(-4.0, help="initial log penalty of every feature")


class Regularisation(Problem):
    """Learn a log penalty per feature."""

    card = ProblemCard(
        title="logistic regression with an l2 penalty per feature",
        datasets=("digits", "fashion_mnist_10k", "mnist_10k"),
        sizes={"linear": "logistic regression, no hidden layer"},
        metrics=(Metric("test accuracy (%)", "max", PERCENT), Metric("test cross-entropy (nat)", "min")),
        citation="pedregosa2016hyperparameter",
        options=Options,
        inner_steps=20,
        outer_steps=80,
    )
    roles = frozenset({MetaRole.INNER_LOSS})
    outer_optimiser = OuterOptimiser("Adam", learning_rate=0.1)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options, data = setting.options, setting.data
        rate = scheduled(options.learning_rate, read_schedule(options.schedule))
        self.optimiser = inner_optimiser(options.optimiser, rate)
        self.batch = options.train
        sizes = {"train": options.train, "validation": options.validation}
        parts = disjoint(len(data.train_targets), sizes, setting.seed, data.train_targets)
        self._train = self._place(data.train_inputs[parts["train"]], data.train_targets[parts["train"]])
        self._validation = self._place(data.train_inputs[parts["validation"]], data.train_targets[parts["validation"]])
        self._test = self._place(data.test_inputs, data.test_targets)
        self._classes = len(data.classes)

    @classmethod
    def examples_needed(cls, options: Options) -> int:
        """Return the examples of the training and the meta-validation part."""
        return options.train + options.validation

    def _place(self, inputs: object, targets: object) -> Batch:
        device, dtype = self.setting.device, self.setting.dtype
        flat = torch.as_tensor(inputs).flatten(1).to(device, dtype)
        return {"inputs": flat, "targets": torch.as_tensor(targets).to(device)}

    def initial(self) -> Tree:
        """Return equal penalties."""
        features = self._train["inputs"].shape[1]
        return {"log_penalty": self._train["inputs"].new_full((features,), self.setting.options.start)}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the penalised cross-entropy on the training examples."""
        penalty = 0.5 * (meta["log_penalty"].exp() * params["weight"].square().sum(1)).sum()
        return self._cross_entropy(params, batch) + penalty

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the cross-entropy on the validation examples."""
        return self._cross_entropy(params, batch)

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the same window: every batch is its whole split. One run begins, at zero: the problem is convex."""
        inputs = self._train["inputs"]
        weight, bias = inputs.new_zeros(inputs.shape[1], self._classes), inputs.new_zeros(self._classes)
        for begins in once({"weight": weight, "bias": bias}):
            yield [Window.ending_in((self._train,) * self.setting.inner_steps, self._validation, begins)]

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return accuracy and cross-entropy on the test split."""
        with torch.no_grad():
            scores = self._scores(params, self._test)
            hits = (scores.argmax(1) == self._test["targets"]).double().mean()
            loss = torch.nn.functional.cross_entropy(scores, self._test["targets"])
        accuracy, cross_entropy = (metric.name for metric in self.card.metrics)
        return {accuracy: 100 * float(hits), cross_entropy: float(loss)}

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return the spread of the penalties."""
        penalty = meta["log_penalty"]
        return {"min log penalty": float(penalty.min()), "max log penalty": float(penalty.max())}

    @staticmethod
    def _scores(params: Tree, batch: Batch) -> torch.Tensor:
        return batch["inputs"] @ params["weight"] + params["bias"]

    def _cross_entropy(self, params: Tree, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self._scores(params, batch), batch["targets"])
