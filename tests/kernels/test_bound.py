"""The generalisation bound: its terms by hand, its steps by sampling, against the test errors of families of tasks, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch

from metabench.core.errors import MetabenchError
from metabench.kernels.bound import Levels, bound, complexity, measured, ranks, share
from metabench.kernels.dense import MLP
from metabench.kernels.families import Sinusoids, families
from metabench.kernels.flow import Flow
from metabench.kernels.meta_kernel import Episode, MetaKernel, labels
from metabench.kernels.responses import NeumannSeries, Nothing, Response, Time

MAML = MetaKernel(MLP(1, "relu", 2**0.5, 0.5).kernels, Time(1.0))


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "of",
    [
        MAML,
        MetaKernel(MAML.kernel, Time(1.0), Nothing()),
        MetaKernel(MAML.kernel, Time(1.0), NeumannSeries(2, 0.1, 1.0)),
        MetaKernel(MAML.kernel, Time(1.0), head=True),
    ],
)
def test_tasks_at_once_are_as_block_by_block(of: MetaKernel) -> None:
    tasks = Sinusoids(0.5, 0.1, shots=2, queries=3).draw(3, stream(0)) + Sinusoids(1.0, shots=4, queries=1).draw(
        2, stream(1)
    )
    found, estimated = of.joint(tasks), of.estimated or of.response

    def theta(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return of.kernel(rows, columns).ntk

    def answer(one: Episode, response: Response) -> torch.Tensor:
        inner, outer = of.kernel(one.support, one.support), of.kernel(one.queries, one.support)
        return outer.nngp @ response(inner.nngp) if of.head else outer.ntk @ response(inner.ntk)

    for i, one in enumerate(tasks):
        a = answer(one, of.response)
        assert torch.allclose(found.adapted[found.task == i], a @ one.support_labels, rtol=0, atol=1e-13)
        for j, other in enumerate(tasks):
            # (J - A J')(kept J - B J')'.
            direct = theta(one.queries, other.queries) - a @ theta(one.support, other.queries)
            back = theta(one.queries, other.support) - a @ theta(one.support, other.support)
            block = estimated.kept * direct - back @ answer(other, estimated).mT
            assert torch.allclose(found.phi[found.task == i][:, found.task == j], block, rtol=0, atol=1e-13)
            assert torch.allclose(of.between([one], [other]), block, rtol=0, atol=1e-13)
    assert torch.equal(found.phi, of.between(tasks, tasks)) and torch.equal(found.adapted, of.adapted(tasks))
    assert torch.equal(found.labels, labels(tasks)) and found.task.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4]
    queries = torch.cat([one.queries for one in tasks])
    assert torch.allclose(found.tangent, of.kernel(queries, queries).ntk, atol=1e-13)


def test_queries_that_adapt_alike_are_named_where_the_time_is_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(self: Sinusoids, count: int, stream: torch.Generator) -> list[Episode]:
        drawn = draw(self, count, stream)
        # The first query of the second task again, as its third.
        if count == 3:
            drawn[1].queries[2] = drawn[1].queries[0]
        return drawn

    draw = Sinusoids.draw
    monkeypatch.setattr(Sinusoids, "draw", twice)
    given = {"families": [Sinusoids(0.5)], "counts": [3], "test_tasks": 2}
    with pytest.raises(MetabenchError, match=r"no limit: .*; query 0 of task 1 and query 2 of task 1 adapt alike"):
        measured(MAML, **given)  # type: ignore[arg-type]
    assert measured(MAML, time=5.0, **{**given, "counts": [2]})  # type: ignore[arg-type]


def test_the_terms_are_those_of_the_derivation() -> None:
    kernel = torch.diag(torch.tensor([4.0, 1.0, 9.0, 4.0], dtype=torch.float64))
    flow = Flow(kernel, torch.tensor([[2.0], [0.0], [3.0], [-4.0]], dtype=torch.float64))
    change = torch.tensor([[-0.25], [0.0], [0.0], [0.5]], dtype=torch.float64)
    # Residuals 1, 0, 3, -2, clipped at 2.5: losses .5 and 2.25; B^2 = .25 + 1.
    found = bound(flow, change, torch.tensor([0, 0, 1, 1]), clip=2.5, delta=0.1, levels=Levels(0.5, 2.0))
    assert found.training_loss == pytest.approx((0.5 + 2.25) / 2)
    assert found.norm == pytest.approx(1.25**0.5)
    level, delta = 2.0, 0.1 / 12  # the third of .5, 1, 2
    assert found.capacity == pytest.approx(2 * 2**0.5 * level * 18**0.5 / (2 * 2**0.5))
    assert found.confidence == pytest.approx(3 * 2.5 * math.sqrt(math.log(2 / delta) / 4))
    fixed = 2 * 2**0.5 * 1.25**0.5 * 18**0.5 / (2 * 2**0.5) + 3 * 2.5 * math.sqrt(math.log(20) / 4)
    assert found.union == pytest.approx(found.capacity + found.confidence - fixed) and found.union > 0
    assert found.total == pytest.approx(found.training_loss + found.capacity + found.confidence)
    assert found.vacuous and complexity(flow, 2) == pytest.approx(math.sqrt((1 + 0 + 1 + 4) / 2))


def test_tasks_with_other_numbers_of_queries_count_alike() -> None:
    kernel = torch.diag(torch.tensor([4.0, 1.0, 9.0], dtype=torch.float64))
    flow = Flow(kernel, torch.tensor([[0.3], [0.0], [0.1]], dtype=torch.float64))
    found = bound(flow, torch.zeros(3, 1, dtype=torch.float64), torch.tensor([0, 0, 1]))
    assert found.training_loss == pytest.approx((0.15 + 0.1) / 2)
    assert found.capacity == pytest.approx(2 * 2**0.5 * math.sqrt(5 / 2 + 9) / 2)


def test_several_outputs_have_a_function_each() -> None:
    kernel = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
    flow = Flow(kernel, torch.tensor([[0.3, 0.4], [0.0, 0.0]], dtype=torch.float64))
    found = bound(flow, torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 1]))
    assert found.training_loss == pytest.approx(0.25) and found.capacity == pytest.approx(
        2 * 2**0.5 * math.sqrt(10) / 2
    )


def test_every_norm_has_a_level_and_the_levels_share_delta() -> None:
    levels = Levels(1.0, 1.25)
    for norm in (0.0, 1e-9, 1.0, 1.25, 1.25**7, 1.25**7 + 1e-12, 1e9):
        j, level = levels.above(norm)
        assert norm <= level == 1.25**j and (j == 0 or level < 1.25 * norm * (1 + 1e-12))
    # Just above a level the logarithm rounds to the one below.
    for j in range(100):
        norm = math.nextafter(1.25**j, math.inf)
        assert norm <= levels.above(norm)[1]
    assert 0.999 < sum(share(j) for j in range(2000)) < 1


def test_random_signs_gain_no_more_than_the_capacity() -> None:
    """The worst case: a task's queries agree, so that its loss moves with all of them. Suprema over the ball by ascent, for all signs."""
    n = 8
    drawn = Sinusoids(0.5, 0.1, queries=1).draw(4, stream(3))
    tasks = [
        dataclasses.replace(one, queries=one.queries.repeat(n, 1), query_labels=one.query_labels.repeat(n, 1))
        for one in drawn
    ]
    found = MAML.joint(tasks)
    target = (found.labels - found.adapted).reshape(4, n)
    values, vectors = torch.linalg.eigh(found.phi)
    features = vectors * values.clamp(min=0).sqrt()
    norm, gains = 0.2, []
    for signs in itertools.product((1.0, -1.0), repeat=4):
        given = torch.tensor(signs, dtype=torch.float64)
        weights = torch.randn(4 * n, generator=stream(0), dtype=torch.float64).requires_grad_()
        gain = weights.sum()
        for _ in range(40):
            ball = norm * weights / weights.norm()
            gain = (given * ((features @ ball).reshape(4, n) - target).abs().mean(1)).mean()
            (slope,) = torch.autograd.grad(gain, weights)
            with torch.no_grad():
                weights += 5 * slope / slope.norm()
        gains.append(gain.item())
    nothing = torch.zeros(4 * n, 1, dtype=torch.float64)
    half = bound(Flow(found.phi, nothing), nothing, found.task, levels=Levels(norm)).capacity / 2
    assert 0.4 * half < sum(gains) / len(gains) <= half


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    return measured(MAML, families(), (8, 32), test_tasks=40, seed=1)


