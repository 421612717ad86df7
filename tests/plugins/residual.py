"""A plugin: an existing `torch.nn.Module`, of two widths, as sizes of every problem that takes classifiers."""

import functools
import math

from torch import nn

from metabench.models.named import NamedClassifier


class Residual(nn.Module):
    """A layer, a layer that is added to what it reads, and class scores."""

    def __init__(self, width, input_shape, classes):
        super().__init__()
        self.first = nn.Linear(math.prod(input_shape), width)
        self.norm = nn.BatchNorm1d(width, track_running_stats=False)
        self.inside = nn.Linear(width, width)
        self.last = nn.Linear(width, classes)

    def forward(self, inputs):
        """Return class scores."""
        hidden = self.norm(self.first(inputs.flatten(1))).tanh()
        return self.last(hidden + self.inside(hidden).tanh())


RESIDUAL = tuple(
    NamedClassifier(
        f"residual{width}", f"residual MLP of width {width}", "residual MLP", functools.partial(Residual, width)
    )
    for width in (8, 16)
)
