"""A made table that tests search on: additive, with interactions, from a seed; it counts every look."""

from __future__ import annotations

import functools

import numpy as np

from metabench.models.spaces import space
from metabench.search.driver import Cost

TINY = space("tiny")


@functools.cache
def made_table(seed: int = 0) -> dict[str, float]:
    stream = np.random.Generator(np.random.PCG64(seed))
    weights, pairs = stream.normal(size=15), stream.normal(size=(2, 5, 5))
    found = {}
    for net in TINY.all():
        genes = TINY.genes(net)
        mixed = pairs[0][genes[0], genes[1]] + pairs[1][genes[1], genes[2]]
        found[net] = float(50 + 4 * TINY.one_hot([net])[0] @ weights + 2 * mixed)
    return found


class Looked:
    """A fitness that keeps what was looked at, and raises where a net is looked at twice."""

    def __init__(self, tasks: int = 90, values: dict[str, float] | None = None) -> None:
        self.tasks = tasks
        self.values = made_table() if values is None else values
        self.looks: list[tuple[str, int]] = []

    def __call__(self, encoding: str, tasks: int) -> float:
        assert (encoding, tasks) not in self.looks, "paid for twice"
        self.looks.append((encoding, tasks))
        return self.values[encoding]

    def cost(self, encoding: str, tasks: int) -> Cost:
        return Cost(tasks, 3 * tasks, 1000.0 * tasks)
