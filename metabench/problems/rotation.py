"""Learning how test images are rotated: one angle, by which training images are rotated while a classifier learns from them.

f(w, l) = mean cross-entropy on upright training images rotated by l; F = the same on validation images, which are rotated by 30 degrees,
as test images are. Bohdal et al. 2021 (EvoGrad), section 4.1, with LeNet on MNIST.

Images are sampled bilinearly, black outside. The samples depend on the angle by their weights alone, which are piecewise
products of differentiable functions: all methods can differentiate them, in every mode and twice. At an angle of exactly zero, where the
paper begins, every pixel is at a kink of its weights, and no derivative is that of training; hence the start at 0.1 degrees.

A classifier that has learned little has no use for the right angle: its hypergradients may turn the images the wrong way, where another
minimum lies, at some -60 degrees; so the angle waits while the rate warms up. EvoGrad sees the angle through a few random directions of all
parameters: with two copies it wanders, and the schedule lets it settle. Clipping keeps the first hypergradients, the largest by far, from
setting the scale of Adam's steps for hundreds of steps.

On Fashion-MNIST, `mlp64` and `mlp256`, ten seeds each, `t1t2` ends within 3.6 degrees of the angle on all, `evograd` with two copies on 19;
without the warm-up, at the rate 0.02, two of five seeds of `t1t2` on `mlp64` ended at the wrong minimum. On LeNet, five seeds, `t1t2` ends
within 2.7 degrees on all, `evograd` with ten copies within 1.8 on four and 5.1 away on one, with two copies within 3.3 on three.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metabench.autodiff.optimisers import INNER_OPTIMISERS, inner_optimiser, scheduled
from metabench.core import Batch, MetaRole, Metric, Problem, ProblemCard, Tree, Window, once, option
from metabench.core.lazy import torch
from metabench.core.problem import PERCENT, OuterOptimiser, Setting, meta_step_option
from metabench.core.randomness import generator
from metabench.core.schedules import read_schedule
from metabench.data.batches import epochs
from metabench.data.splits import disjoint
from metabench.models.batch_norm import for_evaluation
from metabench.models.classifiers import CLASSIFIERS, classifier

_ACCURACY, _ANGLE_ERROR, _UPRIGHT = "test accuracy (%)", "angle error (degrees)", "accuracy on upright images (%)"
_PIECE = 1000
"""Test images that are evaluated at a time."""


@dataclass(frozen=True)
class Options:
    """Options of `rotation`."""

    train: int = option(6000, minimum=1, help="upright training examples")
    validation: int = option(1500, minimum=1, help="rotated meta-validation examples")
    batch: int = option(128, minimum=1, help="examples in an inner and in an outer batch")
    degrees: float = option(30.0, minimum=-180, maximum=180, help="angle of validation and test images")
    start: float = option(0.1, minimum=-180, maximum=180, help="initial angle of training images, in degrees")
    known_angle: bool = option(False, help="start at the true angle: with the method `none`, the oracle")
    optimiser: str = option("adam", choices=INNER_OPTIMISERS, help="inner optimiser")
    learning_rate: float = option(1e-3, above=0, help="of the inner optimiser")
    schedule: str = option(
        "constant", check=read_schedule, help="of the learning rate, over inner steps: 'warm-up 10, cosine 100'"
    )
    outer_learning_rate: float = option(1.5e-2, above=0, help="of the outer optimiser, Adam, for an angle in radians")
    outer_schedule: str = option("warm-up 100, cosine 600", check=read_schedule, help="of that, over meta-updates")
    clip: float | None = option(
        1e-3, above=0, help="largest hypergradient: the first ones would weigh on Adam for long"
    )
    meta_step: str = meta_step_option()


class Rotation(Problem):
    """Learn the angle."""

    card = ProblemCard(
        title="rotating training images like test images",
        datasets=("fashion_mnist_10k", "mnist_10k", "mnist", "fashion_mnist", "cifar10", "digits"),
        sizes=CLASSIFIERS,
        default_size="lenet",
        metrics=(Metric(_ACCURACY, "max", PERCENT), Metric(_ANGLE_ERROR, "min"), Metric(_UPRIGHT, "max", PERCENT)),
        citation="bohdal2021evograd",
        options=Options,
        inner_steps=1,
        outer_steps=600,
        references={"baseline": {}, "oracle": {"known_angle": True}},
    )
    roles = frozenset({MetaRole.INNER_LOSS})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options, data = setting.options, setting.data
        self.batch = min(options.batch, options.train)
        rate = scheduled(options.learning_rate, read_schedule(options.schedule))
        self.optimiser = inner_optimiser(options.optimiser, rate)
        self.outer_optimiser = OuterOptimiser(
            "Adam", options.outer_learning_rate, schedule=read_schedule(options.outer_schedule), clip=options.clip
        )
        self._network = classifier(
            setting.size, data.train_inputs.shape[1:], len(data.classes), setting.device, setting.dtype
        )
        parts = disjoint(
            len(data.train_targets),
            {"train": options.train, "validation": options.validation},
            setting.seed,
            data.train_targets,
        )
        seen = data.train_inputs[parts["train"]]
        self._shift, self._spread = float(seen.mean(dtype="float64")), float(seen.std(dtype="float64"))
        self._train = self._place(seen, data.train_targets[parts["train"]])
        self._validation = self._turned(
            self._place(data.train_inputs[parts["validation"]], data.train_targets[parts["validation"]])
        )
        self._upright = self._place(data.test_inputs, data.test_targets)

    @classmethod
    def examples_needed(cls, options: Options) -> int:
        """Return the examples of the training and the meta-validation part."""
        return options.train + options.validation

    def _place(self, inputs: object, targets: object) -> Batch:
        return {
            "inputs": torch.as_tensor(inputs).to(self.setting.device, self.setting.dtype),
            "targets": torch.as_tensor(targets).to(self.setting.device),
        }

    def _turned(self, part: Batch) -> Batch:
        """Return images rotated by the true angle."""
        return {**part, "inputs": rotated(part["inputs"], self._radians(self.setting.options.degrees))}

    def _radians(self, degrees: float) -> torch.Tensor:
        return torch.tensor(math.radians(degrees), dtype=self.setting.dtype, device=self.setting.device)

    def initial(self) -> Tree:
        """Return the initial angle, in radians."""
        options = self.setting.options
        return {"angle": self._radians(options.degrees if options.known_angle else options.start)}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy on training images rotated by the angle."""
        return self._cross_entropy(params, {**batch, "inputs": rotated(batch["inputs"], meta["angle"])})

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy on images as the test has them."""
        return self._cross_entropy(params, batch)

    def _cross_entropy(self, params: Tree, batch: Batch) -> torch.Tensor:
        scores = self._network(params, self._standardised(batch["inputs"]))
        return torch.nn.functional.cross_entropy(scores, batch["targets"])

    def _standardised(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs - self._shift) / self._spread

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield windows over shuffled epochs of training and validation images; one run trains the classifier."""
        seed, size = self.setting.seed, self.setting.options.batch
        params = self._network.initial(generator(seed, "initial params"), self.setting.dtype)
        inner = epochs(self._train, size, generator(seed, "inner batches"))
        outer = epochs(self._validation, size, generator(seed, "outer batches"))
        for begins in once({name: leaf.to(self.setting.device) for name, leaf in params.items()}):
            batches = tuple(next(inner) for _ in range(self.setting.inner_steps))
            yield [Window.ending_in(batches, next(outer), begins)]

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the accuracy on test images rotated by the true angle, the angle's error, and the accuracy on upright test images."""
        with torch.no_grad():
            shown = (
                self._standardised(rotated(images, meta["angle"])) for images in self._train["inputs"].split(self.batch)
            )
            scores = for_evaluation(self._network, params, shown)

            def accuracy(part: Batch) -> float:
                hits = [
                    scores(self._standardised(images)).argmax(1) == targets
                    for images, targets in zip(part["inputs"].split(_PIECE), part["targets"].split(_PIECE), strict=True)
                ]
                return 100 * float(torch.cat(hits).double().mean())

            return {
                _ACCURACY: accuracy(self._turned(self._upright)),
                _ANGLE_ERROR: self._error(meta),
                _UPRIGHT: accuracy(self._upright),
            }

    def _error(self, meta: Tree) -> float:
        """Return by how many degrees the angle is wrong, at most 180."""
        return abs((_degrees(meta) - self.setting.options.degrees + 180) % 360 - 180)

    def observe(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the angle along the run."""
        return {"angle (degrees)": _degrees(meta)}

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return the learned angle."""
        return {"angle (degrees)": _degrees(meta)}


def _degrees(meta: Tree) -> float:
    return math.degrees(float(meta["angle"]))


def rotated(images: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Return images of shape [n, channels, height, width], rotated about their centres by `angle`, a scalar in radians.

    Counterclockwise as images are shown, with the first row on top. Sampled bilinearly; pixels from outside are zero.
    """
    height, width = images.shape[-2:]
    ys, xs = _grid(images)
    cosine, sine = angle.cos(), angle.sin()
    # Where each pixel comes from: the rotation back.
    source_x = cosine * xs - sine * ys + (width - 1) / 2
    source_y = sine * xs + cosine * ys + (height - 1) / 2
    left, top = source_x.floor(), source_y.floor()
    flat, turned = images.flatten(-2), torch.zeros_like(images).flatten(-2)
    for row, share_y in ((top, top + 1 - source_y), (top + 1, source_y - top)):
        for column, share_x in ((left, left + 1 - source_x), (left + 1, source_x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            turned = turned + (share_y * share_x * inside) * flat.index_select(-1, place.long())
    return turned.unflatten(-1, (height, width))


def _grid(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows and columns of all pixels of images, counted from the centre, shape [height * width] each."""
    height, width = like.shape[-2:]
    ys, xs = torch.meshgrid(
        torch.arange(height, device=like.device, dtype=like.dtype) - (height - 1) / 2,
        torch.arange(width, device=like.device, dtype=like.dtype) - (width - 1) / 2,
        indexing="ij",
    )
    return ys.flatten(), xs.flatten()
