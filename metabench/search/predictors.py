"""Screening by a predictor: many nets are imagined, the most promising ones are paid for.

After a few evaluations a model of scikit-learn is fitted to what was paid for. The strategy is then asked for more nets than there is
money for, and told of each what the model expects, so that it goes on among expectations; what they rank first is evaluated. Nothing else
is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metabench.core.errors import MetabenchError, unknown
from metabench.search.strategy import Strategy

PREDICTORS = ("ridge", "forest", "gaussian_process")
FEWEST = 10
"""Evaluations to which a predictor is fitted before it is asked."""
_ROUNDS = 20
"""Asks for candidates before one evaluation, at most."""


def predictor(name: str, seed: int) -> Any:
    """Return an estimator of scikit-learn by name; raise MetabenchError if there is none."""
    if name == "ridge":
        from sklearn.linear_model import Ridge  # type: ignore[import-untyped]

        return Ridge(1.0)
    if name == "forest":
        from sklearn.ensemble import RandomForestRegressor  # type: ignore[import-untyped]

        return RandomForestRegressor(100, random_state=seed % 2**31)
    if name == "gaussian_process":
        from sklearn.gaussian_process import GaussianProcessRegressor  # type: ignore[import-untyped]
        from sklearn.gaussian_process.kernels import RBF, WhiteKernel  # type: ignore[import-untyped]

        # Fixed lengths: with a handful of points the likelihood prefers nonsense.
        return GaussianProcessRegressor(
            1.0 * RBF(2.0, "fixed") + WhiteKernel(0.1, "fixed"), optimizer=None, normalize_y=True
        )
    raise unknown("predictor", name, PREDICTORS)


def check_points(name: str, budget: int, minimum: int = FEWEST) -> None:
    """Raise MetabenchError unless a predictor is fitted to two evaluations or more, and the budget pays for others after them."""
    if minimum >= budget or minimum < 2:
        raise MetabenchError(
            f"predictor '{name}' is fitted to {minimum} evaluations or more, and the budget pays for {budget}: expected "
            "2 or more, and fewer than the budget"
        )


class Screened(Strategy):
    """A strategy whose nets are screened.

    Args:
        strategy: that imagines.
        name: of the predictor.
        candidates: nets that are imagined for one that is paid for.
        minimum: evaluations before the predictor is asked.

    Raises:
        MetabenchError: the predictor is unknown, or needs more points than the budget pays for; or no net is to be imagined.
    """

    card = None  # type: ignore[assignment]  # it is made of a strategy, and not chosen by name

    def __init__(self, strategy: Strategy, name: str, candidates: int = 30, minimum: int = FEWEST) -> None:
        check_points(name, strategy.budget, minimum)
        if candidates < 1:
            raise MetabenchError(f"predictor '{name}' is to rank {candidates} candidates: expected 1 or more")
        super().__init__(strategy.space, strategy.budget, strategy.seed, strategy.options)
        self._inner, self._name, self._candidates, self._minimum = strategy, name, candidates, minimum
        self._known: dict[str, float] = {}
        predictor(name, self.seed)

    def ask(self, n: int) -> Sequence[str]:
        """Return what the predictor ranks first of the nets that the strategy asks for."""
        if len(self._known) < self._minimum:
            return self._inner.ask(n)
        nets = list(self._known)
        model = predictor(self._name, self.seed).fit(
            self.space.one_hot(nets), np.array([self._known[net] for net in nets])
        )
        pool: dict[str, float] = {}
        for _ in range(_ROUNDS):
            asked = [self.space.read(net) for net in self._inner.ask(max(1, self._candidates - len(pool)))]
            # A strategy that waits or is at its end: what it would change is drawn.
            drawn = asked or [self.drawn() for _ in range(self._candidates)]
            expected = dict(zip(drawn, map(float, model.predict(self.space.one_hot(drawn))), strict=True))
            if asked:
                told = [self._known.get(net, expected[net]) for net in asked]
                self._inner.tell(asked, told)
            pool |= {net: value for net, value in expected.items() if net not in self._known}
            if len(pool) >= self._candidates:
                break
        return sorted(pool, key=lambda net: -pool[net])[:n]

    def tell(self, encodings: Sequence[str], fitness: Sequence[float]) -> None:
        """Learn what was paid for; before the predictor is asked, the strategy learns it too."""
        early = len(self._known) < self._minimum
        self._known.update(zip(encodings, fitness, strict=True))
        if early:
            self._inner.tell(encodings, fitness)

    def part(self, encoding: str) -> float:
        """Return the whole: a predictor is fitted to fitness on one number of tasks."""
        return 1.0
