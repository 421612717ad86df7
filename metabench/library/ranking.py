"""Architectures ranked by scores that need no training, and whether the ranks agree with the losses after meta-training."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.types import Progress
from metabench.kernels.condition import ConditionNumber, RandomRanking, Score, parameter_count
from metabench.kernels.responses import Response
from metabench.library.architectures import Candidate, Losses, Tasks, trained
from metabench.methods import method
from metabench.results.statistics import Estimate, intervals

CONDITION, INITIAL, PARAMETERS, RANDOM = "condition", "condition at initialisation", "parameters", "random"
FEWEST = 3
"""Architectures below which a rank correlation says nothing."""


@dataclass(frozen=True)
class Ranked:
    """One architecture.

    Attributes:
        of: the network.
        parameters: their number; infinite for infinite width.
        scores: by name and seed of the tasks; a condition number may be infinite.
        reasons: why a condition number is infinite: of the first kernel, with how many are.
        losses: by seed, after meta-training; empty unless asked for.
    """

    of: Candidate
    parameters: float
    scores: Mapping[str, Sequence[float]]
    reasons: Sequence[str]
    losses: Sequence[Losses]

    def score(self, name: str) -> float:
        """Return the geometric mean of a score over seeds; infinite if one is."""
        values = self.scores[name]
        known = min(values) > 0 and max(values) < math.inf
        return math.exp(math.fsum(map(math.log, values)) / len(values)) if known else max(values)


@dataclass(frozen=True)
class Correlation:
    """Rank correlation of a score with a loss: one per seed, then the mean over seeds with its interval; 1: a perfect order.

    Both are None where a score is the same for all architectures. `loss` is 'test' or 'training': a condition number is of how fast
    training is, and of the test loss says nothing by itself.
    """

    score: str
    loss: str
    spearman: Estimate | None
    kendall: Estimate | None


def rank(
    networks: Sequence[Candidate],
    tasks: Tasks,
    *,
    response: Response,
    head: bool = False,
    draws: int = 0,
    seeds: int = 3,
    outer_steps: int = 0,
    by: str = "unrolled",
    progress: Progress = lambda what, done, total: None,
) -> list[Ranked]:
    """Return the networks with their scores, by condition number, the best first.

    response, head: of the inner run that the condition number is of. draws: of finite networks for the one at initialisation; 0: none.
    seeds: draws of the tasks. outer_steps: of meta-training; 0: none.

    Raises:
        MetabenchError: there is no network, or too few to train; a number is out of range; a method is unknown; or tasks cannot be drawn.
    """
    if not networks or seeds < 1 or draws < 0 or outer_steps < 0:
        raise MetabenchError(
            f"a ranking of {len(networks)} architectures with {seeds} seeds, {draws} draws and {outer_steps} outer steps: expected an "
            "architecture and a seed or more, and nothing below 0"
        )
    if outer_steps:
        # Before hours of work, not after.
        method(by)
        _raise_unless_enough(len(networks))
    loaded = tasks.loaded()
    drawn = [tasks.drawn(seed, loaded) for seed in range(seeds)]
    found = []
    for place, one in enumerate(networks):
        progress(f"score {one.name}", place, len(networks))
        architecture = one.architecture(drawn[0][0].support.shape[1], tasks.options)
        conditions = {CONDITION: ConditionNumber(response, head)}
        if draws:
            # Of infinite width the kernel as drawn is the analytic one.
            conditions[INITIAL] = ConditionNumber(response, head, "initial" if one.width else None, draws)
        scores: dict[str, list[float]] = {}
        reasons: list[str] = []
        for name, score in conditions.items():
            each = [score.found(architecture, episodes) for episodes in drawn]
            scores[name] = [score.mean(of) for of in each]
            kernels = [part for of in each for part in of]
            if failing := [part.reason for part in kernels if part.reason]:
                reasons.append(f"{name}: {failing[0]} ({len(failing)} of {len(kernels)} kernels)")
        for seed, episodes in enumerate(drawn):
            baselines: dict[str, Score] = {PARAMETERS: parameter_count, RANDOM: RandomRanking(seed)}
            for name, baseline in baselines.items():
                scores.setdefault(name, []).append(baseline(architecture, episodes))
        found.append(Ranked(one, architecture.parameters, scores, reasons, []))
    if outer_steps:
        found = _with_losses(found, tasks, seeds, loaded, outer_steps, by, progress)
    return sorted(found, key=lambda one: one.score(CONDITION))


def _with_losses(
    found: Sequence[Ranked], tasks: Tasks, seeds: int, loaded: object, outer_steps: int, by: str, progress: Progress
) -> list[Ranked]:
    done = []
    for place, one in enumerate(found):
        progress(f"train {one.of.name}", place, len(found))
        losses = [trained(one.of, tasks, seed, loaded, outer_steps, by) for seed in range(seeds)]
        done.append(Ranked(one.of, one.parameters, one.scores, one.reasons, losses))
    return done


def correlations(found: Sequence[Ranked]) -> list[Correlation]:
    """Return the rank correlation of every score with either loss.

    Raises:
        MetabenchError: there are too few architectures, or no losses.
    """
    _raise_unless_enough(len([one for one in found if one.losses]))
    from scipy.stats import kendalltau, spearmanr

    rows = []
    for name, loss in itertools.product(found[0].scores, ("test", "training")):
        pairs = [
            ([one.scores[name][seed] for one in found], [getattr(one.losses[seed], loss) for one in found])
            for seed in range(len(found[0].losses))
        ]
        with warnings.catch_warnings():
            # Of a score that is the same everywhere the correlation is not defined, and reported as such.
            warnings.simplefilter("ignore")
            each = [[float(by(*pair).statistic) for pair in pairs] for by in (spearmanr, kendalltau)]
        rows.append(
            Correlation(name, loss, *(None if any(map(math.isnan, part)) else _interval(part) for part in each))
        )
    return rows


def _interval(sample: Sequence[float]) -> Estimate:
    return intervals([sample])[0].within(-1.0, 1.0)


def _raise_unless_enough(architectures: int) -> None:
    if architectures < FEWEST:
        raise MetabenchError(
            f"a rank correlation over {architectures} trained architectures: expected {FEWEST} or more"
        )
