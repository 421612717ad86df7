"""How optimisers are judged: on tasks of their own part, each by itself, along one run for all lengths."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from learned_problems import learned

from metabench.core import Batch, Tree
from metabench.core.curves import Curve
from metabench.core.randomness import generator
from metabench.learned import evaluation
from metabench.learned.evaluation import CAP, Judged, Trial, judge
from metabench.learned.images import ImageTasks
from metabench.learned.names import AREA, DIVERGED, FINAL, MEDIAN, on_trial
from metabench.learned.problem import LearnedOptimiserProblem
from metabench.learned.tasks import Episode, Part, Tasks
from metabench.methods import method
from metabench.training.checkpoint import Checkpoint
from metabench.training.loop import Updated, Validated, train
from metabench.training.run import Run

NETWORKS = ("learned_perceptron", "learned_convnet")


class Steep(Tasks):
    """Three parabolas a/2 w^2 from w = 1, of which the second has a gradient that is not a number from the third step on."""

    together, stacked = 3, True

    def begin(self, part: Part, stream: torch.Generator) -> Episode:
        batches = ({"bad": torch.tensor([False, k > 1, False])} for k in itertools.count())
        return Episode({"w": torch.ones(3, 1, dtype=torch.float64)}, batches, {})

    def losses(self, params: Tree, batch: Batch) -> torch.Tensor:
        slope = torch.where(batch["bad"], torch.nan, torch.tensor([1.0, 1.0, 0.5]))
        return 0.5 * slope * params["w"].square().sum(1)

    def judged(self, params: Tree, episode: Episode) -> torch.Tensor:
        return params["w"].square().sum(1)


def test_a_task_that_diverges_counts_and_leaves_the_others_as_they_are() -> None:
    problem = learned("learned_quadratics", optimiser="sgd, rate 0.5")
    (found,) = judge(problem, [Trial("", Steep(), 4, 1)], problem.initial(), Part.TEST)
    assert found.losses.shape == (5, 3)
    for place, factor in ((0, 0.25), (2, 0.5625)):
        expected = torch.tensor([factor**k for k in range(5)], dtype=torch.float64)
        torch.testing.assert_close(found.losses[:, place], expected, rtol=1e-6, atol=0)
    assert found.losses[2, 1] == pytest.approx(0.25**2) and found.losses[3:, 1].isnan().all()
    assert found.diverged.tolist() == [False, True, False]
    numbers = found.numbers()
    assert numbers[DIVERGED] == pytest.approx(100 / 3)
    assert numbers[FINAL] == pytest.approx(math.log10((0.25**4 + CAP + 0.5625**4) / 3))
    assert numbers[MEDIAN] == pytest.approx(math.log10(0.5625**4))
    assert found.curve().fault() == ""


def test_a_loss_counts_as_no_more_than_the_cap() -> None:
    losses = torch.tensor([[1.0, 2.0], [CAP + 1, 1.0], [math.inf, 2 * CAP]], dtype=torch.float64)
    found = Judged([0, 1, 2], losses, "")
    assert found.area == (CAP + 1 + CAP + 2 * CAP) / 4
    assert found.diverged.tolist() == [True, False]


def test_trials_of_other_lengths_are_along_the_same_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = learned("learned_perceptron")
    meta, tasks, steps = problem.initial(), problem.tasks, []
    alone = [
        judge(problem, [Trial("", tasks, length, episodes, every)], meta, Part.TEST)[0]
        for length, episodes, every in ((3, 2, 1), (5, 1, 2))
    ]
    real = evaluation.step
    monkeypatch.setattr(evaluation, "step", lambda *given: steps.append(1) or real(*given))
    together = judge(problem, [Trial("a", tasks, 3, 2), Trial("b", tasks, 5, 1, 2)], meta, Part.TEST)
    assert len(steps) == 5 + 3
    for one, other in zip(alone, together, strict=True):
        assert one.steps == other.steps and torch.equal(one.losses, other.losses)
    assert together[1].steps == [0, 2, 4, 5] and together[0].losses.shape == (4, 2)


def test_an_evaluation_has_every_trial() -> None:
    problem = learned("learned_perceptron", dataset="fashion_mnist_10k", other_data="digits", test_episodes=2)
    found = problem.evaluate({}, problem.initial())
    names = ("", "5 steps", "28 x 28", "40 units", "two layers", "ReLU", "digits")
    for name in names:
        assert 0.5 < found[on_trial(name, AREA)] < 5
        curve = found[on_trial(name, "loss")]
        assert isinstance(curve, Curve) and curve.n == (1 if name == "5 steps" else 2)
        assert len(curve.x) == (6 if name == "5 steps" else 5)
    assert len(found) == 5 * len(names) + 2  # and what the optimiser does on no task
    assert set(problem.chosen_by(problem.initial())) == {on_trial(name, AREA) for name in names}
    alone = learned("learned_perceptron", transfers=False)
    assert len(alone.evaluate({}, alone.initial())) == 5 + 2


def images_of(batches: Iterator[Batch], count: int) -> set[bytes]:
    drawn = itertools.islice(batches, count)
    return {image.float().numpy().tobytes() for batch in drawn for image in batch["inputs"]}


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_share_no_image_whatever_the_seed(name: str) -> None:
    """Fashion-MNIST at full size: reduced images may coincide."""
    size = {"learned_perceptron": "p28", "learned_convnet": "c8"}[name]
    seen: dict[str, set[bytes]] = {}
    for seed in (0, 1):
        tasks = learned(name, size=size, seed=seed, dtype=torch.float32).tasks
        for part in Part:
            episode = tasks.begin(part, generator(seed, part.value))
            seen.setdefault(f"{part.value}, steps", set()).update(images_of(episode.batches, 400))
            if part is not Part.TRAIN:
                seen.setdefault(f"{part.value}, judged", set()).update(images_of(iter([episode.constants]), 1))
    assert len(seen) == 5 and all(len(images) > 900 for images in seen.values())
    for (one, images), (other, others) in itertools.combinations(seen.items(), 2):
        assert not images & others, f"{one} and {other}"
    assert len(seen["test, judged"]) == 2000


def streams(problem: LearnedOptimiserProblem, monkeypatch: pytest.MonkeyPatch) -> dict[Part, set[int]]:
    """Return the seeds of the streams from which each part's tasks were drawn in training, validation and tests."""
    found: dict[Part, set[int]] = {part: set() for part in Part}
    begin = type(problem.tasks).begin

    def followed(tasks: Any, part: Part, stream: torch.Generator) -> Episode:
        found[part].add(stream.initial_seed())
        return begin(tasks, part, stream)

    monkeypatch.setattr(type(problem.tasks), "begin", followed)
    meta = problem.initial()
    list(itertools.islice(problem.windows(), 12))
    assert [bool(seeds) for seeds in found.values()] == [True, False, False]
    problem.validate(meta)
    problem.chosen_by(meta)
    assert [bool(seeds) for seeds in found.values()] == [True, True, False]
    problem.evaluate({}, meta)
    return found


