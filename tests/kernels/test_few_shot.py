"""Meta Neural Kernels on tasks that share images: against the meta kernel task by task, against explicit solves, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch

from metabench.core.errors import MetabenchError
from metabench.kernels.dense import MLP, Kernels
from metabench.kernels.few_shot import Adaptation, Grams, Tasks, learned, meta_neural_kernel, within_gram
from metabench.kernels.flow import Flow
from metabench.kernels.gram import Gram
from metabench.kernels.meta_kernel import MetaKernel, labels
from metabench.kernels.responses import Steps, Time

NETWORK = MLP(1, "relu", 1.4, 0.1)
GRAM = Gram(NETWORK.kernels, repr(NETWORK))


def tasks(count: int = 4, seed: int = 0, images: int = 9, n: int = 2, m: int = 3, outputs: int = 2) -> Tasks:
    """Tasks whose images differ within a task and are shared between tasks."""
    stream = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randperm(images, generator=stream)[: n + m] for _ in range(count)])

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=stream, dtype=torch.float64)

    return Tasks(normal(images, 5), rows[:, :n], rows[:, n:], normal(count, n, outputs), normal(count, m, outputs))


def flow_of(kernel: MetaKernel, train: Tasks) -> Flow:
    episodes = train.episodes()
    return Flow(kernel.between(episodes, episodes), kernel.adapted(episodes) - labels(episodes))


@pytest.mark.parametrize("time", [0.0, 3.0, 300.0])
def test_they_are_the_flow_of_the_meta_kernel_computed_task_by_task(time: float) -> None:
    train, test = tasks(), tasks(3, seed=1, n=3, m=2)
    kernel = MetaKernel(NETWORK.kernels, Time(2.0))
    _, change = flow_of(kernel, train).after(time)
    rest = test.episodes()
    expected = kernel.adapted(rest) + kernel.between(rest, train.episodes()) @ change
    found = meta_neural_kernel(Grams.of(GRAM, train, test), train, test, 2.0, time)
    assert found.shape == (3, 2, 2)
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=0, atol=1e-11)


def test_steps_of_meta_training_are_those_of_the_flow() -> None:
    train, test, inner = tasks(), tasks(3, seed=1), Steps(4, 0.2)
    kernel = MetaKernel(NETWORK.kernels, inner)
    flow = flow_of(kernel, train)
    rate = 0.4 * flow.largest_rate()
    _, change = flow.after_steps(20, rate)
    rest = test.episodes()
    expected = kernel.adapted(rest) + kernel.between(rest, train.episodes()) @ change
    given = Grams.of(GRAM, train, test)
    adaptation = Adaptation.of(train, within_gram(given.trained, train).ntk, inner)
    alpha = learned(adaptation, given.trained.ntk, Steps(20, rate))
    found = Adaptation.of(test, given.tested.ntk, inner).outputs(given.across.ntk @ alpha)
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=0, atol=1e-11)


def test_infinite_times_with_a_ridge_are_two_explicit_solves() -> None:
    train, test, ridge = tasks(), tasks(2, seed=1), 1e-3
    given = Grams.of(GRAM, train, test)
    scale = ridge * float(given.trained.ntk.diagonal().mean())

    def theta(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return NETWORK.kernels(rows, columns).ntk

    def solved(one: Any) -> torch.Tensor:
        inner = theta(one.support, one.support) + scale * torch.eye(len(one.support), dtype=torch.float64)
        return torch.linalg.solve(inner, theta(one.queries, one.support), left=False)

    def phi(one: Any, other: Any) -> torch.Tensor:
        a, b = solved(one), solved(other)
        between = theta(one.queries, other.queries) - theta(one.queries, other.support) @ b.mT
        return between - a @ (theta(one.support, other.queries) - theta(one.support, other.support) @ b.mT)

    ours, rest = train.episodes(), test.episodes()
    whole = torch.cat([torch.cat([phi(one, other) for other in ours], 1) for one in ours])
    away = torch.cat([one.query_labels - solved(one) @ one.support_labels for one in ours])
    change = torch.linalg.solve(whole + scale * torch.eye(len(whole), dtype=torch.float64), away)
    expected = [
        solved(one) @ one.support_labels + torch.cat([phi(one, other) for other in ours], 1) @ change for one in rest
    ]
    found = meta_neural_kernel(given, train, test, math.inf, math.inf, ridge)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-9)


def test_without_meta_training_they_are_kernel_regression_on_the_support() -> None:
    train, test = tasks(), tasks(2, seed=1)
    found = meta_neural_kernel(Grams.of(GRAM, train, test), train, test, math.inf, 0.0)
    for one, outputs in zip(test.episodes(), found, strict=True):
        expected = torch.linalg.solve(NETWORK.kernels(one.support).ntk, one.support_labels)
        torch.testing.assert_close(
            outputs, NETWORK.kernels(one.queries, one.support).ntk @ expected, rtol=0, atol=1e-12
        )


def test_after_an_infinite_time_the_queries_trained_on_are_met() -> None:
    train = tasks(3, images=20)
    found = meta_neural_kernel(Grams.of(GRAM, train, train), train, train, 1.0, math.inf)
    torch.testing.assert_close(found, train.query_labels, rtol=0, atol=1e-8)


def test_labels_over_all_orders_of_the_classes_have_no_meta_learned_correction_and_one_order_has() -> None:
    centred = torch.eye(3, dtype=torch.float64) - 1 / 3
    one = tasks(2, n=3, m=3, outputs=3)
    orders = torch.stack([centred[list(order)] for order in itertools.permutations(range(3))])
    rows = (part.repeat_interleave(6, 0) for part in (one.support, one.queries))
    every = Tasks(one.images, *rows, orders.repeat(2, 1, 1), orders.repeat(2, 1, 1))
    single = dataclasses.replace(one, support_labels=centred.expand(2, -1, -1), query_labels=centred.expand(2, -1, -1))

    def correction(some: Tasks) -> float:
        given = Grams.of(GRAM, some, tasks(2, seed=1))
        adaptation = Adaptation.of(some, within_gram(given.trained, some).ntk, Time(1.0))
        return float((given.across.ntk @ learned(adaptation, given.trained.ntk, Time(50.0))).abs().max())

    assert correction(every) < 1e-12 and correction(single) > 1e-2


def test_every_pair_of_images_is_computed_once_however_many_tasks_share_them() -> None:
    train, test = tasks(30), tasks(20, seed=1)
    pairs = []

    def counted(rows: torch.Tensor, columns: torch.Tensor) -> Kernels:
        pairs.append(len(rows) * len(columns))
        return NETWORK.kernels(rows, columns)

    given = Grams.of(Gram(counted, ""), train, test)
    assert sum(pairs) == 9 * 9 + 9 * 9 + 20 * 5 * 2
    before = len(pairs)
    meta_neural_kernel(given, train, test, math.inf, math.inf, 1e-3)
    assert len(pairs) == before


def test_images_may_have_channels_where_the_kernel_takes_them() -> None:
    train, test = tasks(), tasks(2, seed=1)

    def shaped(rows: torch.Tensor, columns: torch.Tensor) -> Kernels:
        assert rows.dim() == columns.dim() == 4
        return NETWORK.kernels(rows.flatten(1), columns.flatten(1))

    sides = [dataclasses.replace(one, images=one.images[:, None, None]) for one in (train, test)]
    found, expected = Grams.of(Gram(shaped, ""), *sides), Grams.of(GRAM, train, test)
    assert all(torch.equal(one.ntk, getattr(expected, name).ntk) for name, one in vars(found).items())


def test_kernels_within_tasks_are_parts_of_those_of_the_whole_table() -> None:
    some = tasks()
    given = Grams.of(GRAM, some, some, across=False)
    found = within_gram(given.trained, some)
    torch.testing.assert_close(found.ntk, given.tested.ntk, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.nngp, given.tested.nngp, rtol=1e-13, atol=1e-13)
    assert given.across is None


@pytest.mark.parametrize(
    ("tau", "time", "ridge", "words"),
    [
        (1.0, -1.0, 0.0, "a meta-training for a time of -1: expected 0 or more"),
        (-1.0, 1.0, 0.0, "an inner run for a time of -1: expected 0 or more"),
        (1.0, math.nan, 0.0, "a meta-training for a time of nan"),
        (1.0, 1.0, -1e-5, "a ridge of -1e-05: expected 0 or more"),
        (1.0, math.inf, 0.0, "the meta kernel of 2 tasks has no inverse: two of their queries, or more, adapt alike"),
    ],
)
def test_times_and_ridges_that_there_are_not_are_refused(tau: float, time: float, ridge: float, words: str) -> None:
    twice = tasks(1)
    parts = (twice.support, twice.queries, twice.support_labels, twice.query_labels)
    train = Tasks(twice.images, *(torch.cat([part, part]) for part in parts))
    given = Grams.of(GRAM, train, train)
    with pytest.raises(MetabenchError) as error:
        meta_neural_kernel(given, train, train, tau, time, ridge)
    assert words in str(error.value)


def test_two_equal_images_in_a_support_need_a_ridge_for_an_infinite_time() -> None:
    some = tasks()
    some.images[some.support[0, 1]] = some.images[some.support[0, 0]]
    given = Grams.of(GRAM, some, some)
    words = "support of task 0 has no inverse: its inputs 0 and 1 agree to the network, and their labels differ"
    with pytest.raises(MetabenchError, match=words):
        meta_neural_kernel(given, some, some, math.inf, 0.0)
    assert meta_neural_kernel(given, some, some, math.inf, 0.0, 1e-6).isfinite().all()


def test_tasks_whose_shapes_do_not_match_are_refused() -> None:
    some = tasks()
    with pytest.raises(MetabenchError, match="queries name image 9, and there are 9"):
        dataclasses.replace(some, queries=torch.full_like(some.queries, 9))
    with pytest.raises(MetabenchError, match=r"support of shape \(4, 2\) with labels of shape \(4, 3, 2\)"):
        dataclasses.replace(some, support_labels=some.query_labels)
    with pytest.raises(MetabenchError, match=r"queries of shape \(3, 3\) with"):
        dataclasses.replace(some, queries=some.queries[:3], query_labels=some.query_labels[:3])
