"""In a user's own loop a method gives what it gives in the suite, whatever the parameters, meta-parameters and batches are packed in."""

from __future__ import annotations

import copy
from collections import namedtuple
from typing import Any

import pytest
import torch
from bilevel import call, checkpoint, make_problem
from small_problems import LearnedStart, LearningRates, OuterPenalty, SummedOuter, Tanh

import metabench
from metabench.autodiff.optimisers import Scheduled
from metabench.core import InnerState, MetabenchError, MetaRole, Problem, Tree, Unsupported, Window
from metabench.core.randomness import generator
from metabench.measure.memory.meter import measure_memory
from metabench.methods import methods

F = torch.nn.functional
PROBLEMS = {kind.__name__: kind for kind in (Tanh, LearningRates, SummedOuter, OuterPenalty, LearnedStart)}


def in_a_loop(name: str, of: Problem, at: InnerState, meta: Tree, window: Window, **more: Any) -> metabench.Result:
    """Call a method as a user would, at a point of a problem of the suite."""
    *earlier, last = window.outer
    once = not any(batch is not None for batch in earlier)
    given = {"outer_batch": last} if once else {"outer_batches": window.outer}
    return metabench.hypergradient(
        name,
        of.inner_loss,
        of.outer_loss,
        at.params,
        meta,
        window.inner,
        optimiser=of.optimiser,
        generator=generator(0, "test"),
        **given,
        **more,
    )


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", list(methods()))
def test_every_method_equals_itself_in_the_suite_bit_by_bit(name: str, kind: str) -> None:
    of = PROBLEMS[kind]("sgd" if kind in ("LearningRates", "SummedOuter") else "momentum")
    starts = MetaRole.START in of.roles
    state, meta, window = (*of.initial_state(), next(of.windows())[0]) if starts else checkpoint(of)
    more = {"start": of.start} if starts else {"state": state}
    try:
        expected = call(name, of, state, meta, window)
    except Unsupported as error:
        with pytest.raises(MetabenchError, match="does not apply here") as caught:
            in_a_loop(name, of, state, meta, window, **more)
        assert str(error) in str(caught.value)
        return
    found = in_a_loop(name, of, state, meta, window, **more)
    assert list(found.hypergradient) == list(expected.meta)
    assert all(torch.equal(found.hypergradient[leaf], expected.meta[leaf]) for leaf in meta)
    assert all(torch.equal(found.params[leaf], expected.state.params[leaf]) for leaf in state.params)
    assert found.outer_loss == expected.outer_loss
    assert found.diagnostics.keys() == expected.diagnostics.keys()


@pytest.mark.parametrize("name", ["unrolled", "mixflow", "ift_cg"])
def test_the_peak_of_its_memory_is_that_of_the_method(name: str) -> None:
    of = make_problem("label_noise", dtype=torch.float32, inner_steps=5)
    state, meta, window = checkpoint(of)
    arguments = (state.params, state.optimiser, meta, window.inner, window.outer)

    def by_hand() -> Any:
        return call(name, of, state, meta, window)

    def by_library() -> Any:
        return in_a_loop(name, of, state, meta, window, state=state)

    peaks = []
    for each in (by_hand, by_library):
        each()
        peaks.append(measure_memory(each, arguments, "cpu")[1].peak_bytes)
    assert peaks[0] == peaks[1]


