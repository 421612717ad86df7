"""The suite at the sizes of T-NAS: planned in full, predicted without its data, and its problems trained for two steps at their size.

Its data sets are fetched, or in a folder of the user's: crops of photographs and characters that ship stand in for them, in small batches;
the larger networks wait for all tests to be asked for.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from bilevel import cached_data

from metabench.core import tree
from metabench.core.randomness import generator
from metabench.data.few_shot import Domain, FewShot
from metabench.problems.few_shot import FewShot as Problem
from metabench.search.shared_weights import SharedTrainer, SharedTraining
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.labels import method_of, method_options, problem_of
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.plan.preparations import preparations_of
from metabench.suite.predict.one_cell import predict
from metabench.tasks.joint import Joint
from metabench.training.loop import train
from metabench.training.run import Run

SUITE = Path(__file__).parents[2] / "config/suites/architecture_search-paper.yaml"
PLAN = plan(load_suite(SUITE))
FEW = {"shots": 1, "queries": 1, "tasks": 1}
"""Options under which a step takes seconds; the network and the images keep their size."""
SIDES = {"mini_imagenet": 84, "fc100": 32}


@functools.cache
def stood_in(dataset: str) -> FewShot:
    """Return real images of the shape of a data set: characters, or crops of photographs, neighbours of which are of one class."""
    if dataset == "omniglot":
        # With a margin: 16 x 16 pixels ship.
        glyphs = next(iter(cached_data("glyphs").train.values()))
        wide = np.pad(glyphs.images, ((0, 0), (0, 0), (6, 6), (6, 6)))
        alphabet = {"Latin": Domain(wide, glyphs.targets, glyphs.classes)}
        return FewShot(alphabet, alphabet, alphabet)
    side, held = SIDES[dataset], cached_data("photographs")
    pictures = torch.stack([torch.as_tensor(one.copy()) for one in [*held.train.values(), *held.test.values()]])
    crops = pictures.permute(0, 3, 1, 2).unfold(2, side, 15).unfold(3, side, 15).permute(0, 2, 3, 1, 4, 5)
    images = crops.reshape(-1, 3, side, side)[:80].numpy()
    domain = Domain(
        images, torch.arange(80).div(10, rounding_mode="floor").numpy(), tuple(f"place {i}" for i in range(8))
    )
    return FewShot({"photographs": domain}, {"photographs": domain}, {"photographs": domain})


def small(cell: Cell, steps: int = 2) -> Cell:
    return dataclasses.replace(
        cell, device="cpu", problem_options=cell.problem_options | FEW, outer_steps=steps, inner_steps=2
    )


def one_of_each() -> list[Cell]:
    """Return a cell for every problem, size, data set and formulation."""
    found: dict[tuple[str, ...], Cell] = {}
    for cell in PLAN.cells:
        key = (cell.problem, cell.dataset, cell.size, cell.kind, cell.problem_options.get("formulation", ""))
        if cell.method != "none":
            found.setdefault(key, cell)
    return list(found.values())


def test_every_island_of_every_round_is_a_job_of_its_own() -> None:
    searches = [cell for cell in PLAN.cells if cell.kind == "search"]
    assert {cell.dataset for cell in searches} == {"mini_imagenet", "fc100"}
    for cell in searches:
        assert len(preparations_of(cell, 0)) == 1 + 8 * 20
    assert len(PLAN.preparations) == len(searches) * 3 * 161


@pytest.mark.parametrize(
    "cell", one_of_each(), ids=lambda cell: f"{cell.problem}-{cell.dataset}-{cell.size}-{cell.kind}"
)
def test_memory_is_predicted_without_the_data(cell: Cell) -> None:
    found = predict(cell, "cpu")
    assert found.message == "" and found.peak_bytes > 0 and found.flops > 1e8
    assert found.peak_bytes < 24 * 2**30


@pytest.mark.parametrize(
    "cell", one_of_each(), ids=lambda cell: f"{cell.problem}-{cell.dataset}-{cell.size}-{cell.kind}"
)
def test_two_steps_at_full_size(cell: Cell, request: pytest.FixtureRequest) -> None:
    heavy = "mini_imagenet" in cell.dataset or cell.problem == "architecture_search" or cell.size == "resnet12-64"
    if heavy and not request.config.getoption("--full"):
        pytest.skip("minutes on two cores: --full")
    given = small(cell)
    problem = problem_of(given, 0, stood_in(cell.dataset), "cpu", "float32")
    before = problem.initial()
    if cell.kind == "search":
        assert isinstance(problem, Problem)
        training = SharedTraining(outer_steps=2, joint=Joint(2, 4))
        *_, shared = SharedTrainer(problem, training).run()
        assert shared.adaptations == 2 * len(problem.supernet().space.operations) and tree.all_finite(shared.weights)
        return
    run = Run.fresh(problem, generator(0, "training"))
    for _ in train(problem, method_of(given), method_options(given), run, 2):
        pass
    assert run.step == 2 and tree.all_finite(run.meta)
    assert tree.norm(tree.subtract(run.meta, before)) > 0
