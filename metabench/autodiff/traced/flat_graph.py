"""A function of trees as a flat list of aten calls, each tensor dropped after its last use.

Autograd keeps what a backward pass might need; a flat graph keeps only what is needed, and runs no Python between its calls. It is traced
with fake tensors: no arithmetic, no memory. Kemaev et al. 2025 get the same from JAX, where every function is traced.

Inputs and outputs are groups of trees by name ('params', 'hidden', ...), so that one trace can serve several purposes: `part` keeps
what some outputs need, `split` separates what can run early from what must wait for late inputs.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from metabench.autodiff.simulated import simulation
from metabench.autodiff.traced.liveness import order_for_memory, owners, size
from metabench.autodiff.traced.memory_reuse import reuse_memory
from metabench.autodiff.traced.simplify import draws, is_aten, is_view, simplify, writes
from metabench.core.lazy import torch
from metabench.core.types import Tree

Groups: TypeAlias = "dict[str, Tree]"
Function: TypeAlias = "Callable[[Groups], Groups]"
Name: TypeAlias = tuple[str, str]
"""(group, name within the tree)."""

SAVED = "saved"
"""The group that the early part of a split graph saves for the late one."""


class FlatGraph:
    """A callable from groups of trees to groups of trees, as a flat list of aten calls. Autograd records nothing."""

    def __init__(self, graph: Any, constants: Mapping[str, Any], inputs: list[Name], outputs: list[Name]) -> None:
        self.inputs, self.outputs = inputs, outputs
        order_for_memory(graph)
        self.functional = torch.fx.GraphModule(dict(constants), graph)
        executed = copy.deepcopy(graph)
        reuse_memory(executed)
        # Boxed: inputs are handed over in a list that the call empties, so that one can be dropped after its last use.
        executed.set_codegen(torch.fx.graph._BoxedCodeGen())
        self._run = torch.fx.GraphModule(dict(constants), executed)

    def plain(self, given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the outputs in order for the inputs in order."""
        found: list[torch.Tensor] = self._run(list(given))
        return found

    def __call__(self, groups: Groups) -> Groups:
        """Return the outputs for inputs of the shapes and dtypes that were traced. No tensor of `groups` is written to.

        The dict `groups` itself is emptied: tensors without other references are freed after their last use. A dispatch mode with a method
        `run_flat` runs the graph itself: one that simulates may know what it takes from an earlier run.
        """
        given = [groups[group][name] for group, name in self.inputs]
        groups.clear()
        with torch.no_grad():
            mode = simulation()
            return self.named(self._run(given) if mode is None else mode.run_flat(self._run, given))

    @property
    def multiplies(self) -> bool:
        """Whether a call of the graph is one of those whose floating-point operations torch counts."""
        from torch.utils.flop_counter import flop_registry

        return any(
            is_aten(node) and node.target.overloadpacket in flop_registry for node in self.functional.graph.nodes
        )

    def output_bytes(self, group: str) -> int:
        """Return the bytes of distinct memory behind the outputs of a group, if allocated by this graph."""
        nodes = list(self.functional.graph.nodes)
        owner = owners(nodes)
        made = {
            owner[node]
            for (of, _), node in zip(self.outputs, nodes[-1].args[0], strict=True)
            if of == group and node in owner
        }
        return sum(size(node) for node in made)

    def named(self, values: Any) -> Groups:
        """Return a list of outputs as groups of trees."""
        found: Groups = {}
        for (group, name), value in zip(self.outputs, values, strict=True):
            found.setdefault(group, {})[name] = value
        return found


