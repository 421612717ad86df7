"""Methods called more than once: over the windows of one run, with one argument exchanged, and as users may call them.

State that a method keeps between calls, declared or hidden, shows only here.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from metabench.certify.cases import Case, moving
from metabench.certify.check import STREAM, ask, astray, relative
from metabench.certify.claims import (
    EXACT_TOLERANCE,
    SAMPLED,
    Finding,
    complete,
    exact_value,
    exists,
    formula_of,
    must_answer,
    option_variants,
)
from metabench.certify.problem import SCHEDULED
from metabench.certify.problems import ExampleWeights, Ridge
from metabench.certify.scheduled_rates import LearnedSchedule
from metabench.certify.shared_roles import SharedRoles
from metabench.certify.tanh_networks import TanhNetwork
from metabench.core import Hypergradient, Method, Target, Tree, tree
from metabench.core.lazy import torch
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.results.certificate import AS_DECLARED, CERTIFIED, FAILED, UNSUPPORTED


@dataclass(frozen=True, eq=False)
class Again:
    """The method is called several times.

    Over the windows of one run, the meta-parameters moved between them; then with the window, the state and the meta-parameters of the
    first call, each exchanged for another by itself: each answer has to be what a fresh call would give. Then the first call is made
    again, as users may make it: as it was, with arguments that require gradients, and without recording. All answers have to equal the
    first up to the order of sums, and no answer may change later.
    """

    case: Case
    options: dict[str, Any]
    expect: Callable[[Case, dict[str, Any]], Tree | None]
    """(one window of the run, options) -> the hypergradient, None where it is not known."""
    tolerance: float
    kind: str = "again"

    @property
    def text(self) -> str:
        """The claim in words."""
        given = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"again: {self.case.text}, {len(self.case.windows)} windows" + (f", {given}" if given else "")

    def check(self, method: Method) -> Finding:
        """Return the outcome of the claim."""
        begun = time.perf_counter()
        try:
            verdict, message, error = self._run(method)
        except Exception as error_of_formula:  # a formula may be somebody else's code
            words = f"what it should be cannot be worked out: {type(error_of_formula).__name__}: {error_of_formula}"
            verdict, message, error = FAILED, words, None
        seconds = time.perf_counter() - begun
        return Finding(
            self.kind, self.case, self.options, verdict, message, self.tolerance, error=error, seconds=seconds
        )

    def _run(self, method: Method) -> tuple[str, str, float | None]:
        options = build(method.options, self.options, f"method '{method.name}'")
        answers: list[tuple[Hypergradient, Tree]] = []
        worst, absent = 0.0, False

        def judged(at: Case, where: str) -> str:
            """Return what is wrong with a call, and the verdict in front of it where there is no answer."""
            nonlocal worst, absent
            answer = ask(method, at, options)
            absent = answer.absent
            if answer.result is None or answer.wrong:
                return f"{where}{answer.wrong}" if answer.verdict != UNSUPPORTED else UNSUPPORTED
            answers.append((answer.result, tree.tree_map(torch.clone, answer.result.meta)))
            if wrong := astray(method, at, answer.result):
                return where + wrong
            expected = self.expect(at, self.options)
            if expected is None:
                return ""
            worst = max(worst, error := relative(answer.result.meta, expected))
            return "" if error <= self.tolerance else f"{where}relative error {error:.2g}"

        first = now = dataclasses.replace(self.case, windows=self.case.windows[:1])
        for place, window in enumerate(self.case.windows):
            now = dataclasses.replace(now, windows=(window,))
            if wrong := judged(now, _nth(place, self.case)):
                declines = wrong == UNSUPPORTED
                if declines and not absent and must_answer(method, now) and self.expect(now, self.options) is not None:
                    return FAILED, "declines a hypergradient that exists", None
                return (UNSUPPORTED, "", None) if declines else (FAILED, wrong, None)
            found = answers[-1][0]
            moved = tree.add_scaled(now.meta, 0.1 / (1 + float(tree.norm(found.meta))), found.meta)
            now = Case(now.problem, found.state, moved, now.windows)
        state = dataclasses.replace(now.state, memory={})
        for what, at in {
            "another window": dataclasses.replace(first, windows=self.case.windows[-1:]),
            "another state": dataclasses.replace(first, state=state),
            "other meta-parameters": dataclasses.replace(first, meta=now.meta),
        }.items():
            if wrong := judged(at, f"called with {what} and else the arguments of the first call: "):
                return FAILED, wrong, None
        for words, how in _WAYS.items():
            last = ask(method, first, options, **how)
            if last.result is None or last.wrong:
                return FAILED, f"{words}: {last.wrong}", None
            if not _identical(answers[0][0], last.result):
                return FAILED, f"{words} it gives another answer", None
        if any(not torch.equal(found.meta[name], leaf) for found, kept in answers for name, leaf in kept.items()):
            return FAILED, "an answer changes with later calls: it returns a tensor that it goes on writing to", None
        return CERTIFIED if method.exact else AS_DECLARED, "", worst


_WAYS: dict[str, dict[str, Any]] = {
    "called again with the arguments of the first call (it keeps something between calls?)": {},
    "called with arguments that require gradients": {"leaves": True},
    "called within torch.no_grad()": {"recording": False},
}


def _nth(place: int, case: Case) -> str:
    return f"in window {place + 1} of {len(case.windows)}: " if place else ""


ROUNDING = 1e-13
"""Relative difference of two answers to one question: kernels may add in another order."""


def _identical(one: Hypergradient, other: Hypergradient) -> bool:
    pairs = [(one.meta, other.meta), (one.state.params, other.state.params)]
    pairs += [(leaves, other.state.optimiser[slot]) for slot, leaves in one.state.optimiser.items()]
    near = all(relative(right, left) <= ROUNDING for left, right in pairs)
    return near and abs(one.outer_loss - other.outer_loss) <= ROUNDING * abs(one.outer_loss)


def again(method: Method) -> Iterator[Again]:
    """Yield the runs over several windows that check a method; none for one that claims nothing."""
    options = complete(method, {})
    formula, given_sets = formula_of(method)
    if not (method.exact or formula or method.limit or method.mean or method.target is Target.NONE):
        return

    def expect(case: Case, options: dict[str, Any]) -> Tree | None:
        if method.target is Target.NONE:
            return tree.zeros_like(case.meta)
        if method.exact and method.target not in SAMPLED:
            return exact_value(method.target, case, options)
        if formula is None or case.state.memory:
            return None
        built = build(method.options, options, f"method '{method.name}'")
        vector = formula(case, built, generator(0, STREAM))
        return None if vector is None else tree.unflatten(vector.detach(), case.meta)

    sets = (
        option_variants(method) if method.exact else [options, *(complete(method, dict(given)) for given in given_sets)]
    )
    for place, case in enumerate(_runs(method.target)):
        if exists(method.target, case):
            # Every option set on one run or another; the defaults on all.
            for chosen in (sets[0], *sets[1 + place :: len(_runs(method.target))]):
                yield Again(case, chosen, expect, EXACT_TOLERANCE)
    limit = method.limit
    if limit is not None and limit.options is not None and method.target is Target.IMPLICIT and not limit.at_minimum:
        # What it keeps must not lead it away from its limit.
        for case in _runs(method.target):
            for given in limit.option_sets(case.expansion.curvature)[:1]:
                at_limit = complete(method, given)
                yield Again(case, at_limit, lambda at, _: at.implicit, 10 * limit.tolerance)


@functools.cache
def _runs(target: Target) -> tuple[Case, ...]:
    """Return runs of several windows: every optimiser's slots go on, and no two windows are alike."""
    common = (
        moving(ExampleWeights("momentum", inner_steps=2), windows=3),
        moving(SharedRoles("adam", ("inner_loss", "outer_loss"), inner_steps=3), windows=3),
    )
    if target.of_minimum:
        return (*common, moving(Ridge(SCHEDULED, inner_steps=2), windows=2))
    return (
        *common,
        moving(TanhNetwork(SCHEDULED, inner_steps=2), windows=2),
        moving(SharedRoles("adam", ("outer_loss", "update"), inner_steps=2), windows=2),
        moving(SharedRoles("momentum", ("outer_loss", "start"), inner_steps=2), windows=2),
        moving(LearnedSchedule("sgd", inner_steps=2), windows=2),
    )
