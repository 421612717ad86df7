"""What methods are held to is itself right: closed forms, and derivatives by another way."""

from __future__ import annotations

import itertools

import pytest
import torch
from bilevel import OPTIMISERS, relative_error

from metabench.autodiff.unrolled.sweep import through_graph
from metabench.certify.cases import Case, cases, moving, settled
from metabench.certify.check import scale_of
from metabench.certify.claims import exists
from metabench.certify.problem import DUE, SCHEDULED
from metabench.certify.problems import ExampleWeights, Logistic, Quadratic, Ridge
from metabench.certify.references import expand, finite_differences, objective, smoothed, with_constant_gradients
from metabench.certify.tanh_networks import Initialisation, LearningRates, TanhNetwork
from metabench.certify.training import objectives
from metabench.core import MetaRole, Target, tree

every_case = pytest.mark.parametrize("case", cases(Target.UNROLLED), ids=lambda case: case.text)


def outer_of(case: Case) -> dict[str, torch.Tensor]:
    batch = case.window.outer[-1]
    assert batch is not None
    return dict(batch)


def test_differences_of_a_polynomial_of_degree_six_are_exact() -> None:
    at = {"x": torch.tensor([0.7, -1.1], dtype=torch.float64)}
    found = finite_differences(lambda z: float((z["x"] ** 6).sum()), at, width=0.1)
    torch.testing.assert_close(found["x"], 6 * at["x"] ** 5, rtol=1e-12, atol=0)


@every_case
def test_differences_of_plain_training_agree_with_reverse_mode(case: Case) -> None:
    by_graph = through_graph(case.problem, case.state, case.meta, case.window).meta
    assert relative_error(case.through_last_steps(case.inner_steps), by_graph) <= 1e-9


@every_case
def test_no_case_is_in_a_place_where_a_wrong_hypergradient_would_pass(case: Case) -> None:
    """The hypergradient is well above rounding, and what is differentiated is not at rest."""
    assert float(tree.norm(case.through_last_steps(case.inner_steps))) > 1e-3 * min(1.0, scale_of(case))
    if case.inner_steps > 1 and case.problem.name != "quadratic_1d":
        batches = [batch["inputs"] for batch in case.window.inner]
        assert all(not torch.equal(a, b) for a, b in itertools.pairwise(batches))
    for slot, leaves in case.state.optimiser.items():
        if not case.problem.restarts:
            assert float(tree.norm(leaves)) > 0, slot


# Not by parameters: every process would look for the minima where it collects its tests.
def test_every_minimum_is_one() -> None:
    for case in cases(Target.IMPLICIT):
        if case.minimum is not None:
            params = tree.leaves_for_grad(case.state.params)
            loss = case.problem.inner_loss(params, case.meta, case.window.inner[-1])
            slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(params.values()))])
            slope = slope + case.problem.weight_decay * tree.flatten(case.state.params)
            assert float(slope.norm()) <= 1e-12, case.text
            assert case.minimum.curvature.smallest > 0.01, case.text


def test_the_derivative_over_minima_is_the_implicit_function_theorem() -> None:
    for case in cases(Target.IMPLICIT):
        if case.minimum is not None:
            decay = case.problem.weight_decay
            at = expand(case.problem, case.state.params, case.meta, case.window.inner[-1], outer_of(case), decay)
            dense = tree.unflatten(at.implicit(torch.linalg.solve(at.hessian, at.outer_w)), case.meta)
            assert relative_error(case.implicit, dense) <= 1e-9, case.text


def test_the_toy_has_its_closed_form() -> None:
    case = settled(Quadratic())
    penalty = float(case.meta["l"])
    assert float(case.state.params["w"]) == pytest.approx(1 / (1 + penalty), rel=1e-14)
    assert float(case.implicit["l"]) == pytest.approx((penalty - 1) / (penalty + 1) ** 3, rel=1e-10)


def test_ridge_has_its_closed_form() -> None:
    case = settled(Ridge(weight_decay=0.2))
    batch, outer = case.window.inner[-1], outer_of(case)
    x, y, z, t = batch["inputs"], batch["targets"], outer["inputs"], outer["targets"]
    penalty = case.meta["l"].exp()
    hessian = x.T @ x / len(y) + torch.diag(penalty) + 0.2 * torch.eye(4, dtype=torch.float64)
    w = torch.linalg.solve(hessian, x.T @ y / len(y))
    torch.testing.assert_close(case.state.params["w"], w, rtol=1e-12, atol=0)
    expected = -penalty * w * torch.linalg.solve(hessian, z.T @ (z @ w - t) / len(t))
    assert relative_error(case.implicit, {"l": expected}) <= 1e-10