class Trace:
    """A traced function, from which flat graphs are made."""

    def __init__(self, function: Function, like: Groups) -> None:
        """Trace `function` for inputs such as `like`: only shapes, strides, dtypes and devices are read.

        Raises:
            ValueError: the function writes to its inputs, draws random numbers, or keeps a tensor that it made, such as a cache filled
                at its first call.
            Exception: whatever torch raises if the function cannot be traced, for example because its control flow depends on values.
        """
        self.inputs: list[Name] = [(group, name) for group, tree in like.items() for name in tree]
        leaves = [leaf for tree in like.values() for leaf in tree.values()]
        self.outputs: list[Name] = []

        def flat(*tensors: torch.Tensor) -> list[torch.Tensor]:
            found = function(_grouped(self.inputs, tensors))
            self.outputs = [(group, name) for group, tree in found.items() for name in tree]
            return [leaf for tree in found.values() for leaf in tree.values()]

        module = _traced(flat, leaves)
        self._graph = module.graph
        if writes(self._graph):
            raise ValueError("it writes to a tensor that it is given")
        if drawn := draws(self._graph):
            # A loss may seed a generator of its own and still be a function. The trace would keep the generator, which runs on.
            raise ValueError(f"it draws random numbers ({', '.join(drawn)}), and a trace would not seed them anew")
        simplify(self._graph)
        self._constants = {
            node.target: getattr(module, node.target) for node in self._graph.nodes if node.op == "get_attr"
        }
        if any(is_fake(constant) for constant in self._constants.values()):
            raise ValueError("it keeps a tensor that it made while it was traced")

    def part(self, outputs: Collection[str]) -> FlatGraph:
        """Return a graph that computes only the named output groups, without inputs that it does not read."""
        graph, inputs, results = self._copied()
        kept = [(name, node) for name, node in zip(self.outputs, results, strict=True) if name[0] in outputs]
        return self._finished(graph, inputs, kept)

    def split(
        self, outputs: Collection[str], early: Collection[str], late: Collection[str]
    ) -> tuple[FlatGraph, FlatGraph]:
        """Return (ahead, back), which together compute the output groups `outputs`: `ahead` those in `early` and a group `SAVED`.

        `back` computes the others from `SAVED` and the inputs; only it receives the input groups `late`. `SAVED` holds what
        does not depend on them and is needed later.
        """
        graph, inputs, results = self._copied()
        named = [(name, node) for name, node in zip(self.outputs, results, strict=True) if name[0] in outputs]
        first = [(name, node) for name, node in named if name[0] in early]
        rest = [(name, node) for name, node in named if name[0] not in early]
        waits = {node for (group, _), node in inputs if group in late}
        for node in graph.nodes:
            if not waits.isdisjoint(node.all_input_nodes):
                waits.add(node)
        needed = _needed([node for _, node in rest])
        crossing = {source for node in needed & waits for source in node.all_input_nodes if source not in waits}
        # An output of the late part may be known early.
        crossing |= {node for _, node in rest if node not in waits}
        # A view costs nothing to take again, and what it is of is often wanted too.
        bases = {_base(node) for node in crossing}
        saved = [node for node in graph.nodes if node in bases and node.op not in ("placeholder", "get_attr")]

        behind, behind_inputs, _ = self._copied()
        twins = {node.name: node for node in behind.nodes}
        given = []
        with behind.inserting_before(next(iter(behind.nodes))):
            for node in saved:
                given.append(((SAVED, node.name), behind.placeholder(f"saved_{node.name}")))
        for node, (_, placeholder) in zip(saved, given, strict=True):
            placeholder.meta = dict(node.meta)
            twins[node.name].replace_all_uses_with(placeholder)
        late_results = [
            (name, node)
            for name, node in zip(self.outputs, _end(behind).args[0], strict=True)
            if name[0] in outputs and name[0] not in early
        ]
        return (
            self._finished(graph, inputs, [*first, *(((SAVED, node.name), node) for node in saved)]),
            self._finished(behind, [*given, *behind_inputs], late_results),
        )

    def _copied(self) -> tuple[Any, list[tuple[Name, Any]], list[Any]]:
        """Return a copy of the trace's graph, with its inputs by name and its outputs."""
        graph = copy.deepcopy(self._graph)
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        return graph, list(zip(self.inputs, placeholders, strict=True)), list(_end(graph).args[0])

    def _finished(self, graph: Any, inputs: list[tuple[Name, Any]], results: list[tuple[Name, Any]]) -> FlatGraph:
        _end(graph).args = ([node for _, node in results],)
        graph.eliminate_dead_code()
        for _, node in inputs:
            if not node.users:
                graph.erase_node(node)
        order = {node: i for i, node in enumerate(graph.nodes)}
        read = sorted(((order[node], name) for name, node in inputs if node in order))
        graph.lint()
        return FlatGraph(graph, self._constants, [name for _, name in read], [name for name, _ in results])


def specification(groups: Groups) -> tuple[Any, ...]:
    """Return what a trace depends on besides its function, hashable: names, shapes, strides, dtypes and devices."""
    return tuple(
        (
            group,
            name,
            tuple(leaf.shape),
            leaf.stride() if leaf.layout == torch.strided else leaf.layout,
            leaf.dtype,
            leaf.device,
        )
        for group, tree in groups.items()
        for name, leaf in tree.items()
    )


def on_fakes(function: Function, like: Groups) -> Any:
    """Return the output of `function` for fake tensors such as `like`: tensors without values, of the right shapes."""
    with _faking():
        return function({group: {name: _fake(leaf) for name, leaf in tree.items()} for group, tree in like.items()})


def _traced(function: Callable[..., Any], leaves: list[torch.Tensor]) -> Any:
    """Return the trace of `function` as a graph module, made on fake tensors."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with _faking():
        # Writes of the function to its own tensors, and those of torch's derivative formulas, become calls that return their result.
        pure = torch.func.functionalize(function, remove="mutations")
        return make_fx(pure)(*[_fake(leaf) for leaf in leaves])


def is_fake(value: Any) -> bool:
    """Tell whether a tensor has no memory behind it."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(value, FakeTensor)


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Hide the block from dispatch modes: what counts a call's operations must not count those that come once per process."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        yield


@contextlib.contextmanager
def _faking() -> Iterator[None]:
    """Within the block, make tensors without memory, independently of outer modes, and record for autograd."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with unseen(), torch.enable_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


def _fake(leaf: torch.Tensor) -> torch.Tensor:
    if leaf.layout != torch.strided:
        raise TypeError(f"a tensor of layout {leaf.layout}")
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)


def _grouped(names: list[Name], values: Any) -> Groups:
    groups: Groups = {}
    for (group, name), value in zip(names, values, strict=True):
        groups.setdefault(group, {})[name] = value
    return groups


def _end(graph: Any) -> Any:
    return next(node for node in reversed(graph.nodes) if node.op == "output")


def _needed(nodes: list[Any]) -> set[Any]:
    found: set[Any] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


def _base(node: Any) -> Any:
    """Return the base of a node, through views of views."""
    while is_aten(node) and is_view(node) and isinstance(node.meta.get("val"), torch.Tensor):
        source = node.args[0]
        if not isinstance(source.meta.get("val"), torch.Tensor):
            break
        node = source
    return node
