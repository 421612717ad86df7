"""The meta-update equals torch.optim with clip_grad_norm_ and a scheduler, and its state can go through a file."""

from __future__ import annotations

import io
import math

import pytest
import torch
from bilevel import relative_error

from metabench.autodiff.outer import OuterUpdate
from metabench.core import Tree, tree
from metabench.core.problem import OuterOptimiser
from metabench.core.randomness import generator
from metabench.core.schedules import Cosine, WarmUp

STEPS = 25
SHAPES = {"l": (3, 2), "r": ()}


def drawn(purpose: str, size: float = 1.0) -> Tree:
    stream = generator(0, purpose)
    return {name: size * torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in SHAPES.items()}


def hypergradient(step: int) -> Tree:
    """One that is longer than the clip at some steps, and shorter at others."""
    return drawn(f"hypergradient {step}", 0.3 + 0.3 * (step % 4))


def factor(step: int) -> float:
    return (step + 1) / 6 if step < 6 else 0.1 + 0.45 * (1 + math.cos(math.pi * min((step - 6) / 12, 1)))


@pytest.mark.parametrize("clip", [None, 1.2])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SGD", {}),
        ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("Adam", {"weight_decay": 0.1}),
    ],
)
def test_every_step_equals_torchs(name: str, settings: dict[str, float], scheduled: bool, clip: float | None) -> None:
    schedule = {"schedule": WarmUp(6, Cosine(12, 0.1))} if scheduled else {}
    update = OuterUpdate(OuterOptimiser(name, 0.05, clip=clip, **settings, **schedule))  # type: ignore[arg-type]
    meta = drawn("meta")
    theirs = tree.leaves_for_grad(meta)
    optimiser = getattr(torch.optim, name)(list(theirs.values()), lr=0.05, **settings)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor if scheduled else lambda step: 1.0)
    state = update.init(meta)
    clips = 0
    for step in range(STEPS):
        given = hypergradient(step)
        kept = tree.tree_map(torch.clone, given)
        clips += float(tree.norm(given)) > 1.2
        meta, state = update.update(given, meta, state)
        assert all(torch.equal(leaf, kept[leaf_name]) for leaf_name, leaf in given.items())
        for leaf_name, leaf in theirs.items():
            leaf.grad = given[leaf_name].clone()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(list(theirs.values()), clip)
        optimiser.step()
        scheduler.step()
        assert relative_error(meta, tree.detach(theirs)) <= 1e-13
    assert 3 <= clips <= STEPS - 3


def test_a_state_that_was_saved_goes_on_as_if_it_had_not_been() -> None:
    update = OuterUpdate(OuterOptimiser("Adam", 0.05, schedule=Cosine(20), clip=1.0))
    meta = drawn("meta")
    state = update.init(meta)
    for step in range(5):
        meta, state = update.update(hypergradient(step), meta, state)
    file = io.BytesIO()
    torch.save({"meta": meta, "state": state}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    expected, _ = update.update(hypergradient(5), meta, state)
    found, after = OuterUpdate(update.settings).update(hypergradient(5), loaded["meta"], loaded["state"])
    assert all(torch.equal(leaf, expected[name]) for name, leaf in found.items())
    assert float(after["step"]["count"]) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept_and_nothing_has_a_graph(dtype: torch.dtype) -> None:
    update = OuterUpdate(OuterOptimiser("SGD", 0.05, schedule=Cosine(20), clip=0.1))
    meta = tree.leaves_for_grad(tree.cast(drawn("meta"), dtype))
    found, state = update.update(tree.cast(hypergradient(3), dtype), meta, update.init(meta))
    for leaf in (*found.values(), *(leaf for leaves in state.values() for leaf in leaves.values())):
        assert leaf.dtype is dtype
        assert not leaf.requires_grad
