"""The claims of a method on a case: to be exact, to reach its target in a limit, to equal its formula.

A claim knows what the method should return, computes it on demand, and judges one method.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from metabench.certify.cases import Case, cases, moving, settled
from metabench.certify.check import STREAM, Answer, ask, astray, compared, relative
from metabench.certify.formulas import FORMULAS, Formula
from metabench.certify.libraries import FORMULAS as THEIRS
from metabench.certify.problems import ExampleWeights, Ridge
from metabench.certify.shared_roles import SharedRoles
from metabench.certify.spectral import estimate_of, linear_cases, spectral
from metabench.certify.tanh_networks import TanhNetwork
from metabench.core import Curvature, MetabenchError, MetaRole, Method, Target, Tree, tree
from metabench.core.lazy import torch
from metabench.core.options import build, describe
from metabench.core.randomness import generator
from metabench.results.certificate import AS_DECLARED, CERTIFIED, FAILED, UNSUPPORTED

EXACT_TOLERANCE = 3e-9
"""Finite differences are good to about 1e-10 here, and what is exact up to rounding to 1e-12."""
FORMULA_TOLERANCE = 1e-8
SPECTRAL_TOLERANCE = 1e-12
SINGLE_TOLERANCE = {"exact": 1e-5, "formula": 5e-4}
"""In float32: thirty times what rounding does to the package's exact methods, and six times what differences of width 0.01 make of it."""
SINGLE_STATE_TOLERANCE = 1e-5
SAMPLED = frozenset({Target.SMOOTHED, Target.PERSISTENT})
"""Targets with a mean to check against, and no value here."""


@dataclass(frozen=True)
class Finding:
    """The outcome of a claim. `found` is None where the method gave no hypergradient; `message` says why, or what is wrong with it.

    `columns` are further columns of the certificate's row.
    """

    kind: str
    case: Case | None
    options: dict[str, Any]
    verdict: str
    message: str
    tolerance: float | None = None
    expected: Tree | None = None
    found: Tree | None = None
    single: bool = False
    """Whether the call was in float32."""
    error: float | None = None
    cosine: float | None = None
    norm_ratio: float | None = None
    seconds: float = 0.0
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def differs(self) -> bool:
        """Whether there are both a hypergradient and its expected value, so that their difference is known."""
        return self.verdict == FAILED and self.found is not None and self.expected is not None


@dataclass(frozen=True, eq=False)
class Claim:
    """One thing to check: under `options`, which are complete, the method has to return `value` on the case.

    `value` is None where no such hypergradient exists: then the method has to say that it is unsupported. `exact` is the exact value of
    the method's target, to show how far an approximation is from it.
    """

    kind: str
    case: Case
    options: dict[str, Any]
    value: Callable[[], Tree | None]
    exact: Callable[[], Tree | None]
    tolerance: float
    dtype: Any = None
    """Dtype of the call; float64 unless given."""

    @property
    def text(self) -> str:
        """The claim in words, the same at every run."""
        given = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.kind}: {self.case.text}" + (f", {given}" if given else "") + (", float32" if self.dtype else "")

    def check(self, method: Method) -> Finding:
        """Return the outcome of the claim."""
        begun = time.perf_counter()
        try:
            expected = self.value()
            exact = expected if self.exact is self.value else self.exact()
        except Exception as error:  # a formula may be somebody else's code
            words = f"what it should be cannot be worked out: {type(error).__name__}: {error}"
            return Finding(self.kind, self.case, self.options, FAILED, words)
        finding = self._judged(method, expected, exact)
        return dataclasses.replace(finding, seconds=time.perf_counter() - begun)

    def _judged(self, method: Method, expected: Tree | None, exact: Tree | None) -> Finding:
        options = build(method.options, self.options, f"method '{method.name}'")
        answer = ask(method, self.case, options, dtype=self.dtype)
        tolerance = None if expected is None else self.tolerance
        seen = functools.partial(Finding, self.kind, self.case, self.options, tolerance=tolerance, expected=expected)
        if answer.result is None:
            if answer.verdict == UNSUPPORTED and expected is not None and not answer.absent:
                if must_answer(method, self.case):
                    answer = Answer(None, FAILED, f"declines a hypergradient that exists: {answer.wrong}")
                elif beyond(method, self.case):
                    seen = functools.partial(seen, tolerance=None)  # there is nothing to hold it to
            return seen(answer.verdict, answer.wrong, single=self.dtype is not None)
        found = answer.result.meta
        if expected is None:
            size = float(tree.norm(found))
            words = f"answered with a hypergradient of norm {size:.2g} where there is none: it has to raise Unsupported and say why"
            return seen(FAILED, words, found=found)
        state_tolerance = {"tolerance": SINGLE_STATE_TOLERANCE} if self.dtype else {}
        wrong = astray(method, self.case, answer.result, **state_tolerance) or answer.wrong
        error = relative(found, expected)
        cosine = ratio = None
        if exact is not None:
            cosine, ratio = compared(found, exact)
        right = error <= self.tolerance
        held = CERTIFIED if self.kind in ("exact", "none") else AS_DECLARED
        return seen(
            held if right and not wrong else FAILED,
            wrong,
            # What is right by itself needs no diagnosis.
            found=None if right else tree.cast(found, torch.float64),
            single=self.dtype is not None,
            error=error,
            cosine=cosine,
            norm_ratio=ratio,
        )


