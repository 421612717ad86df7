"""Whether a strategy keeps the rules, on a made landscape of the space 'tiny': for its own test, and for yours."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from metabench.core.errors import MetabenchError
from metabench.models.spaces import space
from metabench.search.driver import Cost, Search
from metabench.search.strategy import make_strategy

_BUDGET, _STOP = 20, 7


class _Landscape:
    """Additive in the operations, with a seed of its own."""

    tasks = 90

    def __init__(self) -> None:
        self._space = space("tiny")
        self._weights = np.random.Generator(np.random.PCG64(0)).normal(size=sum(self._space.choices))

    def __call__(self, encoding: str, tasks: int) -> float:
        return float(50 + 5 * self._space.one_hot([encoding])[0] @ self._weights)

    def cost(self, encoding: str, tasks: int) -> Cost:
        return Cost(tasks)


def faults(name: str, plugins: Iterable[Path] = ()) -> list[str]:
    """Return what a strategy does wrongly, in words; empty if it keeps the rules.

    Raises:
        MetabenchError: it asks for a net outside the space, or for none; or there is no such strategy.
    """
    of, plugins = space("tiny"), tuple(plugins)

    def search(seed: int = 0, state: dict | None = None) -> Search:
        return Search.of(make_strategy(name, of, _BUDGET, seed, plugins=plugins), _Landscape(), _BUDGET, state)

    def nets(one: Search) -> list[str]:
        return [line.encoding for line in one.run()]

    found = []
    before = (random.getstate(), [str(part) for part in np.random.get_state()])
    first = nets(search())
    if (random.getstate(), [str(part) for part in np.random.get_state()]) != before:
        found.append("it draws from the global random numbers, which are everybody's: use self.stream")
    if nets(search()) != first:
        found.append("the same seed gives another search: draw from self.stream alone")
    stopped = search()
    for _ in itertools.islice(stopped.run(), _STOP):
        state = json.loads(json.dumps(stopped.state()))
    try:
        rest = nets(search(state=state))
    except MetabenchError:  # It does not repeat its own calls.
        rest = []
    if first[:_STOP] + rest != first:
        found.append(
            "a search that is interrupted goes on otherwise: what it asks may depend on its calls and seed alone"
        )
    if len(first) < _BUDGET // 2:
        found.append(f"it found {len(first)} different nets for a budget of {_BUDGET}")
    return found
