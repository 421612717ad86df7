"""Architectures ranked without training, their losses after it, and the correlation of the two."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from metabench.core.errors import MetabenchError
from metabench.core.randomness import generator
from metabench.kernels.convolutional import ConvNet
from metabench.kernels.responses import Ridge, Time
from metabench.library.architectures import Convolutional, Losses, Mlp, Tasks, convolutions, mlps, trained
from metabench.library.ranking import (
    CONDITION,
    INITIAL,
    PARAMETERS,
    RANDOM,
    Ranked,
    correlations,
    rank,
)
from metabench.methods import method
from metabench.models.wide import WideMLP
from metabench.problems.few_shot_regression import Options
from metabench.training.loop import train
from metabench.training.run import Run

SMALL = Options(tasks=2, test_tasks=2, shots=2, queries=2)
SINES = Tasks("sinusoids", SMALL, inner_steps=3)
DIGITS = Tasks("digits", SMALL, inner_steps=3)


def test_an_mlp_has_the_parameters_of_its_network_and_names_its_head() -> None:
    for options in (SMALL, dataclasses.replace(SMALL, b_std=0.0)):
        of = Mlp(2, 5, "erf").architecture(3, options)
        assert of.drawn is not None
        network = of.drawn(0)
        assert sum(leaf.numel() for leaf in network.params.values()) == of.parameters
        inputs = torch.randn((2, 3), generator=generator(0, "inputs"), dtype=torch.float64)
        assert isinstance(network.network, WideMLP) and network.nngp(inputs).shape == (2, 2)
        assert not torch.equal(of.drawn(1).params["0.weight"], network.params["0.weight"])


def test_an_infinite_network_has_no_draw_and_no_count() -> None:
    of = Mlp(1, None, "relu").architecture(3, SMALL)
    assert of.drawn is None and of.parameters == math.inf and Mlp(1, None, "relu").size == "infinite"


def test_networks_are_all_combinations_once() -> None:
    found = mlps([1, 2], [8, None, 8], ["relu", "erf"])
    assert len(found) == 8 == len({one.name for one in found})


@pytest.mark.parametrize(
    "tasks", [SINES, DIGITS, dataclasses.replace(SINES, options=dataclasses.replace(SMALL, adapts="head"))]
)
def test_the_closed_form_is_the_loss_after_meta_training_at_infinite_width(tasks: Tasks) -> None:
    of, loaded = Mlp(1, None, "relu"), tasks.loaded()
    problem = tasks.problem(of, 1, loaded)
    called = method("unrolled")
    run = Run.fresh(problem, generator(1, "training"))
    for _ in train(problem, called, called.options(), run, 4):
        pass
    exact = problem.evaluate({}, run.meta)
    found = trained(of, tasks, 1, loaded, 4)
    assert found.test == pytest.approx(exact["test loss"], rel=1e-9)
    assert found.training == pytest.approx(exact["training loss"], rel=1e-9)
    assert trained(of, tasks, 1, loaded, 4, "first_order").test != pytest.approx(found.test, rel=1e-6)
    assert trained(Mlp(1, 4096, "relu"), tasks, 1, loaded, 4).test == pytest.approx(found.test, rel=0.2)


def test_tasks_are_the_same_for_every_architecture() -> None:
    loaded = DIGITS.loaded()
    first, other = (DIGITS.problem(of, 3, loaded).episodes[0] for of in (Mlp(1, 8, "relu"), Mlp(2, None, "erf")))
    for one, another, drawn in zip(first, other, DIGITS.drawn(3, loaded), strict=True):
        assert torch.equal(one.support, another.support) and torch.equal(one.queries, drawn.queries)


def test_a_ranking_has_every_score_and_the_best_condition_first() -> None:
    found = rank(mlps([1, 2], [8, 64], ["relu"]), SINES, response=Ridge(1e-3), draws=2, seeds=2)
    assert [one.score(CONDITION) for one in found] == sorted(one.score(CONDITION) for one in found)
    for one in found:
        assert set(one.scores) == {CONDITION, INITIAL, PARAMETERS, RANDOM} and not one.losses
        assert all(len(values) == 2 for values in one.scores.values())
        assert one.scores[PARAMETERS][0] == 1 / one.parameters
    by_name = {one.of.name: one for one in found}
    # The analytic kernel knows no width; what is drawn does.
    assert by_name["relu 1 x 8"].scores[CONDITION] == by_name["relu 1 x 64"].scores[CONDITION]
    assert by_name["relu 1 x 8"].scores[INITIAL] != by_name["relu 1 x 64"].scores[INITIAL]
    again = rank(mlps([1, 2], [8, 64], ["relu"]), SINES, response=Ridge(1e-3), draws=2, seeds=2)
    assert again == found


def test_an_infinite_width_is_as_drawn_what_it_is_in_closed_form() -> None:
    (found,) = rank([Mlp(1, None, "relu")], SINES, response=Ridge(1e-3), draws=2, seeds=1)
    assert found.scores[INITIAL] == found.scores[CONDITION] and found.scores[PARAMETERS] == [0.0]


def test_what_is_not_positive_definite_is_last_and_says_why() -> None:
    """Of the identity the kernel has as many directions as inputs have dimensions, two with the bias."""
    found = rank([Mlp(1, 8, "identity"), Mlp(1, 8, "relu")], SINES, response=Ridge(1e-3), seeds=1)
    assert [one.of.activation for one in found] == ["relu", "identity"]
    assert found[1].score(CONDITION) == math.inf and found[1].reasons[0].startswith("condition: singular: the least")
    assert len(found[1].reasons) == 1 and found[1].reasons[0].endswith("(1 of 1 kernels)")
    assert not found[0].reasons


def made(scores: Sequence[Sequence[float]], losses: Sequence[Sequence[float]]) -> list[Ranked]:
    return [
        Ranked(
            Mlp(1, 8 + place, "relu"),
            1.0,
            {"one": of, "same": [1.0] * len(of)},
            [],
            [Losses(each, -each) for each in loss],
        )
        for place, (of, loss) in enumerate(zip(scores, losses, strict=True))
    ]


def test_correlations_are_per_seed_with_an_interval_over_seeds() -> None:
    scores = [[1.0, 1.0, 3.0], [2.0, 2.0, 2.0], [math.inf, math.inf, 1.0]]
    losses = [[0.1, 0.1, 0.1], [0.2, 0.3, 0.2], [0.3, 0.2, 0.3]]
    one, turned, same, _ = correlations(made(scores, losses))
    # Per seed 1, 1/2 and -1; Kendall 1, 1/3, -1.
    assert one.spearman is not None and one.kendall is not None
    assert one.spearman.value == pytest.approx(0.5 / 3) and one.kendall.value == pytest.approx(1 / 9)
    assert one.spearman.low == -1.0 and one.spearman.high == 1.0 and one.spearman.n == 3
    assert (one.loss, turned.loss) == ("test", "training") and turned.spearman is not None
    assert turned.spearman.value == pytest.approx(-0.5 / 3)
    assert same.spearman is None and same.kendall is None


def test_meta_training_is_correlated_with_the_scores() -> None:
    found = rank(mlps([1], [8, 16], ["relu", "erf"]), SINES, response=Ridge(1e-3), seeds=1, outer_steps=2)
    assert all(len(one.losses) == 1 and 0 < one.losses[0].training < math.inf for one in found)
    rows = correlations(found)
    assert [(one.score, one.loss) for one in rows] == list(
        itertools.product((CONDITION, PARAMETERS, RANDOM), ("test", "training"))
    )
    assert all(one.spearman is not None and one.spearman.low is None for one in rows)


def test_the_condition_number_ranks_how_far_training_gets() -> None:
    """Of infinite width, for as long as the rate is the same part of the largest: the worse conditioned, the slower."""
    networks = [Mlp(depth, None, name) for depth in (1, 2, 3) for name in ("relu", "erf", "gelu")]
    tasks = dataclasses.replace(DIGITS, options=dataclasses.replace(SMALL, tasks=4))
    found = rank(networks, tasks, response=Time(1.0), seeds=2, outer_steps=300)
    (training,) = [one for one in correlations(found) if (one.score, one.loss) == (CONDITION, "training")]
    assert training.spearman is not None and training.spearman.value > 0.8


@pytest.mark.parametrize("readout", ["flatten", "pool", "gap"])
def test_convolutions_of_infinite_width_are_ranked_and_trained(readout: str) -> None:
    of, loaded = Convolutional(2, "relu", readout), DIGITS.loaded()
    images = DIGITS.drawn(0, loaded)[0].support
    kernel = of.architecture(64, SMALL).kernel
    assert kernel is not None
    expected = ConvNet(2, "relu", SMALL.W_std, SMALL.b_std, readout).kernels(images.reshape(-1, 1, 8, 8)).ntk
    assert torch.allclose(kernel(images, images).ntk, expected) and torch.allclose(
        kernel(images, images.clone()).ntk, expected
    )
    found = rank([of, *mlps([1], [8, None], ["relu"])], DIGITS, response=Ridge(1e-3), seeds=1, outer_steps=20)
    (one,) = (one for one in found if one.of == of)
    assert 1 < one.score(CONDITION) < math.inf and one.parameters == math.inf
    assert 0 < one.losses[0].training < 0.5 and one.of.kind == f"convolutions, {readout}"


def test_a_run_that_diverges_has_an_infinite_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    from metabench.core.errors import Diverged

    def diverging(*given: Any) -> Any:
        raise Diverged("the outer loss is nan")

    monkeypatch.setattr("metabench.library.architectures.train", diverging)
    assert trained(Mlp(1, 8, "relu"), SINES, 0, SINES.loaded(), 2) == Losses(math.inf, math.inf)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Mlp(0, 8, "relu"), "0 hidden layers"),
        (lambda: Mlp(1, 0, "relu"), "width 0"),
        (lambda: Convolutional(1, "relu", "sum"), "readout 'sum': expected"),
        (lambda: rank(convolutions([1], ["relu"], ["gap"]), SINES, response=Ridge(1.0)), "are not square images"),
        (
            lambda: trained(Convolutional(1, "relu", "gap"), DIGITS, 0, DIGITS.loaded(), 1, "first_order"),
            "for 'unrolled' alone",
        ),
        (lambda: Mlp(1, 8, "swish"), "unknown activation with a kernel 'swish'"),
        (lambda: Tasks("digist").loaded(), "'digist': did you mean 'digits'?"),
        (lambda: rank([], SINES, response=Ridge(1.0)), "a ranking of 0 architectures"),
        (lambda: rank([Mlp(1, 8, "relu")], SINES, response=Ridge(1.0), outer_steps=1), "over 1 trained architectures"),
        (lambda: correlations(made([[1.0]] * 3, [[]] * 3)), "over 0 trained architectures"),
        (
            lambda: rank(mlps([1], [8, 9, 10], ["relu"]), SINES, response=Ridge(1.0), outer_steps=1, by="unroled"),
            "'unroled': did you mean 'unrolled'?",
        ),
        (
            lambda: trained(Mlp(1, 8, "relu"), SINES, 0, SINES.loaded(), 1, "ift_cg"),
            "method 'ift_cg' cannot learn initial parameters: ",
        ),
        (
            lambda: rank([Mlp(1, 8, "relu")], Tasks("digits", Options(shots=400)), response=Ridge(1.0)),
            "of 10 classes one has",
        ),
    ],
)
def test_a_ranking_that_there_is_not_is_refused(call: Any, words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        call()
    assert words in str(error.value)
