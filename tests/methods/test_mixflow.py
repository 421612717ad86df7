"""`mixflow` is exact in every combination of its switches, and what it saves is what mixed mode promises."""

from __future__ import annotations

import functools
import itertools
import shutil
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from bilevel import call, checkpoint, make_problem, relative_error
from random_chains import Chained
from small_problems import (
    LearnedStart,
    LearnedStartOfBody,
    LearnedUpdate,
    LearningRates,
    OuterOnly,
    OuterPenalty,
    SummedOuter,
    Tanh,
    Tasks,
    WeightedExamples,
)

from metabench.autodiff.unrolled.trajectory import HostTrajectory, Visit
from metabench.core import Batch, MetabenchError, Problem, Tree, Unsupported, tree
from metabench.core.segments import LOSS, Segment, chain_loss
from metabench.models.modules import as_function
from metabench.stages.well_posed import check_losses

SWITCHES = [
    dict(zip(("mixed_mode", "block_remat", "save_inner_grads"), values, strict=True))
    for values in itertools.product([True, False], repeat=3)
]
TRAJECTORIES = ("device", "host", "recompute")
WAYS = [switches | {"trajectory": trajectory} for switches in SWITCHES for trajectory in TRAJECTORIES]


def named(ways: Sequence[dict[str, Any]]) -> list[str]:
    return [" ".join([key for key, on in way.items() if on is True] + [str(way.get("trajectory", ""))]) for way in ways]


def assert_exact(of: Problem, ways: Sequence[dict[str, Any]], tolerance: float = 1e-10) -> None:
    """Assert that `mixflow` gives what `unrolled` does: hypergradient, outer loss and state; and writes to nothing it is given."""
    at = checkpoint(of)
    expected = call("unrolled", of, *at)
    given = [*at[0].params.values(), *at[1].values(), *(leaf for batch in at[2].inner for leaf in batch.values())]
    before = [leaf.clone() for leaf in given]
    for way in ways:
        found = call("mixflow", of, *at, **way)
        assert relative_error(found.meta, expected.meta) <= tolerance, way
        assert relative_error(found.state.params, expected.state.params) <= tolerance, way
        assert found.outer_loss == pytest.approx(expected.outer_loss, rel=tolerance), way
        assert {leaf.dtype for leaf in found.meta.values()} == {leaf.dtype for leaf in at[1].values()}
        assert not found.diagnostics
    assert all(map(torch.equal, given, before)), "what is given is written to"


@functools.cache
def chained(shape: int, optimiser: str) -> Chained:
    """A problem made once: it keeps the traces of its outer loss, which is in one piece."""
    return Chained(shape, optimiser, inner_steps=4)


@pytest.mark.parametrize("place", range(len(WAYS)), ids=named(WAYS))
def test_every_combination_of_switches_is_exact_for_a_chain(place: int) -> None:
    shape, optimiser = ((1, "adam"), (2, "momentum"))[place % 2]
    assert_exact(chained(shape, optimiser), [WAYS[place]])


@pytest.mark.parametrize("shape", range(3, 9))
def test_random_models_of_any_depth_with_ties_and_any_optimiser_are_exact(shape: int) -> None:
    optimiser = ("sgd", "momentum", "nesterov", "adam", "rmsprop")[shape % 5]
    ways = [WAYS[(5 * shape + 7 * i) % len(WAYS)] for i in range(2)]
    assert_exact(Chained(shape, optimiser, inner_steps=1 + shape % 5, seed=shape), [*ways, {}])


ROLES = (
    lambda: Tanh("adam"),
    lambda: LearningRates("momentum"),
    lambda: SummedOuter("adam", inner_steps=4),
    LearnedUpdate,
    lambda: LearnedStart("adam"),
    LearnedStartOfBody,
    lambda: OuterPenalty("rmsprop"),
    OuterOnly,
    lambda: WeightedExamples(examples=20),
    Tasks,
)


@pytest.mark.parametrize("made", ROLES, ids=range(len(ROLES)))
def test_meta_parameters_may_enter_wherever_the_problem_says(made: Any) -> None:
    problem = made()
    at = checkpoint(problem)
    expected = call("unrolled", problem, *at)
    for way in (
        {},
        {"save_inner_grads": False, "trajectory": "recompute"},
        {"mixed_mode": False, "trajectory": "host"},
    ):
        found = call("mixflow", problem, *at, **way)
        if float(tree.norm(expected.meta)):
            assert relative_error(found.meta, expected.meta) <= 1e-10
        else:
            assert not float(tree.norm(found.meta))


@pytest.mark.parametrize("name", ["lm_learning_rates", "lm_initialisation", "lm_loss_weights"])
def test_language_models_are_exact(name: str) -> None:
    ways = [{}, {"block_remat": False}, {"mixed_mode": False, "trajectory": "recompute"}]
    assert_exact(make_problem(name), ways)


