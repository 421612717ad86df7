"""Methods that draw, judged by their mean: over many draws it has to agree with theory, by Student's t at a stated level.

The level is the probability that a right method fails by chance, over all coordinates together (Bonferroni). Draws come from fixed
streams, so that the outcome is the same at every run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from metabench.certify.cases import Case, moving
from metabench.certify.check import ask
from metabench.certify.claims import Finding
from metabench.certify.formulas import products_on_batches
from metabench.certify.problems import Logistic, Quadratic, Ridge
from metabench.certify.references import expand, objective, smoothed
from metabench.certify.shared_roles import SharedRoles
from metabench.certify.training import train
from metabench.core import InnerState, MetabenchError, Method, Tree, tree
from metabench.core.checks import check_hypergradient
from metabench.core.lazy import torch
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.results.certificate import AS_DECLARED, FAILED

LEVEL = 1e-4
"""Probability of failing a right method by chance, for one claim."""
RESOLUTION = 0.1
"""Standard error over the norm of the mean above which a test says too little."""


@dataclass(frozen=True)
class Mean:
    """A method on a case under some options, the mean that theory gives its hypergradient, and how many draws it is judged by.

    Over several windows, which are run one after the other with the state carried on, a draw is the sum of their hypergradients.
    """

    case: Case
    options: dict[str, Any]
    expected: Callable[[], Tree]
    draws: int
    kind: str = "mean"

    @property
    def text(self) -> str:
        """The claim in words."""
        return f"mean: {self.case.text}, {', '.join(f'{name}={value}' for name, value in self.options.items())}"

    def check(self, method: Method) -> Finding:
        """Return the outcome of the comparison."""
        begun = time.perf_counter()
        columns = {"level": LEVEL, "draws": self.draws}
        try:
            outcome = judge_mean(method, self)
        except MetabenchError as mistake:  # in words already
            return Finding(self.kind, self.case, self.options, FAILED, str(mistake), columns=columns)
        except Exception as error:  # a method may raise what it likes: it is a finding
            words = f"raised {type(error).__name__}: {error}"
            return Finding(self.kind, self.case, self.options, FAILED, words, columns=columns)
        return Finding(
            self.kind,
            self.case,
            self.options,
            AS_DECLARED if outcome.holds else FAILED,
            outcome.words,
            error=outcome.error,
            cosine=outcome.cosine,
            norm_ratio=outcome.norm_ratio,
            seconds=time.perf_counter() - begun,
            columns=columns | {"standard_error": outcome.standard_error, "p_value": outcome.p_value},
        )


@dataclass(frozen=True)
class MeanTest:
    """The mean of the draws and its expectation.

    standard_error is over the norm of that; p_value is of the worst coordinate, corrected for their number.
    """

    mean: Tree
    expected: Tree
    error: float
    cosine: float
    norm_ratio: float
    standard_error: float
    p_value: float

    @property
    def holds(self) -> bool:
        """Whether the mean agrees with its expectation, and the draws suffice to tell."""
        return self.p_value >= LEVEL and self.standard_error <= RESOLUTION

    @property
    def words(self) -> str:
        """What is wrong; empty where nothing is."""
        if self.p_value < LEVEL:
            return (
                f"the mean is {self.norm_ratio:.3g} times as long as it should be, with a cosine of {self.cosine:.3f}: "
                f"p = {self.p_value:.1g} for a difference of that size by chance"
            )
        if self.standard_error > RESOLUTION:
            return f"the draws vary so much that their mean tells nothing: standard error {self.standard_error:.2g} of the expected norm"
        return ""


def means(method: Method) -> Iterator[Mean]:
    """Yield the means to check a method against, the package's and the one that it declares; none for methods that do not draw."""
    yield from MEANS.get(method.name, lambda: iter(()))()
    if (declared := method.mean) is not None:
        for given in declared.options:
            for problem in (
                Quadratic(inner_steps=1),
                Ridge(inner_steps=2, features=2),
                SharedRoles("momentum", ("inner_loss", "outer_loss"), inner_steps=2),
            ):
                case = moving(problem)

                def expected(case: Case = case, given: Any = given) -> Tree:
                    options = build(method.options, dict(given), f"method '{method.name}'")
                    return tree.unflatten(declared.value(case, options).detach(), case.meta)

                yield Mean(case, dict(given), expected, declared.draws)


def judge_mean(method: Method, of: Mean) -> MeanTest:
    """Return the comparison of the mean over `of.draws` draws with its expectation."""
    from scipy import stats

    options = build(method.options, of.options, f"method '{method.name}'")
    # One draw is watched for what it does beside its answer: watching all would cost more than they do.
    watched = ask(method, of.case, options)
    if watched.result is None or watched.wrong:
        raise MetabenchError(watched.wrong)
    stream = generator(0, f"means of {method.name}")
    drawn = torch.stack([tree.flatten(_draw(method, of.case, options, stream)) for _ in range(of.draws)])
    if not bool(drawn.isfinite().all()):
        raise MetabenchError("a draw is not finite")
    expected = of.expected()
    wanted, mean = tree.flatten(expected), drawn.mean(0)
    error = drawn.std(0) / math.sqrt(of.draws)
    t = ((mean - wanted) / error).abs()
    # A coordinate that never varies is right or wrong without chance.
    still = error <= 1e-14 * wanted.norm()
    t = torch.where(still, torch.where((mean - wanted).abs() <= 1e-9 * wanted.norm(), 0.0, math.inf), t)
    p = min(1.0, 2 * float(stats.t.sf(float(t.max()), of.draws - 1)) * len(wanted))
    size, norm = float(mean.norm()), float(wanted.norm())
    return MeanTest(
        mean=tree.unflatten(mean, expected),
        expected=expected,
        error=float((mean - wanted).norm()) / norm,
        cosine=float(mean @ wanted) / (size * norm) if size else 0.0,
        norm_ratio=size / norm,
        standard_error=float(error.norm()) / norm,
        p_value=p,
    )


