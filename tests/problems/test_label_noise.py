"""Label noise is what it is called, and the weighing network weighs."""

from __future__ import annotations

import pytest
import torch
from bilevel import checkpoint, make_problem

from metabench.core import MetabenchError, tree
from metabench.data.batches import augmented
from metabench.problems.label_noise import corrupted, weigh

CLASSES, N = 10, 20_000
TARGETS = torch.arange(N) % CLASSES


def rate_bound(rate: float) -> float:
    """Return five standard errors of a share of N: passed by chance with probability 6e-7."""
    return 5 * (rate * (1 - rate) / N) ** 0.5


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4, 0.8, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_flip_noise_is_wrong_at_its_rate_and_moves_each_class_to_one_other(rate: float, seed: int) -> None:
    noisy = corrupted(TARGETS, CLASSES, "flip", rate, seed)
    wrong = noisy != TARGETS
    assert abs(float(wrong.double().mean()) - rate) <= rate_bound(rate)
    if rate:
        successor = {int(c): set(noisy[wrong & (c == TARGETS)].tolist()) for c in TARGETS.unique()}
        assert all(len(targets) == 1 for targets in successor.values())
        # One cycle through all classes: following it from 0 comes back after as many steps as there are classes.
        path = [0]
        while following := next(iter(successor[path[-1]])):
            path.append(following)
        assert sorted(path) == list(range(CLASSES))


def test_flip2_moves_each_class_to_two_others_equally_often() -> None:
    noisy = corrupted(TARGETS, CLASSES, "flip2", 0.4, 3)
    wrong = noisy != TARGETS
    assert abs(float(wrong.double().mean()) - 0.4) <= rate_bound(0.4)
    for label in range(CLASSES):
        moved = noisy[wrong & (label == TARGETS)]
        shares = moved.unique(return_counts=True)[1] / len(moved)
        assert len(shares) == 2 and abs(float(shares[0]) - 0.5) <= 5 * (0.25 / len(moved)) ** 0.5
    assert set(corrupted(TARGETS % 2, 2, "flip2", 1.0, 0).tolist()) == {0, 1}
    assert torch.equal(corrupted(TARGETS % 2, 2, "flip2", 1.0, 0), 1 - TARGETS % 2)


def test_the_oracle_trains_on_right_labels_alone() -> None:
    kept = {}
    for oracle in (False, True):
        on = make_problem(
            "label_noise", dataset="digits", size="mlp64", rate=0.5, train=200, batch=200, weight_decay=0, oracle=oracle
        )
        window = next(on.windows())[0]
        kept[oracle] = {
            tuple(image.flatten().tolist()): int(label) for image, label in zip(*window.inner[0].values(), strict=True)
        }
        assert on.batch == len(window.inner[0]["targets"])
    assert 60 < len(kept[True]) < 140 and kept[True].items() < kept[False].items()
    clean = make_problem("label_noise", dataset="digits", size="mlp64", rate=0.0, train=200, batch=200)
    inputs, targets = next(clean.windows())[0].inner[0].values()
    right = {tuple(image.flatten().tolist()): int(label) for image, label in zip(inputs, targets, strict=True)}
    assert {image for image, label in right.items() if kept[False][image] == label} == set(kept[True])
    with pytest.raises(MetabenchError, match="none is right"):
        make_problem("label_noise", dataset="digits", size="mlp64", rate=1.0, oracle=True)