@pytest.mark.parametrize("optimiser", ["adam"])
def test_single_precision_agrees_to_its_rounding(optimiser: str) -> None:
    problem = make_problem("lm_loss_weights", dtype=torch.float32, optimiser=optimiser)
    exact = make_problem("lm_loss_weights", optimiser=optimiser)
    state, meta, window = problem.initial_state()[0], problem.initial_state()[1], next(problem.windows())[0]
    of_exact = exact.initial_state()[0], exact.initial_state()[1], next(exact.windows())[0]
    expected = call("unrolled", exact, *of_exact).meta
    for way in WAYS[::7]:
        found = call("mixflow", problem, state, meta, window, **way).meta
        assert {leaf.dtype for leaf in found.values()} == {torch.float32}
        assert relative_error(tree.cast(found, torch.float64), expected) <= 1e-3


def test_arithmetic_in_half_precision_agrees_to_its_rounding() -> None:
    """The residual stream, the parameters and every gradient stay in single precision."""
    half = make_problem("lm_learning_rates", dtype=torch.float32, compute="bfloat16")
    single = make_problem("lm_learning_rates", dtype=torch.float32)
    at = half.initial_state()[0], half.initial_state()[1], next(half.windows())[0]
    found = call("mixflow", half, *at)
    assert {leaf.dtype for leaf in (*found.meta.values(), *found.state.params.values())} == {torch.float32}
    expected = call("unrolled", half, *at)
    assert relative_error(found.meta, expected.meta) <= 0.05
    assert relative_error(found.meta, call("unrolled", single, *at).meta) <= 0.05


class ScaledLoss(Chained):
    """A loss in one piece with a plain number before a sum of squares, as weight decay is written."""

    def inner_segments(self) -> Sequence[Segment]:
        return ()

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        decay = 0.01 * sum(leaf.square().sum() for leaf in params.values())
        return super().inner_loss(params, meta, batch) + decay


@pytest.mark.parametrize("kind", [ScaledLoss, Chained])
def test_a_number_before_a_sum_does_not_change_the_number_type(kind: type[Chained]) -> None:
    problem = kind(5, dtype=torch.float32)
    state, meta, window = problem.initial_state()[0], problem.initial_state()[1], problem.window()
    found = call("mixflow", problem, state, meta, window)
    assert {leaf.dtype for leaf in (*found.meta.values(), *found.state.params.values())} == {torch.float32}


class OneLayer(Tanh):
    """The same regression, with another layer before its output."""

    layer: Any = None

    def errors(self, params: Tree, batch: Batch) -> torch.Tensor:
        hidden = type(self).layer((batch["inputs"] @ params["in"] + params["shift"]).tanh())
        return (hidden @ params["out"] - batch["targets"]).square()[:, 0]


def fused_attention(hidden: torch.Tensor) -> torch.Tensor:
    one = hidden[None, None]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        return torch.nn.functional.scaled_dot_product_attention(one, one, one)[0, 0]


class Fused(OneLayer):
    layer = staticmethod(fused_attention)


class Reversed(torch.autograd.Function):
    """A custom function with a backward pass alone."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
        return -hidden

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
        return -cotangent


class Custom(OneLayer):
    layer = staticmethod(Reversed.apply)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Fused,
            r"flash_attention.*no forward-mode derivative.*test_mixflow\.py:\d+: return .*scaled_dot_product_attention\(",
        ),
        (Custom, r"a custom autograd\.Function.*test_mixflow\.py:\d+: "),
    ],
)
def test_an_operation_without_the_derivatives_of_mixed_mode_is_named_with_its_line(
    kind: type[Tanh], message: str
) -> None:
    problem = kind("sgd")
    state, meta = problem.initial_state()
    with pytest.raises(Unsupported, match=message) as refused:
        call("mixflow", problem, state, meta, problem.window())
    assert "mixed_mode: false" in str(refused.value)
    assert "\n" not in str(refused.value)


class Sampling(torch.nn.Module):
    """A layer whose operation has one derivative only."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        grid = torch.stack([hidden, hidden], -1)[None].tanh()
        return torch.nn.functional.grid_sample(hidden[None, None], grid, align_corners=False)[0, 0]


class Network(torch.nn.Module):
    """A network of layers, one of which cannot be differentiated in mixed mode."""

    def __init__(self) -> None:
        super().__init__()
        self.front = torch.nn.Linear(3, 4)
        self.middle = torch.nn.Sequential(torch.nn.Tanh(), Sampling())
        self.out = torch.nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out(self.middle(self.front(inputs)))


