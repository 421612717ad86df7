"""A flat graph computes what the function does, keeps its hands off its inputs, and needs the memory that its liveness says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from random_functions import COLUMNS, ROWS, random_function

from metabench.autodiff.traced.flat_graph import SAVED, FlatGraph, Function, Groups, Trace, on_fakes, specification
from metabench.autodiff.traced.liveness import peak_bytes
from metabench.autodiff.traced.simplify import (
    is_aten,
)
from metabench.core import tree
from metabench.core.randomness import generator
from metabench.measure.memory.meter import measure_memory
from metabench.models.attention_block import HIDDEN, Block

SEEDS = range(7)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, "values"), dtype=torch.float64)


def of_two_groups(seed: int) -> tuple[Function, Groups]:
    """Return a random function as one of groups, the third matrix of a group of its own, and inputs for it."""
    made = random_function(seed)

    def function(groups: Groups) -> Groups:
        first, second, third = made(*groups["early"].values(), *groups["late"].values())
        return {"one": {"y": first}, "two": {"y": second, "z": third}}

    matrices = [drawn(ROWS, COLUMNS, seed=3 * seed + i) for i in range(3)]
    return function, {"early": {"a": matrices[0], "b": matrices[1]}, "late": {"c": matrices[2]}}


def shallow(groups: Mapping[str, Any]) -> Groups:
    """Return the groups in dicts of their own: a flat graph empties what it is called with."""
    return {group: dict(leaves) for group, leaves in groups.items()}


def pick(groups: Groups, graph: FlatGraph) -> Groups:
    return {group: groups[group] for group in {group for group, _ in graph.inputs}}


def assert_same(found: Groups, expected: Groups, tolerance: float = 1e-12) -> None:
    for group, leaves in found.items():
        assert list(leaves) == list(expected[group])
        for name, leaf in leaves.items():
            torch.testing.assert_close(leaf, expected[group][name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_trace_of_a_random_function_gives_what_the_function_gives(seed: int) -> None:
    function, inputs = of_two_groups(seed)
    before = {group: tree.tree_map(torch.clone, leaves) for group, leaves in inputs.items()}
    whole = Trace(function, inputs).part(("one", "two"))
    for again in range(2):
        given = shallow(inputs)
        found = whole(given)
        assert not given, "what the caller hands over is let go of"
        assert set(found) == {"one", "two"}
        assert_same(found, function(inputs))
        assert_same(inputs, before, tolerance=0.0), f"an input was written to in call {again}"


@pytest.mark.parametrize("seed", SEEDS)
def test_values_of_other_inputs_are_right_too(seed: int) -> None:
    function, inputs = of_two_groups(seed)
    whole = Trace(function, inputs).part(("one", "two"))
    others = {group: tree.scale(-0.7, leaves) for group, leaves in inputs.items()}
    assert_same(whole(shallow(others)), function(others))


@pytest.mark.parametrize("seed", SEEDS)
def test_parts_and_halves_of_a_trace_give_what_the_whole_gives(seed: int) -> None:
    function, inputs = of_two_groups(seed)
    expected, trace = function(inputs), Trace(function, inputs)
    for group in ("one", "two"):
        part = trace.part((group,))
        found = part(shallow(pick(inputs, part)))
        assert set(found) == {group}
        assert_same(found, expected)

    def early_and_late(groups: Groups) -> Groups:
        known = function({"early": groups["early"], "late": groups["early"]})
        late = function({"early": known["one"] | {"b": groups["early"]["b"]}, "late": groups["late"]})
        return {"known": known["two"], "late": late["two"]}

    expected = early_and_late(inputs)
    ahead, back = Trace(early_and_late, inputs).split(("known", "late"), ("known",), ("late",))
    assert all(group == "early" for group, _ in ahead.inputs)
    found = ahead(shallow(pick(inputs, ahead)))
    saved = found.pop(SAVED, {})
    assert_same(found, expected)
    behind = back(shallow(pick(inputs | {SAVED: saved}, back)))
    assert set(behind) == {"late"}
    assert_same(behind, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_and_their_tangents_of_a_random_function_can_be_traced(seed: int) -> None:
    made = random_function(seed)

    def pulled(groups: Groups) -> Groups:
        def slopes(*matrices: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.func.grad(lambda *m: sum(one.sin().sum() for one in made(*m)), (0, 1, 2))(*matrices)

        at, along = tuple(groups["at"].values()), tuple(groups["along"].values())
        slope, tangent = torch.func.jvp(slopes, at, along)
        return {"slope": dict(zip("abc", slope, strict=True)), "tangent": dict(zip("abc", tangent, strict=True))}

    inputs = {
        name: {key: drawn(ROWS, COLUMNS, seed=100 * seed + 10 * i + j) for j, key in enumerate("abc")}
        for i, name in enumerate(("at", "along"))
    }
    expected, trace = pulled(inputs), Trace(pulled, inputs)
    assert_same(trace.part(("slope", "tangent"))(shallow(inputs)), expected, 1e-11)
    ahead, back = trace.split(("slope", "tangent"), ("slope",), ("along",))
    found = ahead(shallow(pick(inputs, ahead)))
    saved = found.pop(SAVED, {})
    assert_same(found, expected, 1e-11)
    assert_same(back(shallow(pick(inputs | {SAVED: saved}, back))), expected, 1e-11)


def test_an_input_that_is_not_read_is_not_asked_for() -> None:
    trace = Trace(
        lambda g: {"y": {"y": g["a"]["a"].sin()}, "z": {"z": g["b"]["b"].cos()}}, {n: {n: drawn(3)} for n in "ab"}
    )
    assert trace.part(("y",)).inputs == [("a", "a")]
    assert trace.part(("z",)).inputs == [("b", "b")]


def test_outputs_may_be_inputs_constants_and_the_same_tensor_twice() -> None:
    constant = drawn(3, seed=5)

    def function(groups: Groups) -> Groups:
        a = groups["a"]["a"]
        made = a.exp()
        return {"y": {"input": a, "constant": constant, "one": made, "two": made, "view": made[1:], "later": made * 2}}

    inputs = {"a": {"a": drawn(3)}}
    found = Trace(function, inputs).part(("y",))(shallow(inputs))
    assert_same(found, function(inputs), 0.0)
    assert torch.equal(inputs["a"]["a"], drawn(3)) and torch.equal(constant, drawn(3, seed=5))


def test_a_product_of_matrices_and_the_same_one_of_batches_do_not_overwrite_each_other() -> None:
    """What a product of batches gives is another view of the memory of the product of matrices that it is made of."""

    def function(groups: Groups) -> Groups:
        x, w = groups["a"].values()
        return {"y": {"batched": (x @ w).exp() * 2, "flat": (x.reshape(6, 4) @ w).sin()}}

    inputs = {"a": {"x": drawn(2, 3, 4), "w": drawn(4, 5, seed=1)}}
    assert_same(Trace(function, inputs).part(("y",))(shallow(inputs)), function(inputs))


def relu_in_place(x: torch.Tensor) -> torch.Tensor:
    return (x @ x.t()).relu_() + 1


def added_in_place(x: torch.Tensor) -> torch.Tensor:
    y = x.sin()
    y += x
    y.add_(x, alpha=3).sub_(1).mul_(x)
    return y.exp_()


def a_view_taken_after_a_write(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y.mul_(2)
    return y[0] + y[1]


def a_view_taken_before_a_write(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    row = y[0]
    y.mul_(2)
    return row + y[1]


def columns_assigned(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:, :2] = x[:, 2:].sin()
    y[:, 2] += x[:, 0]
    y[0] = 3.0
    return y * x


def indices_assigned(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[torch.tensor([0, 2]), torch.tensor([1, 1])] = x[0, :2] ** 2
    y[x > 0.5] = -1.0
    return y


def rows_filled(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    for i, value in enumerate(x.flip(0).unbind()):
        y[i].copy_(value * 2)
    return y.cumsum(0)


IN_PLACE = (
    relu_in_place,
    added_in_place,
    a_view_taken_after_a_write,
    a_view_taken_before_a_write,
    columns_assigned,
    indices_assigned,
    rows_filled,
)


@pytest.mark.parametrize("function", IN_PLACE)
def test_functions_that_write_to_what_they_have_made_are_traced_right(function: Callable[..., torch.Tensor]) -> None:
    inputs = {"a": {"x": drawn(4, 4)}, "c": {"c": drawn(4, 4, seed=1)}}

    def grouped(groups: Groups) -> Groups:
        x = groups["a"]["x"]
        found, pull = torch.func.vjp(function, x)
        return {
            "value": {"y": found},
            "slope": {"x": pull(groups["c"]["c"].flatten()[: found.numel()].view_as(found))[0]},
        }

    expected, trace = grouped(inputs), Trace(grouped, inputs)
    assert_same(trace.part(("value", "slope"))(shallow(inputs)), expected)
    alone = trace.part(("value",))
    assert alone.inputs == [("a", "x")]
    assert_same(alone({"a": dict(inputs["a"])}), expected)
    ahead, back = trace.split(("value", "slope"), ("value",), ("c",))
    found = ahead(shallow(pick(inputs, ahead)))
    saved = found.pop(SAVED, {})
    kept = tree.tree_map(torch.clone, saved)
    assert_same(found, expected)
    assert_same(back(shallow(pick(inputs | {SAVED: saved}, back))), expected)
    assert_same({SAVED: saved}, {SAVED: kept}, 0.0)
    assert torch.equal(inputs["a"]["x"], drawn(4, 4))


def perceptron(groups: Groups) -> Groups:
    def loss(params: Any) -> torch.Tensor:
        hidden = (groups["batch"]["x"] @ params["one"] + params["shift"]).tanh()
        return (hidden @ params["two"]).square().mean()

    def slope(params: Any) -> Any:
        return torch.func.grad(loss)(params)

    found, tangent = torch.func.jvp(slope, (groups["params"],), (groups["params"],))
    return {"slope": found, "tangent": tangent}


def perceptron_inputs() -> Groups:
    params = {"one": drawn(32, 64), "shift": drawn(64), "two": drawn(64, 16)}
    return {"params": params, "batch": {"x": drawn(48, 32)}}


def attention(groups: Groups) -> Groups:
    block = Block(16, 2, 32)
    out, pull = torch.func.vjp(lambda p, h: block(p, {}, {}, h), groups["params"], groups["hidden"])
    slope, before = pull(groups["cotangent"])
    return {"out": out, "slope": slope, "before": before}


def attention_inputs() -> Groups:
    params = {name: 0.3 * drawn(*shape, seed=i) for i, (name, shape) in enumerate(Block(16, 2, 32).shapes().items())}
    return {"params": params, "hidden": {HIDDEN: drawn(3, 12, 16)}, "cotangent": {HIDDEN: drawn(3, 12, 16, seed=3)}}


def views(groups: Groups) -> Groups:
    x = groups["params"]["x"]
    one, two = x.chunk(2, 1)
    wide = one.mean(0).expand(32, -1)
    parts = torch.stack([*(wide * two).unbind(1)]).t()
    return {"y": {"y": torch.cat([parts.exp(), one]) @ one.t()[:, :5]}}


CASES: dict[str, tuple[Function, Callable[[], Groups]]] = {
    "a perceptron's Hessian product": (perceptron, perceptron_inputs),
    "an attention block's backward pass": (attention, attention_inputs),
    "views": (views, lambda: {"params": {"x": drawn(32, 24)}}),
    "a chain of elementwise calls": (
        lambda g: {"y": {"y": (g["params"]["x"].sin() * 3).exp() + g["params"]["x"]}},
        lambda: {"params": {"x": drawn(500)}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_liveness_says_what_the_allocator_will_see(name: str) -> None:
    function, inputs_of = CASES[name]
    inputs = inputs_of()
    trace = Trace(function, inputs)
    outputs = {group for group, _ in trace.outputs}
    for wanted in (outputs, *({one} for one in outputs)):
        graph = trace.part(wanted)
        given = pick(inputs, graph)
        assert_same(graph(shallow(given)), function(inputs))
        _, memory = measure_memory(lambda: graph(shallow(given)), given, "cpu")  # noqa: B023
        # A call with a Python number makes a tensor of it, of eight bytes, and at most two such stand in a call.
        assert 0 <= memory.dynamic_bytes - peak_bytes(graph._run.graph) <= 16


def test_the_bytes_of_what_is_saved_are_those_of_its_tensors() -> None:
    inputs = attention_inputs()
    ahead, _ = Trace(attention, inputs).split(("out", "slope", "before"), ("out",), ("cotangent",))
    found = ahead(shallow(pick(inputs, ahead)))
    storages = {leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes() for leaf in found[SAVED].values()}
    assert ahead.output_bytes(SAVED) == sum(storages.values())


def test_no_memory_is_made_while_a_function_is_traced() -> None:
    like = {"params": {"x": drawn(4000, 250)}}

    def function(groups: Groups) -> Groups:
        return {"y": {"y": groups["params"]["x"].sin().exp()}}

    Trace(function, like)
    _, memory = measure_memory(lambda: Trace(function, like), like, "cpu")
    assert memory.dynamic_bytes < 0.01 * memory.static_bytes


def test_fake_tensors_have_the_shapes_strides_and_types_of_what_they_stand_for() -> None:
    like = {"a": {"turned": drawn(3, 4).t(), "halves": drawn(2).bfloat16(), "tokens": torch.arange(5)}}
    found: list[Any] = []
    on_fakes(lambda groups: found.append(specification(groups)), like)
    assert found == [specification(like)]


def test_a_function_whose_control_flow_reads_values_is_refused_by_the_tracer() -> None:
    def function(groups: Groups) -> Groups:
        x = groups["a"]["x"]
        return {"y": {"y": x if float(x.sum()) > 0 else -x}}

    with pytest.raises(Exception, match="_local_scalar_dense"):
        Trace(function, {"a": {"x": drawn(3)}})


def test_only_calls_of_aten_and_elements_of_their_results_are_in_a_flat_graph() -> None:
    graph = Trace(attention, attention_inputs()).part(("slope",))._run.graph
    made = [node for node in graph.nodes if node.op == "call_function"]
    assert all(is_aten(node) or node.target.__name__ == "getitem" for node in made)
