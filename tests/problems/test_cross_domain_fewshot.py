"""Feature-wise transformations are noise of the declared scales, tasks stay within a domain, and the accuracy is that of unseen ones."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from bilevel import assert_derivative, cached_data, call, checkpoint, make_problem, objective

from metabench.core import Problem, Tree
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.data.few_shot import Domain, FewShot
from metabench.models.batch_norm import by_batch
from metabench.models.few_shot import SHARPNESS, metric_network
from metabench.problems import problem


def made(**options: Any) -> Problem:
    return make_problem("cross_domain_fewshot", **{"size": "conv4w4", "inner_steps": 1} | options)


def on_data(data: FewShot, **options: Any) -> Problem:
    kind = problem("cross_domain_fewshot")
    given = {"train_ways": 2, "ways": 2, "shots": 1, "queries": 2, "tested": 20} | options
    place = (1, 0, torch.device("cpu"), torch.float32, data)
    return kind(Setting("conv4w4", build(kind.card.options, given, "options"), *place))


@pytest.mark.parametrize(
    ("method", "steps", "head"),
    [
        ("t1t2", 1, "prototypes"),
        ("t1t2", 1, "relations"),
        ("unrolled", 3, "prototypes"),
        ("forward", 1, "relations"),
        ("mixflow", 1, "prototypes"),
    ],
)
def test_the_hypergradient_is_that_of_finite_differences(head: str, method: str, steps: int) -> None:
    on = made(head=head, inner_steps=steps, optimiser="sgd", learning_rate=0.1)
    state, meta, window = checkpoint(on, windows_before=0)
    found = call(method, on, state, meta, window)
    assert_derivative(found.meta, objective(on, state, window), meta, tolerance=1e-5, width=1e-5, count=1)


def test_every_evograd_copy_sees_the_same_noise() -> None:
    on = made(optimiser="sgd", learning_rate=0.1)
    state, meta, window = checkpoint(on)
    first, again = (call("evograd", on, state, meta, window, seed=1) for _ in range(2))
    assert all(torch.equal(leaf, again.meta[name]) for name, leaf in first.meta.items())
    assert any(float(leaf.abs().max()) > 0 for leaf in first.meta.values())


def test_the_layers_multiply_and_shift_by_noise_of_their_scales() -> None:
    on = made()
    state, meta, window = checkpoint(on, windows_before=0)
    batch = window.inner[0]
    loss = on.inner_loss(state.params, meta, batch)
    silent = {**batch, "noise": torch.zeros_like(batch["noise"])}
    assert float(loss) != float(on.inner_loss(state.params, meta, silent))
    torch.testing.assert_close(on.inner_loss(state.params, meta, silent), on.outer_loss(state.params, meta, batch))
    fixed, none = made(transform="fixed"), made(transform="none")
    torch.testing.assert_close(fixed.inner_loss(state.params, meta, batch), loss)
    torch.testing.assert_close(none.inner_loss(state.params, meta, batch), on.outer_loss(state.params, meta, batch))
    wide = {name: 2 * leaf for name, leaf in meta.items()}
    assert float(on.inner_loss(state.params, wide, batch)) != float(loss)
    assert float(fixed.inner_loss(state.params, wide, batch)) == float(fixed.inner_loss(state.params, meta, batch))
    # Read, so that the problem is well posed, and without effect.
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in meta.items()}
    for off in (fixed, none):
        slopes = torch.autograd.grad(off.inner_loss(state.params, leaves, batch), list(leaves.values()))
        assert all(not slope.any() for slope in slopes)
    # The scales themselves: softplus of steepness 100.
    assert on.summary(meta)["mean of block0.norm.scale"] == pytest.approx(0.3)
    assert on.summary(meta)["mean of block0.norm.shift"] == pytest.approx(0.5)


def test_the_noise_is_standard_normal_and_its_own_for_every_task() -> None:
    on = made(size="conv4w32", inner_steps=2)
    drawn = [batch["noise"] for (window,) in itertools.islice(on.windows(), 20) for batch in window.inner]
    every = torch.cat(drawn)
    assert (
        abs(float(every.mean())) < 5 / len(every) ** 0.5 and abs(float(every.var()) - 1) < 5 * (2 / len(every)) ** 0.5
    )
    assert len({float(one[0]) for one in drawn}) == 40


def test_inner_and_outer_tasks_are_of_different_domains_and_can_begin_anywhere() -> None:
    plain = [Domain(np.full((30, 1, 16, 16), 20 * i, np.uint8), np.arange(30) % 3, ("a", "b", "c")) for i in range(4)]
    named = {str(i): domain for i, domain in enumerate(plain)}
    data = FewShot(named, named, named)
    kind = problem("cross_domain_fewshot")
    options = build(kind.card.options, {"train_ways": 2, "queries": 1, "unseen": "3"}, "options")
    on = kind(Setting("conv4w4", options, 3, 0, torch.device("cpu"), torch.float32, data))
    windows = list(itertools.islice(on.windows(), 60))
    seen = []
    for (window,) in windows:
        shades = [set(batch["images"].unique().tolist()) for batch in (*window.inner, window.outer[-1] or {})]
        assert all(len(shade) == 1 for shade in shades)
        values = [round((next(iter(shade)) + 1) * 127.5 / 20) for shade in shades]
        assert values[-1] not in values[:-1]
        seen.append(values)
    assert {value for values in seen for value in values} == {0, 1, 2}  # never the domain that is left out
    assert len({tuple(values[:-1]) for values in seen}) > 10
    (later,) = next(iter(on.windows_after(59)))
    assert later.begins is None and torch.equal(later.inner[1]["noise"], windows[59][0].inner[1]["noise"])


def classes_by_shade(test_shift: int) -> FewShot:
    """Domains of two classes, images of stripes one way or the other; test images are brighter by `test_shift`."""
    stream = np.random.default_rng(0)

    def domain(shift: int) -> Domain:
        images = stream.integers(0, 60, (40, 1, 16, 16)) + shift
        targets = np.arange(40) % 2
        for image, target in zip(images, targets, strict=True):
            part = image[0] if target else image[0].T
            part[:, ::4] += 120
        return Domain(images.astype(np.uint8), targets, ("across", "along"))

    return FewShot({"a": domain(0), "b": domain(0)}, {"c": domain(0)}, {"d": domain(test_shift)})


def test_the_accuracy_is_that_of_an_easy_unseen_domain() -> None:
    on = on_data(classes_by_shade(0))
    state, meta, _ = checkpoint(on, windows_before=20)
    found = on.evaluate(state.params, meta)
    assert found["accuracy on unseen domains (%)"] == 100
    assert found["above nearest centroid of pixels (%)"] == 0  # pixels solve it, too
    assert found["95 % interval over tasks (%)"] == 0
    curve = found["accuracy per domain"]
    assert (
        isinstance(curve, Curve) and curve.values[0] == 100 and curve.along == "domain: 1 d, 2 far: fashion_mnist_10k"
    )
    assert curve.values[1] == pytest.approx(found["accuracy on far domains (%)"])
    assert curve.lower[1] < curve.values[1] < curve.upper[1]


def test_labels_of_the_test_domain_decide_the_accuracy_and_its_images_no_statistic() -> None:
    data = classes_by_shade(0)
    shuffled = dataclasses.replace(data.test["d"], targets=np.random.default_rng(1).permutation(data.test["d"].targets))
    on, deceived = on_data(data, tested=200), on_data(dataclasses.replace(data, test={"d": shuffled}), tested=200)
    state, meta, _ = checkpoint(on, windows_before=20)
    by_chance = deceived.evaluate(state.params, meta)
    assert abs(by_chance["accuracy on unseen domains (%)"] - 50) < 8
    assert 2 < by_chance["95 % interval over tasks (%)"] < 8
    # One image has the same features whatever others are evaluated with it.
    normalise = on._statistics(state.params)
    images = on._placed(data.test["d"], np.arange(6))
    features = on._network(state.params, images, normalise)
    torch.testing.assert_close(features[2:3], on._network(state.params, images[2:3], normalise))


def test_a_far_domain_of_few_classes_has_tasks_of_all_of_them() -> None:
    on = made(ways=12, tested=2)
    state, meta, _ = checkpoint(on, windows_before=0)
    found = on.evaluate(state.params, meta)
    assert 0 < found["accuracy on far domains (%)"] < 100


def test_prototypes_score_by_mean_squared_distance_and_relations_by_pairs() -> None:
    network = metric_network("conv4w4", "prototypes", (1, 16, 16))
    support, query = torch.randn(3, 2, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    expected = -SHARPNESS / 5 * torch.cdist(query, support.mean(1)).square()
    torch.testing.assert_close(network.scores({}, support, query), expected)
    pairs = metric_network("conv4w4", "relations", (1, 16, 16))
    params = pairs.initial(torch.Generator().manual_seed(0), torch.float64)
    maps, queries = torch.randn(3, 2, 4, 4, 4, dtype=torch.float64), torch.randn(5, 4, 4, 4, dtype=torch.float64)
    scores = pairs.scores(params, maps, queries)
    assert scores.shape == (5, 3)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(pairs.scores(params, maps[order], queries), scores[:, order])


@pytest.mark.parametrize(
    ("size", "shape", "features"), [("conv4w4", (3, 84, 84), (4, 5, 5)), ("resnet10", (1, 16, 16), (512, 2, 2))]
)
def test_a_network_s_map_has_the_declared_shape(size: str, shape: tuple[int, ...], features: tuple[int, ...]) -> None:
    network = metric_network(size, "relations", shape)
    params: Tree = network.initial(torch.Generator().manual_seed(0), torch.float32)
    maps = network(params, torch.randn(2, *shape), by_batch)
    assert maps.shape == (2, *features) == (2, *network.features)
    assert set(network.transformed) <= {name.removesuffix(".weight") for name in params}
    assert network.scores(params, maps.unsqueeze(1), maps).shape == (2, 2)


def test_what_cannot_be_drawn_is_refused() -> None:
    glyphs = cached_data("glyphs")
    with pytest.raises(
        MetabenchError, match="domain 'Ethiopic': a 5-way 5-shot task with 16 queries per class needs 5 classes of 21"
    ):
        on_data(glyphs, train_ways=5, shots=5, queries=16)
    with pytest.raises(MetabenchError, match="unknown test domain 'Arabik': did you mean 'Arabic'"):
        on_data(glyphs, unseen="Arabik")
    with pytest.raises(MetabenchError, match="training needs two domains, one of them pseudo-unseen, found Latin"):
        on_data(FewShot({"Latin": glyphs.train["Latin"]}, {}, glyphs.test))
    with pytest.raises(MetabenchError, match="images of 2 x 2 pixels are too small for conv4w4"):
        metric_network("conv4w4", "prototypes", (1, 2, 2))
