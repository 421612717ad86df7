"""Derivatives taken segment by segment are those of the whole loss; equal segments are traced once."""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bilevel import make_problem, relative_error
from random_chains import EXAMPLES, WIDTH, Chained
from random_functions import STEPS, random_function

from metabench.autodiff.derivatives import Recorded
from metabench.autodiff.gradients import gradients
from metabench.autodiff.traced import segment_graphs
from metabench.autodiff.traced.chain import Chain
from metabench.autodiff.traced.flat_graph import Trace
from metabench.core import Batch, Problem, Tree, tree
from metabench.core.randomness import generator
from metabench.core.segments import LOSS, Segment, chain_loss

SHAPES = range(6)


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The functions traced while the test runs, from an empty cache."""
    kept = segment_graphs._cache.copy()
    segment_graphs._cache.clear()
    made: list[Any] = []
    plain = Trace.__init__

    def counted(self: Trace, function: Any, like: Any) -> None:
        made.append(function)
        plain(self, function, like)

    monkeypatch.setattr(Trace, "__init__", counted)
    yield made
    segment_graphs._cache.clear()
    segment_graphs._cache.update(kept)


def drawn(like: Tree, seed: int = 7) -> Tree:
    stream = generator(seed, "direction")
    return {
        k: torch.randn(leaf.shape, generator=stream, dtype=torch.float64).to(leaf.dtype) for k, leaf in like.items()
    }


def whole(of: Any, params: Tree, meta: Tree, batch: Batch) -> tuple[torch.Tensor, Tree, Tree]:
    """Return the inner loss and its gradients as autograd takes them of the loss in one piece."""
    params, meta = tree.leaves_for_grad(params), tree.leaves_for_grad(meta)
    loss = of.inner_loss(params, meta, batch)
    return (loss.detach(), *gradients(loss, [params, meta]))


def close(found: Tree, expected: Tree, tolerance: float = 1e-12) -> None:
    assert list(found) == list(expected)
    scale = max(1.0, float(tree.norm(expected)))
    for name, leaf in expected.items():
        torch.testing.assert_close(
            found[name], leaf, rtol=tolerance, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_agrees(
    of: Any, params: Tree, meta: Tree, batch: Batch, block_remat: bool, tolerance: float = 1e-12
) -> Chain:
    """Assert that gradients and products by the problem's chain are those of the loss in one piece, whatever is asked for."""
    chain = Chain(of, "inner", block_remat)
    loss, d_params, d_meta = whole(of, params, meta, batch)
    found = chain.gradient(params, meta, batch, of_meta=True)
    torch.testing.assert_close(found.loss, loss, rtol=tolerance, atol=tolerance)
    close(found.params, d_params, tolerance)
    close(found.meta, d_meta, tolerance)
    close(chain.gradient(params, meta, batch).params, d_params, tolerance)
    alone = chain.gradient(params, meta, batch, of_params=False, of_meta=True)
    assert not alone.params
    close(alone.meta, d_meta, tolerance)

    direction, into = drawn(params), drawn(params, seed=8)
    hessian_of, mixed_of = Recorded(of).products(
        params, meta, batch, direction, into=tree.zeros_like(params), mixed=True
    )
    sum_, mixed = chain.products(params, meta, batch, direction, into=dict(into), mixed=True)
    close(sum_, tree.add(into, hessian_of), tolerance)
    close(mixed, mixed_of, tolerance)
    none, mixed = chain.products(params, meta, batch, direction, into=None, mixed=True)
    assert not none
    close(mixed, mixed_of, tolerance)
    sum_, none = chain.products(params, meta, batch, direction, into=dict(into), mixed=False)
    assert not none
    close(sum_, tree.add(into, hessian_of), tolerance)
    return chain


@pytest.mark.parametrize(("shape", "block_remat"), zip(SHAPES, [True, False] * 3, strict=True))
def test_derivatives_of_a_random_chain_are_those_of_its_loss_in_one_piece(shape: int, block_remat: bool) -> None:
    problem = Chained(shape)
    params, meta = problem.beginning()
    batch = problem.window().inner[0]
    before = [leaf.clone() for leaves in (params, meta, batch) for leaf in leaves.values()]
    chain = assert_agrees(problem, params, meta, batch, block_remat)
    assert not chain.untraced
    after = [leaf for leaves in (params, meta, batch) for leaf in leaves.values()]
    assert all(map(torch.equal, after, before)), "what is given is written to"


