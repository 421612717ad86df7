"""Learning to train a small convolutional network on images. Andrychowicz et al. 2016, section 3.3.

Three 5 x 5 convolutions, each followed by normalisation, ReLU and 2 x 2 pooling by maxima, and a dense layer; the statistics of
normalisation are those of the batch, and there are no others. Convolutions and dense layers may have an optimiser each.

As in the paper, the optimiser is tested on subsets of five and of two classes, and may be trained on the other classes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metabench.core import ProblemCard, option
from metabench.core.errors import MetabenchError
from metabench.core.problem import Setting
from metabench.learned.declared import read_optimiser
from metabench.learned.images import Images, ImageTasks
from metabench.learned.networks import SmallNetwork
from metabench.learned.problem import METRICS, LearnedOptimiserProblem, LearnedOptions
from metabench.learned.tasks import Tasks

_SIZES = {"c4": (4, 8, 2), "c8": (8, 16, 1), "c16": (16, 32, 1)}
"""Channels of the convolutions, units of the dense layer, and by how much images are averaged each way."""
_ALL, _HELD_OUT, _FIVE, _TWO = "all", "held out", 5, 2


@dataclass(frozen=True)
class Options(LearnedOptions):
    """Options of `learned_convnet`."""

    batch: int = option(128, minimum=2, help="examples in a batch")
    judge_every: int = option(5, minimum=1, help="inner steps from one judgement of a test to the next")
    dense: str | None = option(
        None,
        check=read_optimiser,
        help="an optimiser of their own for the dense layers; `optimiser` is then that of the others",
    )
    classes: str = option(
        _ALL,
        choices=(_ALL, _HELD_OUT),
        help="classes trained on: all, or those that the tests on five and on two classes do not have",
    )


class LearnedConvnet(LearnedOptimiserProblem):
    """Learn an optimiser on convolutional networks."""

    card = ProblemCard(
        title="learning to train a convolutional network",
        datasets=("fashion_mnist_10k", "cifar10", "fashion_mnist", "mnist_10k", "mnist"),
        sizes={
            "c4": "4 channels, 8 dense units, images averaged over 2 x 2 pixels",
            "c8": "8 channels, 16 dense units",
            "c16": "16 channels, 32 dense units",
        },
        metrics=METRICS,
        citation="andrychowicz2016learning",
        options=Options,
        inner_steps=20,
        outer_steps=200,
    )

    def __init__(self, setting: Setting) -> None:
        averaged = _SIZES[setting.size][2]
        images = Images.of(setting.data, setting)
        if images.classes <= _FIVE and setting.options.classes == _HELD_OUT:
            raise MetabenchError(f"the data set has {images.classes} classes: none is left when five are held out")
        self._images = images.averaged(images.shape[-1] // averaged)
        super().__init__(setting)

    def optimisers(self) -> Mapping[str, str]:
        """Return one optimiser, or one for convolutions and one for dense layers."""
        options: Options = self.setting.options
        return {"": options.optimiser} if options.dense is None else {"conv": options.optimiser, "dense": options.dense}

    def family(self) -> Tasks:
        """Return networks on the classes trained on."""
        held_out = self.setting.options.classes == _HELD_OUT
        return self._network(range(_FIVE, self._images.classes) if held_out else range(self._images.classes))

    def others(self) -> Mapping[str, Tasks]:
        """Return networks on other classes: the first five, the first two, and all where some were held out."""
        found = {
            f"{count} classes": self._network(range(count)) for count in (_FIVE, _TWO) if count < self._images.classes
        }
        if self.setting.options.classes == _HELD_OUT:
            found["all classes"] = self._network(range(self._images.classes))
        return found

    def _network(self, classes: range) -> Tasks:
        channels, units, _ = _SIZES[self.setting.size]
        images = self._images if len(classes) == self._images.classes else self._images.only(classes)
        network = SmallNetwork(images.shape, images.classes, (channels,) * 3, (units,), "relu", normalised=True)
        return ImageTasks(images, network, self.setting.options.batch, self.setting)
