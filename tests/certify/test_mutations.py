"""The certificate itself is tested: known and plausible bugs are planted in the methods, and every one must be caught.

The first ones are of public libraries, where no accuracy, loss curve or smoke test had shown them.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bilevel import EVERY_METHOD

from metabench.autodiff.implicit.linear_solvers import Operator, Solution
from metabench.autodiff.inner import begin, detached, run
from metabench.autodiff.optimisers import Scheduled
from metabench.autodiff.unrolled.sweep import through_graph
from metabench.certify import certificate_rows, failures, means
from metabench.core import (
    Hypergradient,
    InnerState,
    MetaRole,
    Problem,
    Tree,
    Window,
    tree,
)
from metabench.methods import method

pytestmark = pytest.mark.slow  # fifty-five certificates

Function = Callable[[Problem, InnerState, Tree, Window, Any, torch.Generator], Hypergradient]
Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Bug:
    """A mistake: in which method, how it is planted, and words that the diagnosis has to contain."""

    method: str
    plant: Plant | None = None
    function: Function | None = None
    words: str = ""
    in_the_mean: bool = False
    """Whether only the mean of many draws tells it."""
    when_called_again: bool = False
    """Whether one call does not tell it; test_variation.py has more of these."""


def patched(where: str, name: str, wrong: Callable[[Any], Any]) -> Plant:
    """Return what replaces `name` in the module `where` by `wrong` of the right one."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        module = importlib.import_module(where)
        monkeypatch.setattr(module, name, wrong(getattr(module, name)))

    return plant


def after(name: str, change: Callable[..., Hypergradient]) -> Function:
    """Return a method that changes what the right one of a name returns."""

    def wrong(problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: Any) -> Any:
        return change(method(name)(problem, state, meta, window, options, generator), problem, state, meta, window)

    return wrong


def conjugate_gradients_with_an_old_residual(
    product: Operator, target: Tree, steps: int, tolerance: float, start: Tree | None = None
) -> Solution:
    """betty 0.2.1 and moskomule/hypergrad: beta is taken with the residual of two steps ago."""
    value, residual, direction = tree.zeros_like(target), target, target
    older = tree.dot(residual, residual)
    squared = older
    for _ in range(steps):
        image = product(direction)
        curvature = tree.dot(direction, image)
        if float(curvature) == 0 or float(squared) < 1e-28:
            break
        length = squared / curvature
        value = tree.add_scaled(value, length, direction)
        residual = tree.add_scaled(residual, -length, image)
        now = tree.dot(residual, residual)
        direction = tree.add_scaled(residual, now / older, direction)
        older, squared = squared, now
    return Solution(value, steps, 0.0)


def one_step_less(solver: Callable[..., Solution]) -> Callable[..., Solution]:
    return lambda product, target, steps, *rest: solver(product, target, steps - 1, *rest)


def reset_state(problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: Any) -> Any:
    fresh = InnerState(state.params, problem.optimiser.init(state.params))
    return through_graph(problem, fresh, meta, window)


def last_batch_everywhere(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: Any
) -> Any:
    stale = Window((window.inner[-1],) * len(window.inner), window.outer)
    return through_graph(problem, state, meta, stale)


def one_step_too_late(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: Any
) -> Any:
    right = method("t1t2")(problem, state, meta, window, options, generator)
    late = run(problem, detached(begin(problem, state, meta)), meta, window.inner)
    return dataclasses.replace(right, meta=through_graph(problem, late, meta, window.last(1)).meta)


def zeros_for_learning_rates(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: Any
) -> Any:
    if problem.roles & {MetaRole.UPDATE, MetaRole.START}:
        reached = run(problem, detached(begin(problem, state, meta)), meta, window.inner)
        return Hypergradient(tree.zeros_like(meta), reached, 0.0)
    return method("ift_cg")(problem, state, meta, window, options, generator)


def detaching(recorded_step: Callable[..., InnerState]) -> Callable[..., InnerState]:
    """The graph is cut before every fourth step from the third on."""
    calls = [0]

    def wrong(problem: Problem, state: InnerState, meta: Tree, batch: Any) -> InnerState:
        calls[0] += 1
        return recorded_step(problem, detached(state) if calls[0] % 4 == 3 else state, meta, batch)

    return wrong