class Network(torch.nn.Module):
    """A network whose trunk is trained and whose scale is not."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
        self.scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.scale * self.trunk(inputs)


def module_inner(network: Network, weigher: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    losses = (network(batch[0]) - batch[1]).square()
    penalty = sum(leaf.square().sum() for leaf in network.trunk.parameters())
    return (weigher(losses).sigmoid() * losses).mean() + 0.01 * penalty


def module_outer(network: Network, weigher: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (network(batch[0]) - batch[1]).square().mean()


def tree_inner(params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
    losses = (tree_network(params, batch[0]) - batch[1]).square()
    penalty = sum(leaf.square().sum() for leaf in params.values())
    return (F.linear(losses, meta["weight"], meta["bias"]).sigmoid() * losses).mean() + 0.01 * penalty


def tree_network(params: Tree, inputs: torch.Tensor) -> torch.Tensor:
    hidden = F.linear(inputs, params["trunk.0.weight"], params["trunk.0.bias"]).tanh()
    return 2.0 * F.linear(hidden, params["trunk.2.weight"], params["trunk.2.bias"])


def tree_outer(params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
    return (tree_network(params, batch[0]) - batch[1]).square().mean()


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    stream = generator(0, "batches")
    inputs = torch.randn(count, 8, 3, generator=stream, dtype=torch.float64)
    return [(one, one.sum(1, keepdim=True).sin()) for one in inputs]


@pytest.fixture
def modules() -> tuple[Network, torch.nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(), torch.nn.Linear(1, 1).double()


@pytest.mark.parametrize("name", ["unrolled", "mixflow", "ift_cg", "evograd"])
def test_modules_give_what_their_tensors_give(name: str, modules: tuple[Network, torch.nn.Module]) -> None:
    network, weigher = modules
    before = copy.deepcopy(network.state_dict())
    *inner, outer = batches(4)
    settings = {"optimiser": metabench.SGD(0.1)}
    params = {key: leaf for key, leaf in network.named_parameters() if leaf.requires_grad}
    expected = metabench.hypergradient(
        name, tree_inner, tree_outer, params, dict(weigher.named_parameters()), inner, outer,
        generator=generator(0, "test"), **settings,
    )  # fmt: skip
    found = metabench.hypergradient(
        name, module_inner, module_outer, network, weigher, inner, outer, generator=generator(0, "test"), **settings
    )
    assert list(found.hypergradient) == ["weight", "bias"]
    for key, leaf in expected.hypergradient.items():
        torch.testing.assert_close(found.hypergradient[key], leaf, rtol=1e-9, atol=0)
    assert all(torch.equal(leaf, before[key]) for key, leaf in network.state_dict().items())
    assert network.load_state_dict(found.params, strict=False).unexpected_keys == []
    assert not torch.equal(network.trunk[0].weight, before["trunk.0.weight"])


def test_the_gradient_is_assigned_or_added_to_what_the_meta_parameters_have(modules: Any) -> None:
    network, weigher = modules
    *inner, outer = batches(3)
    found = metabench.hypergradient(
        "t1t2", module_inner, module_outer, network, weigher, inner, outer, optimiser=metabench.SGD(0.1)
    )
    found.assign(weigher)
    assert torch.equal(weigher.weight.grad, found.hypergradient["weight"])
    found.assign(weigher, add=True)
    assert torch.equal(weigher.weight.grad, 2 * found.hypergradient["weight"])
    with pytest.raises(MetabenchError, match="has a tensor 'weight', and the meta-parameters have"):
        found.assign({"w": weigher.weight})


def line_plain(weight: torch.Tensor, meta: torch.Tensor, batch: Any) -> torch.Tensor:
    return (batch[0] @ weight - batch[1]).square().mean()


Pair = namedtuple("Pair", "inputs targets")


def line_inner(weight: torch.Tensor, penalty: torch.Tensor, batch: Any) -> torch.Tensor:
    inputs, targets = (batch["inputs"], batch["targets"]) if isinstance(batch, dict) else batch
    return (inputs @ weight - targets).square().mean() + penalty.exp() * weight.square().sum()


def line_outer(weight: torch.Tensor, penalty: torch.Tensor, batch: Any) -> torch.Tensor:
    return line_inner(weight, penalty, batch) - penalty.exp() * weight.square().sum()


@pytest.mark.parametrize("pack", [tuple, list, lambda pair: Pair(*pair), lambda pair: Pair(*pair)._asdict()])
def test_tensors_alone_and_batches_of_every_kind(pack: Any) -> None:
    *inner, outer = batches(4)
    weight, penalty = (
        torch.zeros(3, 1, dtype=torch.float64),
        torch.tensor(-1.0, dtype=torch.float64, requires_grad=True),
    )
    found = metabench.hypergradient(
        "mixflow", line_inner, line_outer, weight, penalty, [pack(b) for b in inner], pack(outer),
        optimiser=metabench.SGD(lambda at, step: 0.1 * (at + 1.5)),
    )  # fmt: skip
    live = weight.clone().requires_grad_()
    for batch in inner:
        (slope,) = torch.autograd.grad(line_inner(live, penalty, batch), live, create_graph=True)
        live = live - 0.1 * (penalty + 1.5) * slope
    (expected,) = torch.autograd.grad(line_outer(live, penalty, outer), penalty)
    torch.testing.assert_close(found.hypergradient, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.params, live.detach(), rtol=1e-12, atol=0)


def test_a_scheduled_learned_rate_reads_a_tensor_alone() -> None:
    *inner, outer = batches(4)
    weight, log_rate = (
        torch.zeros(3, 1, dtype=torch.float64),
        torch.tensor(-2.0, dtype=torch.float64, requires_grad=True),
    )
    rate = Scheduled(lambda meta, step: meta.exp(), lambda step: 1 / (1 + step))
    found = metabench.hypergradient(
        "mixflow", line_plain, line_plain, weight, log_rate, inner, outer, optimiser=metabench.SGD(rate)
    )
    live = weight.clone().requires_grad_()
    for step, batch in enumerate(inner):
        (slope,) = torch.autograd.grad(line_plain(live, log_rate, batch), live, create_graph=True)
        live = live - log_rate.exp() / (1 + step) * slope
    (expected,) = torch.autograd.grad(line_plain(live, log_rate, outer), log_rate)
    torch.testing.assert_close(found.hypergradient, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "options"), [("ift_cg", {"warm_start": True, "steps": 2}), ("pes", {"pairs": 3})])
def test_the_state_carries_slots_and_memory_over_windows(name: str, options: dict[str, Any]) -> None:
    of = Tanh("adam")
    state, meta = of.initial_state()
    stream, draws = of.windows(), (generator(7, "draws"), generator(7, "draws"))
    carried: InnerState | None = None
    for _ in range(3):
        window = next(stream)[0]
        expected = methods()[name](of, state, meta, window, methods()[name].options(**options), draws[0])
        found = metabench.hypergradient(
            name, of.inner_loss, of.outer_loss, of.initial_state()[0].params, meta, window.inner, window.outer[-1],
            optimiser="adam", learning_rate=0.02, state=carried, generator=draws[1], **options,
        )  # fmt: skip
        state, carried = expected.state, found.state
        assert all(torch.equal(found.hypergradient[leaf], expected.meta[leaf]) for leaf in meta)
        assert carried.memory.keys() == state.memory.keys() != set()


def test_a_network_learns_its_own_start(modules: tuple[Network, torch.nn.Module]) -> None:
    network, _ = modules
    *inner, outer = batches(3)

    def loss(network: Network, initial: Tree, batch: Any) -> torch.Tensor:
        return (network(batch[0]) - batch[1]).square().mean()

    found = metabench.hypergradient(
        "unrolled",
        loss,
        loss,
        network,
        network,
        inner,
        outer,
        optimiser=metabench.SGD(0.1),
        start=lambda params, initial: initial,
    )
    live = {key: leaf for key, leaf in network.named_parameters() if leaf.requires_grad}
    initial = list(live.values())
    for batch in inner:
        slopes = torch.autograd.grad(tree_outer(live, {}, batch), list(live.values()), create_graph=True)
        live = {key: leaf - 0.1 * slope for (key, leaf), slope in zip(live.items(), slopes, strict=True)}
    expected = torch.autograd.grad(tree_outer(live, {}, outer), initial)
    for one, other in zip(found.hypergradient.values(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-15)
    found.assign(network)
    assert network.trunk[0].weight.grad is not None


def test_draws_follow_torchs_global_seed_unless_a_generator_is_given() -> None:
    of = Tanh()
    state, meta, window = checkpoint(of)
    drawn = []
    with torch.random.fork_rng():
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            found = metabench.hypergradient(
                "es",
                of.inner_loss,
                of.outer_loss,
                state.params,
                meta,
                window.inner,
                window.outer[-1],
                optimiser=of.optimiser,
            )
            drawn.append(found.hypergradient["in"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
