"""The meta kernel and its flow against what the suite's own methods do on a linear model, and against identities."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from metabench.core.errors import MetabenchError
from metabench.kernels.dense import MLP, Kernels
from metabench.kernels.flow import Flow
from metabench.kernels.meta_kernel import Episode, MetaKernel, Reptile, labels
from metabench.kernels.responses import Damped, Nothing, Response, Ridge, Steps, Time, to_supports

DIMENSIONS, FEATURES = 3, 40


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def episodes(count: int, seed: int = 0, support: int = 2, queries: int = 3, outputs: int = 2) -> list[Episode]:
    drawn = stream(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=drawn, dtype=torch.float64)

    return [
        Episode(
            normal(support, DIMENSIONS), normal(support, outputs), normal(queries, DIMENSIONS), normal(queries, outputs)
        )
        for _ in range(count)
    ]


WEIGHTS = torch.randn((DIMENSIONS, FEATURES), generator=stream(9), dtype=torch.float64)


def features(inputs: torch.Tensor) -> torch.Tensor:
    return torch.tanh(inputs @ WEIGHTS) / FEATURES**0.5


def linear(rows: torch.Tensor, columns: torch.Tensor) -> Kernels:
    """The kernel of a linear model on features, which stands for both kernels."""
    found = features(rows) @ features(columns).mT
    return Kernels(found, found)


def losses(weights: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (features(inputs) @ weights - targets).square().sum() / (2 * len(inputs))


def adapted(weights: torch.Tensor, one: Episode, steps: int, rate: float, first_order: bool) -> torch.Tensor:
    """Return the weights after gradient descent on the mean squared error of a support, by autograd."""
    start, moved = weights, weights
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(
            losses(moved, one.support, one.support_labels), moved, create_graph=not first_order
        )
        moved = moved - rate * gradient
    return start + (moved - start).detach() if first_order else moved


def trained(
    tasks: Sequence[Episode], outer_steps: int, outer_rate: float, steps: int, rate: float, first_order: bool
) -> torch.Tensor:
    """Return the weights after meta-training from zero, by autograd: gradient descent on the mean over tasks and queries."""
    weights = torch.zeros(FEATURES, 2, dtype=torch.float64, requires_grad=True)
    for _ in range(outer_steps):
        outer = sum(
            losses(adapted(weights, one, steps, rate, first_order), one.queries, one.query_labels) for one in tasks
        )
        (gradient,) = torch.autograd.grad(outer / len(tasks), weights)
        weights = (weights - outer_rate * gradient).detach().requires_grad_()
    return weights


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_meta_training_of_a_linear_model_is_the_flow_of_its_kernel(steps: int, first_order: bool) -> None:
    tasks, others, rate, outer_rate = episodes(4), episodes(2, seed=1), 0.7, 0.4
    weights = trained(tasks, 30, outer_rate, steps, rate, first_order)
    meta = MetaKernel(linear, Steps(steps, rate), Nothing() if first_order else None)
    flow = Flow(meta.between(tasks, tasks), meta.adapted(tasks) - labels(tasks))
    residual, change = flow.after_steps(30, outer_rate)

    def outputs(some: Sequence[Episode]) -> torch.Tensor:
        return torch.cat([features(one.queries) @ adapted(weights, one, steps, rate, False).detach() for one in some])

    assert flow.symmetric == (not first_order)
    assert torch.allclose(outputs(tasks) - labels(tasks), residual, atol=1e-13)
    expected = meta.adapted(others) + meta.between(others, tasks) @ change
    assert torch.allclose(outputs(others), expected, atol=1e-13)


def test_an_inner_run_for_no_time_leaves_the_tangent_kernel() -> None:
    tasks = episodes(3)
    queries = torch.cat([one.queries for one in tasks])
    kernel = MLP(2).kernels
    for response in (Time(0.0), Nothing(), Steps(0, 0.1)):
        found = MetaKernel(kernel, response).between(tasks, tasks)
        assert torch.allclose(found, kernel(queries, queries).ntk, rtol=1e-14, atol=1e-14)


def test_queries_of_the_support_are_met_after_an_infinite_time() -> None:
    tasks = [Episode(one.support, one.support_labels, one.support, one.support_labels) for one in episodes(3)]
    meta = MetaKernel(MLP(2).kernels, Time(math.inf))
    assert meta.between(tasks, tasks).abs().max() < 1e-12
    assert torch.allclose(meta.adapted(tasks), labels(tasks), atol=1e-12)


@pytest.mark.parametrize("response", [Time(math.inf), Time(3.0), Steps(5, 0.1), Ridge(0.1)])
@pytest.mark.parametrize("head", [False, True])
def test_the_kernel_of_maml_is_symmetric_and_positive(response: Response, head: bool) -> None:
    near = episodes(4)
    near[0].queries[0] = near[0].support[0] + 1e-9
    found = MetaKernel(MLP(2, "relu", 1.4, 0.1).kernels, response, head=head).between(near, near)
    values = torch.linalg.eigvalsh((found + found.mT) / 2)
    assert (found - found.mT).abs().max() < 1e-13 and values.min() > -1e-12 * values.max()


def test_in_anil_the_head_alone_adapts() -> None:
    tasks, network = episodes(2), MLP(2, "relu", 1.4, 0.1)
    found = MetaKernel(network.kernels, Time(2.0), head=True).adapted(tasks)
    one = tasks[0]
    response = Time(2.0)(network.kernels(one.support).nngp)
    expected = network.kernels(one.queries, one.support).nngp @ response @ one.support_labels
    assert torch.allclose(found[: len(one.queries)], expected, atol=1e-14)
    assert not torch.allclose(found, MetaKernel(network.kernels, Time(2.0)).adapted(tasks), atol=1e-2)


def test_many_short_steps_are_a_time_and_a_long_time_is_a_small_ridge() -> None:
    gram = MLP(1).kernels(episodes(1, support=4)[0].support).ntk
    many, time = Steps(100_000, 4 * 3e-5), Time(3.0)
    assert torch.allclose(many(gram), time(gram), atol=1e-4)
    assert torch.allclose(Time(math.inf)(gram), Ridge(1e-12)(gram), rtol=1e-9)
    assert torch.allclose(Time(1e-12)(gram), 1e-12 * torch.eye(4, dtype=torch.float64), atol=1e-15)


def test_labels_over_all_orders_of_the_classes_have_no_meta_learned_correction() -> None:
    """The flow is linear in the labels; over all permutations their centred one-hot mean vanishes."""
    one = episodes(1, support=3, queries=3, outputs=3)[0]
    onehot = torch.eye(3, dtype=torch.float64) - 1 / 3
    orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    tasks = [Episode(one.support, onehot[order], one.queries, onehot[order]) for order in orders]
    meta = MetaKernel(MLP(1, "relu", 1.4, 0.1).kernels, Time(1.0))
    other = episodes(1, seed=5, outputs=3)

    def correction(some: list[Episode]) -> float:
        _, change = Flow(meta.between(some, some), meta.adapted(some) - labels(some)).after_steps(50, 0.5)
        return float((meta.between(other, some) @ change).abs().max())

    assert correction(tasks) < 1e-13 < 1e-2 < correction(tasks[:1])


def test_a_flow_that_is_not_symmetric_may_grow_and_grows_at_its_rate() -> None:
    kernel = torch.tensor([[0.5, -1.2], [0.9, -0.3]], dtype=torch.float64)
    grows = Flow(kernel - 0.3 * torch.eye(2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64))
    assert not grows.symmetric and grows.eigenvalues().real.min() < 0
    early, late = (grows.after_steps(steps, 0.1)[0].norm() for steps in (2000, 2400))
    assert float(late / early) ** (1 / 400) == pytest.approx(grows.decay(0.1), rel=2e-3) and late > early
    with pytest.raises(MetabenchError, match="for an infinite time there is no limit: an eigenvalue"):
        grows.after(math.inf)


def test_short_steps_are_a_time_and_a_long_time_its_limit() -> None:
    tasks = episodes(3)
    meta = MetaKernel(MLP(2, "erf", 1.4, 0.1).kernels, Time(1.0))
    flow = Flow(meta.between(tasks, tasks), meta.adapted(tasks) - labels(tasks))
    for one, other in zip(flow.after_steps(200_000, 1e-4), flow.after(20.0), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)
    least = float(flow.eigenvalues().real.min())
    for one, other in zip(flow.after(40 * len(flow.kernel) / least), flow.after(math.inf), strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-8)
    assert torch.allclose(flow.after(0.0)[0], flow.residual) and not flow.after_steps(0, 1.0)[1].any()
    assert flow.decay(0.99 * flow.largest_rate()) < 1 < flow.decay(1.01 * flow.largest_rate())


def test_a_singular_kernel_is_no_special_case_for_a_finite_time() -> None:
    kernel = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    flow = Flow(kernel, torch.tensor([[1.0], [0.0]], dtype=torch.float64))
    residual, change = flow.after(1000.0)
    assert torch.allclose(residual, torch.tensor([[0.5], [-0.5]], dtype=torch.float64))
    assert torch.allclose(flow.residual + kernel @ change, residual)


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (Steps(3, 1e3), "an inner rate of 1000 diverges: the largest eigenvalue"),
        (Steps(3, -1.0), "3 steps at a rate of -1"),
        (Time(-1.0), "an inner run for a time of -1"),
        (Time(math.nan), "an inner run for a time of nan"),
        (Time(math.inf), "two of its inputs, or more, agree to the network or depend on one another; a ridge of"),
        (Ridge(0.0), "a ridge of 0: expected a number above 0"),
    ],
)
def test_an_inner_run_that_there_is_not_is_refused(response: Any, words: str) -> None:
    support = episodes(1, support=3)[0].support
    support[1] = support[0]
    with pytest.raises(MetabenchError) as error:
        response(MLP(1).kernels(support).ntk)
    assert words in str(error.value)


def repeated(differ: float) -> list[Episode]:
    """Return tasks; the third has its first input two times more, whose labels differ by so much from the first."""
    tasks = episodes(3, support=4, outputs=1)
    support, labels = tasks[2].support, tasks[2].support_labels
    support[1], support[3] = support[0], support[0]
    labels[1], labels[3] = labels[0] + differ, labels[0] - differ
    return tasks


@pytest.mark.parametrize("differ", [0.0, 1.0])
@pytest.mark.parametrize("head", [False, True])
def test_inputs_that_agree_are_named_and_the_ridge_that_is_does(differ: float, head: bool) -> None:
    tasks, kernel = repeated(differ), MLP(1, "relu", 1.4, 0.1).kernels
    of = MetaKernel(kernel, Time(math.inf), head=head)
    with pytest.raises(MetabenchError) as error:
        of.between(tasks, tasks)
    words = "the support of task 2 has no inverse: its inputs 0, 1 and 3 agree to the network, and their labels "
    assert words + ("differ" if differ else "agree") in str(error.value)
    assert ("meets the mean of their labels" in str(error.value)) == bool(differ)
    # The ridge has the outputs of the two inputs that are left, the first with the mean of its labels.
    (named,) = re.findall("a ridge of ([0-9.e-]+) would do", str(error.value))
    found = MetaKernel(kernel, Ridge(float(named)), head=head).adapted(tasks[2:])
    last = tasks[2]
    once = Episode(last.support[[0, 2]], last.support_labels[[0, 2]], last.queries, last.query_labels)
    assert torch.allclose(found, of.adapted([once]), rtol=1e-5, atol=1e-6)


def test_the_same_goes_for_reptile_and_for_many_tasks_at_once() -> None:
    tasks, kernel = repeated(1.0), MLP(1, "relu", 1.4, 0.1).kernels
    of = Reptile(kernel, Time(math.inf))
    for call in (lambda: of.flow(tasks), lambda: of.adapted(tasks, tasks[:2], torch.zeros(8, 1, dtype=torch.float64))):
        with pytest.raises(MetabenchError, match="task 2 has no inverse: its inputs 0, 1 and 3 agree"):
            call()
    grams = torch.stack([kernel(one.support, one.support).ntk for one in tasks])
    given = torch.stack([one.support_labels for one in tasks])
    with pytest.raises(MetabenchError, match="task 12 has no inverse: its inputs 0, 1 and 3 agree"):
        to_supports(Time(math.inf), grams, given, first=10)
    assert torch.equal(to_supports(Time(math.inf), grams[:2], given[:2]), Time(math.inf)(grams[:2]))
    # Three points of a line: the kernel has no inverse, and no two of them agree.
    line = torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64)
    with pytest.raises(
        MetabenchError, match="two of its inputs, or more, agree to the network or depend on one another"
    ):
        to_supports(Time(math.inf), line @ line.mT, line)


@pytest.mark.parametrize(("proximal", "damping"), [(0.0, 0.1), (1.0, -0.1)])
def test_a_damped_inverse_that_there_is_not_is_refused(proximal: float, damping: float) -> None:
    with pytest.raises(MetabenchError, match="expected a number above 0, and 0 or more"):
        Damped(proximal, damping)


def test_the_rate_that_is_named_converges() -> None:
    gram = MLP(1).kernels(episodes(1, support=3)[0].support).ntk
    largest = 2 * 3 / float(torch.linalg.eigvalsh(gram).max())
    assert Steps(5, 0.999 * largest)(gram).isfinite().all()
    with pytest.raises(MetabenchError, match="converge"):
        Steps(5, 1.001 * largest)(gram)


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(MetabenchError, match="has the eigenvalue -1, and 1 as the largest"):
        Time(1.0)(torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)))
    with pytest.raises(MetabenchError, match="needs a task or more on either side"):
        MetaKernel(linear, Time(1.0)).between([], episodes(1))
    with pytest.raises(MetabenchError, match=r"expected \[n, n\] and \[n, outputs\]"):
        Flow(torch.eye(2, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64))
    with pytest.raises(MetabenchError, match="not finite"):
        Flow(torch.eye(2, dtype=torch.float64), torch.full((2, 1), math.nan, dtype=torch.float64))
    flow = Flow(torch.eye(2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64))
    with pytest.raises(MetabenchError, match="expected 0 or more, at a rate above 0"):
        flow.after_steps(-1, 0.1)
    with pytest.raises(MetabenchError, match="a meta-training for a time of -1"):
        flow.after(-1.0)
