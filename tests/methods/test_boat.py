"""BOAT and hippotrainer as methods: what they refuse, with and without the libraries, and what they compute."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.metadata
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from bilevel import OUTSIDE, assert_derivative, call, checkpoint, objective, relative_error
from small_problems import LearnedStart, LearningRates, OuterPenalty, Ridge, ScheduledRates, SummedOuter, Tanh

from metabench.autodiff.exact import exact_implicit
from metabench.autodiff.inner import begin, detached, leaves_of, run
from metabench.autodiff.peers import PINNED, pinned
from metabench.certify import certificate_rows, failures, libraries
from metabench.certify.claims import Finding, claims
from metabench.certify.rows import certificate_row, identity
from metabench.core import Absent, InnerState, Problem, Unsupported, Window, tree
from metabench.methods import method, methods
from metabench.results.certificate import AS_DECLARED, CERTIFIED, FAILED, UNSUPPORTED, certificates

NAMES = [name for name, one in methods().items() if one.module in OUTSIDE]
BOAT = [name for name in NAMES if name.startswith("boat_")]
IMPLICIT = [name for name in NAMES if name not in ("boat_rad", "boat_fd", "hippo_t1t2")]
UNHELD = "boat_rad"
"""The one that is exact; the others have a formula."""


def package_of(name: str) -> str:
    return "boat_torch" if name in BOAT else "hippotrainer"


def needs(*names: str) -> Any:
    """Return a parametrisation by methods, each skipped where its library is not installed."""

    def one(name: str) -> Any:
        package = package_of(name)
        absent = find_spec(package) is None
        return pytest.param(name, marks=pytest.mark.skipif(absent, reason=f"the package '{package}' is not installed"))

    return pytest.mark.parametrize("name", [one(name) for name in names])


# Without the libraries.


@pytest.mark.parametrize("name", NAMES)
def test_without_its_library_a_method_is_listed_and_says_how_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = package_of(name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Absent, match="pip install --no-deps") as refusal:
        call(name, Tanh(), *checkpoint(Tanh()))
    distribution, release = PINNED[package]
    assert f"pip install --no-deps {distribution}=={release}" in str(refusal.value)


@pytest.mark.parametrize("package", list(PINNED))
def test_another_release_is_refused_with_both_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.9")
    distribution, release = PINNED[package]
    with pytest.raises(Absent, match=rf"{distribution} 9\.9\.9 is installed.*{release}"):
        pinned(package)


def test_a_log_folder_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boat_torch", ModuleType("boat_torch"))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: PINNED["boat_torch"][1])

    def nowhere(**options: Any) -> None:
        raise FileNotFoundError(2, "no usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", nowhere)
    with pytest.raises(Unsupported, match=r"no usable temporary directory.*set TMPDIR"):
        call("boat_rad", Tanh("sgd"), *checkpoint(Tanh("sgd")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [LearningRates, LearnedStart, SummedOuter], ids=lambda kind: kind.__name__)
def test_what_the_libraries_do_not_see_is_refused(name: str, kind: Callable[..., Problem]) -> None:
    problem = kind("sgd")
    with pytest.raises(Unsupported):
        call(name, problem, *checkpoint(problem))


@pytest.mark.parametrize("name", [*BOAT[:7], "boat_vfo", "hippo_neumann"])
def test_a_scheduled_rate_is_refused_where_a_library_has_one_number(name: str) -> None:
    problem = ScheduledRates("sgd")
    with pytest.raises(Unsupported, match=r"scheduled|update or the start"):
        call(name, problem, *checkpoint(problem))


@pytest.mark.parametrize("name", IMPLICIT)
def test_decoupled_decay_is_refused(name: str) -> None:
    problem = Tanh("adamw")
    problem.optimiser = replace(problem.optimiser, weight_decay=0.3)  # type: ignore[type-var]
    with pytest.raises(Unsupported, match=r"decoupled|another run"):
        call(name, problem, *checkpoint(problem))


@pytest.mark.parametrize("name", NAMES)
def test_certificates_say_unsupported_where_a_library_is_not_there(
    name: str, monkeypatch: pytest.MonkeyPatch, few_cases: None
) -> None:
    monkeypatch.setitem(sys.modules, package_of(name), None)
    rows = [certificate_row(**(identity(name, ()) | row)) for row in certificate_rows(method(name))]
    assert not failures(rows)
    assert certificates(rows)[name].verdict == UNSUPPORTED


def test_what_is_not_the_target_is_said_in_one_line_and_has_a_formula() -> None:
    for name in NAMES:
        peer = methods()[name].peer
        assert peer is not None
        assert bool(peer.instead) == (name != UNHELD)
        assert "\n" not in peer.instead
    assert set(libraries.FORMULAS) == set(NAMES) - {UNHELD}


# With them.


@needs(*NAMES)
def test_a_call_leaves_its_arguments_and_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    problem = Ridge(4)
    params, meta = problem.beginning()
    at = InnerState(params, {}), meta, next(problem.windows())[0]
    given = copy.deepcopy(at)
    with torch.no_grad():
        first = call(name, problem, *given)
    again = call(name, problem, *at)
    assert not list(tmp_path.glob("metabench-boat-*"))
    assert all(torch.equal(first.meta[key], leaf) for key, leaf in again.meta.items()), (
        "a call leaves a gradient behind"
    )
    for now, then in zip((given[0].params, given[1]), (at[0].params, at[1]), strict=True):
        assert all(torch.equal(now[key], leaf) and not now[key].requires_grad for key, leaf in then.items())


@needs(*BOAT)
def test_a_log_is_removed_after_an_error_and_a_full_disk_is_a_refusal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    class Breaking(Tanh):
        def outer_loss(self, params: Any, meta: Any, batch: Any) -> torch.Tensor:
            if any(tmp_path.glob("metabench-boat-*")):
                raise OSError(28, "No space left on device")
            return super().outer_loss(params, meta, batch)

    problem = Breaking("sgd")
    with pytest.raises(Unsupported, match="No space left on device"):
        call(name, problem, *checkpoint(problem))
    assert not list(tmp_path.glob("metabench-boat-*"))


@needs(*NAMES)
@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "nesterov"])
def test_the_state_and_the_outer_loss_are_those_of_the_problems_run_with_its_slots(name: str, optimiser: str) -> None:
    problem = OuterPenalty(optimiser)
    problem.optimiser = replace(problem.optimiser, weight_decay=0.1)  # type: ignore[type-var]
    state, meta, window = checkpoint(problem, 2)
    found = call(name, problem, state, meta, window)
    plain = run(problem, detached(begin(problem, state, meta)), meta, window.inner)
    for ours, theirs in zip(leaves_of(found.state), leaves_of(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    assert found.outer_loss == pytest.approx(objective(problem, state, window)(meta), rel=1e-11)


@needs("boat_rad")
@pytest.mark.parametrize("kind", [Tanh, OuterPenalty], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "nesterov"])
def test_reverse_mode_is_the_derivative_on_the_windows_own_batches(
    name: str, optimiser: str, kind: Callable[..., Problem]
) -> None:
    problem = kind(optimiser)
    state, meta, window = checkpoint(problem, 1)
    found = call(name, problem, state, meta, window)
    assert_derivative(found.meta, objective(problem, state, window), meta)
    assert relative_error(found.meta, call("unrolled", problem, state, meta, window).meta) <= 1e-12
    one_batch = Window.ending_in((window.inner[-1],) * len(window.inner), window.outer[-1] or {})
    assert relative_error(found.meta, call("unrolled", problem, state, meta, one_batch).meta) > 1e-3


class Idle(Tanh):
    """A parameter that the inner loss does not use; momentum moves it all the same."""

    def beginning(self) -> Any:
        params, meta = super().beginning()
        return params | {"idle": torch.ones(2, dtype=self.setting.dtype)}, meta

    def inner_loss(self, params: Any, meta: Any, batch: Any) -> torch.Tensor:
        return super().inner_loss({name: leaf for name, leaf in params.items() if name != "idle"}, meta, batch)


@needs(*[name for name in BOAT if name not in ("boat_meso", "boat_pgdo")])
def test_a_parameter_that_boats_optimisers_would_skip_is_refused(name: str) -> None:
    problem = Idle("momentum")
    with pytest.raises(Unsupported, match="does not use 'idle'"):
        call(name, problem, *checkpoint(problem))


@needs("boat_cg")
def test_boats_conjugate_gradients_are_zero_in_one_dimension(name: str) -> None:
    problem = Ridge(1)
    params, meta = problem.beginning()
    at = InnerState(params, {}), meta, next(problem.windows())[0]
    assert float(tree.norm(call(name, problem, *at).meta)) == 0
    assert float(tree.norm(exact_implicit(problem, *at))) > 0.01


@functools.cache
def settled() -> tuple[Problem, InnerState, Any, Window]:
    """Return a ridge problem at its minimum: there z = w_K."""
    problem = Ridge(4)
    params, meta = problem.beginning()
    window = next(problem.windows())[0]
    state = run(problem, InnerState(params, {}), meta, (window.inner[0],) * 3000)
    return problem, state, meta, Window.ending_in((window.inner[0],) * 3, window.outer[-1] or {})


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        pytest.param(name, options, error, marks=needs(name).args[1][0].marks)
        for name, options, error in (
            ("boat_vso", {"barrier": 1e4, "learning_rate": 2e-6, "steps": 400}, 1e-3),
            ("boat_pgdo", {"gamma": 1e4, "learning_rate": 0.1, "steps": 400}, 1e-3),
            ("boat_dm", {"solver": "cg", "calls": 200}, 1e-6),
            ("boat_ns", {"k": 2000, "tolerance": 0.0}, 1e-8),
        )
    ],
)
def test_what_is_right_in_a_limit_gets_there(name: str, options: dict[str, Any], error: float) -> None:
    problem, *at = settled()
    found = call(name, problem, *at, **options)  # type: ignore[arg-type]
    assert relative_error(found.meta, exact_implicit(problem, *at)) <= error  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        pytest.param(name, options, least, marks=needs(name).args[1][0].marks)
        for name, options, least in (
            ("boat_meso", {"penalty": 1e4, "eta": 0.2, "learning_rate": 0.1, "steps": 400}, 0.05),
            ("boat_pgdo", {"penalty": "gradient", "gamma": 1e4}, 1.0),
            ("hippo_neumann", {"num_terms": 10}, 0.5),
            ("hippo_t1t2", {}, 0.1),
        )
    ],
)
def test_what_is_not_its_target_is_far_from_it(name: str, options: dict[str, Any], least: float) -> None:
    problem, *at = settled()
    found = call(name, problem, *at, **options)  # type: ignore[arg-type]
    assert relative_error(found.meta, exact_implicit(problem, *at)) >= least  # type: ignore[arg-type]


def held(planted: Any) -> list[Finding]:
    """Return what comes of the claims that a method equals its target or its formula, in float64."""
    return [
        claim.check(planted) for claim in claims(planted) if claim.kind in ("exact", "formula") and claim.dtype is None
    ]


@needs(*[name for name in NAMES if name != "boat_vfo"])
def test_each_is_what_its_formula_says_and_mistakes_in_an_adapter_are_caught(name: str, few_cases: None) -> None:
    chosen = method(name)

    def negative(*given: Any) -> Any:
        found = chosen.function(*given)
        return dataclasses.replace(found, meta=tree.scale(-1.0, found.meta))

    def one_batch(problem: Any, state: Any, meta: Any, window: Any, options: Any, generator: Any) -> Any:
        short = Window.ending_in((window.inner[0],) * len(window.inner), window.outer[-1] or window.outer[0])
        return chosen.function(problem, state, meta, short, options, generator)

    right = held(chosen)
    wrong = {one.message for one in right if one.verdict == FAILED}
    assert sum(one.verdict in (CERTIFIED, AS_DECLARED) for one in right) >= 4
    # At a minimum boat_iga divides by zero.
    assert name == "boat_iga" or not wrong, wrong
    for function in (negative, one_batch):
        found = held(dataclasses.replace(chosen, function=function))
        assert any(one.verdict == FAILED and one.case and one.case.minimum is None for one in found), function.__name__
