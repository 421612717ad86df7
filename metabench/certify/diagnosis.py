"""Explanations of failures: a wrong hypergradient is compared with the results of known mistakes, and failures with successes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from metabench.certify.cases import Case
from metabench.certify.claims import Finding
from metabench.certify.references import expand, through_last_steps
from metabench.core import InnerState, MetaRole, Target, Tree, tree
from metabench.core.lazy import torch
from metabench.results.certificate import FAILED, UNSUPPORTED

ALIKE = 1e-6
"""Relative difference up to which a wrong hypergradient is taken for what a mistake would give."""

_TELLING = 8
"""Values of a trait up to which it tells failures from successes."""

_BY_CHANCE = 0.15
"""Successes that may share a failing trait, as a share of the failures."""

_HINTS: dict[str, str] = {
    "scale": "is the scale applied to the residual, too?",
    "dimension": "one dimension does not test the search directions",
    "inner steps": "is a step detached, or a state stale?",
    "optimiser": "is the optimiser's state, or its derivative, lost?",
    "weight decay": "does the decay enter on the right side?",
}


def explain(findings: Sequence[Finding], target: Target) -> dict[int, str]:
    """Return a sentence for each failed finding, by its place in `findings`."""
    # What equals its formula under some options is no evidence that it reaches its target under them.
    of_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        of_kind.setdefault(finding.kind, []).append(finding)
    patterns = {kind: _pattern(some) for kind, some in of_kind.items()}
    sentences = {}
    for place, finding in enumerate(findings):
        if finding.verdict != FAILED:
            continue
        pattern = patterns[finding.kind]
        if not finding.differs:
            sentences[place] = "; ".join(filter(None, (finding.message, pattern)))
            continue
        likeness = _likeness(finding, target)
        measured = f"relative error {finding.error:.2g}"
        sentences[place] = "; ".join(filter(None, (likeness, pattern, measured)))
    return sentences


def _likeness(finding: Finding, target: Target) -> str:
    """Return which known mistake would give what was found; empty if none."""
    found, expected, case = finding.found, finding.expected, finding.case
    assert found is not None and expected is not None and case is not None
    if not float(tree.norm(found)):
        return "it is zero"
    for words, wrong in _mistakes(finding.case, expected, target, finding.options):
        if _near(found, wrong, ALIKE):
            return words
    direct = _direct(finding.case)
    for part, of_found, of_expected in (
        ("it", found, expected),
        ("the direct term dF/dl is right; the other", tree.subtract(found, direct), tree.subtract(expected, direct)),
    ):
        factor = _factor(of_found, of_expected)
        if factor is not None and (part == "it" or float(tree.norm(direct))):
            return f"{part} has the right direction and is {factor:.6g} times as long{_named(factor, finding)}"
    return ""


def _mistakes(case: Case, expected: Tree, target: Target, options: dict[str, Any]) -> Iterator[tuple[str, Tree]]:
    """Yield known mistakes, in words, and what each would give."""
    direct = _direct(case)
    if float(tree.norm(direct)):
        yield "the direct term dF/dl is missing", tree.subtract(expected, direct)
        yield "it is the direct term dF/dl alone", direct
        yield "the direct term dF/dl is counted twice", tree.add(expected, direct)
    yield "the sign of the second-order term is wrong", tree.subtract(tree.scale(2.0, direct), expected)
    yield "the sign is wrong", tree.scale(-1.0, expected)
    problem, state, meta, window = case.problem, case.state, case.meta, case.window
    if target.of_minimum:
        if case.minimum is not None and MetaRole.INNER_LOSS in problem.roles:
            yield from _wrong_solutions(case, options)
        return
    steps = case.inner_steps
    if target in (Target.UNROLLED, Target.TRUNCATED):
        for last in range(1, steps):
            wrong = case.through_last_steps(last)
            yield f"it is the derivative through the last {last} of {steps} steps: the steps before are detached", wrong
        fresh = InnerState(state.params, problem.optimiser.init(state.params))
        if state.optimiser:
            yield (
                "it is the derivative of a run whose optimiser starts anew: its state is reset",
                through_last_steps(problem, fresh, meta, window, steps),
            )
    if target is Target.UNROLLED and steps > 1 and len({id(batch) for batch in window.inner}) > 1:
        same = type(window)((window.inner[-1],) * steps, window.outer)
        yield "it is the derivative of a run that uses its last batch at every step", through_last_steps(
            problem, state, meta, same, steps
        )


def _wrong_solutions(case: Case, options: dict[str, Any]) -> Iterator[tuple[str, Tree]]:
    """Yield what mistakes of a linear solver would give at a minimum."""
    outer = case.window.outer[-1]
    assert outer is not None
    decay = case.problem.weight_decay
    at = expand(case.problem, case.state.params, case.meta, case.window.inner[-1], outer, decay)
    n = len(at.hessian)

    def gives(q: torch.Tensor) -> Tree:
        return tree.unflatten(at.implicit(q), case.meta)

    if decay:
        without = at.hessian - decay * torch.eye(n, dtype=torch.float64)
        yield "the optimiser's weight decay is left out of the Hessian", gives(torch.linalg.solve(without, at.outer_w))
        twice = at.hessian + decay * torch.eye(n, dtype=torch.float64)
        yield "the optimiser's weight decay is counted twice", gives(torch.linalg.solve(twice, at.outer_w))
    yield "the inverse Hessian is left out", gives(at.outer_w)
    steps = options.get("steps")
    if n > 1 and isinstance(steps, int) and steps <= n:
        columns = [torch.linalg.matrix_power(at.hessian, j) @ at.outer_w for j in range(steps - 1)]
        if columns:
            basis = torch.linalg.qr(torch.stack(columns, dim=1)).Q
            before = basis @ torch.linalg.solve(basis.T @ at.hessian @ basis, basis.T @ at.outer_w)
            yield "it is the solver's last iterate but one: is the previous iterate returned?", gives(before)


def _direct(case: Case) -> Tree:
    """Return the direct dF/dl at the end of the window, summed over the outer losses that are due."""
    problem, meta = case.problem, case.meta
    if MetaRole.OUTER_LOSS not in problem.roles:
        return tree.zeros_like(meta)
    total = tree.zeros_like(meta)
    for state, outer in zip(case.trained.states[1:], case.window.outer, strict=True):
        if outer is not None:
            leaves = tree.leaves_for_grad(meta)
            loss = problem.outer_loss(state.params, leaves, outer)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            slopes = zip(leaves.items(), found, strict=True)
            total = tree.add(total, {name: torch.zeros_like(leaf) if g is None else g for (name, leaf), g in slopes})
    return total


def _factor(found: Tree, expected: Tree) -> float | None:
    """Return c where found = c expected, up to `ALIKE`; None where it is not so, or c is 1 or 0."""
    square = float(tree.dot(expected, expected))
    if not square:
        return None
    factor = float(tree.dot(found, expected)) / square
    alike = abs(factor) > ALIKE and abs(factor - 1) > ALIKE and _near(found, tree.scale(factor, expected), ALIKE)
    # In one dimension everything is a multiple of everything.
    return factor if alike and tree.count(expected) > 1 else None


def _named(factor: float, finding: Finding) -> str:
    """Return the meaning of a factor, if it is a number that appears in the case or the options."""
    case = finding.case
    known: dict[str, float] = {"the scale of the inner loss": case.problem.scale, "K": float(case.inner_steps)}
    rate = case.problem.learning_rate()
    if isinstance(rate, float):
        known["the learning rate"] = rate
    known |= {f"option {name}": value for name, value in finding.options.items() if isinstance(value, float)}
    for name, value in known.items():
        for words, number in ((name, value), (f"1 / {name}", 1 / value if value else 0.0), (f"({name})^2", value**2)):
            if number and number != 1 and abs(factor - number) <= ALIKE * abs(number):
                return f": that is {words}"
    return ""


def _near(found: Tree, wrong: Tree, tolerance: float) -> bool:
    size = float(tree.norm(wrong))
    return size > 0 and float(tree.norm(tree.subtract(found, wrong))) <= tolerance * size


def _pattern(findings: Sequence[Finding]) -> str:
    """Return what the failures have and successes have not: 'right with dimension one, wrong with several: ...'; empty if nothing does.

    A success counts where it is comparable: where all its other traits are seen among the failures, too. A few that are right by chance
    (a linear problem, a multiplier of zero), or wrong for another reason, do not count.
    """
    findings = [finding for finding in findings if finding.expected is not None]
    failed = [finding for finding in findings if finding.verdict == FAILED]
    passed = [finding for finding in findings if finding.verdict not in (FAILED, UNSUPPORTED)]
    traits = dict(_traits(findings))
    seen = {name: {of(finding) for finding in failed} for name, of in traits.items()}
    words = []
    for name, of in traits.items():
        others = [(seen[other], of_other) for other, of_other in traits.items() if other != name]
        comparable = [of(one) for one in passed if all(of_other(one) in values for values, of_other in others)]
        bad = _failing(map(of, failed), map(of, passed))
        good = set(comparable) - bad
        by_chance = sum(value in bad for value in comparable)
        # An option that a theory computes from the case differs everywhere, and tells nothing.
        tells = len(good | bad) <= _TELLING or _ordered(good, bad)
        if good and bad and by_chance <= _BY_CHANCE * len(failed) and tells:
            hint = f": {_HINTS[name]}" if name in _HINTS else ""
            words.append(f"right with {name} {_list(good)}, wrong with {name} {_list(bad)}{hint}")
    return "; ".join(words[:2])


def _failing(failed: Iterable[Any], passed: Iterable[Any]) -> set[Any]:
    """Return the values of a trait that failures have, except those with which far more succeed."""
    failures, successes = Counter(failed), Counter(passed)
    return {value for value, count in failures.items() if count > _BY_CHANCE * successes[value]}


def _traits(findings: Sequence[Finding]) -> Iterator[tuple[str, Callable[[Finding], Any]]]:
    for name in ("dimension", "scale", "inner steps", "weight decay", "optimiser", "outer losses"):
        yield name, lambda finding, name=name: finding.case.traits[name]
    yield "dtype", lambda finding: "float32" if finding.single else "float64"
    names = dict.fromkeys(name for finding in findings for name in finding.options)
    for name in names:
        yield name, lambda finding, name=name: finding.options.get(name)
    yield "problem", lambda finding: finding.case.traits["problem"]


def _ordered(some: set[Any], others: set[Any]) -> bool:
    """Tell whether all values are numbers, and those of one set below those of the other."""
    if not (some and others) or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in some | others):
        return False
    return max(some) < min(others) or max(others) < min(some)


def _list(values: set[Any]) -> str:
    if len(values) > 2 and _ordered(values, {float("inf")}):
        return f"{min(values):g} to {max(values):g}"
    numbers = all(isinstance(value, int | float) for value in values)
    shown = sorted(values, key=None if numbers else str)
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in shown)
