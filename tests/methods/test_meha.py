"""MEHA tends to the implicit hypergradient as its penalty grows, answers where f is flat, and its theta is a constant."""

from __future__ import annotations

import itertools

import pytest
import torch
from bilevel import call, checkpoint, relative_error
from small_problems import LearnedStart, LearningRates, Ridge, SummedOuter, Tanh, at_minimum

from metabench.core import Batch, InnerState, MetabenchError, Problem, Tree, Unsupported, Window, tree
from metabench.methods import method

WIDE = {"proximal": 30.0, "steps": 600, "learning_rate": 0.3, "proximal_rate": 0.3}


def test_its_error_falls_as_one_over_the_penalty() -> None:
    problem = Ridge(4)
    state, meta, window = at_minimum(problem)
    exact = problem.implicit(state.params, meta)
    errors = [
        relative_error(call("meha", problem, state, meta, window, penalty=penalty, **WIDE).meta, exact)
        for penalty in (1e2, 1e3, 1e4)
    ]
    for larger, smaller in itertools.pairwise(errors):
        assert larger / smaller == pytest.approx(10, rel=0.1)
    assert errors[-1] < 2e-3


def test_with_a_derivative_through_theta_it_would_be_another() -> None:
    """By the envelope theorem df/dl at theta is all of the envelope's slope: what theta moves by has none."""
    problem = Ridge(4)
    state, meta, window = at_minimum(problem)
    exact = problem.implicit(state.params, meta)
    found = call("meha", problem, state, meta, window, penalty=1e4, **WIDE)
    y, theta = (found.state.memory[name] for name in ("penalised", "proximal"))
    assert relative_error(found.answer or {}, y) == 0
    # Were theta an end of its run to differentiate through, c f_w(theta) dtheta/dl would be there, too: f has a slope at theta.
    slope = problem.hessian(meta) @ theta["w"] - problem.scale * problem.x.T @ problem.y / len(problem.y)
    mixed = problem.scale * torch.diag(meta["log_penalty"].exp() * theta["w"])
    moves = -torch.linalg.solve(problem.hessian(meta) + torch.eye(4, dtype=torch.float64) / WIDE["proximal"], mixed)
    undetached = found.meta["log_penalty"] - 1e4 * moves.T @ slope
    assert relative_error({"log_penalty": undetached}, exact) > 50 * relative_error(found.meta, exact)


class Flat(Ridge):
    """The inner loss does not see the last parameter, which the outer loss does: of the minima, F chooses one."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        w, target = params["w"], meta["log_penalty"]
        return (w[:-1] - target[:-1]).square().sum() / 2

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return (params["w"] - 1).square().sum() / 2


def test_where_f_is_flat_it_answers_and_conjugate_gradients_say_that_they_cannot() -> None:
    problem = Flat(3)
    state, meta, window = checkpoint(problem)
    params = {"w": torch.cat([meta["log_penalty"][:-1], torch.tensor([3.0], dtype=torch.float64)])}
    state = InnerState(params, problem.optimiser.init(params))
    # w* = l where f sees it, and the last parameter is what F wants: dF/dl = l - 1, and nothing of the last.
    exact = {"log_penalty": torch.cat([meta["log_penalty"][:-1] - 1, torch.zeros(1, dtype=torch.float64)])}
    found = call("meha", problem, state, meta, window, penalty=1e3, proximal=10.0, steps=20000, learning_rate=0.5, proximal_rate=0.5)
    assert relative_error(found.meta, exact) <= 2e-3
    assert found.answer is not None and float(found.answer["w"][-1]) == pytest.approx(1, abs=1e-3)
    other = call("ift_cg", problem, state, meta, window)
    assert other.diagnostics["solver_residual"] > 0.1 and relative_error(other.meta, exact) > 0.1


def test_both_points_go_on_where_another_run_begins_and_the_penalty_grows() -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    first = call("meha", problem, state, meta, window, schedule="power 0.5")
    second = call("meha", problem, first.state, meta, window, schedule="power 0.5")
    assert [one.diagnostics["multiplier"] for one in (first, second)] == pytest.approx([100, 100 * 2**0.5])
    entered = method("meha").entered(problem, Window(window.inner, window.outer, state.params), first.state)[1]
    assert entered.params is state.params and entered.memory is first.state.memory
    # It took the same steps from there as from where it was.
    steps = {"steps": 1, "learning_rate": 0.01, "proximal_rate": 0.02, "proximal": 4.0, "penalty": 10.0}
    found = call("meha", problem, InnerState(state.params, state.optimiser, first.state.memory), meta, window, **steps)
    y, theta = (first.state.memory[name] for name in ("penalised", "proximal"))

    def slopes(params: Tree, loss: str, batch: Batch) -> Tree:
        leaves = tree.leaves_for_grad(params)
        value = getattr(problem, loss)(leaves, meta, batch)
        return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))

    batch, due = window.inner[-1], window.outer[-1]
    assert due is not None
    pull = tree.scale(0.25, tree.subtract(theta, y))
    theta = tree.add_scaled(theta, -0.02, tree.add(slopes(theta, "inner_loss", batch), pull))
    pull = tree.scale(0.25, tree.subtract(theta, y))
    move = tree.add_scaled(tree.add(slopes(y, "inner_loss", batch), pull), 0.1, slopes(y, "outer_loss", due))
    assert relative_error(found.state.memory["proximal"], theta) <= 1e-13
    assert relative_error(found.state.memory["penalised"], tree.add_scaled(y, -0.01, move)) <= 1e-13


@pytest.mark.parametrize("kind", [LearningRates, LearnedStart, SummedOuter])
def test_what_a_minimum_does_not_see_is_refused(kind: type[Problem]) -> None:
    problem = kind()
    with pytest.raises(Unsupported, match=r"meta-parameters enter|outer losses are due"):
        call("meha", problem, *checkpoint(problem))


def test_another_methods_memory_is_refused() -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    other = call("f2sa", problem, state, meta, window).state
    with pytest.raises(MetabenchError, match="and no 'proximal': it is that of another method"):
        call("meha", problem, other, meta, window)