def claims(method: Method) -> Iterator[Claim]:
    """Yield the claims of `method` on one window, except the means of methods that draw."""
    formula, _ = formula_of(method)
    exact = method.exact and method.target not in SAMPLED
    if method.target is Target.NONE:
        for case in cases(Target.UNROLLED):
            zeros = _constant(tree.zeros_like(case.meta))
            yield Claim("none", case, complete(method, {}), zeros, zeros, 0.0)
    elif exact:
        yield from _exact(method)
    elif method.limit is not None and method.target not in SAMPLED:
        for case in cases(method.target):
            yield from _limit(method, case)
    if formula is not None:
        yield from _formulas(method)
    yield from _spectral(method)


def exists(target: Target, case: Case) -> bool:
    """Tell whether there is such a hypergradient: a minimum sees no learning rate, one step no start, neither an earlier outer loss."""
    roles, earlier = case.problem.roles, any(batch is not None for batch in case.window.outer[:-1])
    ends = case.window.outer[-1] is not None
    if target.of_minimum:
        # A minimum forgets where the run to it started: with another role the share of the start is zero.
        forgotten = roles == {MetaRole.START} or case.problem.start_only
        return MetaRole.UPDATE not in roles and not forgotten and not earlier and ends
    if target is Target.ONE_STEP:
        return MetaRole.START not in roles and not earlier and ends
    return True


def complete(method: Method, given: dict[str, Any]) -> dict[str, Any]:
    """Return all options of a method, those of `given` and the others at their defaults."""
    return dataclasses.asdict(build(method.options, given, f"method '{method.name}'"))


def exact_value(target: Target, case: Case, options: dict[str, Any]) -> Tree | None:
    """Return the exact value of a target on a case; None where it does not exist, is zero by its nature, or has no reference here."""
    if not exists(target, case) or target in SAMPLED or target is Target.NONE:
        return None
    if target is Target.CARRIED and case.state.memory:
        # What the windows before were, a case does not know.
        return None
    if target.of_minimum:
        if not has_minimum(case):
            return None
        return case.implicit if target is Target.IMPLICIT else case.at_minimum
    steps = {Target.ONE_STEP: 1, Target.TRUNCATED: options.get("steps")}.get(target, case.inner_steps)
    if steps is None:
        raise MetabenchError(
            "a method with the target 'truncated' has an option 'steps': how many of the last steps it differentiates"
        )
    steps = min(steps, case.inner_steps)
    if steps < case.inner_steps and MetaRole.START in case.problem.roles:
        # The last steps reach a part of l at the most, and none of them where it starts the run.
        return None
    found = case.through_last_steps(steps)
    return found if float(tree.norm(found)) else None


def has_minimum(case: Case) -> bool:
    """Tell whether training minimises a loss at all: with AdamW's decay, which is apart from the gradient, it does not."""
    return not (case.problem.optimiser_name == "adamw" and case.problem.weight_decay)


def must_answer(method: Method, case: Case) -> bool:
    """Tell whether a method is the package's own and has no reason to decline a case on which its target exists."""
    own = method.module.startswith("metabench.")
    return own and has_minimum(case) and not beyond(method, case)


def beyond(method: Method, case: Case) -> bool:
    """Tell whether a case is beyond the library that a method asks, as it declares."""
    return method.peer is not None and not method.peer.declines.isdisjoint(case.demands)


def option_variants(method: Method) -> list[dict[str, Any]]:
    """Return the option sets under which an exact method has to be exact: every combination of its choices, and its own variants."""
    axes = {
        option["name"]: option.get("choices", (True, False))
        for option in describe(method.options)
        if ("choices" in option or option["type"] == "bool") and not option.get("execution")
    }
    crossed = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    # Numbers one above their defaults: what is read for another number, or not at all, shows.
    numbers = {o["name"]: o["default"] + 1 for o in describe(method.options) if o["type"] == "int"}
    above = [{name: value} for name, value in numbers.items()]
    found = [complete(method, given) for given in ({}, *crossed, *above, *method.variants)]
    return [options for place, options in enumerate(found) if options not in found[:place]]


EVERYWHERE = 4
"""Cases, the first ones, on which every option set is checked; on the others the defaults and one more, each in its turn."""


def _exact(method: Method) -> Iterator[Claim]:
    sets = option_variants(method)
    for place, case in enumerate((*cases(method.target), *_around_defaults(method))):
        chosen = sets if place < EVERYWHERE or len(sets) < 5 else [sets[0], sets[1 + place % (len(sets) - 1)]]
        for options in chosen:
            value = _lazy(method.target, case, options)
            yield Claim("exact", case, options, value, value, EXACT_TOLERANCE)
    for case in _in_single(method.target):
        value = _lazy(method.target, case, sets[0])
        yield Claim("exact", case, sets[0], value, value, SINGLE_TOLERANCE["exact"], torch.float32)


