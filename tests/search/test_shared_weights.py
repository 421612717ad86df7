"""Shared weights: strictly fair paths, hypergradients that add up, four ways to them, and a run that goes on to the bit."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bilevel import call, make_problem, relative_error

from metabench.autodiff.unrolled.sweep import through_graph
from metabench.core import Tree, tree
from metabench.core.errors import MetabenchError
from metabench.problems.few_shot import FewShot
from metabench.search.flops import counted
from metabench.search.shared_weights import (
    WAYS,
    Shared,
    SharedTrainer,
    SharedTraining,
    identity_of,
    paths,
    read,
    read_weights,
    save,
)
from metabench.search.table_builder import numbered_answers
from metabench.tasks import joint
from metabench.tasks.joint import Joint

CPU, META = torch.device("cpu"), torch.device("meta")
SHORT: dict[str, Any] = {"outer_steps": 3, "joint": Joint(3, 8)}


def made(seed: int = 0, **options: Any) -> FewShot:
    found = make_problem("few_shot", size="subnet", seed=seed, **{"tasks": 1} | options)
    assert isinstance(found, FewShot)
    return found


def trained(problem: FewShot, training: SharedTraining, shared: Shared | None = None) -> Shared:
    return list(SharedTrainer(problem, training).run(shared))[-1]


@pytest.mark.parametrize("space", ["tiny", "small"])
def test_a_step_uses_every_operation_of_every_layer_once(space: str) -> None:
    supernet = made(
        space=space, architecture="conv3-conv3-conv3-conv3@8" if space == "small" else "conv3-conv3-conv3"
    ).supernet()
    for step in range(5):
        nets = paths(supernet, 0, step)
        layers = zip(*(supernet.space.operations_of(net) for net in nets), strict=True)
        assert all(sorted(layer) == sorted(supernet.space.operations) for layer in layers)
        assert nets == paths(supernet, 0, step) != paths(supernet, 1, step)


def hypergradient_of_the_sum(problem: FewShot, weights: Tree) -> Tree:
    """Return the derivative of the mean outer loss of a step's nets by the shared weights, by one graph through all of them."""
    supernet, leaves = problem.supernet(), {name: leaf.clone().requires_grad_() for name, leaf in weights.items()}
    losses = []
    nets = paths(supernet, problem.setting.seed, 0)
    for place, net in enumerate(nets):
        subnet = problem.subnet(net)
        support, query = problem.tasks.training(place)
        params = supernet.cut(leaves, net)
        for _ in range(problem.setting.inner_steps):
            gradient = torch.autograd.grad(
                subnet.inner_loss(params, {}, support), list(params.values()), create_graph=True
            )
            rate = problem.setting.options.learning_rate
            params = {name: leaf - rate * one for (name, leaf), one in zip(params.items(), gradient, strict=True)}
        losses.append(subnet.outer_loss(params, {}, query))
    found = torch.autograd.grad(
        torch.stack(losses).mean(), list(leaves.values()), materialize_grads=True, allow_unused=True
    )
    return dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize("method", ["unrolled", "mixflow"])
def test_a_step_moves_by_the_hypergradient_of_all_its_nets_together(method: str) -> None:
    problem = made()
    trainer = SharedTrainer(problem, SharedTraining(outer_steps=1), numbered_answers(method, 0))
    shared = trainer.fresh()
    found = trainer._meta(shared)
    expected = hypergradient_of_the_sum(problem, shared.weights)
    assert relative_error({name: found[name] for name in expected}, expected) <= 1e-9
    assert (shared.adaptations, shared.gradients) == (5, 20)


def test_nets_that_share_a_block_are_not_forgotten() -> None:
    # A meta-gradient that keeps the last net's alone would differ wherever two nets meet: at the stem and the head.
    problem = made()
    trainer = SharedTrainer(problem, SharedTraining(outer_steps=1))
    shared = trainer.fresh()
    expected = hypergradient_of_the_sum(problem, shared.weights)
    supernet = problem.supernet()
    net = paths(supernet, 0, 0)[-1]
    subnet = problem.subnet(net)
    meta = supernet.cut(shared.weights, net)
    last = call(
        "unrolled", *subnet.entered(subnet.window(4, subnet.start(meta, meta)), None), meta, subnet.window(4, meta)
    ).meta
    forgetful = tree.scale(1 / 5, supernet.scatter(net, last))
    assert relative_error(forgetful, expected) > 0.1
    assert float(tree.norm({"stem": forgetful["stem.weight"] - expected["stem.weight"]})) > 0