@pytest.mark.parametrize("kind", [Quadratic, Ridge, Logistic, TanhNetwork, ExampleWeights])
def test_scaling_the_inner_loss_moves_no_minimum(kind: type) -> None:
    one, tenth = settled(kind()), settled(kind(scale=0.1))
    assert relative_error(one.implicit, tenth.implicit) <= 1e-9


def test_with_constant_gradients_maml_is_the_outer_gradient_at_the_end() -> None:
    case = moving(Initialisation("momentum"))
    found = with_constant_gradients(case.problem, case.state, case.meta, case.window)
    at = through_graph(case.problem, case.state, case.meta, case.window).state.params
    slopes = finite_differences(lambda w: float(case.problem.outer_loss(w, case.meta, outer_of(case))), at)
    assert relative_error(found, {name: slopes[name] for name in found}) <= 1e-9


def test_the_smoothed_square_has_the_slope_of_the_square() -> None:
    at = {"l": torch.tensor(1.5, dtype=torch.float64)}
    # E (l + s e)^2 = l^2 + s^2, and E (l + s e_1)^2 (l + s e_1 + ...) has the terms of a Gaussian's moments.
    assert float(smoothed(lambda m: float(m[0]["l"]) ** 2, at, 1, 0.3)["l"]) == pytest.approx(3.0, rel=1e-10)
    cubic = smoothed(lambda m: float(m[0]["l"]) ** 2 * float(m[1]["l"]), at, 2, 0.3)
    assert float(cubic["l"]) == pytest.approx(3 * 1.5**2 + 0.3**2, rel=1e-10)


def test_implicit_hypergradients_are_asked_for_at_minima_in_mid_training_and_where_there_is_none() -> None:
    found = cases(Target.IMPLICIT)
    refused = [case for case in found if not exists(Target.IMPLICIT, case)]
    minima = [case for case in found if case.minimum]
    elsewhere = [case for case in found if not case.minimum and case not in refused]
    assert any(isinstance(case.problem, LearningRates) for case in refused)
    assert {case.problem.optimiser_name for case in minima} >= {"sgd", "momentum", "nesterov", "adam", "rmsprop"}
    assert len(elsewhere) >= 10
    assert any(len({id(batch) for batch in case.window.inner}) == case.inner_steps > 10 for case in elsewhere)


def test_the_cases_vary_whatever_a_method_may_depend_on() -> None:
    found = cases(Target.UNROLLED)
    assert {case.problem.optimiser_name for case in found} == {*OPTIMISERS, SCHEDULED, "lstm", "mlp"}
    assert {case.problem.due for case in found} == set(DUE)
    assert {case.inner_steps for case in found} >= {1, 2, 3, 4, 5, 6, 7, 9, 12}
    pairs = {frozenset(pair) for pair in itertools.combinations(MetaRole, 2)}
    assert {case.problem.roles for case in found} >= {
        *pairs,
        *(frozenset({role}) for role in MetaRole if role != "outer_loss"),
    }
    for due in DUE:
        optimisers = {case.problem.optimiser_name for case in found if case.problem.due == due}
        assert len(optimisers) >= 2, due
    leaves = [leaf for case in found for leaf in (*case.problem.beginning()[0].values(), *case.meta.values())]
    assert any(not leaf.is_contiguous() and 0 not in leaf.stride() for leaf in leaves)
    assert any(0 in leaf.stride() for leaf in leaves)
    assert any(not leaf.numel() for leaf in leaves)
    assert any(not leaf.dim() for leaf in leaves)
    assert any(tree.count(case.meta) > 32 for case in found)


@every_case
def test_runs_of_many_meta_parameters_at_once_are_those_of_each_by_itself(case: Case) -> None:
    metas = [tree.scale(factor, case.meta) for factor in (1.0, 0.9, 1.1)]
    alone = objective(case.problem, case.state, case.window)
    expected = [alone(meta) for meta in metas]
    assert objectives(case.problem, case.state, metas, case.window) == pytest.approx(expected, rel=1e-13, abs=1e-15)


def test_the_objective_is_that_of_plain_training() -> None:
    case = moving(LearningRates("adam"))
    expected = through_graph(case.problem, case.state, case.meta, case.window).outer_loss
    assert objective(case.problem, case.state, case.window)(case.meta) == pytest.approx(expected, rel=1e-14)