def _draw(method: Method, case: Case, options: Any, stream: torch.Generator) -> Tree:
    state: InnerState = case.state
    total = tree.zeros_like(case.meta)
    for window in case.windows:
        found = method(case.problem, state, case.meta, window, options, stream)
        check_hypergradient(found, case.state, case.meta)
        state, total = found.state, tree.add(total, found.meta)
    return total


def _evograd() -> Iterator[Mean]:
    """To first order in sigma: dF/dl - sigma^2/tau (1 - 1/N) J v, before the last step. Bohdal et al. 2021, section 3.3."""
    for problem, options in (
        (Quadratic(inner_steps=1), {"copies": 2, "noise": "sign", "sigma": 0.001}),
        (Quadratic(inner_steps=1), {"copies": 5, "noise": "gaussian", "sigma": 0.001, "tau": 0.2}),
        (Ridge(inner_steps=1, features=2), {"copies": 8, "noise": "gaussian", "sigma": 0.001, "tau": 0.02}),
    ):
        case = moving(problem)

        def expected(case: Case = case, options: dict[str, Any] = options) -> Tree:
            inner, outer = case.window.inner[-1], case.window.outer[-1]
            assert outer is not None
            at = expand(case.problem, case.before.params, case.meta, inner, outer, 0.0)
            step = options["sigma"] ** 2 / options.get("tau", 0.05) * (1 - 1 / options["copies"])
            return tree.unflatten(at.implicit(step * at.outer_w), case.meta)

        yield Mean(case, options, expected, 1500)


def _es() -> Iterator[Mean]:
    """The gradient of the objective smoothed by Gaussian noise. Salimans et al. 2017, section 2."""
    for problem, options in (
        (Quadratic(inner_steps=2), {"pairs": 4, "sigma": 0.3}),
        (Quadratic("momentum", inner_steps=3), {"pairs": 1, "sigma": 0.1}),
        (Ridge(inner_steps=2, features=2), {"pairs": 8, "sigma": 0.2}),
    ):
        case = moving(problem)

        def expected(case: Case = case, sigma: float = options["sigma"]) -> Tree:
            value = objective(case.problem, case.state, case.window)
            return smoothed(lambda metas: value(metas[0]), case.meta, 1, sigma)

        yield Mean(case, options, expected, 600)


def _pes() -> Iterator[Mean]:
    """The gradient of the smoothed sum over all windows, with fresh noise for each. Vicol et al. 2021, equation 8."""
    for problem, options, windows in (
        (Quadratic(inner_steps=2), {"pairs": 8, "sigma": 0.3}, 2),
        (Quadratic("momentum", inner_steps=1), {"pairs": 8, "sigma": 0.2}, 3),
        (Quadratic("momentum", inner_steps=1), {"pairs": 16, "sigma": 0.2, "horizon": 1}, 3),
        (Ridge(inner_steps=1, features=2), {"pairs": 16, "sigma": 0.2}, 2),
    ):
        case = moving(problem, windows)

        def expected(case: Case = case, options: dict[str, Any] = options) -> Tree:
            if options.get("horizon") == 1:  # the particles start again at every window: each is smoothed by itself
                return _window_by_window(case, options["sigma"])
            nodes = 4 if tree.count(case.meta) > 1 else 7
            return smoothed(lambda metas: _run(case, metas), case.meta, len(case.windows), options["sigma"], nodes)

        yield Mean(case, options, expected, 200)


def _window_by_window(case: Case, sigma: float) -> Tree:
    """Return the sum over the windows of the gradients of each one's smoothed objective, from where plain training begins it."""
    state, total = case.state, tree.zeros_like(case.meta)
    for window in case.windows:
        value = objective(case.problem, state, window)
        total = tree.add(total, smoothed(lambda metas, value=value: value(metas[0]), case.meta, 1, sigma))
        state = train(case.problem, state, case.meta, window).end
    return total


def _run(case: Case, metas: Sequence[Tree]) -> float:
    """Return the sum of the windows' objectives of one run, the meta-parameters of each window given."""
    state, total = case.state, 0.0
    for window, meta in zip(case.windows, metas, strict=True):
        trained = train(case.problem, state, meta, window)
        state, total = trained.end, total + trained.objective
    return total


def _ift_stochastic() -> Iterator[Mean]:
    """Yield the mean over how many products are taken, on the batches of a window: the sum of the series."""
    for problem in (Ridge(inner_steps=4, features=3), Logistic("momentum", inner_steps=3)):
        case = moving(problem)
        for steps, scale in ((10, 0.1), (3, 0.3)):
            given = {"steps": steps, "scale": scale, "truncation": "random"}

            def expected(case: Case = case, given: dict[str, Any] = given) -> Tree:
                return tree.unflatten(products_on_batches(case, SimpleNamespace(**given), None), case.meta)

            yield Mean(case, given, expected, 2000)


MEANS: dict[str, Callable[[], Iterator[Mean]]] = {
    "evograd": _evograd,
    "es": _es,
    "pes": _pes,
    "ift_stochastic": _ift_stochastic,
}
"""By method: its expected mean."""
