"""Other libraries, called as methods: they agree with the house's own derivatives, or say what they cannot do."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from bilevel import OPTIMISERS, call, checkpoint, make_problem, relative_error
from small_problems import (
    LearnedSchedule,
    LearnedStart,
    LearnedStartOfBody,
    LearnedUpdate,
    LearningRates,
    OuterOnly,
    OuterPenalty,
    Ridge,
    ScheduledRates,
    SummedOuter,
    Tanh,
    WeightedExamples,
)

from metabench.autodiff.exact import exact_implicit
from metabench.autodiff.inner import leaves_of
from metabench.autodiff.peers import PINNED
from metabench.core import Hypergradient, InnerState, Problem, Unsupported, tree
from metabench.methods import methods

LIBRARIES = {"higher_unrolled": "higher", "torchopt_unrolled": "torchopt", "torchopt_ift_cg": "torchopt"}

KINDS: tuple[Callable[[str], Problem], ...] = (
    Tanh,
    LearningRates,
    SummedOuter,
    LearnedStart,
    LearnedStartOfBody,
    OuterPenalty,
    OuterOnly,
    WeightedExamples,
)

TOLERANCE = dict.fromkeys(OPTIMISERS, 1e-12) | {"adam": 1e-10, "adamw": 1e-10, "rmsprop": 1e-7}
"""Adam and RMSprop differ from the house by eps^2 over twice the second moment, where eps is not within the root: at a run's start most."""


def peer(name: str) -> Any:
    """Return a test's parameter for a method, skipped where its library is not installed."""
    package = LIBRARIES[name]
    skip = pytest.mark.skipif(find_spec(package) is None, reason=f"the package '{package}' is not installed")
    return pytest.param(name, marks=skip)


unrolled_peers = pytest.mark.parametrize("name", [peer("higher_unrolled"), peer("torchopt_unrolled")])
implicit_peer = pytest.mark.parametrize("name", [peer("torchopt_ift_cg")])
every_peer = pytest.mark.parametrize("name", [peer(name) for name in LIBRARIES])


def assert_same(found: Hypergradient, expected: Hypergradient, tolerance: float) -> None:
    assert float(tree.norm(expected.meta)) > 0
    assert relative_error(found.meta, expected.meta) <= tolerance
    assert found.outer_loss == pytest.approx(expected.outer_loss, rel=tolerance)
    for ours, theirs in zip(leaves_of(found.state), leaves_of(expected.state), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@unrolled_peers
@pytest.mark.filterwarnings("ignore:Differentiable RMSprop suffers")
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("windows_before", [0, 1])
def test_unrolled_agrees_wherever_the_meta_parameters_enter_and_whatever_the_state(
    name: str, optimiser: str, kind: Callable[[str], Problem], windows_before: int
) -> None:
    problem = kind(optimiser)
    at = checkpoint(problem, windows_before)
    assert_same(call(name, problem, *at), call("unrolled", problem, *at), TOLERANCE[optimiser])


@unrolled_peers
@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "nesterov"])
@pytest.mark.parametrize("size", ["conv8", "mlp64"])
def test_unrolled_agrees_on_label_noise(name: str, optimiser: str, size: str) -> None:
    problem = make_problem("label_noise", dataset="digits", size=size, optimiser=optimiser)
    at = checkpoint(problem)
    assert_same(call(name, problem, *at), call("unrolled", problem, *at), 1e-12)


