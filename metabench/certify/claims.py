"""What a method is held to on a case: to be exact, to reach its target in a limit, to equal its formula, to have a mean.

A claim is an option set, the value it should give, and how far from it the method may be.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from metabench.certify.cases import Case, cases, moving
from metabench.certify.formulas import FORMULAS
from metabench.certify.problems import Logistic, Ridge
from metabench.core import Curvature, MetaRole, Method, Target, Tree, tree
from metabench.core.options import build, describe
from metabench.core.randomness import generator

EXACT_TOLERANCE = 1e-8
"""Finite differences are good to about 1e-10 here, and what is exact up to rounding to 1e-12."""
FORMULA_TOLERANCE = 1e-8
SAMPLED = frozenset({Target.SMOOTHED, Target.PERSISTENT})
"""Targets that have a mean to be held to, and no value here."""
STREAM = "certificate"
"""Purpose of the random stream from which a method and its formula draw."""


@dataclass(frozen=True)
class Claim:
    """One thing to check. `expected` is None where no such hypergradient exists: then the method has to say that it is unsupported.

    `options` are complete.
    """

    kind: str
    case: Case
    options: dict[str, Any]
    expected: Tree | None
    exact: Tree | None
    """The exact value of the method's target, to show how far an approximation is from it."""
    tolerance: float


def claims(method: Method) -> Iterator[Claim]:
    """Yield what `method` is held to, but for the means of methods that draw and the limit of its budget's curve."""
    formula = FORMULAS.get(method.name)
    if method.target is Target.NONE:
        for case in cases(Target.UNROLLED):
            yield Claim("none", case, complete(method, {}), tree.zeros_like(case.meta), None, 0.0)
    elif method.exact and method.target not in SAMPLED:
        for case in cases(method.target):
            for options in option_variants(method):
                exact = exact_value(method.target, case, options)
                yield Claim("exact", case, options, exact, exact, EXACT_TOLERANCE)
    elif method.limit is not None and method.target not in SAMPLED:
        for case in cases(method.target):
            yield from _limit(method, case)
    if formula is not None:
        for case in _formula_cases(method.target):
            yield from _formula(method, case)


def exists(target: Target, case: Case) -> bool:
    """Tell whether there is such a hypergradient: a minimum sees no learning rate, one step no start and no earlier outer loss."""
    roles, earlier = case.problem.roles, any(batch is not None for batch in case.window.outer[:-1])
    if target is Target.IMPLICIT:
        return not roles & {MetaRole.UPDATE, MetaRole.START}
    if target is Target.ONE_STEP:
        return MetaRole.START not in roles and not earlier
    return True


def complete(method: Method, given: dict[str, Any]) -> dict[str, Any]:
    """Return all options of a method, those of `given` and the others at their defaults."""
    return dataclasses.asdict(build(method.options, given, f"method '{method.name}'"))


def exact_value(target: Target, case: Case, options: dict[str, Any]) -> Tree | None:
    """Return the exact value of a target on a case; None where it does not exist, is zero by its nature, or has no reference here."""
    if not exists(target, case):
        return None
    if target is Target.IMPLICIT:
        return case.implicit if case.minimum else None
    if target in SAMPLED or target is Target.NONE:
        return None
    steps = {Target.ONE_STEP: 1, Target.TRUNCATED: options.get("steps", 0)}.get(target, case.inner_steps)
    found = case.through_last_steps(min(steps, case.inner_steps))
    return found if float(tree.norm(found)) else None


def option_variants(method: Method) -> list[dict[str, Any]]:
    """Return the option sets under which an exact method has to be exact: every combination of its choices, and its own variants."""
    axes = {
        option["name"]: option.get("choices", (True, False))
        for option in describe(method.options)
        if ("choices" in option or option["type"] == "bool") and not option.get("execution")
    }
    crossed = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    found = [complete(method, given) for given in (*crossed, *method.variants)]
    return [options for place, options in enumerate(found) if options not in found[:place]]


def _limit(method: Method, case: Case) -> Iterator[Claim]:
    assert method.limit is not None
    curvature = case.minimum.curvature if case.minimum else _ANYWHERE
    for given in method.limit.option_sets(curvature):
        options = complete(method, given)
        exact = exact_value(method.target, case, options)
        if exact is None and exists(method.target, case):
            continue  # AdamW with decay: no loss that training minimises, and no limit to reach
        yield Claim("limit", case, options, exact, exact, method.limit.tolerance)


_ANYWHERE = Curvature(dimension=12, smallest=0.2, largest=5.0)
"""What limits on cases without a minimum are given: typical of the problems. A method that is not about a minimum has no use for it."""


def _formula_cases(target: Target) -> Iterator[Case]:
    yield from cases(target)
    if target is Target.IMPLICIT:
        # In the middle of training too: at a minimum, w_K and the parameters before it are the same. The losses are convex there.
        for optimiser in ("sgd", "momentum", "adam"):
            yield moving(Ridge(optimiser, weight_decay=0.1))
            yield moving(Logistic(optimiser))


def _formula(method: Method, case: Case) -> Iterator[Claim]:
    formula, option_sets = FORMULAS[method.name]
    for given in option_sets:
        options = build(method.options, given, f"method '{method.name}'")
        value = None
        if exists(method.target, case):
            vector = formula(case, options, generator(0, STREAM))
            value = None if vector is None else tree.unflatten(vector, case.meta)
        settings = dataclasses.asdict(options)
        yield Claim("formula", case, settings, value, exact_value(method.target, case, settings), FORMULA_TOLERANCE)