def test_the_random_chains_have_ties_unused_parameters_and_meta_parameters_everywhere() -> None:
    chains = [Chained(shape).chain for shape in SHAPES]
    uses = [[name for segment in chain for _, name in segment.params] for chain in chains]
    assert any(len(set(names)) < len(names) for names in uses)
    assert any(set(names) < set(Chained(shape).beginning()[0]) for shape, names in zip(SHAPES, uses, strict=True))
    assert {bool(chain[0].meta) for chain in chains} == {bool(chain[-1].meta) for chain in chains} == {True, False}
    assert any(segment.meta for chain in chains for segment in chain[1:-1])
    assert any(not segment.params for chain in chains for segment in chain)


@pytest.mark.parametrize("shape", [0, 4])
def test_a_loss_that_offers_no_segments_is_one(shape: int) -> None:
    problem = Chained(shape, whole=True)
    params, meta = problem.beginning()
    assert_agrees(problem, params, meta, problem.window().inner[0], block_remat=True)


@dataclass
class OfSegments:
    """What a chain asks of a problem."""

    segments: tuple[Segment, ...]

    def inner_segments(self) -> tuple[Segment, ...]:
        return self.segments

    outer_segments = inner_segments

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return chain_loss(self.segments, params, meta, batch)


@functools.cache
def random_segment(seed: int) -> Callable[[Tree, Tree, Batch, Tree], Tree]:
    """Return a segment that composes at random what users write; made once, so that tests share its traces."""
    # None whose products grow without bounds along a chain.
    made = random_function(seed, length=4, kinds={k: v for k, v in STEPS.items() if k not in ("largest", "product")})

    def function(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        first, second, third = made(hidden["stream"], hidden["side"], params["weight"])
        return {"stream": first.tanh() + meta["rate"] * second, "side": third.sin()}

    return function


def last(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    return {LOSS: ((hidden["stream"] * params["weight"]).sin() + hidden["side"] * batch["x"]).square().mean()}


def first(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    return {"stream": batch["x"] * params["weight"], "side": batch["x"].cos()}


def of_matrices(*functions: Any) -> tuple[OfSegments, Tree, Tree, Batch]:
    names = [f"w{i}" for i in range(len(functions) + 2)]
    middle = [
        Segment(f"segment {i}", function, (("weight", names[i + 1]),), ("rate",))
        for i, function in enumerate(functions)
    ]
    ends = (
        Segment("first", first, (("weight", "w0"),), (), ("x",)),
        Segment("last", last, (("weight", names[-1]),), (), ("x",)),
    )
    like = {name: torch.empty(6, 4, dtype=torch.float64) for name in names}
    params, batch = drawn(like, 1), drawn({"x": like["w0"]}, 2)
    return OfSegments((ends[0], *middle, ends[1])), params, {"rate": torch.tensor(0.3, dtype=torch.float64)}, batch


@pytest.mark.parametrize(("seed", "block_remat"), [(0, True), (1, False)])
def test_segments_of_what_users_write_are_differentiated_right(seed: int, block_remat: bool) -> None:
    problem, params, meta, batch = of_matrices(*(random_segment(10 * seed + i) for i in range(3)))
    assert not assert_agrees(problem, params, meta, batch, block_remat, 1e-11).untraced


def columns_assigned(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    made = (hidden["stream"] * params["weight"]).tanh().clone()
    made[:, 0] += meta["rate"] * hidden["stream"][:, 1] ** 2
    made[:, 2:] = hidden["side"][:, 2:].sin()
    return {"stream": made, "side": hidden["side"]}


def written_in_place(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    made = hidden["stream"] * params["weight"]
    made = made.relu_().clone()
    made.add_(hidden["side"].square()).mul_(1.5)
    return {"stream": made * meta["rate"], "side": hidden["side"]}


@pytest.mark.parametrize(("function", "block_remat"), [(columns_assigned, True), (written_in_place, False)])
def test_a_segment_may_write_to_what_it_has_made(function: Any, block_remat: bool) -> None:
    assert_agrees(*of_matrices(function, random_segment(0)), block_remat)


def squared_of_two(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    return {"stream": hidden["stream"] * params["one"] + params["two"].sin() * meta["rate"], "side": hidden["side"]}


def test_one_segment_may_read_a_parameter_under_two_names() -> None:
    problem, params, meta, batch = of_matrices(random_segment(1))
    twice = Segment("twice", squared_of_two, (("one", "w1"), ("two", "w1")), ("rate",))
    assert_agrees(OfSegments((problem.segments[0], twice, *problem.segments[1:])), params, meta, batch, True)


def data_alone(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    return {"stream": batch["x"] - batch["x"].mean(0), "side": batch["x"].cos()}


@pytest.mark.parametrize("block_remat", [True, False])
def test_the_first_segment_may_have_neither_parameters_nor_meta_parameters(block_remat: bool) -> None:
    problem, params, meta, batch = of_matrices(random_segment(1), random_segment(2))
    segments = (Segment("data", data_alone, batch=("x",)), *problem.segments[1:])
    assert not assert_agrees(OfSegments(segments), params, meta, batch, block_remat).untraced


def views_handed_on(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    turned = (hidden["stream"] * params["weight"]).t()
    return {"stream": turned[:3].t(), "side": params["weight"][0].expand(6, 4), "kept": hidden["side"]}


def views_joined(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    wide = torch.cat([hidden["stream"], hidden["kept"][:, :1]], 1)
    return {"stream": wide * hidden["side"] + meta["rate"], "side": hidden["kept"].flip(1)}


@pytest.mark.parametrize("block_remat", [True, False])
def test_views_expansions_and_inputs_may_be_handed_on(block_remat: bool) -> None:
    assert_agrees(*of_matrices(views_handed_on, views_joined, random_segment(1)), block_remat)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("shape", [0, 5])
def test_number_types_stay_what_they_are(shape: int, dtype: torch.dtype, tolerance: float) -> None:
    problem, exact = Chained(shape, dtype=dtype), Chained(shape)
    params, meta = problem.beginning()
    batch, direction = problem.window().inner[0], drawn(params)
    chain = Chain(problem, "inner", True)
    found = chain.gradient(params, meta, batch, of_meta=True)
    hessian, mixed = chain.products(params, meta, batch, direction, into=tree.zeros_like(params), mixed=True)
    assert {leaf.dtype for leaves in (found.params, found.meta, hessian, mixed) for leaf in leaves.values()} == {dtype}
    wide = [tree.cast(leaves, torch.float64) for leaves in (params, meta)]
    wide_batch = batch | {"inputs": batch["inputs"].double()}
    expected = whole(exact, *wide, wide_batch)
    along, zero = tree.cast(direction, torch.float64), tree.zeros_like(wide[0])
    products = Recorded(exact).products(*wide, wide_batch, along, into=zero, mixed=True)
    for one, other in (
        (found.params, expected[1]),
        (found.meta, expected[2]),
        (hessian, products[0]),
        (mixed, products[1]),
    ):
        assert relative_error(tree.cast(one, torch.float64), other) <= tolerance


def test_inputs_need_not_be_contiguous() -> None:
    problem = Chained(1)
    params, meta = problem.beginning()
    batch = problem.window().inner[0]
    turned = {name: leaf.t().contiguous().t() for name, leaf in params.items()}
    wide = torch.stack([batch["inputs"], batch["inputs"]], -1)
    strided = batch | {"inputs": wide[..., 0], "tokens": torch.stack([batch["tokens"]] * 2, 1)[:, 0]}
    assert not strided["inputs"].is_contiguous() and not turned["head"].is_contiguous()
    assert_agrees(problem, turned, meta, strided, True)
    expanded = batch | {"inputs": batch["inputs"][:1].expand(EXAMPLES, WIDTH)}
    assert_agrees(problem, params, meta, expanded, False)


def test_a_last_batch_of_another_shape_is_traced_anew_and_right(traces: list[Any]) -> None:
    problem = Chained(2)
    params, meta = problem.beginning()
    batch = problem.window().inner[0]
    assert_agrees(problem, params, meta, batch, True)
    made = len(traces)
    assert_agrees(problem, params, meta, tree.tree_map(lambda leaf: leaf[:5].clone(), batch), True)
    again = len(traces)
    assert made < again <= 2 * made
    assert_agrees(problem, params, meta, batch, True)
    assert len(traces) == again


def gradients_and_products(of: Problem) -> None:
    params, meta = of.initial_state()[0].params, of.initial_state()[1]
    batch = next(of.windows())[0].inner[0]
    chain = Chain(of, "inner", True)
    chain.gradient(params, meta, batch)
    chain.products(params, meta, batch, params, into=tree.zeros_like(params), mixed=False)


def test_identical_blocks_share_their_traces_and_so_do_problems_of_one_shape(traces: list[Any]) -> None:
    gradients_and_products(make_problem("lm_learning_rates", blocks=1))
    made = len(traces)
    assert made == len(segment_graphs._cache) == 6, "embedding, block and head, first and second order"
    for options in ({"blocks": 5}, {"blocks": 2, "seed": 4}):
        gradients_and_products(make_problem("lm_learning_rates", **options))  # type: ignore[arg-type]
    assert len(traces) == made
    gradients_and_products(make_problem("lm_learning_rates", blocks=2, width=16))
    assert len(traces) == 2 * made


def test_a_problem_in_one_piece_keeps_its_traces_for_itself(traces: list[Any]) -> None:
    """Its loss reads what the problem holds: the data of another problem are others."""
    one, other = Chained(0, whole=True), Chained(3, whole=True)
    for problem in (one, other, one):
        params, meta = problem.beginning()
        assert_agrees(problem, params, meta, problem.window().inner[0], True)
    made = len(traces)
    assert not segment_graphs._cache and made
    params, meta = one.beginning()
    assert_agrees(one, params, meta, one.window().inner[0], True)
    assert len(traces) == made


def test_segments_that_are_called_alike_but_differ_do_not_share(traces: list[Any]) -> None:
    @dataclass(frozen=True)
    class Scaled:
        by: float

        def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
            return {
                "stream": hidden["stream"] * params["weight"].sin() * self.by + meta["rate"],
                "side": hidden["side"],
            }

    for scales in ((2.0, 3.0), (3.0, 2.0)):
        assert_agrees(*of_matrices(*map(Scaled, scales)), True)
    functions = {key[0] for key in segment_graphs._cache}
    assert {Scaled(2.0), Scaled(3.0)} <= functions


def test_functions_that_cannot_be_hashed_are_not_mistaken_for_each_other() -> None:
    @dataclass
    class Scaled:
        by: float

        def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
            return {
                "stream": hidden["stream"] * params["weight"].sin() * self.by + meta["rate"],
                "side": hidden["side"],
            }

    problem, params, meta, batch = of_matrices(Scaled(1.0))
    one, _, three = problem.segments
    for by in range(2, 5):
        # The same problem, with a function made anew where the last one may have lain.
        problem.segments = (one, Segment("scaled", Scaled(float(by)), (("weight", "w1"),), ("rate",)), three)
        expected = whole(problem, params, meta, batch)
        close(Chain(problem, "inner", True).gradient(params, meta, batch).params, expected[1])
        gc.collect()


def branching(params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    made = hidden["stream"] * params["weight"]
    return {"stream": made.tanh() if float(made.sum()) > 0 else made.sin() * meta["rate"], "side": hidden["side"]}


@pytest.mark.parametrize(("sign", "block_remat"), [(1, True), (-1, False)])
def test_control_flow_that_reads_values_is_differentiated_untraced_and_named(sign: int, block_remat: bool) -> None:
    problem, params, meta, batch = of_matrices(random_segment(1), branching, random_segment(0))
    params["w2"] = sign * params["w2"].abs() * (torch.ones(6, 4, dtype=torch.float64))
    segment_graphs._cache.clear()
    with pytest.warns(UserWarning, match="segment 1: not traced.*twice the memory"):
        chain = assert_agrees(problem, params, meta, batch, block_remat)
    assert chain.untraced == {"segment 1"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_agrees(problem, params, meta, batch, block_remat)


def test_what_a_chain_keeps_is_known_without_computing_it() -> None:
    problem = make_problem("lm_learning_rates", blocks=3)
    params, meta = problem.initial_state()[0].params, problem.initial_state()[1]
    batch = next(problem.windows())[0].inner[0]
    kept = list(Chain(problem, "inner", block_remat=False).kept_bytes(params, meta, batch))
    stream = 3 * 8 * 8 * 8
    assert [handed_on for handed_on, _ in kept] == [stream] * 4 + [0]
    assert kept[1] == kept[2] == kept[3] and kept[1][1] > 4 * stream
