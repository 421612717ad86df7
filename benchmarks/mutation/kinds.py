"""What kind of value a name holds, read from annotations: which variables of a function can be mistaken for each other."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ATTRIBUTES = {"params": "Tree", "meta": "Tree", "value": "Tree", "state": "InnerState", "loss": "float"}
BATCHES = ("inner", "outer", "batch", "last", "due_batch")
"""Names that loops over a window give its batches."""

Returns = Mapping[str, str]
"""The kind of what a function returns, by its bare name; 'tuple[A, B]' where that is several values."""


def returns_of(paths: Iterable[Path]) -> Returns:
    """Return what the functions and classes of some files return. A name that is used twice for two kinds has none."""
    found: dict[str, str] = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                kind = node.name
            elif isinstance(node, ast.FunctionDef) and node.returns is not None:
                kind = kind_of_annotation(node.returns)
            else:
                continue
            found[node.name] = kind if found.get(node.name, kind) == kind else ""
    return {name: kind for name, kind in found.items() if kind}


def kind_of_annotation(annotation: ast.expr) -> str:
    """Return an annotation as a kind: without quotes, and without None."""
    text = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
    return str(text).removesuffix(" | None").removeprefix("torch.")


@dataclass
class Scope:
    """The names of a function with their kinds and the lines where they are bound first, those of the functions around it included."""

    returns: Returns
    bound: dict[str, tuple[str, int]] = field(default_factory=dict)

    def inside(self, function: ast.FunctionDef) -> Scope:
        """Return the scope of a function within this one."""
        scope = Scope(self.returns, dict(self.bound))
        arguments = function.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            scope.bound.pop(argument.arg, None)
            if argument.annotation is not None:
                scope.bound[argument.arg] = (kind_of_annotation(argument.annotation), function.lineno)
        for node in _own_nodes(function):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    scope._bind(target, scope.kind(node.value), node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                scope._bind(node.target, kind_of_annotation(node.annotation), None)
            elif isinstance(node, ast.For):
                for name in ast.walk(node.target):
                    if isinstance(name, ast.Name) and name.id in BATCHES:
                        scope.bound.setdefault(name.id, ("Batch", name.lineno))
        return scope

    def kind(self, node: ast.expr) -> str:
        """Return the kind of an expression; empty if nothing says it."""
        match node:
            case ast.Name():
                return self.bound.get(node.id, ("", 0))[0]
            case ast.Constant():
                return type(node.value).__name__
            case ast.Attribute():
                return ATTRIBUTES.get(node.attr, "")
            case ast.IfExp():
                return self.kind(node.body) or self.kind(node.orelse)
            case ast.Compare():
                return "bool"
            case ast.Call():
                return self.returns.get(bare_name(node), "")
        return ""

    def others(self, name: ast.Name, most: int = 2) -> list[str]:
        """Return the names bound before the use of `name` that hold the same kind of value, the nearest first."""
        kind, _ = self.bound.get(name.id, ("", 0))
        if not kind or kind in ("str", "Any", "Problem", "Options"):
            return []
        found = [
            (line, other)
            for other, (its, line) in self.bound.items()
            if its == kind and other != name.id and line < name.lineno
        ]
        return [other for _, other in sorted(found, reverse=True)[:most]]

    def _bind(self, target: ast.expr, kind: str, value: ast.expr | None) -> None:
        if isinstance(target, ast.Starred):
            return
        if isinstance(target, ast.Name):
            if kind and not kind.startswith("tuple["):
                self.bound.setdefault(target.id, (kind, target.lineno))
            elif target.id in BATCHES:
                self.bound.setdefault(target.id, ("Batch", target.lineno))
        elif isinstance(target, ast.Tuple):
            values = value.elts if isinstance(value, ast.Tuple) else []
            kinds = [self.kind(one) for one in values] if values else _parts(kind)
            for place, part in enumerate(target.elts):
                self._bind(part, kinds[place] if len(kinds) == len(target.elts) else "", None)


def bare_name(call: ast.Call) -> str:
    """Return the name of what is called without what stands before its last dot."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _parts(kind: str) -> list[str]:
    if not kind.startswith("tuple["):
        return []
    annotation = ast.parse(kind, mode="eval").body
    assert isinstance(annotation, ast.Subscript)
    inside = annotation.slice
    return [kind_of_annotation(one) for one in (inside.elts if isinstance(inside, ast.Tuple) else [inside])]


def _own_nodes(function: ast.FunctionDef) -> Iterable[ast.AST]:
    """Yield the nodes of a function in the order of its source, without those of functions within it."""
    waiting: list[ast.AST] = list(reversed(function.body))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            waiting.extend(reversed(list(ast.iter_child_nodes(node))))
