"""Rewrites of a flat graph of aten calls that leave its values as they are: less to compute, and less alive at a time.

Forward mode leaves many redundant copies and repeated products in a trace. The graphs are pure:
no call writes to a tensor.
"""

from __future__ import annotations

from typing import Any

from metabench.core.lazy import torch

Node = Any
Graph = Any


def simplify(graph: Graph) -> None:
    """Apply every rewrite, in place."""
    graph.eliminate_dead_code()
    drop_copies(graph)
    merge_equal(graph)
    graph.eliminate_dead_code()
    add_into_products(graph)
    graph.eliminate_dead_code()
    graph.lint()


def writes(graph: Graph) -> bool:
    """Tell whether a call of the graph writes to one of its arguments."""
    return any(is_aten(node) and node.target._schema.is_mutable for node in graph.nodes)


def draws(graph: Graph) -> list[str]:
    """Return the names of the operations that draw random numbers, each once.

    Dropout draws nothing if its probability is zero or it is not training.
    """
    names = (node.target._schema.name for node in graph.nodes if is_aten(node) and _draws(node))
    return list(dict.fromkeys(name.removeprefix("aten::") for name in names))


def _draws(node: Node) -> bool:
    if torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    arguments = node.target._schema.arguments
    given = {a.name: a.default_value for a in arguments} | dict(zip((a.name for a in arguments), node.args, strict=False)) | node.kwargs
    rates = [given[name] for name in ("p", "dropout", "dropout_p") if name in given]
    drops_nothing = bool(rates) and all(rate == 0.0 for rate in rates)
    return not (drops_nothing or given.get("train") is False)


def drop_copies(graph: Graph) -> None:
    """Replace aliases, copies and expansions that change nothing with their source."""
    for node in list(graph.nodes):
        if not is_aten(node) or not node.args or not isinstance(node.args[0], torch.fx.Node):
            continue
        source = node.args[0]
        name = node.target._schema.name
        same = (
            _shape(node) == _shape(source)
            and _dtype(node) == _dtype(source)
            and _device(node) == _device(source)
            and _shape(node) is not None
        )
        drop = name in ("aten::alias", "aten::detach", "aten::lift_fresh")
        drop |= name in ("aten::expand", "aten::view", "aten::reshape", "aten::_unsafe_view") and same
        # A copy into another order of dimensions is asked for by a kernel that needs it.
        drop |= name in ("aten::_to_copy", "aten::clone") and same and _strides(node) == _strides(source)
        if drop:
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def merge_equal(graph: Graph) -> None:
    """Merge calls of one operation with the same arguments.

    Elementwise results are recomputed rather than held for long: that costs a pass over memory, not arithmetic.
    """
    place = {node: i for i, node in enumerate(graph.nodes)}
    seen: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            key: Any = ("get_attr", node.target)
        elif node.op == "call_function":
            if is_aten(node) and torch.Tag.nondeterministic_seeded in node.target.tags:
                continue
            try:
                key = (node.target, _frozen(node.args), _frozen(node.kwargs))
                hash(key)
            except TypeError:
                continue
        else:
            continue
        first = seen.get(key)
        if first is None or (
            is_aten(node) and torch.Tag.pointwise in node.target.tags and _idle(first, node, place) > _FAR
        ):
            seen[key] = node
        else:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


_FAR = 40
"""Number of calls across which an elementwise result is not kept for reuse."""


def _idle(first: Node, again: Node, place: dict[Node, int]) -> int:
    """Return for how many calls before `again` the result of `first` is not read."""
    return place[again] - max((place[user] for user in first.users if user in place), default=place[first])


def add_into_products(graph: Graph) -> None:
    """Fuse an addition into a matrix product: x + a @ b in one call, without a matrix for a @ b."""
    aten = torch.ops.aten
    fused = {aten.mm.default: aten.addmm.default, aten.bmm.default: aten.baddbmm.default}
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.target is not aten.add.Tensor or len(node.args) != 2 or node.kwargs:
            continue
        left, right = node.args
        if not (isinstance(left, torch.fx.Node) and isinstance(right, torch.fx.Node)) or left is right:
            continue
        for product, other in ((right, left), (left, right)):
            if product.target not in fused or len(product.users) != 1:
                continue
            if _shape(other) != _shape(product) or _dtype(other) != _dtype(product):
                continue
            # Taken where the sum is: what the product reads must live until then anyway, or the sum would cost memory.
            late = place[node]
            if not all(_lives_until(argument, late, place, product) for argument in product.args):
                continue
            with graph.inserting_before(node):
                sum_ = graph.call_function(fused[product.target], (other, *product.args))
            sum_.meta = dict(node.meta)
            place[sum_] = place[node]
            node.replace_all_uses_with(sum_)
            graph.erase_node(node)
            graph.erase_node(product)
            break


def _lives_until(argument: Any, late: int, place: dict[Node, int], product: Node) -> bool:
    """Tell whether moving `product`, which reads `argument`, to place `late` keeps nothing alive longer than a step or two."""
    if not isinstance(argument, torch.fx.Node) or late - place[product] <= 2:
        return True
    return argument.op == "placeholder" or any(place[user] >= late for user in argument.users)


def is_aten(node: Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


_UNMARKED_VIEWS = ("aten::_unsafe_view", "aten::unsafe_split", "aten::unsafe_split_with_sizes", "aten::unsafe_chunk")
"""Operations that return undeclared views of their argument."""


def is_view(node: Node) -> bool:
    """Tell whether the node's result shares the memory of its first argument."""
    return is_aten(node) and (node.target._schema.name in _UNMARKED_VIEWS or _is_marked(node))


def _is_marked(node: Node) -> bool:
    return any(
        argument.alias_info is not None and not argument.alias_info.is_write for argument in node.target._schema.returns
    )


def _frozen(value: Any) -> Any:
    """Return `value`, nested arguments, as a hashable object; raise TypeError if that is impossible."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(one) for one in value)
    if isinstance(value, dict):
        return tuple(sorted((key, _frozen(one)) for key, one in value.items()))
    if isinstance(value, slice):
        return ("slice", _frozen(value.start), _frozen(value.stop), _frozen(value.step))
    # 1, 1.0 and True are equal and give tensors of different kinds; 0.0 and -0.0 give different values.
    return (type(value), str(value) if isinstance(value, float) else value)


def _example(node: Node) -> Any:
    found = node.meta.get("val")
    return found if isinstance(found, torch.Tensor) else None


def _shape(node: Node) -> Any:
    found = _example(node)
    return None if found is None else tuple(found.shape)


def _dtype(node: Node) -> Any:
    found = _example(node)
    return None if found is None else found.dtype


def _device(node: Node) -> Any:
    found = _example(node)
    return None if found is None else found.device


def _strides(node: Node) -> Any:
    found = _example(node)
    return None if found is None else found.stride()
