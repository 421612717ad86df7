"""Condition numbers of meta kernels as scores of architectures: what is not positive definite comes last."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from metabench.core.errors import MetabenchError
from metabench.kernels.activations import activation
from metabench.kernels.condition import (
    Architecture,
    Conditioning,
    ConditionNumber,
    RandomRanking,
    conditioning,
    parameter_count,
    ranked,
)
from metabench.kernels.dense import MLP, Kernels
from metabench.kernels.empirical import Empirical
from metabench.kernels.families import Sinusoids
from metabench.kernels.meta_kernel import Episode, Joint, MetaKernel
from metabench.kernels.responses import Nothing, Ridge, Steps, Time
from metabench.models.wide import WideMLP


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TASKS = Sinusoids(0.5, shots=2, queries=2).draw(3, stream(0))


def mlp(depth: int, width: int | None = None, name: str = "relu") -> Architecture:
    network = None if width is None else WideMLP(1, width, depth, activation(name), 1.4, 0.5)

    def drawn(seed: int) -> Empirical:
        assert network is not None
        return Empirical(network, network.initial(stream(seed), torch.float64), (f"{depth}.weight", f"{depth}.bias"))

    size = (
        math.inf
        if network is None
        else sum(leaf.numel() for leaf in network.initial(stream(0), torch.float64).values())
    )
    kernel = MLP(depth, name, 1.4, 0.5).kernels
    return Architecture(f"{name} {depth} x {width}", size, kernel, None if network is None else drawn)


def linear(features: torch.Tensor, sign: float = 1.0) -> Architecture:
    """A linear model on features of the places that inputs name, whose kernel has `sign` on the last of them."""
    signs = torch.ones(features.shape[1], dtype=torch.float64)
    signs[-1] = sign

    def kernel(rows: torch.Tensor, columns: torch.Tensor) -> Kernels:
        found = (features[rows[:, 0].long()] * signs) @ features[columns[:, 0].long()].mT
        return Kernels(found, found)

    return Architecture(f"linear {sign:g}", 1.0, kernel)


def places(*of: int) -> torch.Tensor:
    return torch.tensor(of, dtype=torch.float64).unsqueeze(1)


def tasks_at(*queries: int) -> list[Episode]:
    zero = torch.zeros(len(queries), 1, dtype=torch.float64)
    return [Episode(places(0), zero[:1], places(*queries), zero)]


@pytest.mark.parametrize("response", [Ridge(1e-3), Time(1.0), Time(math.inf), Steps(3, 0.2)])
@pytest.mark.parametrize("head", [False, True])
def test_it_is_the_ratio_of_the_extreme_singular_values(response: Any, head: bool) -> None:
    of = MetaKernel(mlp(2).kernel, response, head=head)  # type: ignore[arg-type]
    exact = torch.linalg.cond(of.between(TASKS, TASKS))
    found = conditioning(of, TASKS)
    assert found.number == pytest.approx(float(exact), rel=1e-6) and not found.reason
    assert ConditionNumber(response, head)(mlp(2), TASKS) == pytest.approx(found.number, rel=1e-12)


def test_a_singular_kernel_is_infinite_and_said_to_be() -> None:
    features = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    regular, singular = tasks_at(1, 2), tasks_at(1, 2, 3)
    score, one = ConditionNumber(Time(1.0)), linear(features)
    assert score(one, regular) == pytest.approx(1.0)
    assert score(one, singular) == math.inf
    assert score.found(one, singular)[0].reason.startswith(
        "singular: the least eigenvalue is zero up to rounding, and the largest 5"
    )


def test_adaptation_that_fits_every_query_leaves_nothing_to_condition() -> None:
    drawn = [dataclasses.replace(one, queries=one.support, query_labels=one.support_labels) for one in TASKS]
    found = conditioning(MetaKernel(mlp(1).kernel, Time(math.inf)), drawn)  # type: ignore[arg-type]
    assert found.number == math.inf and "singular" in found.reason


def test_an_indefinite_kernel_comes_last_where_published_code_puts_it_first() -> None:
    features = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    scaled = features.clone()
    scaled[2, 2] = 3.0
    good, fair, bad = linear(features), dataclasses.replace(linear(scaled), name="scaled"), linear(features, -1.0)
    tasks = tasks_at(1, 2)

    def published(one: Architecture, given: Any) -> float:
        assert one.kernel is not None
        values = torch.linalg.eigvalsh(MetaKernel(one.kernel, Time(1.0)).between(given, given))
        return float(values[-1] / values[0])

    assert [one.name for one, _ in ranked(published, [good, fair, bad], tasks)] == ["linear -1", "linear 1", "scaled"]
    score = ConditionNumber(Time(1.0))
    assert [one.name for one, _ in ranked(score, [bad, fair, good], tasks)] == ["linear 1", "scaled", "linear -1"]
    assert score.found(bad, tasks)[0].reason == "indefinite: an eigenvalue is -1, and the largest 1"


@pytest.mark.parametrize(
    ("signs", "words"),
    [((-1, -1, -1), "indefinite"), ((-1, 1, 1), "not symmetric"), ((1, -1, 1), "not symmetric")],
)
def test_a_term_of_phi_with_the_wrong_sign_is_caught(
    signs: tuple[int, int, int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    joint = MetaKernel.joint

    def planted(of: MetaKernel, tasks: list[Episode]) -> Joint:
        right = joint(of, tasks)
        supports, queries = (torch.cat([getattr(one, name) for one in tasks]) for name in ("support", "queries"))
        blocks = [
            of.kernel(one.queries, one.support).ntk @ of.response(of.kernel(one.support, one.support).ntk)
            for one in tasks
        ]
        a, theta = torch.block_diag(*blocks), lambda x, y: of.kernel(x, y).ntk
        terms = (a @ theta(supports, queries), theta(queries, supports) @ a.mT, a @ theta(supports, supports) @ a.mT)
        exact = theta(queries, queries) - terms[0] - terms[1] + terms[2]
        assert torch.allclose(exact, right.phi, atol=1e-12)
        wrong = theta(queries, queries) + sum(sign * term for sign, term in zip(signs, terms, strict=True))
        return dataclasses.replace(right, phi=wrong)

    assert ConditionNumber(Time(math.inf))(mlp(1), TASKS) < math.inf
    monkeypatch.setattr(MetaKernel, "joint", planted)
    try:
        found = ConditionNumber(Time(math.inf)).found(mlp(1), TASKS)[0]
        assert found.number == math.inf and words in found.reason
    except MetabenchError as error:
        assert words in str(error)


@pytest.mark.parametrize("head", [False, True])
def test_wide_networks_as_drawn_approach_the_analytic_score(head: bool) -> None:
    analytic = ConditionNumber(Time(1.0), head)(mlp(1), TASKS)
    narrow, wide = (ConditionNumber(Time(1.0), head, "initial", 4)(mlp(1, width), TASKS) for width in (16, 4096))
    assert abs(math.log(wide / analytic)) < 0.3 < abs(math.log(narrow / analytic))


def test_a_finite_network_with_fewer_parameters_than_queries_is_singular() -> None:
    score = ConditionNumber(Time(1.0), source="initial", draws=2)
    assert score(mlp(1, 1), Sinusoids(0.5, shots=2, queries=4).draw(2, stream(1))) == math.inf


def test_the_analytic_kernel_is_preferred_and_knows_no_width() -> None:
    score = ConditionNumber()
    assert score(mlp(1, 16), TASKS) == score(mlp(1, 64), TASKS) == score(mlp(1), TASKS)
    finite = dataclasses.replace(mlp(1, 16), kernel=None)
    assert score(finite, TASKS) == ConditionNumber(source="initial")(mlp(1, 16), TASKS) != score(mlp(1, 16), TASKS)


def test_the_order_is_fixed_and_baselines_have_the_same_interface() -> None:
    of = [mlp(1, 64), mlp(1, 16), mlp(2, 16), mlp(2, 64, "erf")]
    for score in (ConditionNumber(), parameter_count, RandomRanking(0)):
        first, again = (ranked(score, of, TASKS) for _ in range(2))
        assert first == again and [value for _, value in first] == sorted(value for _, value in first)
    # The analytic kernel knows no width: what ties stays in the order given.
    order = [one.name for one, _ in ranked(ConditionNumber(), of, TASKS)]
    assert order.index("relu 1 x 16") == order.index("relu 1 x 64") + 1
    assert [one.name for one, _ in ranked(parameter_count, of, TASKS)][:2] == ["erf 2 x 64", "relu 2 x 16"]
    assert parameter_count(mlp(1), TASKS) == 0
    orders = {tuple(one.name for one, _ in ranked(RandomRanking(seed), of, TASKS)) for seed in range(8)}
    assert len(orders) > 3


def test_draws_are_averaged_geometrically_and_one_that_is_infinite_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [Conditioning(1.0, 4.0, 0.0), Conditioning(1.0, 9.0, 0.0)]
    monkeypatch.setattr(ConditionNumber, "found", lambda self, one, tasks: given)
    assert ConditionNumber()(mlp(1), TASKS) == pytest.approx(6.0)
    given.append(Conditioning(-1.0, 4.0, 0.1))
    assert ConditionNumber()(mlp(1), TASKS) == math.inf


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Architecture("none", 1.0), "no kernel in closed form and no finite network"),
        (lambda: ConditionNumber(source="empirical"), "unknown source of kernels 'empirical'"),  # type: ignore[arg-type]
        (lambda: ConditionNumber(draws=0), "over 0 draws"),
        (lambda: ConditionNumber(source="initial")(mlp(1), TASKS), "has no finite network to draw"),
        (
            lambda: ConditionNumber(source="analytic")(dataclasses.replace(mlp(1, 4), kernel=None), TASKS),
            "has no kernel in closed form: score it by",
        ),
        (
            lambda: ConditionNumber(source="initial", head=True)(
                dataclasses.replace(
                    mlp(1, 4), drawn=lambda seed: Empirical(lambda p, x: x @ p["w"], {"w": torch.ones(1)})
                ),
                TASKS,
            ),
            "does not name its last layer",
        ),
        (
            lambda: conditioning(MetaKernel(MLP().kernels, Time(1.0), Nothing()), TASKS),
            "not symmetric, as that of first-order",
        ),
        (lambda: ranked(lambda one, tasks: math.nan, [mlp(1)], TASKS), "a score that is not a number"),
    ],
)
def test_a_score_that_there_is_not_is_refused(call: Any, words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        call()
    assert words in str(error.value)