def test_weights_that_are_put_back_before_the_backward_pass_give_another_hypergradient() -> None:
    # What a public code of T-NAS does: the outer gradient is then taken at the weights from before adaptation.
    problem = made()
    (state, meta), window = problem.initial_state(), next(problem.windows())[0]
    right = call("unrolled", problem, state, meta, window).meta
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in meta.items()}
    put_back = torch.autograd.grad(problem.outer_loss(leaves, leaves, window.outer[-1]), list(leaves.values()))
    assert relative_error(dict(zip(leaves, put_back, strict=True)), right) > 0.1


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_interrupted_goes_on_to_the_bit(way: str, tmp_path: Path) -> None:
    problem, training = made(), SharedTraining(way=way, **SHORT)
    whole, identity = trained(problem, training), identity_of(problem, "glyphs", training, "unrolled")
    steps = sum(count for _, count in training.phases)
    for stop in range(1, steps):
        path = tmp_path / f"{stop}.pt"
        for shared in itertools.islice(SharedTrainer(problem, training).run(), stop):
            save(path, shared, identity, finished=False)
        again = trained(problem, training, read(path, identity, CPU))
        assert all(torch.equal(again.weights[name], leaf) for name, leaf in whole.weights.items())
        assert (again.adaptations, again.gradients) == (whole.adaptations, whole.gradients)
    assert list(whole.weights) == list(problem.supernet().shapes)


def test_a_method_that_draws_goes_on_to_the_bit_too(tmp_path: Path) -> None:
    problem, training, path = made(), SharedTraining(outer_steps=2), tmp_path / "shared.pt"
    answers = numbered_answers("es", 0)
    *_, whole = SharedTrainer(problem, training, answers).run()
    save(path, next(SharedTrainer(problem, training, answers).run()), "es", finished=False)
    *_, again = SharedTrainer(problem, training, answers).run(read(path, "es", CPU))
    assert all(torch.equal(again.weights[name], leaf) for name, leaf in whole.weights.items())


def test_ways_differ_in_what_they_do() -> None:
    problem = made()
    ends = {way: trained(problem, SharedTraining(way=way, **SHORT)) for way in WAYS}
    fresh = SharedTrainer(problem, SharedTraining()).fresh().weights
    assert all(torch.equal(leaf, ends["untrained"].weights[name]) for name, leaf in fresh.items())
    assert ends["joint"].adaptations == 0 and ends["meta"].adaptations == 15
    # Jointly the head is that over all classes, which is dropped: the head of tasks is zero.
    assert not ends["joint"].weights["head.weight"].any()
    assert not torch.equal(ends["joint"].weights["stem.weight"], fresh["stem.weight"])
    assert not torch.equal(ends["joint_meta"].weights["head.weight"], fresh["head.weight"])


def test_files_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    problem, training = made(), SharedTraining(way="untrained")
    path, identity = tmp_path / "shared.pt", identity_of(problem, "glyphs", training, "unrolled")
    save(path, trained(problem, training), identity, finished=False)
    with pytest.raises(MetabenchError, match="is not finished"):
        read_weights(path, CPU)
    save(path, trained(problem, training), identity, finished=True)
    assert list(read_weights(path, CPU)) == list(problem.supernet().shapes)
    assert read(tmp_path / "none.pt", identity, CPU) is None
    for other in (identity_of(made(seed=1), "glyphs", training, "unrolled"), identity_of(problem, "omniglot", training, "unrolled")):
        with pytest.raises(MetabenchError, match="holds shared weights of another run"):
            read(path, other, CPU)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(MetabenchError, match="is damaged"):
        read(path, identity, CPU)
    path.write_bytes(b"metabench shared weights 0\n")
    with pytest.raises(MetabenchError, match="of this version"):
        read(path, identity, CPU)
    with pytest.raises(MetabenchError, match=r"sharde\.pt' does not exist: did you mean"):
        read_weights(tmp_path / "sharde.pt", CPU)
    with pytest.raises(MetabenchError, match="unknown way to shared weights 'mata': did you mean 'meta'"):
        SharedTraining(way="mata")


