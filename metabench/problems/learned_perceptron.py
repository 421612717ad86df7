"""Learning to train a small MLP on images. Andrychowicz et al. 2016, section 3.2.

A hidden layer of 20 sigmoid units, pixels in [0, 1], batches of 128, parameters from N(0, 0.01^2), 100 steps; smaller images are averages.
The optimiser is tested as it is on larger and other networks, in longer runs, and on another data set if one is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metabench import data
from metabench.core import ProblemCard, option
from metabench.core.problem import Setting
from metabench.data.registry import DATASETS
from metabench.learned.images import Images, ImageTasks
from metabench.learned.networks import SmallNetwork
from metabench.learned.problem import METRICS, LearnedOptimiserProblem, LearnedOptions, read_lengths
from metabench.learned.tasks import Tasks


@dataclass(frozen=True)
class Options(LearnedOptions):
    """Options of `learned_perceptron`."""

    batch: int = option(128, minimum=1, help="examples in a batch")
    longer: str = option(
        "200, 1000", check=read_lengths, help="numbers of steps of further tests on the tasks trained on"
    )
    other_data: str | None = option(
        None, choices=DATASETS, help="another data set of images to be tested on, as 'mnist_10k'"
    )


class LearnedPerceptron(LearnedOptimiserProblem):
    """learn an optimiser on MLPs."""

    card = ProblemCard(
        title="learning to train an MLP",
        datasets=("fashion_mnist_10k", "fashion_mnist", "mnist_10k", "mnist"),
        sizes={
            "p14": "20 units, images of 14 x 14",
            "p7": "20 units, images of 7 x 7",
            "p28": "20 units, images of 28 x 28",
        },
        metrics=METRICS,
        citation="andrychowicz2016learning",
        options=Options,
        inner_steps=20,
        outer_steps=500,
    )

    def __init__(self, setting: Setting) -> None:
        self._images = Images.of(setting.data, setting)
        super().__init__(setting)

    def family(self) -> Tasks:
        """Return MLPs of 20 sigmoid units on images of the size's side."""
        return self._mlp(self._images, int(self.setting.size[1:]))

    def others(self) -> Mapping[str, Tasks]:
        """Return the paper's transfers, images of another size, and another data set."""
        images, side = self._images, int(self.setting.size[1:])
        height, width = images.averaged(other_side := 14 if side == 28 else 28).shape[1:]
        found = {
            f"{height} x {width}": self._mlp(images, other_side),
            "40 units": self._mlp(images, side, (40,)),
            "two layers": self._mlp(images, side, (20, 20)),
            "ReLU": self._mlp(images, side, activation="relu"),
        }
        if name := self.setting.options.other_data:
            found[name] = self._mlp(Images.of(data.load(name), self.setting), side)
        return found

    def _mlp(self, images: Images, side: int, hidden: tuple[int, ...] = (20,), activation: str = "sigmoid") -> Tasks:
        smaller = images.averaged(side)
        network = SmallNetwork(smaller.shape, smaller.classes, hidden=hidden, activation=activation)
        return ImageTasks(smaller, network, self.setting.options.batch, self.setting)
