"""A learned optimiser of a plugin: it is found by its name, and its file is part of the hash of its cells alone; the checks of updates."""

from __future__ import annotations

import dataclasses
import functools
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from metabench.core import InnerState, MetabenchError, registry
from metabench.learned import recurrent
from metabench.learned.declared import read_optimiser
from metabench.learned.problem import LearnedOptions
from metabench.report.sections.learned_optimisers.entrants import TRAINED_BY
from metabench.stages.inner_update import check_update
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import _hash, code_hash
from metabench.suite.plan.plan import load_suite, plan

PLUGIN = """
    import torch
    from metabench.autodiff.optimisers import SGD
    from metabench.learned.declared import LearnedOptimiser


    def make(options):
        return SGD(lambda meta, step: meta["rate"])


    TINY = LearnedOptimiser("tiny", "a rate", make, lambda options, stream: {"rate": torch.tensor(0.1)}, "")
"""


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have loaded no plugin before a test, nor by it after."""
    monkeypatch.setattr(registry, "_LOADED", [])
    monkeypatch.setattr(registry, "load_file", functools.cache(registry.load_file.__wrapped__))


def test_the_file_of_a_plugin_is_part_of_the_hash_of_cells_that_name_its_optimiser(tmp_path: Path) -> None:
    path = tmp_path / "tiny_optimiser.py"
    path.write_text(textwrap.dedent(PLUGIN))

    def cells() -> list[Cell]:
        grids = {
            name: {"problem": "learned_quadratics", "methods": ["none"], "options": {"optimiser": text}}
            for name, text in (("own", "tiny"), ("other", "lstm, hidden 4"))
        }
        return list(plan(load_suite({"name": "x", "plugins": [str(path)], "experiments": grids})).cells)

    before = [code_hash(cell) for cell in cells()]
    _hash.cache_clear()
    path.write_text(path.read_text() + "# edited")
    assert [code_hash(cell) != was for cell, was in zip(cells(), before, strict=True)] == [True, False]


class Changed:
    """A learned optimiser's update, changed."""

    leafwise = coordinatewise = True

    def __init__(self, how: str) -> None:
        self.how = how
        self.calls = 0

    def init(self, params: Any) -> Any:
        return {"mean": {name: torch.zeros_like(leaf) for name, leaf in params.items()}}

    def update(self, gradient: Any, params: Any, state: Any, meta: Any) -> Any:
        mean = {name: 0.5 * state["mean"][name] + g for name, g in gradient.items()}
        moved = {name: leaf - 0.1 * mean[name] for name, leaf in params.items()}
        self.calls += 1
        match self.how:
            case "in place":
                state["mean"]["a"].mul_(0.5)
            case "another slot":
                mean = {name: leaf.double() for name, leaf in mean.items()}
            case "calls":
                moved = {name: leaf * self.calls for name, leaf in moved.items()}
            case "tensors":
                moved = {name: leaf / sum(g.abs().sum() for g in gradient.values()) for name, leaf in moved.items()}
            case "coordinates":
                moved = {name: leaf / gradient[name].norm() for name, leaf in moved.items()}
            case "order":
                moved = {name: leaf * torch.arange(leaf.numel()).view(leaf.shape) for name, leaf in moved.items()}
        return moved, {"mean": mean}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("in place", "changes slot 'mean' in place"),
        ("another slot", "leaf 'a' of shape .* in torch.float64"),
        ("calls", "not a function of its arguments"),
        ("tensors", "declared leafwise, and its update of parameter 'a' depends on other parameters"),
        ("coordinates", "declared coordinatewise, and its update of parameter 'a' depends on other coordinates"),
        (
            "order",
            "declared coordinatewise, and its update of parameter 'a' depends on other coordinates, or their order",
        ),
    ],
)
def test_an_update_that_is_not_what_it_is_declared_is_refused(how: str, words: str) -> None:
    optimiser, params = Changed(how), {"a": torch.ones(3, 4), "b": torch.ones(2)}
    with pytest.raises(MetabenchError, match=words):
        check_update(optimiser, InnerState(params, optimiser.init(params)), {})


@pytest.mark.parametrize("name", ["lstm", "lstm, input log", "rnnprop", "mlp", "small_mlp", "adam", "nesterov"])
def test_the_updates_of_the_package_are_what_they_are_declared(name: str) -> None:
    chosen = read_optimiser(name)
    optimiser = chosen.make()
    params = {"a": torch.ones(3, 4), "b": torch.ones(2, 1), "s": torch.tensor(1.0), "none": torch.zeros(0)}
    meta = {key: leaf.float() for key, leaf in chosen.draw(torch.Generator().manual_seed(0)).items()}
    check_update(optimiser, InnerState(params, optimiser.init(params)), meta)


def test_a_state_that_coordinates_share_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = recurrent.parted_wide

    def shared(columns: torch.Tensor, like: Any) -> Any:
        return apart(columns.mean(1, keepdim=True).expand_as(columns), like)

    chosen = read_optimiser("lstm, hidden 3")
    optimiser, params = chosen.make(), {"a": torch.ones(3, 4)}
    monkeypatch.setattr(recurrent, "parted_wide", shared)
    meta = {key: leaf.float() for key, leaf in chosen.draw(torch.Generator().manual_seed(0)).items()}
    with pytest.raises(MetabenchError, match="coordinatewise"):
        check_update(optimiser, InnerState(params, optimiser.init(params)), meta)


def test_every_option_says_how_an_optimiser_is_trained_or_on_what_it_is_judged() -> None:
    judged_on = {"horizon", "validation_episodes", "test_episodes", "longer", "judge_every", "transfers"}
    assert {one.name for one in dataclasses.fields(LearnedOptions)} - TRAINED_BY == judged_on