@pytest.mark.parametrize("name", ["learned_quadratics", "learned_perceptron"])
def test_training_validation_and_tests_draw_from_streams_of_their_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"episodes": 2, "validation_episodes": 3, "test_episodes": 3}
    train_seeds, *others = streams(learned(name, **options), monkeypatch).values()
    assert len(train_seeds) >= 6
    assert len(set.union(train_seeds, *others)) == len(train_seeds) + sum(map(len, others))


def test_validation_is_on_validation_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = learned("learned_perceptron", validation_episodes=2)
    meta = problem.initial()
    (expected,) = judge(problem, [Trial("", problem.tasks, 4, 2)], meta, Part.VALIDATION)
    assert problem.validate(meta) == {AREA: expected.area}
    assert problem.chosen_by(meta)[AREA] == expected.area
    begin = ImageTasks.begin
    # A bug, planted: validation tasks that are training tasks.
    monkeypatch.setattr(
        ImageTasks,
        "begin",
        lambda tasks, part, stream: begin(tasks, Part.TRAIN if part is Part.VALIDATION else part, stream),
    )
    assert problem.validate(meta) != {AREA: expected.area}


def make(**options: Any) -> LearnedOptimiserProblem:
    return learned("learned_quadratics", inner_steps=3, horizon=7, validate_every=2, outer_learning_rate=2.0, **options)


def trained(problem: LearnedOptimiserProblem, run: Run, checkpoint: Checkpoint | None = None, until: int = 8) -> Run:
    chosen = method("unrolled")
    for event in train(problem, chosen, chosen.options(), run, 8, checkpoint):
        if isinstance(event, Updated) and event.step == until:
            break
    return run


def test_what_validated_best_is_tested_and_its_time_is_not_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, asleep = make(), 0.1
    run, metas, found = Run.fresh(problem, generator(0, "training")), {}, {}
    validate = problem.validate
    monkeypatch.setattr(problem, "validate", lambda meta: time.sleep(asleep) or validate(meta))
    chosen, begun = method("unrolled"), time.perf_counter()
    for event in train(problem, chosen, chosen.options(), run, 8):
        if isinstance(event, Updated):
            metas[event.step] = run.meta
        elif isinstance(event, Validated):
            found[event.step] = event.values[AREA]
    assert run.seconds <= time.perf_counter() - begun - 4 * asleep
    best = min(found, key=found.__getitem__)
    # The rate is so high that the last step is not the best.
    assert list(found) == [2, 4, 6, 8] and best != 8
    _, meta = run.outcome(problem)
    assert all(torch.equal(leaf, metas[best][name]) for name, leaf in meta.items())
    assert validate(meta)[AREA] == found[best]
    assert run.record.numbers[AREA] == (list(found), list(found.values()))


@pytest.mark.parametrize("options", [{}, {"episodes": 2, "stagger": True, "shortest": 4}])
def test_an_interrupted_run_gives_the_same_curves(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metabench.training.checkpoint._MOST_SHARE", 0)
    whole = trained(make(**options), Run.fresh(make(), generator(0, "training")))
    checkpoint = Checkpoint(tmp_path / "run", 1e-12, "this run")
    trained(make(**options), Run.fresh(make(), generator(0, "training")), checkpoint, until=5)
    resumed, note = checkpoint.resume(make(**options), generator(0, "training"))
    assert (resumed.step, note) == (4, "")
    trained(make(**options), resumed, checkpoint)
    for name in ("outer loss", AREA):
        assert resumed.record.numbers[name] == whole.record.numbers[name]
    results = [make(**options).evaluate(*run.outcome(make())) for run in (whole, resumed)]
    assert results[0] == results[1]
