"""Few-shot classification: `infinite` against the joint linear model and the closed form, episodes, metrics, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
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
from metabench.kernels.convolutional import ConvNet
from metabench.kernels.dense import MLP
from metabench.kernels.few_shot import Grams
from metabench.kernels.flow import Flow
from metabench.kernels.gram import Gram
from metabench.kernels.meta_kernel import MetaKernel, labels
from metabench.kernels.names import MNK, MNK_GAIN, MNK_INTERVAL
from metabench.methods import method
from metabench.models.wide import factor
from metabench.problems.few_shot_classification import FewShotClassification, Options
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.predict.one_cell import predict
from metabench.suite.run.run_cell import run_cell
from metabench.tasks.accuracy import interval
from metabench.tasks.episodes import accuracies
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
    of = (options.depth, options.activation, options.W_std, options.b_std)
    if options.network == "mlp":
        return MLP(*of).kernels
    net, image = ConvNet(*of, options.network), on.study.image
    return lambda rows, columns: net.kernels(rows.unflatten(1, image), columns.unflatten(1, image))


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"labels": "one_hot", "depth": 2},
        {"activation": "erf", "shots": 2},
        {"adapts": "head"},
        {"proximal": 0.3},
        {"network": "flatten", "depth": 2},
        {"network": "flatten", "depth": 2, "adapts": "head"},
    ],
)
def test_unrolled_on_the_limit_is_the_closed_form(options: dict[str, Any]) -> None:
    on = made(**options)
    found = on.adapted(trained(on))
    kernel = MetaKernel(kernel_of(on), on.response, head=on.setting.options.adapts == "head")
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


@pytest.mark.parametrize("options", [{}, {"adapts": "head"}, {"proximal": 0.3}])
def test_wider_networks_come_nearer_to_the_limit(options: dict[str, Any]) -> None:
    limit = made(**options)
    expected = limit.adapted(trained(limit, steps=5))

    def away(size: str) -> float:
        on = made(size, **options)
        return float((on.adapted(trained(on, steps=5)) - expected).norm())

    assert away("w512") < 0.6 * away("w64")


@pytest.mark.parametrize("network", ["flatten", "pool", "gap"])
def test_wider_convolutions_come_nearer_to_the_limit(network: str) -> None:
    options = {"network": network, "depth": 2, "tasks": 2, "test_tasks": 3, "learning_rate": 0.1}
    data = _small_scripts()
    limit = _on(data, "infinite", **options)
    expected = limit.adapted(trained(limit, steps=3))

    def away(size: str) -> float:
        on = _on(data, size, **options)
        return float((on.adapted(trained(on, steps=3)) - expected).norm())

    assert away("w256") < 0.7 * away("w16")


def test_an_embedding_is_trained_once_and_kept(tmp_path: Path) -> None:
    data = _small_scripts()
    first, again = (_on(data, "infinite", tmp_path, labels="network") for _ in range(2))
    assert len(list(tmp_path.glob("embedding-*.npz"))) == 1
    assert torch.equal(first.study.embedded, again.study.embedded)
    assert first.study.train.query_labels.shape[-1] == 64
    assert first.study.accuracy(first.study.nearest(first.study.embedded)).mean() > 100 / 3
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="is damaged and is computed anew"):
        third = _on(data, "infinite", tmp_path, labels="network")
    assert torch.equal(first.study.embedded, third.study.embedded)


def test_what_is_prepared_depends_on_kernels_and_embeddings_alone() -> None:
    def prepared(size: str = "infinite", **options: Any) -> dict[str, Any]:
        return FewShotClassification.prepares(size, build(Options, SMALL | options, "x"))

    assert prepared() == {} == prepared("w64")
    assert prepared(labels="network") == prepared(labels="network", learning_rate=0.1, adapts="head")
    conv = prepared(network="gap")
    assert conv == prepared(network="gap", labels="one_hot", proximal=0.3, ridge=1e-4, outer_learning_rate=0.1)
    others = [
        prepared("w64", network="gap"),
        prepared(network="pool"),
        prepared(network="gap", depth=2),
        prepared(network="gap", characters=6),
        prepared(network="gap", labels="network"),
    ]
    assert all(conv != other for other in others)


def test_an_activation_by_quadrature_goes_through_convolutions() -> None:
    few = {"way": 2, "queries": 1, "tasks": 1, "test_tasks": 2}
    on = _on(_small_scripts(), "infinite", network="flatten", activation="tanh", **few)
    assert all(math.isfinite(value) for value in on.evaluate({}, on.initial()).values())


def test_kernels_of_convolutions_are_read_where_they_were_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options = _small_scripts(), {"network": "flatten", "depth": 2}
    first = _on(data, "infinite", tmp_path, **options)
    expected = first.evaluate({}, first.initial())
    assert len(list(tmp_path.glob("*.npz"))) == 3

    def never(*_: Any) -> Any:
        raise AssertionError("a kernel was computed again")

    monkeypatch.setattr(ConvNet, "kernels", never)
    again = _on(data, "infinite", tmp_path, **options, learning_rate=0.5, ridge=1e-2)
    assert again.evaluate({}, again.initial()) == expected
    # A finite network has the same kernels of the images trained on, to take its rates from.
    finite = _on(data, "w16", tmp_path, **options)
    assert finite.outer_optimiser.learning_rate == first.outer_optimiser.learning_rate

def test_the_metrics_are_those_of_the_same_episodes_after_the_last_step() -> None:
    on = made(test_tasks=30)
    meta = trained(on)
    metrics, study = on.evaluate({}, meta), on.study
    assert list(metrics) == [*(metric.name for metric in on.card.metrics), MNK, MNK_GAIN, MNK_INTERVAL]
    given = Grams.of(Gram(kernel_of(on), ""), study.train, study.test)
    kernels = accuracies(study, given, math.inf, math.inf, 1e-2)
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
    found = accuracies(study, given, math.inf, 0.0)
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


def _small_scripts(side: int = 4) -> FewShot:
    """Scripts of random shapes with noise."""
    stream = np.random.default_rng(0)

    def script(classes: int) -> Domain:
        shown = stream.integers(0, 256, (classes, 1, side, side))
        images = np.uint8((3 * np.repeat(shown, 5, 0) + stream.integers(0, 256, (5 * classes, 1, side, side))) / 4)
        return Domain(images, np.repeat(np.arange(classes), 5), tuple(map(str, range(classes))))

    return FewShot({"a": script(3), "b": script(4)}, {}, {"d": script(4), "e": script(5)})


def _on(data: FewShot, size: str, prepared: Path | None = None, **options: Any) -> FewShotClassification:
    built = build(Options, SMALL | {"train_on": "", "test_on": "", "characters": 0} | options, "x")
    return FewShotClassification(
        Setting(size, built, 4, 0, torch.device("cpu"), torch.float64, data, prepared=prepared)
    )


def test_scripts_are_those_of_the_data_set_where_none_are_named() -> None:
    data = _small_scripts(6)
    on = _on(data, "infinite")
    options = on.setting.options
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
        ({"orders": "all"}, "orders 'all' with labels 'embeddings': embeddings have no order; ask for 'one_hot'"),
        ({"learning_rate": 2.5}, "an inner rate of"),
        ({"network": "pool", "depth": 5}, "pooling of 2 x 2 pixels after layer 5 does not divide 1 x 1 pixels"),
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


@pytest.mark.parametrize("experiment", ["mnk", "maml", "imaml", "anil"])
def test_the_experiments_of_the_paper_run_on_small_images(experiment: str, tmp_path: Path) -> None:
    planned = plan(load_suite([Path(__file__).parents[2] / "config/suites/kernels-paper.yaml"]))
    cells = [cell for cell in planned.cells if cell.experiment == experiment]
    assert cells and {cell.dataset for cell in cells} == {"omniglot"}
    cell = cells[-1]
    given = cell.problem_options | {"way": 3, "queries": 2, "characters": 5, "tasks": 2, "test_tasks": 3}
    built = build(Options, given, "x")
    place = (torch.device("cpu"), torch.float64, _small_scripts())
    on = FewShotClassification(Setting(cell.size, built, cell.inner_steps, 0, *place, prepared=tmp_path))
    called = method(cell.method)
    options = build(called.options, cell.method_options, "y")
    run = Run.fresh(on, generator(0, "training"))
    for _ in train(on, called, options, run, 1):
        pass
    found = on.evaluate({}, run.meta)
    assert all(math.isfinite(value) for value in found.values())
    assert (MNK in found) == (experiment == "mnk")