def test_weights_are_read_onto_the_device_that_goes_on(tmp_path: Path) -> None:
    problem, training, path = made(), SharedTraining(way="joint_meta", **SHORT), tmp_path / "shared.pt"
    save(path, next(SharedTrainer(problem, training).run()), "x", finished=True)
    found, elsewhere = read(path, "x", META), torch.device("meta")
    assert found is not None and all(leaf.device == elsewhere for leaf in found.weights.values())
    slots = [leaf for slot in found.optimiser.values() for leaf in slot.values()]
    assert slots and all(leaf.device == elsewhere for leaf in slots)
    assert all(leaf.device == elsewhere for leaf in read_weights(path, META).values())


def test_flops_of_steps_follow_the_widths_of_their_nets() -> None:
    problem = make_problem("few_shot", size="subnet", dtype=torch.float32, space="small", architecture="conv3-conv3-conv3-conv3@8")
    assert isinstance(problem, FewShot)
    trainer = SharedTrainer(problem, SharedTraining(outer_steps=3))
    found, flops = [], 0.0
    for shared in trainer.run():
        found.append(shared.flops - flops)
        flops = shared.flops
    nets = [paths(trainer.supernet, problem.setting.seed, step) for step in range(3)]
    assert len({tuple(sorted(problem.supernet().space.width_of(net) for net in one)) for one in nets}) > 1

    # What the nets of the last step take, counted one by one.
    counts = []
    for net in nets[2]:
        subnet = problem.subnet(net)
        meta, window = subnet.initial(), next(subnet.windows())[0]
        counts.append(counted(lambda: through_graph(subnet, subnet.entered(window, None)[1], meta, window))[1])  # noqa: B023
    counted_all = sum(counts) * problem.setting.options.tasks
    assert found[2] == pytest.approx(counted_all, rel=0.05)
    assert found[0] != pytest.approx(counted_all, rel=0.1)


def test_joint_training_of_a_net_learns_all_classes_and_leaves_a_head_of_zeros() -> None:
    problem = make_problem("few_shot", size="subnet", seed=1, dtype=torch.float32, norm="batch")
    assert isinstance(problem, FewShot)
    seen = []
    plain = joint.joint_gradient

    def told(net: Any, head: Any, leaves: Tree, images: torch.Tensor, targets: torch.Tensor) -> Tree:
        own = {name: leaves[joint.OVER_ALL + name] for name in head.shapes()}
        seen.append(float(torch.nn.functional.cross_entropy(head.scores(own, net.maps(leaves, images)), targets)))
        return plain(net, head, leaves, images, targets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint, "joint_gradient", told)
        weights = joint.jointly_trained(problem, Joint(100, 64))
    classes = problem.tasks.classes("train")
    assert seen[0] > 0.9 * math.log(classes) and seen[-1] < 0.9 * seen[0]
    assert list(weights) == list(problem.initial())
    assert all(not leaf.any() for name, leaf in weights.items() if name.startswith("head."))
    assert not torch.equal(weights["stem.weight"], problem.initial()["stem.weight"])


def test_the_joint_gradient_is_that_of_the_loss_over_all_classes() -> None:
    problem = made()
    head = joint.head_over_all(problem.tasks, problem.net.head)
    leaves = problem.initial()
    leaves = leaves | joint.drawn_head(head, 0, leaves["stem.weight"])
    images, targets = problem.tasks.jointly("train", 0, 6)
    found = joint.joint_gradient(problem.net, head, leaves, images, targets)

    def loss(at: Tree) -> float:
        own = {name: at[joint.OVER_ALL + name] for name in head.shapes()}
        scores = problem.net.maps(at, images)
        return float(torch.nn.functional.cross_entropy(head.scores(own, scores), targets))

    for name in ("joint.weight", "joint.bias", "layer2.conv3.norm.bias"):
        step = torch.zeros_like(leaves[name])
        step.view(-1)[1] = 1e-6
        ends = [loss(leaves | {name: leaves[name] + sign * step}) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(found[name].view(-1)[1]), rel=1e-6, abs=1e-9)
    assert not found["head.weight"].any()
