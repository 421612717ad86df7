"""A run that is interrupted and resumed from its file equals one that never was, to the bit; a file that does not fit is set aside."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import LearningRates, Ridge, Tanh, Tasks

from metabench.autodiff.optimisers import INNER_OPTIMISERS
from metabench.core import MetabenchError, Metric, Tree, tree
from metabench.core.curves import Curve
from metabench.core.problem import OuterOptimiser, Problem, Validation
from metabench.core.randomness import generator
from metabench.methods import method
from metabench.training.checkpoint import Checkpoint
from metabench.training.loop import Updated, train
from metabench.training.run import Run

STEPS = 7


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save as often as asked, however long that takes."""
    monkeypatch.setattr("metabench.training.checkpoint._MOST_SHARE", 0)


class Followed(Tanh):
    """Learns with Adam, keeps a memory between updates, follows a number and a curve, and is validated."""

    outer_optimiser = OuterOptimiser("Adam", learning_rate=0.05)
    validation = Validation(every=2, metric=Metric("score", "max"), patience=3)

    def after_update(self, step: int, meta: Tree, memory: Mapping[str, Tree]) -> tuple[Tree, Mapping[str, Tree]]:
        kept = memory.get("mean", meta)
        noise = torch.randn((), generator=generator(0, f"search {step}"), dtype=torch.float64)
        return tree.tree_map(lambda leaf: leaf + 1e-3 * noise, meta), {"mean": tree.mean([kept, meta])}

    def observe(self, params: Tree, meta: Tree) -> dict[str, float | Curve]:
        return {"norm": float(tree.norm(params)), "spread": Curve([0, 1], [0.0, float(tree.norm(meta))])}

    def validate(self, meta: Tree) -> dict[str, float]:
        return {"score": float(tree.norm(meta))}


def trained(make: Callable[[], Problem], name: str, checkpoint: Checkpoint | None = None, until: int = STEPS) -> Run:
    """Return the run of a problem, resumed if there is a file, after `until` outer steps.

    The problem is made anew each time: the tests' problems draw batches as they go.
    """
    problem, chosen, stream = make(), method(name), generator(0, "training")
    warm = (
        {"warm_start": True} if any(field.name == "warm_start" for field in dataclasses.fields(chosen.options)) else {}
    )
    run, note = checkpoint.resume(problem, stream) if checkpoint else (Run.fresh(problem, stream), "")
    assert not note
    for event in train(problem, chosen, chosen.options(**warm), run, STEPS, checkpoint):
        if isinstance(event, Updated) and event.step == until:
            break
    return run


def assert_equal(one: Run, other: Run) -> None:
    """Assert that two runs are equal to the bit, apart from their times."""

    def trees(run: Run) -> dict[str, Tree]:
        found = {"meta": run.meta, **{f"outer {slot}": leaves for slot, leaves in run.optimiser.items()}, **run.memory}
        for task, state in run.tasks.items():
            found |= {f"params {task}": state.params}
            found |= {f"slot {task} {slot}": leaves for slot, leaves in state.optimiser.items()}
            found |= {f"memory {task} {name}": leaves for name, leaves in state.memory.items()}
        if run.best is not None:
            found |= {"best params": run.best.params, "best meta": run.best.meta}
        return found

    left, right = trees(one), trees(other)
    assert list(left) == list(right)
    for name, leaves in left.items():
        assert list(leaves) == list(right[name])
        assert all(torch.equal(leaf, right[name][leaf_name]) for leaf_name, leaf in leaves.items()), name
    assert torch.equal(one.stream.get_state(), other.stream.get_state())
    curves, others = one.record.curves(), other.record.curves()
    assert {name: curve for name, curve in curves.items() if name != "time"} == {
        name: curve for name, curve in others.items() if name != "time"
    }
    assert (one.step, one.outer_loss, one.waited) == (other.step, other.outer_loss, other.waited)
    assert (one.best and (one.best.step, one.best.value)) == (other.best and (other.best.step, other.best.value))


def interrupted(make: Callable[[], Problem], name: str, path: Path) -> Run:
    """Return a run that is interrupted after its fifth outer step, saved after its fourth and resumed from there."""
    checkpoint = Checkpoint(path / "run.checkpoint", ALWAYS, "this run")
    stopped = trained(make, name, checkpoint, until=5)
    assert stopped.step == 5
    resumed, _ = checkpoint.resume(make(), generator(0, "training"))
    assert resumed.step == 4
    return trained(make, name, checkpoint)


ALWAYS = 1e-12
"""Seconds between two saves: after every outer step."""


# PES keeps perturbed copies, implicit methods their last solution, F2SA and BOME a second run. ES, EvoGrad and Nystrom draw.
KEEPING = ("pes", "ift_cg", "ift_neumann", "ift_fixed_point", "f2sa", "bome", "single_loop", "meha", "forward_carried")
DRAWING = ("pes", "es", "evograd", "ift_nystrom")


@pytest.mark.parametrize("name", dict.fromkeys(KEEPING + DRAWING))
@pytest.mark.usefixtures("often")
def test_every_method_with_memory_or_noise_resumes_to_the_bit(name: str, tmp_path: Path) -> None:
    # On the network the map of a step does not contract; on the convex problem it does.
    make = Ridge if name == "ift_fixed_point" else functools.partial(Tanh, "momentum")
    whole = trained(make, name)
    assert bool(whole.tasks[0].memory) == (name in KEEPING)
    before = Run.fresh(make(), generator(0, "training")).stream.get_state()
    assert torch.equal(whole.stream.get_state(), before) == (name not in DRAWING)
    assert_equal(interrupted(make, name, tmp_path), whole)


