"""How well one ranking of nets agrees with another: of all nets, and of the best quarter, where it is lower."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metabench.core.randomness import stream_seed
from metabench.data.formats.net_table import TEST, VALIDATION, NetTable
from metabench.models.search_space import Space
from metabench.results import net_tables as names
from metabench.search.predictors import predictor

Floats = npt.NDArray[np.float64]
_RESAMPLES = 1000
_FOR_NOTHING = {names.BY_PARAMETERS: "parameters", names.BY_FLOPS: "flops"}
_FEWEST = 4
"""Tasks of a domain, below which they are not halved."""


@dataclass(frozen=True)
class Agreement:
    """Two rankings of the same nets.

    Attributes:
        what: the two, in words.
        kendall: tau-b of all nets.
        spearman: rho of all nets.
        low: of tau, the 2.5 % quantile over resampled nets.
        high: the 97.5 % quantile.
        best: tau-b of the best quarter by the second ranking.

    All are NaN where a ranking holds equal values alone.
    """

    what: str
    kendall: float
    spearman: float
    low: float
    high: float
    best: float

    def named(self) -> dict[str, float]:
        """Return the numbers of Kendall's tau by the names that rows have; those that are not defined are left out."""
        values = {
            names.KENDALL: self.kendall,
            names.KENDALL_LOW: self.low,
            names.KENDALL_HIGH: self.high,
            names.KENDALL_BEST: self.best,
        }
        return {names.of(self.what, name): value for name, value in values.items() if math.isfinite(value)}


def agreement(what: str, found: Floats, truth: Floats) -> Agreement:
    """Return how `found` ranks nets, shape [nets], against `truth`; the best quarter is that of `truth`."""
    from scipy.stats import kendalltau, spearmanr

    stream = np.random.Generator(np.random.PCG64(stream_seed(0, "resampled nets")))
    rows = stream.integers(len(truth), size=(_RESAMPLES, len(truth)))
    drawn = [kendalltau(found[some], truth[some]).statistic for some in rows]
    # A few nets drawn again and again may be all alike.
    defined = [value for value in drawn if not math.isnan(value)]
    low, high = np.quantile(defined, (0.025, 0.975)) if defined else (math.nan, math.nan)
    best = np.argsort(-truth, kind="stable")[: max(2, len(truth) // 4)]
    return Agreement(
        what,
        float(kendalltau(found, truth).statistic),
        float(spearmanr(found, truth).statistic),
        float(low),
        float(high),
        float(kendalltau(found[best], truth[best]).statistic),
    )


def of_itself(table: NetTable) -> list[Agreement]:
    """Return how the numbers of parameters and FLOPs, which cost nothing to know, rank the nets of a table as their test accuracy does.

    After them, how two rankings of the table agree, each with its noise: by its seeds, its tasks and its parts.
    """
    test = table.accuracies(TEST)
    found = [agreement(what, table.costs[name], test) for what, name in _FOR_NOTHING.items()]
    if len(table.seeds) > 1:
        first, rest = table.seeds[:1], table.seeds[1:]
        found.append(_between(table, names.OTHER_SEEDS, seeds=(first, rest)))
        found.append(_between(table, names.ANOTHER_SEED, seeds=(first, rest[:1])))
    found.append(agreement(names.VALIDATION_TASKS, table.accuracies(VALIDATION), test))
    count = len(table.pixels[TEST])
    found.append(_between(table, names.HALVES, tasks=(range(0, count, 2), range(1, count, 2))))
    return found


def by_ridge(table: NetTable, space: Space, seed: int, count: int) -> Agreement:
    """Return how a ridge ranks the nets that was fitted to a few, trained with one seed and judged on validation tasks.

    Args:
        table: of the nets.
        space: of the table.
        seed: draws the few, and chooses the seed of training.
        count: how many, at most all.
    """
    drawn = space.drawn(seed, "nets of the ridge")
    known = [table.row(next(drawn)) for _ in range(min(count, len(table.nets)))]
    features = space.one_hot(table.nets)
    found = table.accuracies(VALIDATION, seeds=[table.seeds[seed % len(table.seeds)]])
    expected: Floats = predictor("ridge", 0).fit(features[known], found[known]).predict(features)
    return agreement(names.FITTED.format(count=count), expected, table.accuracies(TEST))


@dataclass(frozen=True)
class OfDomain:
    """What a net of a domain's own is worth.

    Attributes:
        domain: by name.
        net: that does best on its test tasks.
        gain: by how many points nets chosen for the domain are above the net chosen for all, on tasks that chose neither.
        half: half the 95 % interval of the gain over tasks.
        tasks: of the domain.
    """

    domain: str
    net: str
    gain: float
    half: float
    tasks: int


def of_domains(table: NetTable) -> list[OfDomain]:
    """Return, for each test domain, what a net of its own is worth; on the tasks that chose it, the best of many looks too good.

    Tasks are halved; one half chooses, for the domain and for all domains, the other judges, and the other way round.
    """
    # Over seeds, as all that is said of a net: shape [nets, tasks].
    right = 100 * table.right[TEST][:, :, table.steps.index(table.about["inner_steps"])].mean(1, dtype=np.float64) / table.asked
    domains = np.array(table.domains[TEST])
    # Alternately within a domain, so that each half has as many tasks of each.
    halves = np.zeros(len(domains), bool)
    for name in table.domains[TEST]:
        mine = np.flatnonzero(domains == name)
        halves[mine] = np.arange(len(mine)) % 2 == 0
    found = []
    for name in dict.fromkeys(table.domains[TEST]):
        mine, away = domains == name, []
        if mine.sum() < _FEWEST:
            continue
        for chooses in (halves, ~halves):
            own, whole = (int(right[:, chooses & where].mean(1).argmax()) for where in (mine, np.ones_like(mine)))
            judged = ~chooses & mine
            away.append(right[own, judged] - right[whole, judged])
        gains = np.concatenate(away)
        half = 1.96 * float(gains.std(ddof=1)) / np.sqrt(len(gains))
        best = table.nets[int(right[:, mine].mean(1).argmax())]
        found.append(OfDomain(name, best, float(gains.mean()), float(half), len(gains)))
    return found


def _between(table: NetTable, what: str, seeds: tuple = (None, None), tasks: tuple = (None, None)) -> Agreement:
    one, other = (table.accuracies(TEST, seeds=seeds[i], tasks=tasks[i]) for i in range(2))
    return agreement(what, one, other)


def additive(table: NetTable, one_hot: Floats) -> float:
    """Return R^2 of the test accuracy by a ridge on one-hot operations, in cross-validation of ten parts: how easy the space is."""
    from sklearn.linear_model import Ridge  # type: ignore[import-untyped]
    from sklearn.model_selection import KFold, cross_val_predict  # type: ignore[import-untyped]

    truth = table.accuracies(TEST)
    found = cross_val_predict(Ridge(1.0), one_hot, truth, cv=KFold(min(10, len(truth)), shuffle=True, random_state=0))
    return float(1 - ((truth - found) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