def test_the_bound_holds_at_every_point_and_says_nothing_where_tasks_are_few(rows: list[Any]) -> None:
    assert len(rows) == 30
    assert all(row.holds and row.bound.vacuous for row in rows)
    assert all(row.bound.norm == pytest.approx(row.complexity * row.tasks**0.5, rel=1e-6) for row in rows)
    assert all(row.bound.training_loss < 1e-6 for row in rows)


def test_the_complexity_ranks_the_test_errors_of_families(rows: list[Any]) -> None:
    found = ranks(rows)
    assert set(found) == {8, 32} and min(found.values()) >= 0.9


def test_the_bound_grows_with_the_number_of_ambiguous_tasks(rows: list[Any]) -> None:
    of = {(row.family.spread, row.family.noise, row.tasks): row for row in rows}
    assert of[1.0, 0.3, 32].bound.total > of[1.0, 0.3, 8].bound.total
    assert of[0.0, 0.0, 32].bound.total < of[0.0, 0.0, 8].bound.total


def test_it_says_something_of_many_tasks_that_are_alike_and_without_noise() -> None:
    kinds = [Sinusoids(0.0), Sinusoids(0.0, 0.1), Sinusoids(0.1)]
    alike, noisy, other = measured(MAML, kinds, [96], test_tasks=20)
    assert not alike.bound.vacuous and alike.bound.total < 0.95 and alike.test_error < 1e-3
    assert noisy.bound.vacuous and other.bound.vacuous


