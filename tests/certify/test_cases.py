"""What the cases vary: whatever a method may depend on, and any two of these things together."""

from __future__ import annotations

import itertools

from metabench.certify.cases import ALL_OPTIMISERS, cases
from metabench.certify.problem import DUE, SCHEDULED, CertificationProblem
from metabench.core import MetaRole, Target

LEVELS = {
    "role": tuple(role.value for role in MetaRole),
    "optimiser": (*ALL_OPTIMISERS, SCHEDULED),
    "weight decay": (False, True),
    "due": tuple(DUE),
    "inner steps": ("1", "2 to 4", "5 to 8", "more"),
}
IMPOSSIBLE = {
    # The scheduled optimiser has no weight decay.
    (SCHEDULED, True),
    # With one step an outer loss is due at the end, or none is.
    *(itertools.product(("every", "early", "gaps"), ("1",))),
}


def levels(problem: CertificationProblem) -> list[set[object]]:
    """Return what a problem shows of each of `LEVELS`, in their order."""
    steps = problem.setting.inner_steps
    length = "1" if steps == 1 else "2 to 4" if steps <= 4 else "5 to 8" if steps <= 8 else "more"
    roles = {role.value for role in problem.roles}
    return [roles, {problem.optimiser_name}, {bool(problem.weight_decay)}, {problem.due}, {length}]


def test_any_two_of_what_a_method_may_depend_on_meet() -> None:
    shown = [levels(case.problem) for case in cases(Target.UNROLLED)]
    for (one, first), (other, second) in itertools.combinations(enumerate(LEVELS), 2):
        met = set().union(*(itertools.product(found[one], found[other]) for found in shown))
        missing = set(itertools.product(LEVELS[first], LEVELS[second])) - met - IMPOSSIBLE
        assert not missing, f"{first} and {second}: {missing}"


def test_any_two_roles_meet_in_one_tensor() -> None:
    roles = {pair for case in cases(Target.UNROLLED) for pair in itertools.permutations(case.problem.roles, 2)}
    assert roles == set(itertools.permutations(MetaRole, 2))


def test_outer_batches_may_hold_other_names_than_inner_ones() -> None:
    for target in (Target.UNROLLED, Target.IMPLICIT):
        ends = [(case.window.inner[-1], case.window.outer[-1]) for case in cases(target)]
        assert any(outer and not set(inner) & set(outer) for inner, outer in ends)
