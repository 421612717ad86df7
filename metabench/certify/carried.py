"""Methods that keep something from window to window, judged by the limit of many short windows: the same as one long window.

At a minimum only the method's memory moves (a solver's last solution, a second point). One window alone is far from the target, so
only that memory can lead the method there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from metabench.certify.cases import Case, settled
from metabench.certify.claims import Finding
from metabench.certify.problems import Logistic, Ridge
from metabench.core import Curvature, Method, tree
from metabench.core.checks import check_hypergradient
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.results.certificate import AS_DECLARED, FAILED


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


def carried(name: str) -> Iterator[Carried]:
    """Yield the claims of the named method; none for methods that keep nothing."""
    if name not in CARRIED:
        return
    windows, tolerance, options = CARRIED[name]
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


CARRIED: dict[str, tuple[int, float, Callable[[Curvature], dict[str, Any]]]] = {
    "ift_cg": (40, 1e-6, lambda at: {"steps": 2, "tolerance": 0.0, "warm_start": True}),
    "ift_neumann": (60, 1e-6, lambda at: {"steps": 3, "scale": 1 / at.largest, "warm_start": True}),
    "ift_fixed_point": (150, 1e-6, lambda at: {"steps": 3, "tolerance": 0.0, "warm_start": True}),
    "f2sa": (60, 1e-3, lambda at: {"penalty": 1e5, "steps": 2, "learning_rate": 0.7 / at.largest}),
}
"""By method: windows, tolerance, and the options that do little in each."""