@functools.cache
def _case(optimiser: str, inner_steps: int) -> Case:
    return moving(TanhNetwork(optimiser, inner_steps=inner_steps))


def _around_defaults(method: Method) -> Iterator[Case]:
    """Yield cases whose K is one of the method's defaults, or just above it: a number of steps, say, that is read one too far."""
    for option in describe(method.options):
        default = option["default"]
        if isinstance(default, int) and not isinstance(default, bool) and 3 < default <= 40:
            yield _case("adam", default)
            yield _case("momentum", default + 1)


@functools.cache
def _in_single(target: Target) -> tuple[Case, ...]:
    """Return the cases that are run in float32, too; for implicit hypergradients, those whose Hessians are well conditioned."""
    if target.of_minimum:
        return (
            moving(Ridge("sgd", weight_decay=0.2)),
            moving(ExampleWeights("adam", inner_steps=2)),
            settled(TanhNetwork("sgd")),
        )
    return (
        moving(TanhNetwork("adam")),
        moving(SharedRoles("momentum", ("inner_loss", "outer_loss", "update", "start"), inner_steps=3, due="every")),
        moving(Ridge("sgd", weight_decay=0.2)),
        moving(TanhNetwork("sgd", inner_steps=1)),
    )


def _lazy(target: Target, case: Case, options: dict[str, Any]) -> Callable[[], Tree | None]:
    return lambda: exact_value(target, case, options)


def _constant(value: Tree) -> Callable[[], Tree | None]:
    return lambda: value


def _limit(method: Method, case: Case) -> Iterator[Claim]:
    limit = method.limit
    assert limit is not None
    answerable = exists(method.target, case)
    if method.target.of_minimum and answerable:
        if limit.at_minimum and case.minimum is None:
            return  # nothing to reach there
        curvature = case.minimum.curvature if case.minimum else case.expansion.curvature
    else:
        # A method that is not about a minimum has no use for it: numbers typical of the problems.
        curvature = Curvature(dimension=12, smallest=0.2, largest=5.0)
    for given in limit.option_sets(curvature):
        options = complete(method, given)
        value = _lazy(method.target, case, options)
        yield Claim("limit", case, options, value, value, limit.tolerance)


def formula_of(method: Method) -> tuple[Formula | None, tuple[dict[str, Any], ...]]:
    """Return the formula that a method has to equal, the package's or the one that it declares, and the option sets to check it at."""
    if method.limit is not None and method.limit.formula is not None:
        whole = {option["name"]: option for option in describe(method.options)}
        limit = method.limit
        kind = int if limit.budget and whole[limit.budget]["type"] == "int" else float
        points = [{limit.budget: kind(value)} for value in limit.values[:3]] if limit.budget else []
        return limit.formula, ({}, *points)
    return (FORMULAS | THEIRS).get(method.name, (None, ()))


def _formulas(method: Method) -> Iterator[Claim]:
    # A method that draws is also held to its mean, and its formula costs many runs: every third case.
    for case in cases(method.target)[:: 3 if method.target in SAMPLED else 1]:
        yield from _formula(method, case)
    if not method.stochastic:
        for case in _in_single(method.target):
            for claim in itertools.islice(_formula(method, case), 1):
                yield dataclasses.replace(claim, dtype=torch.float32, tolerance=SINGLE_TOLERANCE["formula"])


def _formula(method: Method, case: Case) -> Iterator[Claim]:
    formula, option_sets = formula_of(method)
    assert formula is not None
    for given in option_sets:
        options = build(method.options, given, f"method '{method.name}'")

        def value(options: Any = options) -> Tree | None:
            if not exists(method.target, case) or beyond(method, case):
                return None
            vector = formula(case, options, generator(0, STREAM))
            return None if vector is None else tree.unflatten(vector.detach(), case.meta)

        settings = dataclasses.asdict(options)
        yield Claim("formula", case, settings, value, _lazy(method.target, case, settings), FORMULA_TOLERANCE)


def _spectral(method: Method) -> Iterator[Claim]:
    """Yield the claims in linear iMAML, where what a method estimates has a closed form."""
    if (found := estimate_of(method)) is None:
        return
    estimate, option_sets = found
    kind = "exact" if method.exact else "formula"
    for case, given in itertools.product(linear_cases(), option_sets):
        options = complete(method, given)

        def value(case: Case = case, options: dict[str, Any] = options) -> Tree | None:
            response = estimate(case, build(method.options, options, f"method '{method.name}'"))
            return None if response is None else spectral(case, response)

        exact = value if method.exact else _lazy(method.target, case, options)
        yield Claim(kind, case, options, value, exact, SPECTRAL_TOLERANCE)