@pytest.mark.parametrize("optimiser", INNER_OPTIMISERS)
@pytest.mark.usefixtures("often")
def test_every_inner_optimiser_resumes_to_the_bit(optimiser: str, tmp_path: Path) -> None:
    make = functools.partial(LearningRates, optimiser)
    assert_equal(interrupted(make, "mixflow", tmp_path), trained(make, "mixflow"))


@pytest.mark.usefixtures("often")
def test_hooks_tasks_and_validation_resume_to_the_bit(tmp_path: Path) -> None:
    for make in (Followed, Tasks):
        assert_equal(interrupted(make, "unrolled", tmp_path), trained(make, "unrolled"))
        (tmp_path / "run.checkpoint").unlink()


def test_a_resumed_run_counts_the_time_before(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.checkpoint", ALWAYS, "this run")
    before = trained(Tanh, "unrolled", until=3)
    checkpoint.save(before)
    resumed, _ = checkpoint.resume(Tanh(), generator(0, "training"))
    assert resumed.seconds == before.seconds > 0
    assert trained(Tanh, "unrolled", checkpoint).seconds > before.seconds


def test_saving_takes_a_hundredth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    saved: list[float] = []
    checkpoint = Checkpoint(tmp_path / "run.checkpoint", 60.0, "this run")

    def save(run: Run) -> None:
        saved.append(clock[0])
        clock[0] += 3.0

    monkeypatch.setattr("metabench.training.checkpoint.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoint, "save", save)
    run = Run.fresh(Tanh(), generator(0, "training"))
    checkpoint.begin()
    for _ in range(1000):
        clock[0] += 1.0
        checkpoint.after_step(run, last=False)
    # After a minute, then after a hundred times as long as that took.
    assert saved == [60.0, 363.0, 666.0, 969.0]
    clock[0] += 29.0
    checkpoint.after_step(run, last=True)
    assert len(saved) == 4 + (clock[0] - 972.0 >= 30)


@pytest.mark.usefixtures("often")
def test_a_disk_that_refuses_a_checkpoint_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise MetabenchError(f"cannot write '{path}': No space left on device")

    monkeypatch.setattr("metabench.training.checkpoint.write_bytes_atomically", refuse)
    run = trained(Tanh, "unrolled", Checkpoint(tmp_path / "run.checkpoint", ALWAYS, "this run"), until=3)
    assert run.step == 3 and "not saved after 1 outer steps: cannot write" in capsys.readouterr().err


def test_without_a_file_a_run_begins(tmp_path: Path) -> None:
    run, note = Checkpoint(tmp_path / "none.checkpoint", ALWAYS, "this run").resume(Tanh(), generator(0, "training"))
    assert (run.step, note) == (0, "")


def test_a_finished_run_leaves_no_file(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.checkpoint", ALWAYS, "this run")
    trained(Tanh, "unrolled", checkpoint)
    assert checkpoint.path.is_file()
    checkpoint.forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-100], "is damaged"),
        (lambda content: content[:200] + b"\0" + content[201:], "is damaged"),
        (lambda content: b"", "is not a checkpoint"),
        (lambda content: b"PAR1 some other file", "is not a checkpoint"),
        (lambda content: content.replace(b"checkpoint 3\n", b"checkpoint 9\n", 1), "is of another version"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_set_aside(change: object, words: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.checkpoint", ALWAYS, "this run")
    trained(Tanh, "unrolled", checkpoint, until=4)
    before = change(checkpoint.path.read_bytes())  # type: ignore[operator]
    checkpoint.path.write_bytes(before)
    run, note = checkpoint.resume(Tanh(), generator(0, "training"))
    assert run.step == 0 and f"the checkpoint run.checkpoint {words}: set aside as run.checkpoint.aside-" in note
    (aside,) = tmp_path.iterdir()
    assert aside.name in note and aside.read_bytes() == before


def test_a_checkpoint_of_another_run_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    trained(Tanh, "unrolled", Checkpoint(path, ALWAYS, "another run"), until=4)
    run, note = Checkpoint(path, ALWAYS, "this run").resume(Tanh(), generator(0, "training"))
    assert run.step == 0 and "is of another run (another run, this one is this run)" in note


@pytest.mark.usefixtures("often")
def test_a_curve_of_arrays_is_resumed(tmp_path: Path) -> None:
    class Arrays(Followed):
        def observe(self, params: Tree, meta: Tree) -> dict[str, float | Curve]:
            return {"spread": Curve(np.arange(2), np.array([0.0, float(tree.norm(meta))]))}

    assert_equal(interrupted(Arrays, "unrolled", tmp_path), trained(Arrays, "unrolled"))


def test_a_memory_that_is_no_tensor_is_named_and_the_run_begun_anew(tmp_path: Path) -> None:
    class Counting(Tanh):
        def after_update(self, step: int, meta: Tree, memory: Mapping[str, Any]) -> tuple[Tree, Mapping[str, Any]]:
            return meta, {"count": np.ones(step)}

    checkpoint = Checkpoint(tmp_path / "run.checkpoint", ALWAYS, "this run")
    trained(Counting, "unrolled", checkpoint, until=4)
    run, note = checkpoint.resume(Counting(), generator(0, "training"))
    assert run.step == 0 and "holds something else than tensors, numbers and texts: set aside" in note


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match="cannot be read"):
        Checkpoint(tmp_path, ALWAYS, "this run").resume(Tanh(), generator(0, "training"))