def test_augmented_images_are_moved_or_mirrored_ones() -> None:
    images = torch.rand(60, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    found = augmented(images, torch.Generator().manual_seed(1))
    wide = torch.nn.functional.pad(images, (4,) * 4, mode="reflect")
    seen = set()
    for place, image in enumerate(found):
        hits = [
            (down, right, mirrored)
            for down in range(9)
            for right in range(9)
            for mirrored in (False, True)
            if torch.equal(image.flip(2) if mirrored else image, wide[place, :, down : down + 6, right : right + 6])
        ]
        assert hits
        seen.add(hits[0])
    assert len(seen) > 30 and {mirrored for *_, mirrored in seen} == {False, True}


def test_batches_are_augmented_where_asked_and_their_labels_stay() -> None:
    plain, moved = (make_problem("label_noise", dataset="digits", size="conv8", augment=on) for on in (False, True))
    before, after = (next(one.windows())[0] for one in (plain, moved))
    for ours, theirs in ((before.inner[0], after.inner[0]), (before.outer[-1], after.outer[-1])):
        assert torch.equal(ours["targets"], theirs["targets"])
        assert ours["inputs"].shape == theirs["inputs"].shape and not torch.equal(ours["inputs"], theirs["inputs"])


def test_the_outer_optimiser_of_the_paper_can_be_asked_for() -> None:
    on = make_problem(
        "label_noise",
        dataset="digits",
        size="mlp64",
        outer_optimiser="nesterov",
        outer_learning_rate=1e-3,
        outer_weight_decay=5e-4,
    )
    assert on.outer_optimiser.text() == "SGD, learning rate 0.001, momentum 0.9, Nesterov, weight decay 0.0005"


def test_a_residual_network_is_evaluated_by_statistics_of_training_images() -> None:
    on = make_problem("label_noise", dataset="digits", size="resnet8w4", inner_steps=1)
    state, meta, _ = checkpoint(on, windows_before=3)
    found = on.evaluate(state.params, meta)
    assert found == on.evaluate(state.params, meta)
    test = on._test["inputs"]  # type: ignore[attr-defined]
    by_batches = on._network(state.params, test)  # type: ignore[attr-defined]
    expected = float(torch.nn.functional.cross_entropy(by_batches, on._test["targets"]))  # type: ignore[attr-defined]
    assert found["test cross-entropy (nat)"] != pytest.approx(expected, rel=1e-6)


def test_seeds_draw_different_flips() -> None:
    flips = {tuple(corrupted(torch.arange(10), 10, "flip", 1.0, seed).tolist()) for seed in range(10)}
    assert len(flips) == 10


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_uniform_noise_draws_any_class_with_the_same_probability(rate: float) -> None:
    noisy = corrupted(TARGETS, CLASSES, "uniform", rate, 0)
    expected = rate * (1 - 1 / CLASSES)
    assert abs(float((noisy != TARGETS).double().mean()) - expected) <= rate_bound(expected)
    wrong = noisy[noisy != TARGETS]
    if rate:
        shares = torch.bincount(wrong, minlength=CLASSES) / len(wrong)
        assert float((shares - 0.1).abs().max()) <= 5 * (0.09 / len(wrong)) ** 0.5
    assert int(noisy.min()) >= 0
    assert int(noisy.max()) < CLASSES


@pytest.mark.parametrize("noise", ["flip", "uniform"])
def test_noise_leaves_its_argument_alone_and_follows_its_seed(noise: str) -> None:
    before = TARGETS.clone()
    first = corrupted(TARGETS, CLASSES, noise, 0.4, 5)
    assert torch.equal(TARGETS, before)
    assert torch.equal(first, corrupted(TARGETS, CLASSES, noise, 0.4, 5))
    assert not torch.equal(first, corrupted(TARGETS, CLASSES, noise, 0.4, 6))


def test_weights_lie_between_zero_and_one_and_follow_each_loss_alone() -> None:
    on = make_problem("label_noise", dataset="digits", size="mlp64")
    _, meta, _ = checkpoint(on)
    losses = torch.linspace(0, 10, 50, dtype=torch.float64)
    weights = weigh(meta, losses)
    assert weights.shape == (50,)
    assert bool(((weights > 0) & (weights < 1)).all())
    torch.testing.assert_close(weigh(meta, losses[7:8]), weights[7:8])


def test_the_decay_stands_in_the_inner_loss_alone() -> None:
    plain, decayed = (make_problem("label_noise", dataset="digits", size="mlp64", weight_decay=wd) for wd in (0, 0.3))
    state, meta, window = checkpoint(plain)
    inner = [float(on.inner_loss(state.params, meta, window.inner[0])) for on in (plain, decayed)]
    assert inner[1] - inner[0] == pytest.approx(0.15 * float(tree.dot(state.params, state.params)), rel=1e-12)
    outer = [float(on.outer_loss(state.params, meta, window.inner[0])) for on in (plain, decayed)]
    assert outer[0] == outer[1]


def test_equal_weights_are_the_mean_cross_entropy() -> None:
    on = make_problem("label_noise", dataset="digits", size="mlp64", weight_decay=0)
    state, meta, window = checkpoint(on)
    flat = {**meta, "out.weight": torch.zeros_like(meta["out.weight"])}
    inner = on.inner_loss(state.params, flat, window.inner[0])
    torch.testing.assert_close(inner, on.outer_loss(state.params, meta, window.inner[0]), rtol=1e-12, atol=0)
    assert on.summary(flat)["weight at loss 0.1 / weight at loss 5"] == pytest.approx(1.0)


def test_an_example_with_no_weight_does_not_count() -> None:
    on = make_problem("label_noise", dataset="digits", size="mlp64", hidden=1, weight_decay=0)
    state, _, window = checkpoint(on)
    batch = window.inner[0]
    losses = torch.stack(
        [on.outer_loss(state.params, {}, tree.tree_map(lambda v, i=i: v[i : i + 1], dict(batch))) for i in range(8)]
    )
    middle = float(losses.median()) + 1e-6
    number = {"dtype": torch.float64}
    # V is a steep step down at `middle`: the weight is 1 below it and 0 above.
    meta = {
        "hidden.weight": torch.tensor([[1.0]], **number),
        "hidden.bias": torch.tensor([-middle], **number),
        "out.weight": torch.tensor([[-1e9]], **number),
        "out.bias": torch.tensor([40.0], **number),
    }
    kept = losses[losses < middle]
    assert 0 < len(kept) < 8
    torch.testing.assert_close(on.inner_loss(state.params, meta, batch), kept.mean(), rtol=1e-12, atol=0)


def test_the_stop_gradient_holds_the_weights_where_it_is_asked_for() -> None:
    slopes = {}
    for detach in (True, False):
        on = make_problem("label_noise", dataset="digits", size="mlp64", detach=detach, weight_decay=0)
        state, meta, window = checkpoint(on, windows_before=0)
        leaves = tree.leaves_for_grad(state.params)
        values = list(leaves.values())
        slopes[detach] = torch.autograd.grad(on.inner_loss(leaves, meta, window.inner[0]), values)
        if detach:
            each = torch.nn.functional.cross_entropy(
                on._network(leaves, window.inner[0]["inputs"]),
                window.inner[0]["targets"],
                reduction="none",  # type: ignore[attr-defined]
            )
            weights = weigh(meta, each.detach())
            held = torch.autograd.grad((weights / weights.sum()) @ each, values)
            assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-15) for a, b in zip(slopes[True], held, strict=True))
    assert not any(torch.allclose(a, b) for a, b in zip(slopes[True], slopes[False], strict=True) if bool(a.any()))


def test_weights_that_vanish_teach_nothing_and_are_no_division_of_zero_by_zero() -> None:
    problem = make_problem("label_noise", size="mlp64", train=20, validation=20, batch=4)
    (window,) = next(problem.windows())
    meta = problem.initial()
    dead = {name: torch.zeros_like(leaf) for name, leaf in meta.items()} | {"out.bias": torch.full_like(meta["out.bias"], -1e4)}
    params = {name: leaf.requires_grad_() for name, leaf in window.begins.items()}
    loss = problem.inner_loss(params, dead, window.inner[0])
    penalty = problem.setting.options.weight_decay / 2 * sum(float(w.detach().square().sum()) for w in params.values())
    assert loss.item() == pytest.approx(penalty)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, list(params.values())))
