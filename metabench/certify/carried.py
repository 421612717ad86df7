"""Methods that keep something from window to window, judged by the limit of many short windows: the same as one long window.

At a minimum only the method's memory moves (a solver's last solution, a second point). One window alone is far from the target, so
only that memory can lead the method there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from metabench.certify.cases import Case, cases, settled
from metabench.certify.check import relative
from metabench.certify.claims import EXACT_TOLERANCE, Finding, complete
from metabench.certify.problems import Logistic, Ridge
from metabench.core import Curvature, Method, Problem, Target, Window, tree
from metabench.core.checks import check_hypergradient
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.results.certificate import AS_DECLARED, CERTIFIED, FAILED


@dataclass(frozen=True, eq=False)
class Carried:
    """A number of windows at a minimum, with options that do little in each, and how near the target the last has to be."""

    case: Case
    options: dict[str, Any]
    windows: int
    tolerance: float
    kind: str = "carried"

    @property
    def text(self) -> str:
        """The claim in words."""
        return f"carried: {self.case.text}, {self.windows} windows"

    def check(self, method: Method) -> Finding:
        """Return the outcome of the run."""
        begun = time.perf_counter()
        try:
            first, last = errors(method, self)
        except Exception as error:  # a method may raise what it likes: it is a finding
            words = f"raised {type(error).__name__}: {error}"
            return Finding(self.kind, self.case, self.options, FAILED, words, self.tolerance)
        holds = last <= self.tolerance < first
        reached = f"relative error {first:.2g} after one window, {last:.2g} after {self.windows}"
        words = f"what it keeps does not bring it to the target: {reached}"
        return Finding(
            self.kind,
            self.case,
            self.options,
            AS_DECLARED if holds else FAILED,
            "" if holds else words,
            self.tolerance,
            error=last,
            seconds=time.perf_counter() - begun,
        )


@dataclass(frozen=True, eq=False)
class Joined:
    """One window in pieces of a step, at meta-parameters that do not move: the last piece has to answer for all of them.

    What it carries from piece to piece then leads through the whole window, as the references differentiate it.
    """

    case: Case
    options: dict[str, Any]
    kind: str = "carried"

    @property
    def text(self) -> str:
        """The claim in words."""
        return f"carried: {self.case.text}, a window a step"

    def check(self, method: Method) -> Finding:
        """Return the outcome."""
        begun = time.perf_counter()
        case, options = self.case, build(method.options, self.options, f"method '{method.name}'")
        seen = partial(Finding, self.kind, case, self.options, tolerance=EXACT_TOLERANCE)
        problem: Problem = case.problem
        state = case.state
        try:
            for batch in case.window.inner:
                piece = Window((batch,), (case.outer_batch,))
                result = method(problem, state, case.meta, piece, options, generator(0, "carried"))
                check_hypergradient(result, case.state, case.meta)
                # What follows continues the run: its start is past.
                problem, state = case.problem.entered(piece, result.state)
        except Exception as error:  # a method may raise what it likes: it is a finding
            return seen(verdict=FAILED, message=f"raised {type(error).__name__}: {error}")
        expected = case.through_last_steps(case.inner_steps)
        error = relative(result.meta, expected)
        holds = error <= EXACT_TOLERANCE
        words = "" if holds else "what it carries does not lead through the windows before"
        return seen(
            verdict=CERTIFIED if holds else FAILED, message=words, error=error, seconds=time.perf_counter() - begun
        )


def carried(method: Method) -> Iterator[Carried | Joined]:
    """Yield the claims of a method on several windows; none for methods that keep nothing."""
    if method.target is Target.CARRIED:
        whole = (case for case in cases(method.target) if case.problem.due == "end" and case.inner_steps > 1)
        for case in itertools.islice(whole, 12):
            yield Joined(case, complete(method, {}))
    if method.name not in CARRIED:
        return
    windows, tolerance, options = CARRIED[method.name]
    for problem in (Ridge(features=8), Logistic("momentum")):
        case = settled(problem)
        assert case.minimum is not None
        yield Carried(case, options(case.minimum.curvature), windows, tolerance)


def errors(method: Method, of: Carried) -> tuple[float, float]:
    """Return the relative errors against the exact target after the first and after the last window."""
    case, options = of.case, build(method.options, of.options, f"method '{method.name}'")
    state, found = case.state, []
    for _ in range(of.windows):
        result = method(case.problem, state, case.meta, case.window, options, generator(0, "carried"))
        check_hypergradient(result, case.state, case.meta)
        state = result.state
        found.append(float(tree.norm(tree.subtract(result.meta, case.implicit)) / tree.norm(case.implicit)))
    return found[0], found[-1]


def _wide_envelope(at: Curvature) -> dict[str, Any]:
    rates = dict.fromkeys(("learning_rate", "proximal_rate"), 0.7 / at.largest)
    return {"penalty": 1e5, "proximal": 10 / at.smallest, "steps": 2} | rates


CARRIED: dict[str, tuple[int, float, Callable[[Curvature], dict[str, Any]]]] = {
    "ift_cg": (40, 1e-6, lambda at: {"steps": 2, "tolerance": 0.0, "warm_start": True}),
    "ift_neumann": (60, 1e-6, lambda at: {"steps": 3, "scale": 1 / at.largest, "warm_start": True}),
    "ift_fixed_point": (150, 1e-6, lambda at: {"steps": 3, "tolerance": 0.0, "warm_start": True}),
    "ift_minres": (40, 1e-6, lambda at: {"steps": 1, "tolerance": 0.0, "carried": 8}),
    "single_loop": (300, 1e-6, lambda at: {"rate": 1.8 / (at.largest + at.smallest)}),
    "meha": (200, 3e-3, _wide_envelope),
    "f2sa": (60, 1e-3, lambda at: {"penalty": 1e5, "steps": 2, "learning_rate": 0.7 / at.largest}),
}
"""By method: windows, tolerance, and the options that do little in each."""
