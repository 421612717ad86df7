"""The least residual over Krylov spaces: dense least squares, indefinite Hessians, and directions carried from window to window."""

from __future__ import annotations

import itertools

import pytest
import torch
from bilevel import call, checkpoint, make_problem, relative_error
from small_problems import Ridge, Tanh

from metabench.autodiff.implicit.linear_solvers import conjugate_gradients, minimal_residual
from metabench.autodiff.optimisers import inner_optimiser
from metabench.certify.references import expand
from metabench.core import InnerState, MetabenchError, Tree, tree


def system(eigenvalues: list[float], seed: int = 0) -> tuple[torch.Tensor, Tree]:
    stream = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(size, size, generator=stream, dtype=torch.float64)).Q
    matrix = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    return matrix, {"x": torch.randn(size, generator=stream, dtype=torch.float64)}


@pytest.mark.parametrize(
    "eigenvalues", [[1, 2, 3, 4, 5, 6], [-3, -1, 0.5, 2, 4, 7], [-1, -2, -3, -4, -5, -6], [0, 0, 1, 2, -3, 4], [2.0] * 6]
)
def test_it_is_dense_least_squares_over_the_krylov_space(eigenvalues: list[float]) -> None:
    matrix, target = system(eigenvalues)
    b, last = target["x"], float("inf")
    for steps in range(1, 8):
        found = minimal_residual(lambda v: {"x": matrix @ v["x"]}, target, steps, 0.0)
        columns = torch.stack([torch.linalg.matrix_power(matrix, j) @ b for j in range(min(steps, 6))], dim=1)
        space = torch.linalg.qr(columns / columns.norm(dim=0)).Q
        least = torch.linalg.lstsq(matrix @ space, b[:, None], driver="gelsd").solution[:, 0]
        residual = float((b - matrix @ (space @ least)).norm() / b.norm())
        true = float((b - matrix @ found.value["x"]).norm() / b.norm())
        assert true == pytest.approx(residual, abs=1e-9) and found.residual == pytest.approx(true, abs=1e-9)
        assert true <= last + 1e-12, "the residual never rises"
        last = true
    assert found.indefinite == (min(eigenvalues) <= 0)


def test_a_start_costs_a_product_and_is_no_worse() -> None:
    matrix, target = system([-3, -1, 0.5, 2, 4, 7])
    calls = []

    def product(v: Tree) -> Tree:
        calls.append(v)
        return {"x": matrix @ v["x"]}

    near = {"x": torch.linalg.solve(matrix, target["x"]) + 0.01}
    found = minimal_residual(product, target, 2, 0.0, near)
    assert len(calls) == 3
    first = float((target["x"] - matrix @ near["x"]).norm() / target["x"].norm())
    assert found.residual < first


def test_on_a_network_it_goes_on_where_conjugate_gradients_stop() -> None:
    problem = make_problem("label_noise", dataset="digits", size="mlp64", inner_steps=4, hidden=3, detach=False)
    at = checkpoint(problem, windows_before=0)
    residuals = [call("ift_minres", problem, *at, steps=steps).diagnostics["solver_residual"] for steps in (1, 3, 10, 20)]
    assert residuals == sorted(residuals, reverse=True) and residuals[-1] < 0.8 * residuals[0]
    other = call("ift_cg", problem, *at, steps=20).diagnostics
    assert other["indefinite"] == 1 and other["solver_steps"] < 20 and other["solver_residual"] > residuals[-1]


def test_carried_directions_make_one_product_a_window_as_good_as_many() -> None:
    problem = Ridge(6, inner_steps=1)
    problem.optimiser = inner_optimiser("sgd", 1e-12)
    state, meta, window = checkpoint(problem)
    outer = window.outer[-1]
    assert outer is not None
    at = expand(problem, state.params, meta, window.inner[-1], outer, 0.0)
    residuals = []
    for _ in range(7):
        found = call("ift_minres", problem, state, meta, window, steps=1, tolerance=0.0, carried=6)
        solution = found.state.memory["adjoint"]["w"]
        residuals.append(float((at.outer_w - at.hessian @ solution).norm() / at.outer_w.norm()))
        assert found.diagnostics["solver_residual"] == pytest.approx(residuals[-1], abs=1e-9)
        state = found.state
    assert all(after <= before + 1e-10 for before, after in itertools.pairwise(residuals)) and residuals[-1] < 1e-8 < residuals[2]
    # Without what is carried, one product a window stays where it was: conjugate gradients from a warm start are steepest descent.
    plain = conjugate_gradients(lambda v: {"w": at.hessian @ v["w"]}, {"w": at.outer_w}, 1, 0.0)
    assert plain.residual > residuals[2]


def test_only_so_many_directions_are_kept_and_those_of_another_model_are_refused() -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    found = call("ift_minres", problem, state, meta, window, steps=4, carried=3).state
    assert all(len(leaf) == 3 for name in ("basis", "images") for leaf in found.memory[name].values())
    kept = dict(found.memory)
    other = {name: leaf[..., :1] for name, leaf in kept["basis"].items()}
    with pytest.raises(MetabenchError, match="the memory 'basis' is of another model"):
        broken = InnerState(found.params, found.optimiser, {**kept, "basis": other})
        call("ift_minres", problem, broken, meta, window, steps=4, carried=3)
    with pytest.raises(MetabenchError, match="no 'adjoint': it is that of another method"):
        call("ift_minres", problem, InnerState(state.params, state.optimiser, {"penalised": state.params}), meta, window, carried=3)
    assert tree.count(meta)


def test_a_rotation_too_few_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted mistake: conjugate gradients in its place agree where H is positive definite, and nowhere else."""
    matrix, target = system([1, 2, 3, 4, 5, 6])
    ours = minimal_residual(lambda v: {"x": matrix @ v["x"]}, target, 6, 0.0).value
    theirs = conjugate_gradients(lambda v: {"x": matrix @ v["x"]}, target, 6, 0.0).value
    assert relative_error(ours, theirs) < 1e-9
    three = [solve(lambda v: {"x": matrix @ v["x"]}, target, 3, 0.0).value for solve in (minimal_residual, conjugate_gradients)]
    assert relative_error(*three) > 1e-3