@unrolled_peers
@pytest.mark.parametrize("optimiser", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("kind", [Tanh, LearningRates], ids=lambda kind: kind.__name__)
def test_weight_decay_is_the_houses(name: str, optimiser: str, kind: Callable[[str], Problem]) -> None:
    problem = kind(optimiser)
    problem.optimiser = replace(problem.optimiser, weight_decay=0.3)  # type: ignore[type-var]
    at = checkpoint(problem)
    assert_same(call(name, problem, *at), call("unrolled", problem, *at), 1e-11)


@pytest.mark.parametrize("name", [peer("torchopt_unrolled")])
def test_torchopt_has_an_adamw_with_decoupled_decay(name: str) -> None:
    problem = Tanh("adamw")
    problem.optimiser = replace(problem.optimiser, weight_decay=0.3)  # type: ignore[type-var]
    at = checkpoint(problem)
    assert_same(call(name, problem, *at), call("unrolled", problem, *at), 1e-12)


@pytest.mark.parametrize("name", [peer("higher_unrolled")])
def test_higher_has_no_adamw_with_decoupled_decay(name: str) -> None:
    problem = Tanh("adamw")
    problem.optimiser = replace(problem.optimiser, weight_decay=0.3)  # type: ignore[type-var]
    with pytest.raises(Unsupported, match="higher has no differentiable AdamW"):
        call(name, problem, *checkpoint(problem))


class ElementwiseRates(LearningRates):
    """A learning rate for every weight: the meta-parameters have the shapes of the parameters."""

    def initial_meta(self, params: Any) -> Any:
        return tree.tree_map(lambda leaf: torch.full_like(leaf, -3.0) + 0.1 * leaf, params)


class OneRate(LearningRates):
    """One learned rate for all parameters, below zero: training climbs."""

    def learning_rate(self, optimiser: str) -> Any:
        return lambda meta, step: meta["rate"]

    def initial_meta(self, params: Any) -> Any:
        return {"rate": torch.tensor(-0.02, dtype=self.setting.dtype)}


@unrolled_peers
@pytest.mark.parametrize("kind", [ElementwiseRates, OneRate], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam"])
def test_learning_rates_may_be_one_for_all_or_one_for_each_weight(
    name: str, optimiser: str, kind: Callable[[str], Problem]
) -> None:
    problem = kind(optimiser)
    at = checkpoint(problem)
    assert_same(call(name, problem, *at), call("unrolled", problem, *at), 1e-11)


@unrolled_peers
@pytest.mark.parametrize("kind", [LearnedSchedule, ScheduledRates], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("optimiser", ["sgd", "nesterov", "adam", "rmsprop"])
def test_a_schedule_goes_on_at_the_step_where_the_window_starts(
    name: str, optimiser: str, kind: Callable[[str], Problem]
) -> None:
    problem = kind(optimiser)
    at = checkpoint(problem, windows_before=2)
    assert float(at[0].optimiser["step"]["count"]) == 6
    assert_same(call(name, problem, *at), call("unrolled", problem, *at), 1e-11)


class UnusedParameter(Tanh):
    """A parameter that the inner loss never reaches; momentum and decay move it all the same."""

    def beginning(self) -> Any:
        params, meta = super().beginning()
        return params | {"unused": torch.ones(2, dtype=self.setting.dtype)}, meta

    def inner_loss(self, params: Any, meta: Any, batch: Any) -> torch.Tensor:
        return super().inner_loss({name: leaf for name, leaf in params.items() if name != "unused"}, meta, batch)

    def outer_loss(self, params: Any, meta: Any, batch: Any) -> torch.Tensor:
        return super().outer_loss(params, meta, batch) + params["unused"].square().sum()


@unrolled_peers
@pytest.mark.parametrize("optimiser", ["sgd", "momentum"])
def test_a_parameter_that_the_inner_loss_does_not_reach_decays_as_in_the_house(name: str, optimiser: str) -> None:
    problem = UnusedParameter(optimiser)
    problem.optimiser = replace(problem.optimiser, weight_decay=0.3)  # type: ignore[type-var]
    at = checkpoint(problem)
    assert float(call("unrolled", problem, *at).state.params["unused"][0]) < 1
    assert_same(call(name, problem, *at), call("unrolled", problem, *at), 1e-12)


@unrolled_peers
def test_an_optimiser_that_is_none_of_torchs_is_refused_by_its_name(name: str) -> None:
    problem = LearnedUpdate()
    with pytest.raises(Unsupported, match="RecurrentCell"):
        call(name, problem, *checkpoint(problem))


@pytest.mark.parametrize("name", [peer("torchopt_unrolled")])
def test_torchopts_rmsprop_is_refused_where_a_second_moment_is_zero(name: str) -> None:
    # A pixel that is dark in every image: its weights have a gradient of zero, and the root an infinite slope.
    problem = make_problem("regularisation", optimiser="rmsprop", learning_rate=0.05)
    with pytest.raises(Unsupported, match="second moment is zero"):
        call(name, problem, *checkpoint(problem))


@implicit_peer
@pytest.mark.parametrize("features", [1, 3, 5, 8])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_torchopts_conjugate_gradients_are_exact_in_as_many_steps_as_dimensions(
    name: str, features: int, scale: float
) -> None:
    problem = Ridge(features, scale=scale)
    params, meta = problem.beginning()
    state, window = InnerState(params, {}), next(problem.windows())[0]
    found = call(name, problem, state, meta, window, steps=features, tolerance=0.0)
    assert relative_error(found.meta, exact_implicit(problem, state, meta, window)) <= 1e-12
    assert found.diagnostics["solver_steps"] <= features


@implicit_peer
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_torchopts_conjugate_gradients_are_the_houses_step_for_step(name: str, steps: int) -> None:
    problem = Ridge(8)
    params, meta = problem.beginning()
    at = InnerState(params, {}), meta, next(problem.windows())[0]
    options = {"steps": steps, "tolerance": 0.0}
    assert_same(call(name, problem, *at, **options), call("ift_cg", problem, *at, **options), 1e-12)
    problem = make_problem("regularisation")  # type: ignore[assignment]
    at = checkpoint(problem)
    assert_same(call(name, problem, *at, **options), call("ift_cg", problem, *at, **options), 1e-12)


@implicit_peer
@pytest.mark.parametrize("kind", [Tanh, OuterPenalty], ids=lambda kind: kind.__name__)
def test_torchopts_implicit_hypergradient_holds_where_the_meta_parameters_enter_both_losses(
    name: str, kind: Callable[[], Problem]
) -> None:
    problem = kind()
    at = checkpoint(problem, 300)
    found = call(name, problem, *at, steps=60, tolerance=0.0)
    assert relative_error(found.meta, exact_implicit(problem, *at)) <= 1e-10


@implicit_peer
def test_torchopts_root_is_that_of_the_loss_with_the_optimisers_weight_decay(name: str) -> None:
    problem = Ridge(4)
    problem.optimiser = replace(problem.optimiser, weight_decay=0.3)  # type: ignore[type-var]
    params, meta = problem.beginning()
    at = InnerState(params, {}), meta, next(problem.windows())[0]
    found = call(name, problem, *at, steps=8, tolerance=0.0)
    assert relative_error(found.meta, problem.implicit(found.state.params, meta, damping=0.3)) <= 1e-12


@implicit_peer
@pytest.mark.parametrize("kind", [LearningRates, LearnedStart], ids=lambda kind: kind.__name__)
def test_an_implicit_method_refuses_what_a_minimum_does_not_see(name: str, kind: Callable[[], Problem]) -> None:
    problem = kind()
    with pytest.raises(Unsupported, match="minimum of the inner loss"):
        call(name, problem, *checkpoint(problem))


@every_peer
def test_nothing_of_the_run_outlives_the_call(name: str) -> None:
    class Watched(Tanh):
        def outer_loss(self, params: Any, meta: Any, batch: Any) -> torch.Tensor:
            kept.extend(weakref.ref(leaf) for leaf in params.values())
            return super().outer_loss(params, meta, batch)

    kept: list[weakref.ref[torch.Tensor]] = []
    problem = Watched()
    at = checkpoint(problem)
    gc.collect()
    gc.disable()
    try:
        call(name, problem, *at)
        assert kept
        assert all(leaf() is None for leaf in kept), "the parameters of the last step wait for the cyclic collector"
    finally:
        gc.enable()


@pytest.mark.parametrize("name", list(LIBRARIES))
def test_without_its_library_a_method_is_listed_and_says_how_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, LIBRARIES[name], None)
    assert name in methods()
    problem = Tanh()
    with pytest.raises(Unsupported, match=r"pip install 'metabench\[peers\]'") as refusal:
        call(name, problem, *checkpoint(problem))
    assert LIBRARIES[name] in str(refusal.value)


def test_listing_methods_does_not_import_the_libraries() -> None:
    libraries = {*LIBRARIES.values(), *PINNED}
    program = f"import sys; from metabench.methods import methods; print(len(methods()), {libraries} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(methods())), "set()"]
