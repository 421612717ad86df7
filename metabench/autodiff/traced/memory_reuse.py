"""Buffer reuse in a flat graph: a call that is the last to read an operand writes its result there.

A flat graph drops each tensor after its last use, but an elementwise call still holds operand and result together for a moment, and
that moment may be the peak. The values are identical to the bit.
"""

from __future__ import annotations

from typing import Any

from metabench.autodiff.traced.liveness import last_reads, owners, size
from metabench.autodiff.traced.simplify import Graph, Node
from metabench.core.lazy import torch

_IN_PLACE = (
    "add.Tensor",
    "sub.Tensor",
    "mul.Tensor",
    "div.Tensor",
    "add.Scalar",
    "sub.Scalar",
    "mul.Scalar",
    "div.Scalar",
    "neg.default",
    "exp.default",
    "log.default",
    "sqrt.default",
    "rsqrt.default",
    "reciprocal.default",
    "sigmoid.default",
    "tanh.default",
    "sin.default",
    "cos.default",
    "masked_fill.Scalar",
    "addmm.default",
    "baddbmm.default",
)
"""Calls with an in-place variant that overwrites the first operand."""

_INTO_COTANGENT = ("gelu_backward", "sigmoid_backward", "silu_backward", "tanh_backward", "threshold_backward")
"""Elementwise backward passes, which may overwrite the cotangent that they read."""


def reuse_memory(graph: Graph) -> None:
    """Rewrite calls to work in place if the result cannot change."""
    in_place = {_overload(name): _overload(name.replace(".", "_.", 1)) for name in _IN_PLACE}
    into = {_overload(f"{name}.default"): _overload(f"{name}.grad_input") for name in _INTO_COTANGENT}
    nodes = list(graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    owner = owners(nodes)
    last = last_reads(nodes, owner)
    for node in nodes:
        if node.op != "call_function" or node.target not in in_place | into:
            continue
        commutes = node.target in _commutative() and len(node.args) == 2 and not node.kwargs
        for index in (0, 1) if commutes else (0,):
            operand = node.args[index]
            if not isinstance(operand, torch.fx.Node) or operand not in owner:
                continue
            given = owner[operand]
            if last[given] == place[node] and _may_write(node, operand, given, owner):
                if node.target in into:
                    node.kwargs, node.target = {**node.kwargs, "grad_input": operand}, into[node.target]
                else:
                    arguments = list(node.args)
                    arguments[0], arguments[index] = arguments[index], arguments[0]
                    node.args, node.target = tuple(arguments), in_place[node.target]
                # The result lives in the operand's memory from here on.
                last[given] = last.pop(node)
                owner.update({one: given for one, of in owner.items() if of is node})
                break


def _may_write(node: Node, operand: Node, given: Node, owner: dict[Node, Node]) -> bool:
    result, written, whole = (one.meta.get("val") for one in (node, operand, given))
    if not all(isinstance(one, torch.Tensor) for one in (result, written, whole)):
        return False
    if (result.shape, result.dtype, result.stride()) != (written.shape, written.dtype, written.stride()):
        return False
    if size(operand) != size(given) or written.numel() * written.element_size() != size(given):
        return False
    if not torch.ops.aten.is_non_overlapping_and_dense.default(written):
        return False
    # Another view of the same memory would be read while it is written; the same one twice is read before, element by element.
    return all(one is operand or owner.get(one) is not given for one in node.all_input_nodes) and (
        node.args.count(operand) == 1 or node.target in _commutative()
    )


def _commutative() -> tuple[Any, ...]:
    return (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor)


def _overload(name: str) -> Any:
    packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)
