"""Mutation operators: an expression or a statement of a hypergradient and what it could have been by mistake.

Written with `ast` rather than taken from a library. cosmic-ray and mutmut have the operators on signs, comparisons and constants, which
are the smaller part of this file; what goes wrong in hypergradients is a term that is dropped, a state before a step for the one after
it, a graph that is not cut, one step less. Both run a test command per mutant too, and importing torch takes longer than most mutants live.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TypeAlias

from mutation.kinds import Scope, bare_name

Change: TypeAlias = tuple[str, ast.AST]
"""(operator, what stands in the place of the node)."""

SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
LOSSES = {"inner_loss": "outer_loss", "outer_loss": "inner_loss"}
WINDOWS = {"inner": "outer", "outer": "inner"}
SKIPPED_KEYWORDS = {"strict", "dtype", "device", "help", "minimum", "maxsize"}
"""Of zip's check of lengths, of number types, of declarations: no part of a formula."""
INDICES = {"i", "j", "k", "n", "place", "before", "first", "last"}
TINY = 1e-6


def of_expression(node: ast.expr, scope: Scope) -> Iterator[Change]:
    """Yield what may stand in the place of an expression."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            yield from _constants(-value)
        case ast.Constant(value=bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield from _constants(value)
        case ast.UnaryOp(op=ast.USub()):
            yield "sign", node.operand
        case ast.UnaryOp(op=ast.Not()):
            yield "condition", node.operand
        case ast.BinOp():
            yield from _binary(node)
        case ast.BoolOp(op=op, values=values):
            yield "condition", ast.BoolOp(SWAPPED[type(op)](), values)
        case ast.Compare(ops=[op]):
            yield "comparison", ast.Compare(node.left, [SWAPPED[type(op)]()], node.comparators)
        case ast.IfExp():
            yield "condition", ast.IfExp(_negated(node.test), node.body, node.orelse)
            yield "condition", node.body
            yield "condition", node.orelse
        case ast.Subscript():
            yield from _subscript(node)
        case ast.Attribute(attr=("T" | "mT")):
            yield "transpose", node.value
        case ast.Attribute(value=ast.Name(id="window" | "tail"), attr=("inner" | "outer") as name):
            yield "state", ast.Attribute(node.value, WINDOWS[name], ast.Load())
        case ast.Name():
            yield from (("state", ast.Name(other, ast.Load())) for other in scope.others(node))
        case ast.Call():
            yield from _call(node, scope)


def of_statement(node: ast.stmt) -> Iterator[Change]:
    """Yield what may stand in the place of a statement."""
    match node:
        case ast.AugAssign(op=op):
            yield "deletion", ast.Pass()
            if isinstance(op, ast.Add | ast.Sub):
                yield "sign", ast.AugAssign(node.target, SWAPPED[type(op)](), node.value)
            yield "dropped term", ast.Assign([_loaded(node.target)], node.value, lineno=0)  # type: ignore[list-item]
        case ast.Assign(targets=[target]):
            bound = {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
            if bound & {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}:
                yield "deletion", ast.Pass()
        case ast.Expr(value=ast.Call()):
            yield "deletion", ast.Pass()
        case ast.Return(value=ast.Tuple(elts=[first, second])):
            yield "swapped", ast.Return(ast.Tuple([second, first], ast.Load()))


def of_condition(test: ast.expr) -> Iterator[Change]:
    """Yield the negation of the condition of an `if`, a `while` or a comprehension, where no operator within it gives that."""
    if not isinstance(test, ast.Compare | ast.UnaryOp | ast.Constant):
        yield "condition", _negated(test)


def _constants(value: float) -> Iterator[Change]:
    if isinstance(value, int):
        others: tuple[float, ...] = (value + 1, value - 1) if abs(value) <= 10 else (2 * value, value // 2)
    elif value in (0.0, 1.0):
        others = (1.0 - value, -1.0) if value else (1.0,)
    elif 0 < abs(value) < TINY:  # rounding: twice as much of it means nothing
        others = (0.0, 1e6 * value)
    else:
        others = (2 * value, value / 2)
    yield from (("constant", ast.parse(repr(other), mode="eval").body) for other in others)


def _binary(node: ast.BinOp) -> Iterator[Change]:
    left, right, kind = node.left, node.right, type(node.op)
    if any(isinstance(side, ast.Constant | ast.JoinedStr) and not _is_number(side) for side in (left, right)):
        return  # words
    if kind in SWAPPED:
        yield "operator", ast.BinOp(left, SWAPPED[kind](), right)
    if kind in (ast.Add, ast.BitOr):
        yield "dropped term", left
        yield "dropped term", right
    elif kind is ast.Sub:
        yield "dropped term", left
        yield "swapped", ast.BinOp(right, ast.Sub(), left)
    elif kind in (ast.Mult, ast.Div, ast.FloorDiv, ast.Pow):
        yield "dropped factor", left
    elif kind is ast.MatMult:
        yield "swapped", ast.BinOp(right, ast.MatMult(), left)


def _subscript(node: ast.Subscript) -> Iterator[Change]:
    def at(index: ast.expr) -> Change:
        return "index", ast.Subscript(node.value, index, ast.Load())

    index = node.slice
    if isinstance(index, ast.Slice):
        for name in ("lower", "upper"):
            bound = getattr(index, name)
            if bound is None:
                continue
            ends = {"lower": index.lower, "upper": index.upper, "step": index.step}
            yield at(ast.Slice(**(ends | {name: None})))
            if not isinstance(bound, ast.Constant | ast.UnaryOp):
                yield at(ast.Slice(**(ends | {name: _moved(bound, ast.Sub())})))
                yield at(ast.Slice(**(ends | {name: _moved(bound, ast.Add())})))
    elif isinstance(index, ast.Name) and index.id in INDICES:
        yield at(_moved(index, ast.Sub()))
        yield at(_moved(index, ast.Add()))


def _call(node: ast.Call, scope: Scope) -> Iterator[Change]:
    name, words, given = bare_name(node), ast.unparse(node.func), node.args

    def called(arguments: list[ast.expr], function: str = words) -> ast.Call:
        return ast.Call(ast.parse(function, mode="eval").body, arguments, node.keywords)

    match words, given:
        case "tree.add", [left, right]:
            yield "dropped term", left
            yield "dropped term", right
            yield "sign", called(given, "tree.subtract")
        case "tree.subtract", [left, right]:
            yield "dropped term", left
            yield "sign", called(given, "tree.add")
            yield "swapped", called([right, left])
        case "tree.add_scaled", [left, factor, right]:
            yield "dropped term", left
            yield "dropped factor", ast.parse(f"tree.add({ast.unparse(left)}, {ast.unparse(right)})", mode="eval").body
            yield "sign", called([left, _minus(factor), right])
            yield "swapped", called([right, factor, left])
        case "tree.scale", [factor, of]:
            yield "dropped factor", of
            yield "sign", called([_minus(factor), of])
        case "tree.dot", [left, right]:
            yield "swapped", called([left, left])
            yield "swapped", called([right, right])
        case "tree.norm", [of]:
            yield "operator", called([of, of], "tree.dot")
        case "tree.zeros_like", [of]:
            yield "dropped factor", of
        case (("tree.detach" | "detached"), [of]):
            yield "detach", of
        case (("torch.no_grad" | "torch.enable_grad"), []):
            yield "detach", ast.parse("torch.set_grad_enabled(torch.is_grad_enabled())", mode="eval").body
        case "range", [*_]:
            yield from (("steps", called(bounds)) for bounds in _ranges(given))
        case "reversed", [ast.Call(func=ast.Name(id="range")) as of]:
            yield "steps", of
        case _, [*_] if words in FUNCTIONS:
            yield "operator", called(given, FUNCTIONS[words])
    if isinstance(node.func, ast.Attribute):
        if not given and not node.keywords and name in ("detach", "sqrt", "abs", "clone", "contiguous"):
            yield ("detach" if name == "detach" else "dropped factor"), node.func.value
        elif name in ("sum", "mean"):
            other = ast.Attribute(node.func.value, "mean" if name == "sum" else "sum", ast.Load())
            yield "operator", ast.Call(other, given, node.keywords)
        elif name in LOSSES:
            yield "state", ast.Call(ast.Attribute(node.func.value, LOSSES[name], ast.Load()), given, node.keywords)
    if words.partition(".")[0] != "tree" and name not in ("zip", "range", "isinstance", "getattr"):
        for place in range(len(given) - 1):
            one, other = given[place : place + 2]
            if scope.kind(one) and scope.kind(one) == scope.kind(other):
                yield "swapped", called([*given[:place], other, one, *given[place + 2 :]])
    for place, argument in enumerate(given):
        if isinstance(argument, ast.Name) and scope.kind(argument) == "bool":
            yield "condition", called([*given[:place], _negated(argument), *given[place + 1 :]])
    for keyword in node.keywords:
        if keyword.arg not in SKIPPED_KEYWORDS:
            yield (
                "dropped argument",
                ast.Call(node.func, given, [other for other in node.keywords if other is not keyword]),
            )


def _ranges(given: list[ast.expr]) -> Iterator[list[ast.expr]]:
    end = min(len(given), 2) - 1
    for op in (ast.Sub(), ast.Add()):
        yield [*given[:end], _moved(given[end], op), *given[end + 1 :]]
    if end == 1 and not _is_number(given[0]):
        yield [_moved(given[0], ast.Add()), *given[1:]]


def _moved(node: ast.expr, op: ast.operator) -> ast.expr:
    return ast.BinOp(node, op, ast.Constant(1))


def _minus(node: ast.expr) -> ast.expr:
    return node.operand if isinstance(node, ast.UnaryOp) else ast.UnaryOp(ast.USub(), node)


def _negated(node: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), node)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _loaded(target: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(target), mode="eval").body
