"""Implicit methods equal the closed form at a minimum, the dense solve anywhere, and their own series term by term.

With warm starts they reach the solution over windows; their memory is flat in inner steps and in solver steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from bilevel import OPTIMISERS, assert_derivative, call, checkpoint, make_problem, relative_error
from small_problems import Beginning, Ridge

from metabench.autodiff.exact import exact_target
from metabench.autodiff.optimisers import inner_optimiser
from metabench.core import Batch, Curvature, Diverged, InnerState, MetaRole, Target, Tree, Window, tree
from metabench.core.method import NoOptions
from metabench.measure.memory.meter import measure_memory
from metabench.methods import method

SCALES = [1e-8, 1e-3, 1.0, 50.0, 1e8]


def at_minimum(penalty: float, optimiser: str):  # type: ignore[no-untyped-def]
    """Return the toy at its inner minimum x = 1/(1 + l), where SGD stays, with momentum or without."""
    problem = make_problem("toy_1d", inner_steps=2, optimiser=optimiser)
    params = {"x": torch.tensor(1 / (1 + penalty), dtype=torch.float64)}
    state = InnerState(params, problem.optimiser.init(params))
    return problem, state, {"l": torch.tensor(penalty, dtype=torch.float64)}, next(problem.windows())[0]


def ridge(features: int = 5, scale: float = 1.0, inner_steps: int = 2):  # type: ignore[no-untyped-def]
    """Return a ridge problem, (state, meta, window), and the parameters after the window, which are no minimum."""
    problem = Ridge(features, inner_steps, scale)
    at = checkpoint(problem, windows_before=0)
    return problem, at, call("none", problem, *at).state.params


# Adam and RMSprop do not stay at a minimum: they divide a gradient of 1e-16, which is rounding, by its own size.
@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "nesterov"])
@pytest.mark.parametrize("penalty", [0.1, 0.7, 1.5, 4.0])
def test_at_the_toys_minimum_cg_gives_the_closed_form(penalty: float, optimiser: str) -> None:
    problem, state, meta, window = at_minimum(penalty, optimiser)
    for steps in (1, 2, 30):
        found = call("ift_cg", problem, state, meta, window, steps=steps)
        assert float(found.meta["l"]) == pytest.approx((penalty - 1) / (penalty + 1) ** 3, rel=1e-12)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_on_the_toy_cg_gives_the_implicit_formula_wherever_the_inner_run_ends(optimiser: str, rate: float) -> None:
    problem = make_problem("toy_1d", inner_steps=4, optimiser=optimiser, learning_rate=rate)
    at = checkpoint(problem)
    found = call("ift_cg", problem, *at, steps=1)
    x, penalty = float(found.state.params["x"]), float(at[1]["l"])
    assert float(found.meta["l"]) == pytest.approx(-2 * x * 2 * (x - 0.5) / (2 * (1 + penalty)), rel=1e-12)


def test_at_the_toys_best_penalty_the_implicit_hypergradient_is_zero() -> None:
    problem, state, meta, window = at_minimum(1.0, "sgd")
    assert float(call("ift_cg", problem, state, meta, window).meta["l"]) == pytest.approx(0.0, abs=1e-15)
    assert float(call("ift_neumann", problem, state, meta, window).meta["l"]) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("features", [1, 2, 5])
def test_cg_equals_the_dense_solve_in_as_many_steps_as_parameters_at_any_scale(features: int, scale: float) -> None:
    problem, at, params = ridge(features, scale)
    exact = problem.implicit(params, at[1])
    for steps in (features, features + 1, 10 * features):
        found = call("ift_cg", problem, *at, steps=steps, tolerance=0.0)
        assert relative_error(found.meta, exact) <= 1e-11
        assert found.diagnostics["indefinite"] == 0


def test_cg_with_fewer_steps_than_parameters_is_not_exact() -> None:
    problem, at, params = ridge(5)
    errors = [
        relative_error(call("ift_cg", problem, *at, steps=n).meta, problem.implicit(params, at[1])) for n in (1, 3, 5)
    ]
    assert errors[0] > 1e-3 > 1e-11 > errors[2]


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
def test_cg_stops_at_its_tolerance(tolerance: float) -> None:
    problem, at, _ = ridge(5)
    found = call("ift_cg", problem, *at, steps=100, tolerance=tolerance)
    steps = int(found.diagnostics["solver_steps"])
    assert found.diagnostics["solver_residual"] <= tolerance
    assert steps <= 5
    shorter = call("ift_cg", problem, *at, steps=steps - 1, tolerance=0.0) if steps > 1 else None
    assert shorter is None or shorter.diagnostics["solver_residual"] > tolerance


@pytest.mark.parametrize("damping", [0.01, 1.0, 100.0])
def test_damping_is_added_to_the_hessians_diagonal(damping: float) -> None:
    problem, at, params = ridge(4)
    found = call("ift_cg", problem, *at, steps=4, damping=damping)
    assert relative_error(found.meta, problem.implicit(params, at[1], damping)) <= 1e-11


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize("features", [1, 5])
def test_neumann_equals_its_truncated_series_formed_densely(features: int, steps: int, scale: float) -> None:
    problem, at, params = ridge(features, scale)
    alpha = 0.3 / scale
    contraction = torch.eye(features, dtype=torch.float64) - alpha * problem.hessian(at[1])
    powers = sum(torch.linalg.matrix_power(contraction, j) for j in range(steps + 1))
    solution = alpha * powers @ problem.outer_slope(params)
    found = call("ift_neumann", problem, *at, steps=steps, scale=alpha)
    assert relative_error(found.meta, {"log_penalty": -problem.mixed(params, at[1]) * solution}) <= 1e-12


def test_neumann_tends_to_the_exact_implicit_hypergradient_at_the_spectral_rate() -> None:
    problem, at, params = ridge(5)
    alpha = 0.3
    exact = problem.implicit(params, at[1])
    rate = float((1 - alpha * torch.linalg.eigvalsh(problem.hessian(at[1]))).abs().max())
    assert 0 < rate < 1
    errors = [relative_error(call("ift_neumann", problem, *at, steps=n, scale=alpha).meta, exact) for n in (40, 50)]
    assert errors[1] / errors[0] == pytest.approx(rate**10, rel=1e-3)
    assert relative_error(call("ift_neumann", problem, *at, steps=400, scale=alpha).meta, exact) <= 1e-12


def test_a_neumann_series_that_diverges_without_bound_says_so() -> None:
    problem, at, _ = ridge(5)
    assert call("ift_neumann", problem, *at, steps=20, scale=5.0).diagnostics["solver_residual"] > 1
    with pytest.raises(Diverged, match=r"scale 5\.0"):
        call("ift_neumann", problem, *at, steps=3000, scale=5.0)


def test_the_dense_yardstick_is_the_closed_form() -> None:
    problem, at, params = ridge(5)
    found = exact_target(Target.IMPLICIT, problem, *at, NoOptions())
    assert found is not None
    assert relative_error(found, problem.implicit(params, at[1])) <= 1e-12


def test_the_implicit_hypergradient_is_the_derivative_of_the_outer_loss_at_the_minimum() -> None:
    problem, (_, meta, window), _ = ridge(5)
    best = problem.minimum(meta)
    found = call("ift_cg", problem, InnerState(best, {}), meta, window, steps=5, tolerance=0.0).meta

    def value(at: Tree) -> float:
        return float(problem.outer_loss(problem.minimum(at), at, {}))

    assert_derivative(found, value, meta)


def test_on_regularisation_cg_equals_the_dense_solve() -> None:
    problem = make_problem("regularisation", inner_steps=3, start=-2.0)
    at = checkpoint(problem)
    exact = exact_target(Target.IMPLICIT, problem, *at, NoOptions())
    assert exact is not None
    errors = [relative_error(call("ift_cg", problem, *at, steps=n, tolerance=1e-13).meta, exact) for n in (5, 100)]
    assert errors[1] <= 1e-9 < errors[0]


def test_an_indefinite_hessian_is_reported() -> None:
    problem, state, _, window = at_minimum(0.5, "sgd")
    concave = {"l": torch.tensor(-3.0, dtype=torch.float64)}
    found = call("ift_cg", problem, state, concave, window)
    assert found.diagnostics["indefinite"] == 1
    assert tree.all_finite(found.meta)


@pytest.mark.parametrize("name", ["ift_cg", "ift_neumann", "ift_fixed_point"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 50.0])
@pytest.mark.parametrize("features", [1, 5])
def test_at_its_declared_limit_a_solver_reaches_the_exact_implicit_hypergradient(
    features: int, scale: float, name: str
) -> None:
    problem, at, params = ridge(features, scale)
    values = torch.linalg.eigvalsh(problem.hessian(at[1]))
    declared = method(name).limit
    assert declared is not None
    for options in declared.option_sets(Curvature(features, float(values[0]), float(values[-1]))):
        found = call(name, problem, *at, **options)
        assert relative_error(found.meta, problem.implicit(params, at[1])) <= declared.tolerance


def test_the_unrolled_hypergradient_tends_to_the_implicit_one_as_the_run_grows() -> None:
    errors = []
    for steps in (10, 40, 160):
        problem = Ridge(4, inner_steps=steps, learning_rate=0.3)
        at = checkpoint(problem, windows_before=0)
        exact = problem.implicit(problem.minimum(at[1]), at[1])
        unrolled, implicit = call("unrolled", problem, *at), call("ift_cg", problem, *at, steps=4, tolerance=0.0)
        errors.append((relative_error(unrolled.meta, exact), relative_error(implicit.meta, exact)))
    assert errors[0][0] > 10 * errors[1][0] > 1000 * errors[2][0]
    # At the same w_K the implicit hypergradient is nearer: it has not to wait for the derivative of the run.
    assert all(implicit < unrolled for unrolled, implicit in errors[:2])


WARM: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ift_cg", {"steps": 1}),
    ("ift_neumann", {"steps": 2, "scale": 0.3}),
    ("ift_fixed_point", {"steps": 2}),
)


@pytest.mark.parametrize(("name", "options"), WARM, ids=str)
@pytest.mark.parametrize("optimiser", ["sgd", "momentum"])
def test_with_warm_starts_a_carried_run_reaches_the_solution_by_a_few_steps_a_window(
    optimiser: str, name: str, options: dict[str, Any]
) -> None:
    problem = Ridge(5, inner_steps=3)
    problem.optimiser = inner_optimiser(optimiser, 0.1)
    errors = {}
    for warm in (False, True):
        state, meta = problem.initial_state()
        for _, (window,) in zip(range(150), problem.windows(), strict=False):
            found = call(name, problem, state, meta, window, warm_start=warm, **options)
            state = found.state
        errors[warm] = relative_error(found.meta, problem.implicit(problem.minimum(meta), meta))
        assert set(state.memory) == ({"adjoint"} if warm else set())
    assert errors[True] <= 1e-6 < 1e-2 < errors[False]


@pytest.mark.parametrize(("name", "options"), WARM, ids=str)
def test_a_warm_start_changes_neither_the_first_window_nor_the_inner_run(name: str, options: dict[str, Any]) -> None:
    problem, at, _ = ridge(5)
    cold, warm = (call(name, problem, *at, warm_start=warm, **options) for warm in (False, True))
    assert relative_error(warm.meta, cold.meta) == 0
    assert relative_error(warm.state.params, cold.state.params) == 0
    assert not any(leaf.requires_grad for leaf in warm.state.memory["adjoint"].values())


def test_a_converged_warm_start_of_cg_takes_no_step() -> None:
    problem, (_, meta, window), _ = ridge(5)
    best = problem.minimum(meta)
    first = call("ift_cg", problem, InnerState(best, {}), meta, window, warm_start=True, steps=50)
    second = call("ift_cg", problem, first.state, meta, window, warm_start=True, steps=50, tolerance=1e-9)
    assert first.diagnostics["solver_steps"] > 0
    assert second.diagnostics["solver_steps"] == 0
    assert relative_error(second.meta, first.meta) <= 1e-9


@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_damping_in_the_neumann_series_is_added_to_the_hessians_diagonal(damping: float) -> None:
    problem, at, params = ridge(4)
    found = call("ift_neumann", problem, *at, steps=1000, scale=0.2, damping=damping)
    assert relative_error(found.meta, problem.implicit(params, at[1], damping)) <= 1e-11


def test_the_neumann_series_stops_at_its_tolerance_and_says_whether_its_terms_shrink() -> None:
    problem, at, _ = ridge(5)
    found = call("ift_neumann", problem, *at, steps=1000, scale=0.3, tolerance=1e-6)
    assert 1e-9 < found.diagnostics["solver_residual"] <= 1e-6
    assert found.diagnostics["solver_steps"] < 200
    assert found.diagnostics["contracting"] == 1
    assert call("ift_neumann", problem, *at, steps=20, scale=5.0).diagnostics["contracting"] == 0


@pytest.mark.parametrize("name", ["ift_cg", "ift_neumann", "ift_nystrom", "ift_fixed_point"])
def test_products_that_are_not_finite_are_no_answer(name: str) -> None:
    class Kink(Ridge):
        """A loss with finite slopes and an infinite second derivative at zero."""

        def inner_loss(self, params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
            return (meta["log_penalty"].exp() * (params["w"].square() + 1e-320) ** 0.75).sum()

    problem = Kink(3)
    still = InnerState({"w": torch.zeros(3, dtype=torch.float64)}, {})
    _, meta, window = checkpoint(problem, windows_before=0)
    with pytest.raises(Diverged, match="not finite"):
        call(name, problem, still, meta, window)


MEMORY: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("ift_cg", {"steps": 5, "tolerance": 0.0}, {"steps": 40, "tolerance": 0.0}),
    ("ift_neumann", {"steps": 5, "scale": 1e-3}, {"steps": 80, "scale": 1e-3}),
    ("ift_fixed_point", {"steps": 5, "tolerance": 0.0}, {"steps": 80, "tolerance": 0.0}),
)


def peak(name: str, inner_steps: int, optimiser: str, options: dict[str, Any]) -> int:
    problem = Ridge(2000, inner_steps)
    problem.optimiser = inner_optimiser(optimiser, 1e-4)
    at = checkpoint(problem, windows_before=1)
    arguments = (at[0].params, at[0].optimiser, at[1], problem.x, problem.z)

    def run() -> Any:
        return call(name, problem, *at, **options)

    run()
    return measure_memory(run, arguments, "cpu")[1].dynamic_bytes


@pytest.mark.parametrize(("name", "few", "many"), MEMORY, ids=lambda part: part if isinstance(part, str) else "")
@pytest.mark.parametrize("optimiser", ["sgd", "momentum"])
def test_memory_is_flat_in_inner_steps_and_in_solver_steps(
    optimiser: str, name: str, few: dict[str, Any], many: dict[str, Any]
) -> None:
    first = peak(name, 3, optimiser, few)
    assert peak(name, 3, optimiser, many) == first
    assert peak(name, 30, optimiser, few) == first


class ProximalMean(Beginning):
    """Implicit MAML of a mean: f = |w - y|^2 / 2 + strength |w - l|^2 / 2 from w_0 = l, F = |w - z|^2 / 2. Rajeswaran et al. 2019."""

    card = Ridge.card
    roles = frozenset({MetaRole.START, MetaRole.INNER_LOSS})
    outer_optimiser = Ridge.outer_optimiser
    batch = 0
    restarts = True
    strength = 0.5

    def __init__(self, inner_steps: int = 4) -> None:
        super().__init__(Ridge(inner_steps=inner_steps).setting)
        self.optimiser = inner_optimiser("sgd", 0.3)

    def beginning(self) -> tuple[Tree, Tree]:
        return {"w": torch.zeros(3, dtype=torch.float64)}, {"l": torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)}

    def start(self, params: Tree, meta: Tree) -> Tree:
        return {"w": meta["l"]}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        pull = (params["w"] - meta["l"]).square().sum()
        return ((params["w"] - batch["y"]).square().sum() + self.strength * pull) / 2

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return (params["w"] - batch["z"]).square().sum() / 2

    def windows(self) -> Iterator[Sequence[Window]]:
        y, z = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
        for begins in self.begins():
            yield [Window.ending_in(({"y": y},) * self.setting.inner_steps, {"z": z}, begins)]

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        return {}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ift_cg", {"steps": 3, "tolerance": 0.0}),
        ("ift_neumann", {"steps": 400, "scale": 0.5, "tolerance": 0.0}),
        ("ift_nystrom", {"rank": 3, "rho": 1e-9}),
        ("ift_fixed_point", {"steps": 400, "tolerance": 0.0}),
    ],
)
def test_implicit_maml_is_answered_and_its_start_has_no_share(name: str, options: dict[str, Any]) -> None:
    problem = ProximalMean()
    state, meta = problem.initial_state()
    window = next(problem.windows())[0]
    found = call(name, problem, state, meta, window, **options)
    slope = found.state.params["w"] - window.outer[-1]["z"]  # type: ignore[index]
    expected = problem.strength / (1 + problem.strength) * slope
    assert relative_error(found.meta, {"l": expected}) <= 1e-7


def test_in_the_limit_of_long_runs_implicit_maml_is_what_unrolling_gives() -> None:
    problem = ProximalMean(inner_steps=200)
    state, meta = problem.initial_state()
    window = next(problem.windows())[0]
    found = call("ift_cg", problem, state, meta, window, steps=3, tolerance=0.0)
    assert relative_error(found.meta, call("unrolled", problem, state, meta, window).meta) <= 1e-12