def of_segments_without_direct_term(by_segments: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*arguments: Any) -> Any:
        derivatives = by_segments(*arguments)
        if derivatives is not None:
            derivatives.outer = without_direct_term(derivatives.outer)
        return derivatives

    return wrong


def with_options(name: str, change: Callable[[Any], dict[str, Any]]) -> Function:
    """Return a method that reads other options than it is given."""

    def wrong(problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: Any) -> Any:
        other = dataclasses.replace(options, **change(options))
        return method(name)(problem, state, meta, window, other, generator)

    return wrong


def without_direct_term(outer_gradient: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*arguments: Any) -> Any:
        due = outer_gradient(*arguments)
        return due._replace(meta=tree.zeros_like(due.meta))

    return wrong


def of_the_last_state(pullback: Callable[..., Any]) -> Callable[..., Any]:
    """Every step is pulled back at the state at which the first of a sweep was."""
    stale: dict[int, InnerState] = {}

    def wrong(
        problem: Problem, state: InnerState, meta: Tree, batch: Any, cotangent: Any, through: bool, gradient: Any
    ) -> Any:
        used = stale.setdefault(id(problem), state)
        if not through:
            stale.clear()
        return pullback(problem, used, meta, batch, cotangent, through, gradient)

    return wrong


def of_pullback(change: Callable[..., Any]) -> Callable[..., Any]:
    """Return the wrapper of `split_step` whose pullback's (a_k, share) are changed, given whether a_k is wanted."""

    def wrap(split_step: Callable[..., Any]) -> Callable[..., Any]:
        def made(derivatives: Any) -> Any:
            pullback = split_step(derivatives)
            return lambda *arguments: change(*pullback(*arguments), arguments[5])

        return made

    return wrap


# The term of eta is dropped at every step but the last that is pulled back.
without_share = of_pullback(lambda pulled, share, through: (pulled, tree.zeros_like(share) if through else share))
without_slots = of_pullback(lambda pulled, share, through: (InnerState(pulled.params, {}), share))


def scaled(factor: Callable[[Any], float]) -> Function:
    """Return evograd with its hypergradient multiplied."""

    def wrong(problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: Any) -> Any:
        right = method("evograd")(problem, state, meta, window, options, generator)
        return dataclasses.replace(right, meta=tree.scale(factor(options), right.meta))

    return wrong


def forgetful(found: Hypergradient, *rest: Any) -> Hypergradient:
    memory = dict(found.state.memory)
    memory["perturbation"] = tree.zeros_like(memory["perturbation"])
    return dataclasses.replace(found, state=InnerState(found.state.params, found.state.optimiser, memory))


def doubled(found: Hypergradient, *rest: Any) -> Hypergradient:
    return dataclasses.replace(found, meta=tree.scale(2.0, found.meta))


def not_finite(found: Hypergradient, *rest: Any) -> Hypergradient:
    return dataclasses.replace(found, meta=tree.scale(float("nan"), found.meta))


def transposed(found: Hypergradient, *rest: Any) -> Hypergradient:
    return dataclasses.replace(found, meta={name: leaf[None] for name, leaf in found.meta.items()})


def writes(problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: Any) -> Any:
    found = method("t1t2")(problem, state, meta, window, options, generator)
    for leaf in meta.values():
        leaf.mul_(1.1)
    return found


def writes_into_batches(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: Any
) -> Any:
    found = method("t1t2")(problem, state, meta, window, options, generator)
    for leaf in window.inner[0].values():
        leaf.add_(1.0)
    return found


def goes_nowhere(found: Hypergradient, problem: Problem, state: InnerState, *rest: Any) -> Hypergradient:
    return dataclasses.replace(found, state=state)


def another_loss(found: Hypergradient, *rest: Any) -> Hypergradient:
    return dataclasses.replace(found, outer_loss=123.0)


def same_noise(perturbation: Callable[..., Tree]) -> Callable[..., Tree]:
    """One number for all coordinates: seen in more than one dimension alone."""
    return lambda like, *rest: tree.tree_map(
        lambda leaf: leaf.flatten()[0].expand(leaf.shape), perturbation(like, *rest)
    )


def raises(found: Hypergradient, *rest: Any) -> Hypergradient:
    raise ZeroDivisionError("of all things")


