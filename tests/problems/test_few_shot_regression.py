"""Few-shot regression by wide networks: methods on `infinite` against the closed form, widths against `infinite`, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bilevel import make_problem

from metabench.core.errors import MetabenchError
from metabench.core.problem import Problem
from metabench.core.randomness import generator
from metabench.kernels.flow import Flow
from metabench.kernels.meta_kernel import MetaKernel, labels
from metabench.kernels.responses import Nothing
from metabench.methods import method
from metabench.models.wide import WideMLP, factor
from metabench.problems.few_shot_regression import FewShotRegression
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.predict.one_cell import predict
from metabench.suite.run.run_cell import run_cell
from metabench.training.loop import train
from metabench.training.run import Run


def made(size: str = "infinite", dataset: str = "digits", **options: Any) -> FewShotRegression:
    wanted = {"tasks": 3, "test_tasks": 2, "shots": 3, "queries": 3} | options
    found = make_problem("few_shot_regression", size=size, dataset=dataset, inner_steps=4, **wanted)
    assert isinstance(found, FewShotRegression)
    return found


def trained(on: Problem, name: str, steps: int = 50) -> dict[str, Any]:
    called = method(name)
    run = Run.fresh(on, generator(0, "training"))
    for _ in train(on, called, called.options(), run, steps):
        pass
    return dict(on.evaluate({}, run.meta))


def closed_form(on: FewShotRegression, first_order: bool, steps: int = 50) -> tuple[float, float]:
    """Return the losses of test and of training tasks after meta-training in the limit."""
    kernel = MetaKernel(on.limit.kernel, on.limit.response, Nothing() if first_order else None)
    tasks, others = on.episodes
    flow = Flow(kernel.between(tasks, tasks), kernel.adapted(tasks) - labels(tasks))
    residual, change = flow.after_steps(steps, on.outer_optimiser.learning_rate)
    away = kernel.adapted(others) + kernel.between(others, tasks) @ change - labels(others)
    return float(away.square().mean() / 2), float(residual.square().mean() / 2)


@pytest.mark.parametrize("dataset", ["digits", "analytic"])
@pytest.mark.parametrize("name", ["unrolled", "mixflow", "unrolled_remat", "forward", "first_order"])
def test_methods_on_the_limit_are_its_closed_form(name: str, dataset: str) -> None:
    on = made(dataset=dataset)
    found = trained(on, name)
    test, training = closed_form(on, name == "first_order")
    assert found["test loss"] == pytest.approx(test, abs=1e-10, rel=1e-10)
    assert found["training loss"] == pytest.approx(training, abs=1e-10, rel=1e-10)


def test_wider_networks_come_nearer_to_the_limit() -> None:
    def losses(size: str) -> list[float]:
        wanted = {"dataset": "digits", "inner_steps": 4, "tasks": 2, "test_tasks": 2, "shots": 2, "queries": 4}
        return [
            trained(make_problem("few_shot_regression", size=size, seed=seed, **wanted), "unrolled", 10)["test loss"]
            for seed in range(4)
        ]

    limits = losses("infinite")
    narrow, wide = (
        sum(abs(one - other) for one, other in zip(losses(size), limits, strict=True)) for size in ("w64", "w1024")
    )
    assert wide < 0.5 * narrow


def test_networks_begin_at_zero_and_what_is_fitted_are_the_labels() -> None:
    on = made("w64")
    (window, *_) = next(on.windows())
    meta = on.initial()
    loss = float(on.inner_loss(meta, meta, window.inner[0]))
    support = on.episodes[0][0].support_labels
    assert loss == pytest.approx(float(support.square().mean() / 2), rel=1e-12)
    assert set(support.unique().tolist()) == {-1.0, 1.0}
    assert on.evaluate({}, meta)["distance from the initial parameters"] == 0


def test_the_tangent_kernel_of_a_wide_network_is_that_of_the_limit() -> None:
    on = made("w16384", tasks=1, test_tasks=1)
    points = on.episodes[0][0].support
    network = on._network
    assert isinstance(network, WideMLP)
    params = on.initial()
    jacobian = torch.func.jacrev(network)(params, points)
    rows = torch.cat([leaf.flatten(1) for leaf in jacobian.values()], 1)
    exact = on.limit.kernel(points, points).ntk
    assert (rows @ rows.mT - exact).norm() < 0.05 * exact.norm()


def test_a_factor_has_the_kernel_of_its_points_and_as_many_columns_whatever_its_rank() -> None:
    x = torch.randn((6, 2), generator=generator(0, "x"), dtype=torch.float64)
    found = factor(x @ x.mT)
    assert found.shape == (6, 6) and torch.allclose(found @ found.mT, x @ x.mT, atol=1e-12)


@pytest.mark.parametrize("size", ["w64", "infinite"])
def test_a_cell_is_predicted_as_it_is_measured(size: str) -> None:
    suite = {
        "name": "x",
        "seeds": [0],
        "aa": False,
        "measure": {"time_repeats": 1, "time_budget": 0.001, "checkpoint": 1},
        "experiments": {
            "a": {"problem": "few_shot_regression", "kind": "cost", "sizes": [size], "methods": ["unrolled"]}
        },
    }
    (cell,) = plan(load_suite(suite)).cells
    (row,) = run_cell(cell, lambda *told: None)
    assert predict(cell).peak_bytes == pytest.approx(row["peak_bytes"], rel=0.02)


def test_a_method_without_the_start_is_refused_and_one_that_regresses_on_supports_is_not() -> None:
    suite = {
        "name": "x",
        "seeds": [0],
        "aa": False,
        "rounds": 0,
        "measure": {"time_repeats": 1, "time_budget": 0.001, "error_windows": 0, "checkpoint": 0},
        "experiments": {
            "a": {
                "problem": "few_shot_regression",
                "sizes": ["infinite"],
                "outer_steps": 2,
                "options": {"outer_learning_rate": 0.001},
                "methods": ["ift_cg", "reptile"],
            }
        },
    }
    statuses = [row["status"] for cell in plan(load_suite(suite)).cells for row in run_cell(cell, lambda *told: None)]
    assert statuses == ["unsupported", "ok"]


def test_too_few_images_are_refused() -> None:
    with pytest.raises(MetabenchError, match="a task has two classes with 3000 images each, and of 10 classes one has"):
        made(shots=2000, queries=1000)