def test_less_training_has_a_smaller_norm() -> None:
    short, full = (measured(MAML, [Sinusoids(0.5)], [8], test_tasks=1, time=time)[0] for time in (10.0, math.inf))
    assert short.bound.norm < full.bound.norm and short.bound.training_loss > full.bound.training_loss
    assert short.complexity == full.complexity


def test_families_see_the_same_inputs_and_differ_in_what_they_say() -> None:
    alike, spread, noisy = (Sinusoids(*of).draw(3, stream(0)) for of in ((0.0,), (0.7,), (0.0, 0.2)))
    for one, other, third in zip(alike, spread, noisy, strict=True):
        assert torch.equal(one.support, other.support) and torch.equal(one.queries, third.queries)
        assert torch.allclose(one.support_labels, torch.sin(one.support))
        assert not torch.allclose(one.support_labels, other.support_labels)
        assert 0 < (one.query_labels - third.query_labels).abs().max() < 1
    assert len(families()) == 15


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Sinusoids(1.5), "a spread from 0 to 1"),
        (lambda: Sinusoids(0.5, shots=0), "0 shots"),
        (lambda: Levels(ratio=1.0), "by factors of 1"),
        (lambda: measured(MAML, families(), []), "with [] training"),
        (lambda: MAML.joint([]), "a task or more"),
        (lambda: bound(FLOW, ZERO, torch.tensor([0, 1]), clip=0.0), "clip 0"),
        (lambda: bound(FLOW, ZERO, torch.tensor([0, 1]), delta=1.0), "delta 1"),
        (lambda: bound(FLOW, ZERO, torch.tensor([0])), "tasks of shape (1,)"),
        (lambda: bound(LOPSIDED, ZERO, torch.tensor([0, 1])), "that of first-order MAML is not"),
        (lambda: bound(INDEFINITE, ZERO, torch.tensor([0, 1])), "one is -3"),
        (lambda: complexity(INDEFINITE, 2), "one is -3"),
        (lambda: complexity(FLOW, 0), "over 0 tasks"),
    ],
)
def test_a_bound_that_there_is_not_is_refused(call: Any, words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        call()
    assert words in str(error.value)


ZERO = torch.zeros(2, 1, dtype=torch.float64)
FLOW = Flow(torch.eye(2, dtype=torch.float64), ZERO)
LOPSIDED = Flow(torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64), ZERO)
INDEFINITE = Flow(torch.tensor([[1.0, 4.0], [4.0, 1.0]], dtype=torch.float64), ZERO)
