"""Networks and images on which optimisers are learned: layers as those of torch, classes and sides as asked for, exact hypergradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from bilevel import call, checkpoint, difference, directions, objective
from learned_problems import learned

from metabench.core import MetabenchError, tree
from metabench.core.randomness import generator
from metabench.learned.images import Images, ImageTasks
from metabench.learned.networks import SmallNetwork
from metabench.learned.problem import LearnedOptimiserProblem
from metabench.learned.tasks import Part, Tasks


def images_of(tasks: Tasks) -> Images:
    assert isinstance(tasks, ImageTasks)
    return tasks._images


def test_a_convolutional_network_is_that_of_torchs_layers() -> None:
    network = SmallNetwork((1, 14, 14), 10, (4, 4, 4), (8,), "relu", normalised=True)
    params = network.initial(generator(0, "params"), torch.float64)
    images = torch.randn(6, 1, 14, 14, generator=generator(0, "images"), dtype=torch.float64)
    layers: list[torch.nn.Module] = []
    for i, wide in enumerate((1, 4, 4)):
        convolution = torch.nn.Conv2d(wide, 4, 5, padding=2, bias=False, dtype=torch.float64)
        convolution.weight.data = params[f"conv{i}.weight"]
        norm = torch.nn.BatchNorm2d(4, track_running_stats=False, dtype=torch.float64)
        norm.bias.data = params[f"conv{i}.bias"]
        layers += [convolution, norm, torch.nn.ReLU(), torch.nn.MaxPool2d(2, ceil_mode=True)]
    dense, last = (torch.nn.Linear(*sizes, dtype=torch.float64) for sizes in ((16, 8), (8, 10)))
    dense.weight.data, last.weight.data = params["dense0.weight"], params["dense1.weight"]
    dense.bias.data, last.bias.data = torch.zeros(8, dtype=torch.float64), params["dense1.bias"]
    norm = torch.nn.BatchNorm1d(8, track_running_stats=False, dtype=torch.float64)
    norm.bias.data = params["dense0.bias"]
    whole = torch.nn.Sequential(*layers, torch.nn.Flatten(), dense, norm, torch.nn.ReLU(), last)
    torch.testing.assert_close(network(params, images), whole(images))


def test_a_perceptron_has_the_papers_size_and_start() -> None:
    problem = learned("learned_perceptron", size="p14")
    params = problem.initial_state()[0].params
    assert sum(leaf.numel() for leaf in params.values()) == 4150
    assert float(tree.flatten(params).std()) == pytest.approx(0.01, rel=0.05)
    two = problem.others()["two layers"].begin(Part.TEST, generator(0, "two"))
    assert [tuple(leaf.shape) for leaf in two.params.values()] == [(20, 196), (20,), (20, 20), (20,), (10, 20), (10,)]
    larger = problem.others()["28 x 28"].begin(Part.TEST, generator(0, "larger"))
    assert sum(leaf.numel() for leaf in larger.params.values()) == 15910


def test_smaller_images_are_averages() -> None:
    large, small = (images_of(learned("learned_perceptron", size=size).tasks) for size in ("p28", "p14"))
    whole, part = (images.judged[Part.TEST]["inputs"] for images in (large, small))
    torch.testing.assert_close(part[:, 0, 3, 5], whole[:, 0, 6:8, 10:12].mean((1, 2)))


def test_classes_are_those_asked_for() -> None:
    problem = learned("learned_convnet", classes="held out")
    own, others = images_of(problem.tasks), {name: images_of(tasks) for name, tasks in problem.others().items()}
    assert (own.classes, {name: images.classes for name, images in others.items()}) == (
        5,
        {"5 classes": 5, "2 classes": 2, "all classes": 10},
    )
    every = others["all classes"].judged[Part.TEST]
    for images, labels in ((own, range(5, 10)), (others["5 classes"], range(5)), (others["2 classes"], range(2))):
        for new, old in enumerate(labels):
            ours = images.judged[Part.TEST]["inputs"][images.judged[Part.TEST]["targets"] == new]
            assert torch.equal(ours, every["inputs"][every["targets"] == old]) and len(ours) == 200
    assert list(learned("learned_convnet").others()) == ["5 classes", "2 classes"]


def test_convolutions_and_dense_layers_may_have_an_optimiser_each() -> None:
    problem = learned("learned_convnet", dense="lstm, layers 1, hidden 2")
    assert {name: problem.tasks.group(name) for name in problem.initial_state()[0].params} == {
        f"{kind}{i}.{what}": kind
        for kind, count in (("conv", 3), ("dense", 2))
        for i in range(count)
        for what in ("weight", "bias")
    }
    assert set(problem.optimisers()) == {"conv", "dense"}


def test_a_data_set_without_images_is_refused() -> None:
    with pytest.raises(MetabenchError, match="learned on labelled images, and the data set loads as a Text"):
        learned("learned_perceptron", dataset="jargon")


@pytest.mark.parametrize("name", ["learned_perceptron", "learned_convnet"])
def test_hypergradients_are_exact_through_the_network(name: str) -> None:
    problem = learned(name, inner_steps=2, optimiser="lstm, layers 1, hidden 2, input log")
    state, meta, window = checkpoint(problem)
    found = call("unrolled", problem, state, meta, window).meta
    for direction in directions(meta, 2):
        # Narrow, so that no ReLU and no maximum changes sides.
        expected = difference(objective(problem, state, window), meta, direction, width=1e-6)
        slope = sum(float((found[key] * leaf).sum()) for key, leaf in direction.items())
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-9)
    forward = call("forward", problem, state, meta, window).meta
    assert float(tree.norm(tree.add_scaled(forward, -1.0, found))) < 1e-10 * float(tree.norm(found))


@pytest.mark.parametrize("name", ["learned_perceptron", "learned_convnet"])
def test_a_seed_decides_everything(name: str) -> None:
    def drawn(problem: LearnedOptimiserProblem) -> list[torch.Tensor]:
        windows = [window for (window,) in itertools.islice(problem.windows(), 2)]
        return [tree.flatten(problem.initial()), *(leaf for window in windows for leaf in window.inner[0].values())]

    first, again, other = (drawn(learned(name, seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
