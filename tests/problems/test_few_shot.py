"""Few-shot classification by blocks: derivatives, adaptation in its three forms, what an accuracy may see, and traces that nets share."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from bilevel import assert_derivative, call, make_problem, objective, relative_error

from metabench.autodiff.inner import begun, run
from metabench.autodiff.traced import segment_graphs
from metabench.core import tree
from metabench.core.errors import MetabenchError
from metabench.core.problem import MetaRole
from metabench.core.segments import chain_loss
from metabench.models.block_losses import from_meta
from metabench.models.choice_blocks import BlockNet
from metabench.problems.few_shot import FewShot
from metabench.tasks.adapting import AdaptingClassifier
from metabench.tasks.images import TEST, TRAIN, VALIDATION, ImageTasks
from metabench.tasks.trained import meta_trained


def made(size: str = "subnet", **options: Any) -> FewShot:
    given = {"architecture": "pool3-sep3-pool3"} if size == "subnet" else {}
    found = make_problem("few_shot", size=size, **given | options)
    assert isinstance(found, FewShot)
    return found


@pytest.mark.parametrize("size", ["subnet", "conv4-8", "resnet12-16"])
@pytest.mark.parametrize("adaptation", ["start", "head"])
def test_the_hypergradient_is_that_of_finite_differences(size: str, adaptation: str) -> None:
    on = made(size, adaptation=adaptation, learning_rate=0.005 if size == "resnet12-16" else 0.05)
    (state, meta), window = on.initial_state(), next(on.windows())[0]
    found = call("unrolled", on, state, meta, window)
    # ReLU and maxima have kinks, which a wide difference would step over.
    assert_derivative(found.meta, objective(on, state, window), meta, tolerance=1e-5, width=1e-6, count=1)


def test_a_proximal_run_has_the_hypergradient_of_a_constant_start() -> None:
    on = made(adaptation="proximal", proximal=0.7)
    assert on.roles == {MetaRole.INNER_LOSS}
    (state, meta), window = on.initial_state(), next(on.windows())[0]
    fixed = begun(on, state, meta)
    found = call("unrolled", on, state, meta, window)

    def from_there(changed: dict[str, torch.Tensor]) -> float:
        after = run(on, fixed, changed, window.inner)
        return float(on.outer_loss(after.params, changed, window.outer[-1]))

    assert_derivative(found.meta, from_there, meta, tolerance=1e-5, width=1e-6, count=1)


def test_the_proximal_term_is_half_its_strength_times_the_squared_distance() -> None:
    on, plain = made(adaptation="proximal", proximal=0.7), made()
    (_, meta), window = on.initial_state(), next(on.windows())[0]
    moved = {name: leaf + 0.1 * torch.ones_like(leaf) for name, leaf in meta.items()}
    batch = window.inner[0]
    term = on.inner_loss(moved, meta, batch) - plain.inner_loss(moved, meta, batch)
    assert float(term) == pytest.approx(0.35 * 0.01 * tree.count(meta), rel=1e-10)
    assert torch.equal(on.outer_loss(moved, meta, batch), plain.outer_loss(moved, meta, batch))


@pytest.mark.parametrize("adaptation", ["start", "proximal", "head"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_mixed_mode_agrees_with_the_recorded_run(adaptation: str, norm: str) -> None:
    on = made(adaptation=adaptation, norm=norm)
    (state, meta), window = on.initial_state(), next(on.windows())[0]
    found = [call(name, on, state, meta, window).meta for name in ("unrolled", "mixflow")]
    assert relative_error(found[1], found[0]) <= 1e-9


def test_what_does_not_adapt_is_read_from_the_meta_parameters() -> None:
    on = made(adaptation="head")
    (state, meta), window = on.initial_state(), next(on.windows())[0]
    assert set(state.params) == {"head.weight", "head.bias"} == on.start_only
    whole = chain_loss(on.net.segments(), meta, {}, window.inner[0])
    assert torch.equal(on.inner_loss(on.start(state.params, meta), meta, window.inner[0]), whole)
    after = run(on, begun(on, state, meta), meta, window.inner)
    assert set(after.params) == {"head.weight", "head.bias"}
    # The same, by a chain in which nothing is constant.
    assert len(from_meta(on.net.segments(), tuple(meta))[0].meta) == 0


def test_nets_share_traces_of_equal_blocks() -> None:
    before = len(segment_graphs._cache)
    on = made(architecture="conv3-sep3-pool3")
    kept = {one: len(segment_graphs._cache) for one in ()}
    for architecture in ("conv3-sep3-pool3", "sep3-sep3-pool3", "conv3-conv3-pool3", "sep3-conv3-pool3"):
        other = on.subnet(architecture)
        (state, meta), window = other.initial_state(), next(other.windows())[0]
        exact = call("unrolled", other, state, meta, window).meta
        assert relative_error(call("mixflow", other, state, meta, window).meta, exact) <= 1e-9
        kept[architecture] = len(segment_graphs._cache)
    # The last net has no block that was not met before.
    assert kept["sep3-conv3-pool3"] == kept["conv3-conv3-pool3"]
    assert kept["sep3-conv3-pool3"] - before <= 2 * (3 * 5 + 2)


def test_a_subnet_is_the_problem_made_with_its_architecture_and_shares_its_data() -> None:
    on = made(architecture="conv3-sep3-pool3", norm="batch")
    other, new = on.subnet("sep5-pool3-identity"), made(architecture="sep5-pool3-identity", norm="batch")
    assert other.tasks is on.tasks and other.setting == new.setting
    (state, meta), window = new.initial_state(), next(new.windows())[0]
    assert (
        relative_error(
            call("unrolled", other, state, meta, window).meta, call("unrolled", new, state, meta, window).meta
        )
        == 0
    )
    assert list(on.initial()) != list(other.initial()) and on.net is not other.net


@pytest.mark.parametrize("adaptation", ["start", "proximal", "head"])
def test_answers_are_those_of_one_task_after_another(adaptation: str) -> None:
    on = made("conv4-8", ways=3, queries=4, norm="batch", adaptation=adaptation, tested=6)
    meta, shape = on.initial(), on.tasks.shape
    found = on.answers(meta, TEST, 6, range(4), alone=True)
    for numbers, stack in on.tasks.stacks(TEST, 6, largest=1):
        state, _ = on.initial_state()
        support = {"images": stack.support[0], "targets": on.tasks.support_targets}
        params = run(on, begun(on, state, meta), meta, (support,) * 3).params
        scores = on.net.scores({**meta, **params}, stack.query[0])
        assert int((scores.argmax(1) == on.tasks.query_targets).sum()) == int(found.together[3, numbers[0]])
    assert found.together.shape == (4, 6) and shape.queries == 4


def test_an_answer_alone_does_not_depend_on_other_queries_and_one_together_does() -> None:
    on = made("conv4-8", ways=3, queries=4, norm="batch")
    meta = on.initial()
    ((_, stack),) = on.tasks.stacks(TEST, 1)
    scores: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    seen: list[torch.Tensor] = []
    plain = BlockNet.scores

    def kept(self: BlockNet, *given: Any) -> torch.Tensor:
        seen.append(plain(self, *given))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockNet, "scores", kept)
        for changed in (False, True):
            query = stack.query.clone()
            if changed:
                query[0, 1:] = -query[0, 1:]
            for alone in (False, True):
                params = next(iter(on._adapting(meta, stack.support, 0)))
                with torch.no_grad():
                    on._right(params, meta, type(stack)(stack.shape, stack.support, query), alone=alone)
                scores[alone].append(torch._C._functorch.get_unwrapped(seen[-1])[0, 0].clone())
    assert torch.allclose(*scores[True], rtol=0, atol=1e-12)
    assert not torch.allclose(*scores[False], rtol=0, atol=1e-3)


def test_groups_of_channels_make_both_accuracies_one() -> None:
    found = made("conv4-8", ways=3, norm="group", tested=6)
    answers = found.answers(found.initial(), TEST, 6, range(4), alone=True)
    assert torch.equal(answers.alone, answers.together[3])


def test_tasks_of_the_parts_share_no_class_and_a_shard_may_begin_anywhere() -> None:
    on = made(ways=3)
    tasks = on.tasks
    assert not set(tasks.domains(TRAIN)) & set(tasks.domains(TEST))
    assert not set(tasks.domains(VALIDATION)) & (set(tasks.domains(TEST)) | set(tasks.domains(TRAIN)))
    whole = {number: stack.support[i] for numbers, stack in tasks.stacks(TEST, 12) for i, number in enumerate(numbers)}
    shard = {
        number: stack.support[i]
        for numbers, stack in tasks.stacks(TEST, 5, first=7)
        for i, number in enumerate(numbers)
    }
    assert sorted(shard) == [7, 8, 9, 10, 11]
    assert all(torch.equal(whole[number], images) for number, images in shard.items())


def test_choosing_by_validation_touches_no_test_task() -> None:
    on = made(ways=3)
    touched: list[str] = []
    stacks = ImageTasks.stacks

    def watched(self: ImageTasks, part: str, *given: Any, **named: Any) -> Any:
        touched.append(part)
        return stacks(self, part, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageTasks, "stacks", watched)
        assert 0 <= on.validation_accuracy(on.initial(), 4) <= 100
    assert touched == [VALIDATION]


def test_windows_may_be_skipped_without_being_drawn() -> None:
    on = made(tasks=2)
    assert isinstance(on, AdaptingClassifier)
    third = list(itertools.islice(on.windows(), 3))[2]
    skipped = next(iter(on.windows_after(2)))
    for one, other in zip(third, skipped, strict=True):
        assert torch.equal(one.inner[0]["images"], other.inner[0]["images"])
        assert torch.equal(one.outer[-1]["images"], other.outer[-1]["images"])


def test_meta_training_teaches() -> None:
    on = make_problem(
        "few_shot", size="conv4-8", dtype=torch.float32, ways=5, queries=5, norm="batch", tasks=4, tested=60
    )
    meta = on.initial()
    before = on.evaluate({}, meta)["accuracy on unseen classes (%)"]
    meta = meta_trained(on, 40)
    assert on.evaluate({}, meta)["accuracy on unseen classes (%)"] > before + 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "conv3-sep3"}, "nets of space 'tiny' have 3"),
        ({"ways": 200}, "a 200-way 1-shot task with 2 queries per class needs 200 classes of 3 images"),
        ({"shots": 400}, "and 0 of its"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(MetabenchError) as refused:
        made(**options)
    assert said in str(refused.value)


def test_a_net_that_diverges_has_no_right_answer() -> None:
    problem = made()
    meta = problem.initial()
    broken = meta | {"head.bias": torch.full_like(meta["head.bias"], math.nan)}
    right = problem.answers(broken, TEST, 6, [0, 3], alone=True)
    assert not right.together.any() and not right.alone.any() and right.pixels.any()
    # On one task of several the others keep theirs.
    stack = next(iter(problem.tasks.stacks(TEST, 6)))[1]
    params = {name: leaf.expand(len(stack.support), *leaf.shape).clone() for name, leaf in meta.items()}
    whole = problem._right(params, meta, stack, alone=False)
    params["head.bias"][0] = math.inf
    assert problem._right(params, meta, stack, alone=False).tolist() == [0, *whole.tolist()[1:]]
