"""Liveness of a flat graph's memory, from sizes alone, without running it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from metabench.autodiff.traced.simplify import Graph, Node, is_aten, is_view
from metabench.core.lazy import torch


def owners(nodes: Sequence[Node]) -> dict[Node, Node]:
    """Return, for every node whose tensor the graph made, the node that made its memory, through views of views.

    Graph inputs and constants, and views of them, have none.
    """
    found: dict[Node, Node] = {}
    for node in nodes:
        if node.op != "call_function":
            continue
        if not is_aten(node):  # an element of what a call returned
            source = node.args[0]
            if not is_view(source):
                found[node] = node
            elif source in found:
                found[node] = found[source]
        elif is_view(node) or node.target._schema.is_mutable:
            base = node.args[0]
            if base in found:
                found[node] = found[base]
        elif isinstance(node.meta.get("val"), torch.Tensor):
            found[node] = node
    return found


def size(node: Node) -> int:
    """Return the bytes of a node's memory."""
    value = node.meta.get("val")
    return value.untyped_storage().nbytes() if isinstance(value, torch.Tensor) else 0


def last_reads(nodes: Sequence[Node], owner: dict[Node, Node]) -> dict[Node, int]:
    """Return, for every owner, the place of the last node that reads its memory, through any view."""
    place = {node: i for i, node in enumerate(nodes)}
    found: dict[Node, int] = {}
    for node, of in owner.items():
        found[of] = max(found.get(of, 0), place[node], *(place[user] for user in node.users))
    return found


def peak_bytes(graph: Graph) -> int:
    """Return the peak bytes allocated by the graph's calls; inputs do not count, outputs do."""
    nodes = list(graph.nodes)
    owner = owners(nodes)
    ends: dict[int, list[Node]] = {}
    for of, place in last_reads(nodes, owner).items():
        ends.setdefault(place, []).append(of)
    live = peak = 0
    for i, node in enumerate(nodes):
        live += size(node) if owner.get(node) is node else 0
        peak = max(peak, live)
        live -= sum(size(of) for of in ends.get(i, ()))
    return peak


def order_for_memory(graph: Graph) -> None:
    """Reorder the calls of a pure graph for a lower peak, if a simple rule finds one.

    Greedy: of the calls whose operands exist, first those that free more than they allocate, the largest gain first; then the given order.
    """
    nodes = list(graph.nodes)
    before = peak_bytes(graph)
    _arrange(graph, _greedy(nodes))
    if peak_bytes(graph) >= before:
        _arrange(graph, nodes)


def _arrange(graph: Graph, nodes: Sequence[Node]) -> None:
    for earlier, later in itertools.pairwise(nodes):
        earlier.append(later)


def _greedy(nodes: Sequence[Node]) -> list[Node]:
    owner = owners(nodes)
    readers: dict[Node, set[Node]] = {}
    for node, of in owner.items():
        readers.setdefault(of, set()).update((node, *node.users))
    touched = {node: {owner[one] for one in (*node.all_input_nodes, node) if one in owner} for node in nodes}
    place = {node: i for i, node in enumerate(nodes)}
    waiting = {node: len(node.all_input_nodes) for node in nodes}
    ready = [node for node in nodes if not waiting[node]]
    placeholders = [node for node in ready if node.op == "placeholder"]

    def growth(node: Node) -> int:
        taken = size(node) if owner.get(node) is node else 0
        return taken - sum(size(of) for of in touched[node] if readers[of] == {node})

    def rank(node: Node) -> tuple[int, int]:
        grown = growth(node)
        # What takes memory comes in the order in which it stands; what gives some back comes first.
        return (1, place[node]) if grown > 0 else (grown - 1, place[node])

    ordered: list[Node] = []
    while ready:
        node = placeholders.pop(0) if placeholders else min(ready, key=rank)
        ready.remove(node)
        ordered.append(node)
        for of in touched[node]:
            readers[of].discard(node)
        for user in node.users:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    return ordered
