"""Few-shot classification: `infinite` against the joint linear model and the closed form, episodes, metrics, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from bilevel import cached_data, make_problem

from metabench.core import tree
from metabench.core.errors import MetabenchError
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.core.randomness import generator
from metabench.data.few_shot import Domain, FewShot
from metabench.kernels.dense import MLP
from metabench.kernels.flow import Flow
from metabench.kernels.meta_kernel import MetaKernel, labels
from metabench.kernels.names import MNK, MNK_GAIN, MNK_INTERVAL
from metabench.methods import method
from metabench.models.wide import factor
from metabench.problems.few_shot_classification import FewShotClassification, Options
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.predict.one_cell import predict
from metabench.suite.run.run_cell import run_cell
from metabench.tasks.episodes import accuracies, interval
from metabench.training.loop import train
from metabench.training.run import Run

SMALL: dict[str, Any] = {"way": 3, "queries": 2, "characters": 5, "tasks": 3, "test_tasks": 8}


def made(size: str = "infinite", dataset: str = "glyphs", **options: Any) -> FewShotClassification:
    found = make_problem("few_shot_classification", size=size, dataset=dataset, inner_steps=4, **SMALL | options)
    assert isinstance(found, FewShotClassification)
    return found


def trained(on: FewShotClassification, name: str = "unrolled", steps: int = 20) -> Any:
    called = method(name)
    run = Run.fresh(on, generator(0, "training"))
    for _ in train(on, called, called.options(), run, steps):
        pass
    return run.meta


def kernel_of(on: FewShotClassification) -> Any:
    options: Options = on.setting.options
    return MLP(options.depth, options.activation, options.W_std, options.b_std).kernels


@pytest.mark.parametrize(
    ("name", "labels_of"),
    [
        ("unrolled", "embeddings"),
        ("unrolled", "one_hot"),
        ("mixflow", "embeddings"),
        ("first_order", "one_hot"),
        ("reptile", "embeddings"),
    ],
)
def test_the_test_is_that_of_a_linear_model_on_a_factor_of_all_images(name: str, labels_of: str) -> None:
    on = made(labels=labels_of)
    found = on.adapted(trained(on, name))
    study, rate = on.study, on.response.rate
    points = torch.cat([study.train.images, study.test.images])
    features, seen = factor(kernel_of(on)(points, points).ntk), len(study.train.images)
    # The same method on the same windows, each row of features exchanged for that of the joint model.
    joint = made(labels=labels_of)
    rows = torch.cat([study.train.support, study.train.queries], 1)
    joint._network = dataclasses.replace(joint._network, features={"weight": features.shape[1]})
    joint._start = {"weight": torch.zeros(features.shape[1], found.shape[-1], dtype=torch.float64)}
    joint.observe = lambda params, meta: {}  # of the test, which is what is computed below
    shots = study.train.support.shape[1]
    joint._train = [
        ({**support, "inputs": features[chosen[:shots]]}, {**queries, "inputs": features[chosen[shots:]]})
        for (support, queries), chosen in zip(on._train, rows, strict=True)
    ]
    weight = trained(joint, name)["weight"]
    expected = []
    for support, queries, wanted in zip(study.test.support, study.test.queries, study.test.support_labels, strict=True):
        x, moved = features[seen + support], weight
        for _ in range(4):
            moved = moved - rate / len(x) * x.mT @ (x @ moved - wanted)
        expected.append(features[seen + queries] @ moved)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-10)
    assert float(weight.norm()) > 1e-3


@pytest.mark.parametrize("options", [{}, {"labels": "one_hot", "depth": 2}, {"activation": "erf", "shots": 2}])
def test_unrolled_on_the_limit_is_the_closed_form(options: dict[str, Any]) -> None:
    on = made(**options)
    found = on.adapted(trained(on))
    kernel = MetaKernel(kernel_of(on), on.response)
    ours, rest = on.study.train.episodes(), on.study.test.episodes()
    flow = Flow(kernel.between(ours, ours), kernel.adapted(ours) - labels(ours))
    residual, change = flow.after_steps(20, on.outer_optimiser.learning_rate)
    expected = kernel.adapted(rest) + kernel.between(rest, ours) @ change
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=0, atol=1e-9)
    loss = on.evaluate({}, trained(on))["training loss"]
    assert loss == pytest.approx(float(residual.square().sum() / (2 * len(residual))), rel=1e-9)
    assert on.outer_optimiser.learning_rate == pytest.approx(0.5 * flow.largest_rate(), rel=1e-9)


def test_one_hot_labels_in_all_orders_teach_nothing_and_in_one_order_something() -> None:
    def moved(orders: str) -> float:
        on = made(labels="one_hot", orders=orders, tasks=2)
        return float((on.adapted(trained(on)) - on.adapted(on.initial())).abs().max())

    assert moved("all") < 1e-12 and moved("one") > 1e-2


def test_meta_training_with_embeddings_raises_the_accuracy() -> None:
    options = {"way": 5, "characters": 20, "tasks": 8, "test_tasks": 60, "queries": 4}
    limit = made(**options)
    learned = trained(limit, steps=15)
    found = limit.evaluate({}, learned)
    assert found["gain by meta-learning (%)"] > found["95 % interval of the gain (%)"] > 0


def test_wider_networks_come_nearer_to_the_limit() -> None:
    limit = made()
    expected = limit.adapted(trained(limit, steps=5))

    def away(size: str) -> float:
        on = made(size)
        return float((on.adapted(trained(on, steps=5)) - expected).norm())

    assert away("w512") < 0.6 * away("w64")


def test_the_metrics_are_those_of_the_same_episodes_after_the_last_step() -> None:
    on = made(test_tasks=30)
    meta = trained(on)
    metrics, study = on.evaluate({}, meta), on.study
    assert list(metrics) == [*(metric.name for metric in on.card.metrics), MNK, MNK_GAIN, MNK_INTERVAL]
    kernels = accuracies(study, kernel_of(on), math.inf, math.inf, 1e-2)
    assert metrics[MNK] == pytest.approx(float(kernels["MNK"].mean()), rel=1e-12)
    assert metrics[MNK_GAIN] == pytest.approx(metrics[MNK] - float(kernels["no meta-learning"].mean()), abs=1e-9)
    hits = []
    for outputs, supports in zip(on.adapted(meta), study.test.support_labels, strict=True):
        nearest = torch.cdist(torch.nn.functional.normalize(outputs, dim=1), supports).argmin(1)
        hits.append(100 * (nearest == torch.tensor([0, 0, 1, 1, 2, 2])).double().mean())
    accuracy = torch.stack(hits)
    assert metrics["accuracy on unseen classes (%)"] == pytest.approx(float(accuracy.mean()), rel=1e-12)
    assert metrics["95 % interval over tasks (%)"] == pytest.approx(1.96 * float(accuracy.std()) / 30**0.5, rel=1e-12)
    assert metrics["gain by meta-learning (%)"] == pytest.approx(
        metrics["accuracy on unseen classes (%)"] - metrics["without meta-learning (%)"], rel=1e-12
    )
    found = accuracies(study, kernel_of(on), math.inf, 0.0)
    assert metrics["nearest image by pixels (%)"] == pytest.approx(float(found["pixels"].mean()), rel=1e-12)
    assert metrics["nearest image by embedding (%)"] == pytest.approx(float(found["embedding"].mean()), rel=1e-12)
    assert interval(torch.tensor([1.0, 3.0])) == pytest.approx(1.96 * 2**0.5 / 2**0.5)


@pytest.mark.parametrize("size", ["infinite", "w64"])
def test_before_meta_training_nothing_is_gained_and_some_tests_are_the_first_of_all(size: str) -> None:
    on = made(size)
    found = on.evaluate({}, on.initial())
    assert found["gain by meta-learning (%)"] == 0 == found["95 % interval of the gain (%)"]
    assert torch.equal(on.adapted(on.initial(), 3), on.adapted(on.initial())[:3])
    observed = on.observe({}, on.initial())
    assert observed["training loss"] == found["training loss"]


def test_a_network_is_centred_and_fits_the_labels() -> None:
    on = made("w64")
    (window, *_) = next(on.windows())
    loss = float(on.inner_loss(on.initial(), on.initial(), window.inner[0]))
    assert loss == pytest.approx(float(on.study.train.support_labels[0].square().sum() / (2 * 3)), rel=1e-12)


def test_the_limit_is_the_same_in_float32() -> None:
    wide, narrow = made(), made(dtype=torch.float32)
    found, rounded = (on.adapted(trained(on)) for on in (wide, narrow))
    assert found.dtype == rounded.dtype == torch.float64
    torch.testing.assert_close(rounded, found, rtol=0, atol=1e-4)


def test_scripts_are_those_of_the_data_set_where_none_are_named() -> None:
    stream = np.random.default_rng(0)

    def script(classes: int) -> Domain:
        shown = stream.integers(0, 256, (classes, 1, 6, 6))
        images = np.uint8((3 * np.repeat(shown, 5, 0) + stream.integers(0, 256, (5 * classes, 1, 6, 6))) / 4)
        return Domain(images, np.repeat(np.arange(classes), 5), tuple(map(str, range(classes))))

    data = FewShot({"a": script(3), "b": script(4)}, {}, {"d": script(4), "e": script(5)})
    options = build(Options, SMALL | {"train_on": "", "test_on": "", "characters": 0}, "x")
    on = FewShotClassification(Setting("infinite", options, 4, 0, torch.device("cpu"), torch.float64, data))
    assert on.evaluate({}, on.initial())["nearest image by pixels (%)"] > 80
    with pytest.raises(MetabenchError, match="unknown domain under 'train_on' 'Latin': known: a, b, d, e"):
        changed = dataclasses.replace(options, train_on="Latin")
        FewShotClassification(dataclasses.replace(on.setting, options=changed))


@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist_10k"])
def test_without_scripts_half_of_the_classes_are_unseen(dataset: str) -> None:
    on = made(dataset=dataset)
    found = on.evaluate({}, on.initial())
    assert 100 / 3 < found["nearest image by pixels (%)"] <= 100


@pytest.mark.parametrize("size", ["w64", "infinite"])
def test_a_cell_is_predicted_as_it_is_measured(size: str) -> None:
    suite = {
        "name": "x",
        "seeds": [0],
        "aa": False,
        "measure": {"time_repeats": 1, "time_budget": 0.001, "checkpoint": 1},
        "experiments": {
            "a": {
                "problem": "few_shot_classification",
                "kind": "cost",
                "sizes": [size],
                "methods": ["unrolled"],
                "options": {"tasks": 4, "test_tasks": 4},
            }
        },
    }
    (cell,) = plan(load_suite(suite)).cells
    (row,) = run_cell(cell, lambda *told: None)
    assert row["status"] == "ok"
    assert predict(cell).peak_bytes == pytest.approx(row["peak_bytes"], rel=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"way": 1}, "option 'way' of x: must be at least 2, got 1"),
        ({"characters": 2}, "2 characters to train on make no 3-way task: ask for 3 or more, or for fewer ways"),
        ({"characters": 39}, "39 classes to train on, and Latin has 38: ask for at most as many, or for more domains"),
        ({"way": 36, "characters": 38}, "domain 'Greek': a 36-way 1-shot task"),
        ({"queries": 60}, "domain 'Greek': a 3-way 1-shot task with 60 queries per class needs 3 classes of 61 images"),
        ({"queries": 200}, "domain 'training characters': a 3-way 1-shot task with 200 queries per class"),
        ({"train_on": "Latn"}, "unknown domain under 'train_on' 'Latn': did you mean 'Latin'?"),
        ({"test_on": "Greek + Latin"}, "domain 'Latin' is trained on and tested"),
        ({"activation": "swish"}, "unknown value of option 'activation' of x 'swish'"),
        ({"orders": "all"}, "orders 'all' with labels 'embeddings': an embedding has no order; ask for 'one_hot'"),
        ({"learning_rate": 2.5}, "an inner rate of"),
        ({"test_tasks": 1}, "option 'test_tasks' of x: must be at least 2, got 1"),
    ],
)
@pytest.mark.parametrize("size", ["infinite", "w64"])
def test_what_makes_no_tasks_is_refused(size: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        built = build(Options, SMALL | options, "x")
        FewShotClassification(Setting(size, built, 4, 0, torch.device("cpu"), torch.float64, cached_data("glyphs")))
    assert words in str(error.value)


def test_an_activation_without_a_kernel_is_refused_even_where_options_are_not_checked() -> None:
    setting = made().setting
    changed = dataclasses.replace(setting, options=dataclasses.replace(setting.options, activation="swish"))
    with pytest.raises(MetabenchError, match="unknown activation with a kernel 'swish'"):
        FewShotClassification(changed)


def test_a_method_that_moves_outside_of_the_tasks_is_not_asked_for_more_than_it_can() -> None:
    """Weights of the limit are coordinates in the span of the training images: as many as these, for each output."""
    on = made()
    outputs = on.study.train.support_labels.shape[-1]
    assert tree.count(on.initial()) == len(on.study.train.images) * outputs == len(on.study.train.images) * 4