class OfModule(Tanh):
    """Regression by a module."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self._params, self._network = as_function(Network().double())
        super().__init__(*arguments, **named)

    def beginning(self) -> tuple[Tree, Tree]:
        return self._params, self.initial_meta(self._params)

    def errors(self, params: Tree, batch: Batch) -> torch.Tensor:
        return (self._network(params, batch["inputs"]) - batch["targets"]).square()[:, 0]


def test_a_layer_without_the_derivatives_of_mixed_mode_is_named() -> None:
    problem = OfModule("sgd")
    state, meta = problem.initial_state()
    with pytest.raises(Unsupported, match=r"grid_sampler.*layer 'middle\.1', a Sampling.*test_mixflow\.py:\d+"):
        call("mixflow", problem, state, meta, problem.window())


class Branching(Tanh):
    """A loss whose control flow reads values."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        loss = super().inner_loss(params, meta, batch)
        return loss.sqrt() if float(loss) > 0 else loss


class BranchingBlock(Chained):
    """A chain of which one link in the middle is such."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)

        def halved(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
            return hidden | {"stream": hidden["stream"] / (2 if float(hidden["stream"].sum()) > 0 else 3)}

        self.chain = (*self.chain[:-1], Segment("halving", halved), self.chain[-1])


# The outer loss of the second one, which is in one piece, contains the link too.
@pytest.mark.parametrize(("kind", "untraced"), [(Branching, 1.0), (BranchingBlock, 2.0)])
def test_control_flow_that_reads_values_is_done_untraced_with_a_warning_and_counted(kind: Any, untraced: float) -> None:
    problem = kind()
    at = checkpoint(problem)
    expected = call("unrolled", problem, *at).meta
    with pytest.warns(UserWarning, match="not traced, its derivatives are taken by autograd instead"):
        found = call("mixflow", problem, *at)
    assert found.diagnostics == {"untraced_segments": untraced}
    assert relative_error(found.meta, expected) <= 1e-10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = call("mixflow", problem, *at, block_remat=False, save_inner_grads=False)
    assert again.diagnostics == {"untraced_segments": untraced}
    assert relative_error(again.meta, expected) <= 1e-10


class Ragged(Chained):
    """The last inner batch is smaller, as at the end of an epoch."""

    def windows(self) -> Iterator[Any]:
        for (window,) in super().windows():
            last = tree.tree_map(lambda leaf: leaf[:5].clone(), window.inner[-1])
            yield [type(window)((*window.inner[:-1], last), window.outer)]


def test_a_last_batch_of_another_shape_is_no_hindrance() -> None:
    assert_exact(Ragged(4, "adam"), [{}, {"block_remat": False, "trajectory": "recompute"}])


@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusal is of machines without CUDA")
def test_cuda_graphs_need_a_cuda_device() -> None:
    problem = Tanh()
    with pytest.raises(Unsupported, match="CUDA graphs need a CUDA device"):
        call("mixflow", problem, *checkpoint(problem), cuda_graphs=True)


class WrongSegments(Chained):
    """The segments leave the penalty out."""

    def inner_segments(self) -> Sequence[Segment]:
        def head(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
            return {LOSS: self.chain[-1].function(params, meta, batch, hidden)[LOSS] - hidden["penalty"]}

        last = self.chain[-1]
        return (*self.chain[:-1], Segment("head", head, last.params, last.meta, last.batch))


def test_segments_that_are_another_loss_are_found_out() -> None:
    check_losses(Chained(0), *checkpoint(Chained(0)))
    problem = WrongSegments(0)
    with pytest.raises(MetabenchError, match="segments"):
        check_losses(problem, *checkpoint(problem))
    state, meta, window = checkpoint(problem)
    given = chain_loss(problem.inner_segments(), state.params, meta, window.inner[0])
    assert float(given) != float(problem.inner_loss(state.params, meta, window.inner[0]))


@pytest.mark.slow  # the compiler takes half a minute for the graphs of the two losses
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_graphs_agree(backend: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inductor` writes and compiles C++; what leads there, all but the kernels, is the same for both."""
    if backend == "inductor":
        if not request.config.getoption("--full"):
            pytest.skip("compiles for half a minute: with --full")
        if not any(map(shutil.which, ("g++", "clang++", "c++"))):
            pytest.skip("torch.compile needs a C++ compiler")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    problem = Tanh(inner_steps=2)
    at = checkpoint(problem)
    found = call("mixflow", problem, *at, compile=True)
    assert relative_error(found.meta, call("unrolled", problem, *at).meta) <= 1e-10


def test_states_kept_in_host_memory_go_through_its_trajectory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trajectory without visits yet is false, as all that is empty."""
    kept: list[int] = []

    class Watched(HostTrajectory):
        def keep(self, k: int, visit: Visit) -> None:
            kept.append(k)
            super().keep(k, visit)

    monkeypatch.setattr("metabench.methods.mixflow.HostTrajectory", Watched)
    problem = Tanh("momentum", 4)
    call("mixflow", problem, *checkpoint(problem), trajectory="host")
    assert set(kept) == {0, 1, 2, 3}
