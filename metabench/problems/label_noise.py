"""Learning with noisy labels: a small network weights each example by its loss, and is trained on a few clean examples.

f(w, l) = sum_i v_i CE_i(w) + decay/2 |w|^2, where v_i = V_l(CE_i) / sum_j V_l(CE_j) over the batch and V_l is a 1-100-1 network
with a sigmoid; F = mean cross-entropy on clean meta-validation examples. Shu et al. 2019 (Meta-Weight-Net),
whose code normalises the weights over a batch.

The inner optimiser is SGD. The papers' momentum of 0.9 is an option; in runs this short, with no schedule of the step size,
the accuracy at the last step then varies by twenty points between seeds, for every method.

V reads the losses as constants, as in the paper: the stop-gradient is part of f, and every method differentiates f with it.
For windows of one step this is also the derivative in the plain sense; with `detach: false` it is for longer ones. Methods that take
differences of df/dl between two points (darts, sama, f2sa, bome) or of whole runs (es, pes) see no stop-gradient: theirs is the plain
derivative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metabench.autodiff.optimisers import INNER_OPTIMISERS, inner_optimiser, scheduled
from metabench.core import Batch, MetaRole, Metric, Problem, ProblemCard, Tree, Window, once, option
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import PERCENT, OuterOptimiser, Setting, meta_step_option
from metabench.core.randomness import generator
from metabench.core.schedules import read_schedule
from metabench.data.batches import augmented, epochs
from metabench.data.splits import disjoint
from metabench.models.batch_norm import for_evaluation
from metabench.models.classifiers import CLASSIFIERS, classifier


@dataclass(frozen=True)
class Options:
    """Options of `label_noise`."""

    noise: str = option(
        "flip",
        choices=("flip", "flip2", "uniform"),
        help="wrong labels: one fixed other class per class, one of two fixed ones, or any class",
    )
    rate: float = option(0.4, minimum=0, maximum=1, help="share of training labels that are redrawn")
    train: int = option(8000, minimum=1, help="noisy training examples")
    validation: int = option(1000, minimum=1, help="clean meta-validation examples")
    batch: int = option(100, minimum=1, help="examples in an inner and in an outer batch")
    hidden: int = option(100, minimum=1, help="hidden units of the weighting network")
    optimiser: str = option("sgd", choices=INNER_OPTIMISERS, help="inner optimiser")
    learning_rate: float = option(0.05, above=0, help="of the inner optimiser")
    schedule: str = option(
        "constant", check=read_schedule, help="of the learning rate, over inner steps: 'warm-up 10, cosine 100'"
    )
    weight_decay: float = option(5e-4, minimum=0, help="l2 penalty of the inner loss")
    outer_optimiser: str = option("adam", choices=("adam", "nesterov"), help="Adam, or SGD with Nesterov momentum 0.9")
    outer_learning_rate: float = option(3e-3, above=0, help="of the outer optimiser")
    outer_weight_decay: float = option(
        0.0, minimum=0, help="l2 penalty of the weighting network, in the outer optimiser"
    )
    meta_step: str = meta_step_option()
    detach: bool = option(True, help="whether the weighting network reads the losses as constants")
    augment: bool = option(
        False, help="shift images by up to 4 pixels and mirror half of them, in every batch of both losses"
    )
    oracle: bool = option(False, help="leave out the examples with a wrong label: what perfect weights come to")


class LabelNoise(Problem):
    """Learn the network that weights the examples."""

    card = ProblemCard(
        title="weighting noisily labelled examples",
        datasets=("fashion_mnist_10k", "fashion_mnist", "mnist_10k", "mnist", "digits", "cifar10", "cifar100"),
        sizes=CLASSIFIERS,
        default_size="mlp256",
        metrics=(Metric("test accuracy (%)", "max", PERCENT), Metric("test cross-entropy (nat)", "min")),
        citation="shu2019meta",
        options=Options,
        inner_steps=1,
        outer_steps=1200,
        references={"baseline": {}, "oracle": {"oracle": True}},
    )
    roles = frozenset({MetaRole.INNER_LOSS})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options, data = setting.options, setting.data
        self.stops_gradients = options.detach
        rate = scheduled(options.learning_rate, read_schedule(options.schedule))
        self.optimiser = inner_optimiser(options.optimiser, rate)
        self.outer_optimiser = _outer_optimiser(options)
        self._network = classifier(
            setting.size, data.train_inputs.shape[1:], len(data.classes), setting.device, setting.dtype
        )
        parts = disjoint(
            len(data.train_targets),
            {"train": options.train, "validation": options.validation},
            setting.seed,
            data.train_targets,
        )
        targets = torch.as_tensor(data.train_targets)
        # Inputs are standardised by the training part: without that, weighing is learned several times more slowly.
        seen = data.train_inputs[parts["train"]]
        self._shift, self._spread = float(seen.mean(dtype="float64")), float(seen.std(dtype="float64"))
        noisy = corrupted(targets[parts["train"]], len(data.classes), options.noise, options.rate, setting.seed)
        if options.oracle:
            right = noisy == targets[parts["train"]]
            if not right.any():
                raise MetabenchError(
                    f"of {options.train} labels, none is right at a noise rate of {options.rate:g}: the oracle has no data"
                )
            seen, noisy = seen[right.numpy()], noisy[right]
        self.batch = min(options.batch, len(noisy))
        self._train = self._place(seen, noisy)
        self._validation = self._place(data.train_inputs[parts["validation"]], targets[parts["validation"]])
        self._test = self._place(data.test_inputs, torch.as_tensor(data.test_targets))

    @classmethod
    def examples_needed(cls, options: Options) -> int:
        """Return the examples of the training and the meta-validation part."""
        return options.train + options.validation

    def _place(self, inputs: object, targets: torch.Tensor) -> Batch:
        inputs = torch.as_tensor(inputs).to(self.setting.device, self.setting.dtype)
        return {
            "inputs": (inputs - self._shift) / self._spread,
            "targets": targets.to(self.setting.device),
        }

    def initial(self) -> Tree:
        """Return the weighting network's parameters."""
        stream = generator(self.setting.seed, "initial meta")
        hidden = self.setting.options.hidden

        def uniform(shape: tuple[int, ...], fan_in: int) -> torch.Tensor:
            drawn = torch.rand(shape, generator=stream, dtype=torch.float64)
            return ((2 * drawn - 1) / fan_in**0.5).to(self.setting.dtype)

        meta = {
            "hidden.weight": uniform((hidden, 1), 1),
            "hidden.bias": uniform((hidden,), 1),
            "out.weight": uniform((1, hidden), hidden),
            "out.bias": uniform((1,), hidden),
        }
        return {name: leaf.to(self.setting.device) for name, leaf in meta.items()}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the weighted cross-entropy on a batch with noisy labels, and the l2 penalty."""
        losses = self._losses(params, batch)
        weights = weigh(meta, losses.detach() if self.setting.options.detach else losses)
        # The decay stands in the loss and not in the optimiser: an implicit hypergradient sees the loss alone.
        penalty = 0.5 * self.setting.options.weight_decay * sum(leaf.square().sum() for leaf in params.values())
        # Where all weights vanish, as beside losses in the hundreds, no example has any: the batch then teaches nothing, and is no 0/0.
        total = weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
        return (weights / total * losses).sum() + penalty

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy on a clean batch."""
        return self._losses(params, batch).mean()

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield windows over shuffled epochs of the training and of the meta-validation examples; one run trains the classifier."""
        params = self._network.initial(generator(self.setting.seed, "initial params"), self.setting.dtype)
        inner = self._batches(self._train, "inner batches")
        outer = self._batches(self._validation, "outer batches")
        for begins in once({name: leaf.to(self.setting.device) for name, leaf in params.items()}):
            batches = tuple(next(inner) for _ in range(self.setting.inner_steps))
            yield [Window.ending_in(batches, next(outer), begins)]

    def _batches(self, part: Batch, purpose: str) -> Iterator[Batch]:
        seed, options = self.setting.seed, self.setting.options
        batches = epochs(part, options.batch, generator(seed, purpose))
        if not options.augment:
            return batches
        stream = generator(seed, f"{purpose}, augmentation")
        return ({**batch, "inputs": augmented(batch["inputs"], stream)} for batch in batches)

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return accuracy and cross-entropy on the test split, whose labels are clean."""
        with torch.no_grad():
            shown = (batch["inputs"] for batch in self._batches(self._train, "statistics"))
            network = for_evaluation(self._network, params, shown)
            pieces = zip(self._test["inputs"].split(1000), self._test["targets"].split(1000), strict=True)
            hits, losses = [], []
            for inputs, targets in pieces:
                scores = network(inputs)
                hits.append((scores.argmax(1) == targets).double())
                losses.append(torch.nn.functional.cross_entropy(scores, targets, reduction="none").double())
        accuracy, cross_entropy = (metric.name for metric in self.card.metrics)
        return {accuracy: 100 * float(torch.cat(hits).mean()), cross_entropy: float(torch.cat(losses).mean())}

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return the weight of a well-fitted example over that of a badly fitted one: above 1, noise is discounted."""
        losses = torch.tensor([0.1, 5.0], device=self.setting.device, dtype=self.setting.dtype)
        fitting, misfit = weigh(meta, losses).tolist()
        return {"weight at loss 0.1 / weight at loss 5": fitting / misfit}

    def _losses(self, params: Tree, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(
            self._network(params, batch["inputs"]), batch["targets"], reduction="none"
        )


def _outer_optimiser(options: Options) -> OuterOptimiser:
    rate, decay = options.outer_learning_rate, options.outer_weight_decay
    if options.outer_optimiser == "adam":
        return OuterOptimiser("Adam", rate, weight_decay=decay)
    return OuterOptimiser("SGD", rate, momentum=0.9, weight_decay=decay, nesterov=True)


def weigh(meta: Tree, losses: torch.Tensor) -> torch.Tensor:
    """Return V_l(loss) of every loss, shape [n], values in (0, 1)."""
    hidden = torch.nn.functional.linear(losses[:, None], meta["hidden.weight"], meta["hidden.bias"]).relu()
    return torch.nn.functional.linear(hidden, meta["out.weight"], meta["out.bias"]).sigmoid()[:, 0]


def corrupted(targets: torch.Tensor, classes: int, noise: str, rate: float, seed: int) -> torch.Tensor:
    """Return labels of which a share `rate` is redrawn: 'flip' gives one fixed other class per class, 'flip2' one of two, 'uniform' any.

    With two classes there is one other alone, and 'flip2' is 'flip'.
    """
    stream = generator(seed, "noise")
    chosen = torch.rand(len(targets), generator=stream) < rate
    if noise == "uniform":
        drawn = torch.randint(classes, (len(targets),), generator=stream)
    else:
        # A cycle through the classes in random order: no class flips to itself, and no two flip to the same.
        order = torch.randperm(classes, generator=stream)
        successor = torch.empty_like(order)
        successor[order] = order.roll(-1)
        drawn = successor[targets]
        if noise == "flip2" and classes > 2:
            second = torch.rand(len(targets), generator=stream) < 0.5
            drawn = torch.where(second, successor[drawn], drawn)
    return torch.where(chosen, drawn, targets)