def one_step_ahead(counted: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(state: Any) -> Any:
        step, after = counted(state)
        return (None if step is None else step + 1), after

    return wrong


def from_step_zero(problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: Any) -> Any:
    """The schedule starts anew with each window; the rest of the state, and what is returned, are right."""
    right = through_graph(problem, state, meta, window)
    if set(state.optimiser) != {"step"}:
        return right
    anew = InnerState(state.params, {"step": tree.zeros_like(state.optimiser["step"])})
    return dataclasses.replace(right, meta=through_graph(problem, anew, meta, window).meta)


def without_schedule(recorded_step: Callable[..., InnerState]) -> Callable[..., InnerState]:
    """A step is recorded at the rate that its schedule multiplies."""

    def wrong(problem: Problem, *rest: Any) -> InnerState:
        constant, optimiser = copy.copy(problem), problem.optimiser
        if isinstance(rate := getattr(optimiser, "learning_rate", None), Scheduled):
            constant.optimiser = dataclasses.replace(optimiser, learning_rate=rate.rate)  # type: ignore[type-var]
        return recorded_step(constant, *rest)

    return wrong


IMPLICIT = "metabench.autodiff.implicit.hypergradient"
BUGS = {
    "CG with the old residual in beta": Bug(
        "ift_cg",
        patched("metabench.methods.ift_cg", "conjugate_gradients", lambda _: conjugate_gradients_with_an_old_residual),
        words="right with dimension one, wrong with dimension several",
    ),
    "CG returns its last iterate but one": Bug(
        "ift_cg",
        patched("metabench.methods.ift_cg", "conjugate_gradients", one_step_less),
        words="last iterate but one",
    ),
    "DARTS with / 2. * eps": Bug(
        "darts",
        patched(
            "metabench.methods.darts",
            "mixed_by_differences",
            lambda right: lambda *a: tree.scale(a[-1] ** 2, right(*a)),
        ),
        words="times as long: that is (option epsilon)^2",
    ),
    "a step is detached": Bug(
        "unrolled",
        patched("metabench.autodiff.unrolled.sweep", "recorded_step", detaching),
        words="the steps before are detached",
    ),
    "momentum is reset at the window": Bug("unrolled", function=reset_state, words="its state is reset"),
    "momentum's cotangent is dropped": Bug(
        "mixflow",
        patched("metabench.methods.mixflow", "split_step", without_slots),
        words="right with optimiser sgd, wrong with optimiser adam",
    ),
    "the last batch is used at every step": Bug(
        "unrolled", function=last_batch_everywhere, words="uses its last batch at every step"
    ),
    "the direct term dF/dl is missing from the implicit hypergradient": Bug(
        "ift_cg",
        patched(IMPLICIT, "by_segments", of_segments_without_direct_term),
        words="the direct term dF/dl is missing",
    ),
    "the direct term dF/dl is missing from the sweep": Bug(
        "unrolled_remat",
        patched("metabench.autodiff.derivatives", "outer_gradient", without_direct_term),
        words="the direct term dF/dl is missing",
    ),
    "the sign of the mixed term": Bug(
        "ift_cg",
        patched(IMPLICIT, "mixed_product", lambda right: lambda *a: tree.scale(-1.0, right(*a))),
        words="the sign",
    ),
    "Neumann is off by one": Bug(
        "ift_neumann",
        patched(
            "metabench.methods.ift_neumann",
            "neumann_series",
            lambda right: lambda product, target, steps, *rest: right(product, target, steps + 1, *rest),
        ),
    ),
    "Nystrom without rho": Bug(
        "ift_nystrom",
        patched(
            "metabench.methods.ift_nystrom",
            "nystrom",
            lambda right: lambda hessian, target, chosen, rho, *rest: right(hessian, target, chosen, 1e-9, *rest),
        ),
    ),
    "the weight decay is left out of the Hessian": Bug(
        "ift_cg", patched(IMPLICIT, "decay_of", lambda _: lambda optimiser: 0.0), words="weight decay is left out"
    ),
    "the weight decay has the wrong sign": Bug(
        "ift_cg",
        patched(IMPLICIT, "decay_of", lambda right: lambda optimiser: -right(optimiser)),
        words="right with weight decay 0, wrong with weight decay",
    ),
    "recomputation at a stale state": Bug(
        "unrolled_remat",
        patched("metabench.methods.unrolled_remat", "recomputed_step", of_the_last_state),
        words="right with outer losses early, wrong with outer losses end",
    ),
    "mixed mode without the term of eta": Bug(
        "mixflow",
        patched("metabench.methods.mixflow", "split_step", without_share),
        words="right with outer losses early, wrong with outer losses end",
    ),
    "the step of a schedule is one too far": Bug(
        "mixflow",
        patched("metabench.autodiff.optimisers", "counted", one_step_ahead),
        words="wrong with problem learned_schedule, scheduled_rate",
    ),
    "a schedule starts anew with every window": Bug("unrolled", function=from_step_zero, words="its state is reset"),
    "a schedule counts as constant on the way back": Bug(
        "unrolled_remat",
        patched("metabench.autodiff.unrolled.sweep", "recorded_step", without_schedule),
        words="wrong with problem scheduled_rate",
    ),
    "one step too late": Bug("t1t2", function=one_step_too_late),
    "EvoGrad normalised by N - 1": Bug(
        "evograd", function=scaled(lambda options: options.copies / (options.copies - 1)), words="times as long"
    ),
    "EvoGrad without its temperature": Bug("evograd", function=scaled(lambda options: options.tau)),
    "ES divides by sigma alone": Bug("es", function=after("es", doubled), words="2"),
    "the forward gradient draws one number for all coordinates": Bug(
        "forward_gradient", patched("metabench.methods.forward_gradient", "perturbation", same_noise)
    ),
    "the ES Jacobian loses the direct term": Bug(
        "es_jacobian", patched("metabench.methods.es_jacobian", "outer_gradient", without_direct_term)
    ),
    "the ES Jacobian's differences are half as wide as it says": Bug(
        "es_jacobian", function=with_options("es_jacobian", lambda options: {"mu": options.mu / 2})
    ),
    "DrMAD is a step ahead on its line": Bug(
        "drmad",
        patched(
            "metabench.methods.drmad",
            "_between",
            lambda right: lambda first, last, k, steps: right(first, last, min(k + 1, steps), steps),
        ),
    ),
    "DrMAD moves the parameters along its line and not the slots": Bug(
        "drmad",
        patched(
            "metabench.methods.drmad",
            "_between",
            lambda right: lambda first, *rest: InnerState(right(first, *rest).params, first.optimiser),
        ),
    ),
    "F2SA forgets the sign of the points below": Bug(
        "f2sa",
        patched("metabench.methods.f2sa", "_DIFFERENCES", lambda right: {**right, 2: {1: 1 / 2, -1: 1 / 2}}),
    ),
    "F2SA of fourth order with weights of another": Bug(
        "f2sa",
        patched(
            "metabench.methods.f2sa",
            "_DIFFERENCES",
            lambda right: {**right, 4: {1: 2 / 3, -1: -2 / 3, 2: -1 / 6, -2: 1 / 6}},
        ),
    ),
    "Newton's step is not taken": Bug(
        "ift_newton",
        patched("metabench.methods.ift_newton", "inner_gradient", lambda right: lambda *at: tree.zeros_like(right(*at))),
    ),
    "Newton's step forgets the decay": Bug(
        "ift_newton", patched("metabench.methods.ift_newton", "decay_of", lambda right: lambda optimiser: 0.0)
    ),
    "MINRES takes a step less": Bug(
        "ift_minres", patched("metabench.methods.ift_minres", "minimal_residual", one_step_less)
    ),
    "a term too many of the stochastic series": Bug(
        "ift_stochastic", function=with_options("ift_stochastic", lambda options: {"steps": options.steps + 1})
    ),
    "the Fisher matrix forgets the decay": Bug(
        "ift_fisher", patched("metabench.methods.ift_fisher", "decay_of", lambda right: lambda optimiser: 0.0)
    ),
    "v goes twice as far": Bug(
        "single_loop", function=with_options("single_loop", lambda options: {"rate": 2 * options.rate})
    ),
    "v is forgotten from window to window": Bug(
        "single_loop",
        patched("metabench.methods.single_loop", "remembered", lambda right: lambda *at: None),
        when_called_again=True,
    ),
    "MEHA's proximal point stays where it was": Bug(
        "meha", function=with_options("meha", lambda options: {"proximal_rate": 1e-12})
    ),
    "MEHA counts a step less": Bug("meha", function=with_options("meha", lambda options: {"steps": options.steps - 1 or 2})),
    "carried tangents are forgotten": Bug(
        "forward_carried",
        patched("metabench.methods.forward_carried", "_carried", lambda right: lambda *at: None),
        when_called_again=True,
    ),
    "PES forgets the perturbations of earlier windows": Bug("pes", function=after("pes", forgetful), words="p =", in_the_mean=True),
    "zeros for learning rates": Bug("ift_cg", function=zeros_for_learning_rates, words="has to raise Unsupported"),
    "ES with one noise for all coordinates": Bug("es", patched("metabench.methods.es", "perturbation", same_noise)),
    "a warm start that stays where it is": Bug(
        "ift_cg",
        patched(
            "metabench.methods.ift_cg",
            "conjugate_gradients",
            lambda right: lambda h, b, n, t, start: Solution(start, 0, 0.0) if start else right(h, b, n, t, None),
        ),
        words="what it keeps does not bring it to the target",
        when_called_again=True,
    ),
    "BOME's multiplier forgets l": Bug(
        "bome",
        patched(
            "metabench.methods.bome",
            "multiplier",
            lambda right: lambda outer, gap, options: right(outer, gap, dataclasses.replace(options, joint=False)),
        ),
        words="right with joint False, wrong with joint True",
    ),
    "it writes into its arguments": Bug("t1t2", function=writes, words="writes into its arguments"),
    "it writes into the batches": Bug(
        "t1t2", function=writes_into_batches, words="the batches are others after the call"
    ),
    "the inner state is not that of training": Bug(
        "ift_cg", function=after("ift_cg", goes_nowhere), words="not where plain training ends"
    ),
    "the outer loss is another": Bug(
        "unrolled", function=after("unrolled", another_loss), words="the outer loss returned is 123"
    ),
    "not finite": Bug("t1t2", function=after("t1t2", not_finite), words="not finite"),
    "the wrong shape": Bug("t1t2", function=after("t1t2", transposed), words="shape"),
    "an exception": Bug("t1t2", function=after("t1t2", raises), words="raised ZeroDivisionError: of all things"),
}


MEANS = means.MEANS
DRAWS = 60
"""Of a bug in the mean: p = 1e-40."""


@pytest.mark.usefixtures("fewest_cases")
@pytest.mark.parametrize("name", BUGS)
def test_the_bug_is_caught_and_told_in_words(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = BUGS[name]
    planted = method(bug.method)
    if bug.in_the_mean and not means.MEANS:
        # Over three windows, where it shows most.
        shown = dataclasses.replace([*MEANS[bug.method]()][1], draws=DRAWS)
        monkeypatch.setattr(means, "MEANS", {bug.method: lambda: iter([shown])})
    if not bug.when_called_again and not request.config.getoption("--full"):
        for checks in ("again", "carried"):
            monkeypatch.setattr(f"metabench.certify.run.{checks}", lambda _: ())
    if bug.plant:
        bug.plant(monkeypatch)
    if bug.function:
        planted = dataclasses.replace(planted, function=bug.function)
    failed = failures(certificate_rows(planted))
    assert failed
    assert all(row["message"] for row in failed)
    assert any(bug.words in row["message"] for row in failed), "\n".join(sorted({row["message"] for row in failed}))


IN_FULL = ("unrolled", "ift_cg")
"""Methods with a certificate on all cases in every run: an exact one and one of a minimum. `--full` adds the others."""
DRAWN = "evograd"
"""The method that draws whose mean is checked in every run, once."""


@pytest.mark.parametrize("name", EVERY_METHOD)
def test_without_a_bug_nothing_fails(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in IN_FULL:
        request.getfixturevalue("few_cases")
    if name == DRAWN and not means.MEANS:
        monkeypatch.setattr(means, "MEANS", {name: lambda: itertools.islice(MEANS[name](), 1)})
    rows = certificate_rows(method(name))
    assert rows
    assert not failures(rows), "\n".join(sorted({row["message"] for row in failures(rows)}))


def test_at_least_fifteen_bugs_are_planted() -> None:
    assert len(BUGS) >= 15
