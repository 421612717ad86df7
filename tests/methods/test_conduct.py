"""How every method behaves, whatever it estimates: it reads its arguments, leaves no graph, and draws from its generator alone."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from bilevel import EVERY_METHOD, OUTSIDE, call, checkpoint, make_problem, objective, relative_error
from small_problems import Counting, LearnedStart, SummedOuter, Tanh

from metabench.autodiff.exact import exact_target
from metabench.autodiff.inner import begin, detached, run
from metabench.core import Hypergradient, InnerState, Problem, Target, Tree, Window, tree
from metabench.core.citations import bibtex
from metabench.methods import methods

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "toy_1d": lambda: make_problem("toy_1d", optimiser="momentum"),
    "regularisation": lambda: make_problem("regularisation", optimiser="adam", learning_rate=0.05),
    "label_noise": lambda: make_problem("label_noise", dataset="digits", size="conv8"),
    "tanh": lambda: Tanh("rmsprop"),
    "start": lambda: LearnedStart("nesterov"),
    "summed": lambda: SummedOuter("adamw"),
}

ONE_STEP = {"t1t2", "darts", "sama", "evograd"}
IMPLICIT = {"ift_cg", "ift_neumann", "ift_nystrom", "ift_fixed_point", "torchopt_ift_cg", "f2sa", "bome", "single_loop", "meha"} | {
    "ift_newton",
    "ift_minres",
    "ift_stochastic",
    "ift_fisher",
}
REFUSED = {
    "toy_1d": {"first_order", "reptile"},
    "regularisation": {"first_order", "reptile"},
    "label_noise": {"first_order", "reptile"},
    "tanh": {"first_order", "reptile"},
    "start": ONE_STEP | IMPLICIT,
    "summed": ONE_STEP | IMPLICIT | {"reptile"},
}
"""What has no answer there: a method of one step or of a minimum does not see a start, first-order ones see little else."""


def home(name: str, otherwise: str) -> str:
    """Return a problem that a method answers: `otherwise`, or the learned start for those that see little else."""
    return "start" if name in ("first_order", "reptile") else otherwise


every_method = pytest.mark.parametrize("name", EVERY_METHOD)
everywhere = pytest.mark.parametrize(
    ("name", "on"), [(name, on) for on in PROBLEMS for name in EVERY_METHOD if name not in REFUSED.get(on, ())]
)


class Called(NamedTuple):
    """A call of a method on one of `PROBLEMS`: its arguments, a copy of them from before, and what it returned."""

    problem: Problem
    at: tuple[InnerState, Tree, Window]
    before: tuple[InnerState, Tree, Window]
    found: Hypergradient


@functools.cache
def made(on: str) -> tuple[Problem, tuple[InnerState, Tree, Window]]:
    problem = PROBLEMS[on]()
    return problem, checkpoint(problem)


@functools.cache  # many tests ask something of one call
def called(name: str, on: str) -> Called:
    problem, at = made(on)
    given, before = copy.deepcopy(at), copy.deepcopy(at)
    return Called(problem, given, before, call(name, problem, *given))


def leaves(found: Hypergradient | InnerState) -> list[torch.Tensor]:
    state = found.state if isinstance(found, Hypergradient) else found
    meta = list(found.meta.values()) if isinstance(found, Hypergradient) else []
    return [*meta, *state.params.values(), *(leaf for slot in state.optimiser.values() for leaf in slot.values())]


@everywhere
def test_arguments_are_read_and_never_changed(name: str, on: str) -> None:
    _, (state, meta, window), (state0, meta0, window0), _ = called(name, on)
    for now, then in zip([*leaves(state), *meta.values()], [*leaves(state0), *meta0.values()], strict=True):
        assert torch.equal(now, then)
        assert not now.requires_grad
        assert now.grad is None
    for batch, batch0 in zip((*window.inner, *window.outer), (*window0.inner, *window0.outer), strict=True):
        assert (batch is None) == (batch0 is None)
        assert batch is None or all(torch.equal(leaf, batch0[key]) for key, leaf in batch.items())


@everywhere
def test_results_are_trees_of_the_right_shapes_without_a_graph(name: str, on: str) -> None:
    _, _, (state, meta, _), found = called(name, on)
    assert [(k, v.shape, v.dtype) for k, v in found.meta.items()] == [(k, v.shape, v.dtype) for k, v in meta.items()]
    assert list(found.state.params) == list(state.params)
    assert list(found.state.optimiser) == list(state.optimiser)
    assert not any(leaf.requires_grad or leaf.grad_fn is not None for leaf in leaves(found))
    assert isinstance(found.outer_loss, float)
    assert all(isinstance(value, float) for value in found.diagnostics.values())


@everywhere
def test_the_state_returned_is_that_of_plain_inner_training(name: str, on: str) -> None:
    problem, _, (state, meta, window), found = called(name, on)
    plain = run(problem, detached(begin(problem, state, meta)), meta, window.inner)
    # higher's Adam has no eps under its root: that is seen where a pixel is nearly always blank.
    loose = (name, on) == ("higher_unrolled", "regularisation")
    for ours, theirs in zip(leaves(found.state), leaves(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8 if loose else 1e-12, atol=1e-10 if loose else 1e-14)


@everywhere
def test_the_outer_loss_returned_is_the_windows_objective(name: str, on: str) -> None:
    problem, _, (state, meta, window), found = called(name, on)
    if name == "evograd":  # F at the mixture of the copies, which are made before the last step
        window = Window.ending_in(window.inner[:-1], window.outer[-1] or {})
    tolerance = 0.05 if name == "evograd" else 1e-8 if name == "higher_unrolled" else 1e-12
    assert found.outer_loss == pytest.approx(objective(problem, state, window)(meta), rel=tolerance)


@everywhere
def test_the_same_generator_gives_the_same_bits_whatever_the_global_one_does(name: str, on: str) -> None:
    problem, _, at, first = called(name, on)
    torch.manual_seed(7)
    unchanged = torch.get_rng_state()
    second = call(name, problem, *at)
    assert torch.equal(torch.get_rng_state(), unchanged)
    assert all(torch.equal(a, b) for a, b in zip(leaves(first), leaves(second), strict=True))
    assert first.outer_loss == second.outer_loss


@every_method
def test_only_methods_that_declare_it_draw(name: str) -> None:
    problem = PROBLEMS[home(name, "regularisation")]()
    at = checkpoint(problem)
    first, second = call(name, problem, *at, seed=0), call(name, problem, *at, seed=1)
    same = all(torch.equal(leaf, second.meta[key]) for key, leaf in first.meta.items())
    assert same != methods()[name].stochastic


@everywhere
def test_the_callers_grad_mode_does_not_matter(name: str, on: str) -> None:
    problem, _, at, expected = called(name, on)
    with torch.no_grad():
        assert not torch.is_grad_enabled()
        found = call(name, problem, *at)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(leaves(found), leaves(expected), strict=True))


@every_method
def test_arguments_that_require_a_gradient_give_the_same_and_stay_clean(name: str) -> None:
    problem = PROBLEMS[home(name, "tanh")]()
    state, meta, window = checkpoint(problem)
    expected = call(name, problem, state, meta, window)
    recording = InnerState(tree.leaves_for_grad(state.params), state.optimiser)
    asking = tree.leaves_for_grad(meta)
    found = call(name, problem, recording, asking, window)
    assert not any(leaf.requires_grad for leaf in leaves(found))
    assert all(leaf.grad is None for leaf in (*asking.values(), *recording.params.values()))
    assert all(torch.equal(a, b) for a, b in zip(leaves(found), leaves(expected), strict=True))


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_type_is_that_of_the_problem(name: str, dtype: torch.dtype) -> None:
    if home(name, "") == "start":
        problem: Problem = LearnedStart("adam", dtype=dtype)
    else:
        # Where gradients are zero Adam's step map has a slope of 1 / eps: no iteration of it settles in float32.
        optimiser = "momentum" if name == "ift_fixed_point" else "adam"
        problem = make_problem("regularisation", dtype=dtype, optimiser=optimiser, learning_rate=0.05)
    found = call(name, problem, *checkpoint(problem))
    assert {leaf.dtype for leaf in leaves(found)} == {dtype}


def test_every_method_declares_what_it_is() -> None:
    for name, one in methods().items():
        assert one.name == name
        assert one.module in (f"metabench.methods.{name}", *OUTSIDE)
        assert one.title
        assert one.function.__doc__
        assert bibtex(one.citation) or one.target is Target.NONE
        assert one.options.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize("steps", [1, 4, 7, 16])
def test_the_inner_loss_is_evaluated_as_often_as_the_declared_cost_says(steps: int) -> None:
    at = checkpoint(Tanh(inner_steps=steps))
    expected = {
        ("none", ()): steps,
        ("unrolled", ()): steps,
        ("unrolled_remat", ()): 2 * steps,
        ("mixflow", (("mixed_mode", False),)): 2 * steps,  # the gradient, which is kept, and the graph of the products
        ("mixflow", (("mixed_mode", False), ("save_inner_grads", False))): 3 * steps,
        ("truncated", (("steps", 3),)): steps,
        ("t1t2", ()): steps,
        ("ift_cg", (("steps", 9),)): steps + 2,  # one graph serves all Hessian products
        ("ift_neumann", (("steps", 9),)): steps + 2,
        ("ift_nystrom", (("rank", 9),)): steps + 2,
        ("ift_fixed_point", (("steps", 9),)): steps + 1,  # the graph of one step serves all products
        ("darts", ()): steps + 2,
        ("sama", ()): steps + 2,
        ("f2sa", (("steps", 7),)): steps + 7 + 2,
        ("bome", (("steps", 7),)): steps + 7 + 2,
        ("meha", (("steps", 7),)): steps + 2 * 7 + 2,
        ("single_loop", ()): steps + 2,
        ("single_loop", (("momentum", 0.5),)): steps + 2,  # the first window has no estimate to correct
        ("forward_carried", (("together", 1),)): 3 * steps,
        ("evograd", (("copies", 5),)): steps + 5,
        ("evograd", (("copies", 5), ("together", True))): steps + 1,
        ("es", (("pairs", 3), ("together", 1))): 7 * steps,
        ("es", (("pairs", 3), ("together", 3))): 2 * steps,
        ("pes", (("pairs", 3), ("together", 1))): 7 * steps,
        ("pes", (("pairs", 3), ("together", 3))): 2 * steps,
        ("forward", (("together", 1),)): 3 * steps,  # one pass with duals for each of three meta-parameters
    }
    for (name, options), count in expected.items():
        problem = Counting(Tanh(inner_steps=steps))
        call(name, problem, *at, **dict(options))  # type: ignore[arg-type]
        assert problem.inner_losses == count, name
    traced = Counting(Tanh(inner_steps=steps))
    call("mixflow", traced, *at)  # type: ignore[arg-type]
    evaluated = traced.inner_losses
    assert evaluated <= 4, "once a trace, however many steps"
    call("mixflow", traced, *at)  # type: ignore[arg-type]
    assert traced.inner_losses == evaluated, "the traces are kept"
    problem = Counting(Tanh(inner_steps=steps))
    call("unrolled_remat", problem, *at, schedule="sqrt")  # type: ignore[arg-type]
    assert 2 * steps <= problem.inner_losses <= 3 * steps


def test_a_method_is_as_good_as_its_declaration_says_against_the_exact_target() -> None:
    problem = PROBLEMS["tanh"]()
    at = checkpoint(problem)
    for name in EVERY_METHOD:
        one = methods()[name]
        if one.target is Target.NONE:
            assert exact_target(one.target, problem, *at, one.options()) is None
            continue
        exact = exact_target(one.target, problem, *at, one.options())
        # What is smoothed by noise has no closed form: its mean is tested where it is certified. Newton's method finds no minimum here.
        assert (exact is None) == (one.target in (Target.SMOOTHED, Target.PERSISTENT, Target.MINIMUM))
        if one.exact:
            assert relative_error(call(name, problem, *at).meta, exact) <= 1e-12
