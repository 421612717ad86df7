"""The mutants of a source file: every place where an operator applies, as a replacement of a piece of its text."""

from __future__ import annotations

import ast
import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mutation.kinds import Returns, Scope, bare_name
from mutation.operators import SKIPPED_KEYWORDS, Change, of_condition, of_expression, of_statement

ERRORS = ("Error", "Diverged", "Unsupported")
SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Return)
PARENTHESISED = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Lambda)


@dataclass(frozen=True)
class Mutant:
    """A change of one expression or statement.

    Attributes:
        file: relative to the repository.
        function: qualified name of the function, empty at the top of a module.
        line, last_line: of the node that is changed.
        original, mutated: the innermost statement around it (of a compound one its header) in normal form, before and after.
        occurrence: tells such pairs apart that are the same within one function.
        begin, end, text: which bytes of the file are replaced, and by what.
    """

    file: str
    function: str
    line: int
    last_line: int
    operator: str
    original: str
    mutated: str
    occurrence: int
    begin: int
    end: int
    text: str

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What stays the same when lines move."""
        return self.file, self.function, self.original, self.mutated, self.occurrence

    def applied(self, source: str) -> str:
        """Return the file with the mistake in it."""
        raw = source.encode()
        return (raw[: self.begin] + self.text.encode() + raw[self.end :]).decode()


def mutants_of(source: str, file: str, returns: Returns) -> list[Mutant]:
    """Return the mutants of a file in the order of its text, each once."""
    found: list[Mutant] = []
    seen: set[tuple[int, str]] = set()
    times: Counter[tuple[str, ...]] = Counter()
    for mutant, statement in _Walk(source, file, returns).of_module():
        if mutant.mutated != mutant.original and (statement, mutant.mutated) not in seen:
            seen.add((statement, mutant.mutated))
            same = mutant.key[:-1]
            found.append(dataclasses.replace(mutant, occurrence=times[same]))
            times[same] += 1
    return found


class _Walk:
    """A walk over the syntax tree that leaves out what is no formula: imports, declarations, annotations, messages, assertions."""

    def __init__(self, source: str, file: str, returns: Returns) -> None:
        self._raw, self._file, self._tree, self._returns = source.encode(), file, ast.parse(source), returns
        self._lines = [0]
        for line in self._raw.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def of_module(self) -> Iterator[tuple[Mutant, int]]:
        yield from self._body(self._tree.body, "", Scope(self._returns))

    def _body(self, body: list[ast.stmt], function: str, scope: Scope) -> Iterator[tuple[Mutant, int]]:
        for node in body:
            yield from self._statement(node, function, scope)

    def _statement(self, node: ast.stmt, function: str, scope: Scope) -> Iterator[tuple[Mutant, int]]:
        match node:
            case ast.FunctionDef():
                yield from self._body(node.body, f"{function}.{node.name}".lstrip("."), scope.inside(node))
                return
            case ast.ClassDef():  # what is assigned in its body are fields and their defaults
                functions = [one for one in node.body if isinstance(one, ast.FunctionDef)]
                yield from self._body(list[ast.stmt](functions), f"{function}.{node.name}".lstrip("."), scope)
                return
            case ast.Expr(value=ast.Constant()) | ast.AnnAssign(value=None):
                return
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return
        header = self._header(node)
        if isinstance(node, SIMPLE):
            for change in of_statement(node):
                yield from self._mutant(node, change, node, header, function)
        elif isinstance(node, ast.If | ast.While):
            for change in of_condition(node.test):
                yield from self._mutant(node.test, change, node, header, function)
        elif not isinstance(node, ast.For | ast.With | ast.Try):
            return
        for expression in _expressions(node):
            yield from self._expression(expression, node, header, function, scope)
        for name in ("body", "orelse", "finalbody"):
            yield from self._body(getattr(node, name, []), function, scope)

    def _expression(
        self, node: ast.expr, statement: ast.stmt, header: str, function: str, scope: Scope
    ) -> Iterator[tuple[Mutant, int]]:
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Call) and bare_name(node).endswith(ERRORS)):
            return
        for change in of_expression(node, scope):
            yield from self._mutant(node, change, statement, header, function)
        if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
            return  # a negative number: one constant
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.comprehension):
                for test in child.ifs:
                    for change in of_condition(test):
                        yield from self._mutant(test, change, statement, header, function)
                parts = [child.iter, *child.ifs]
            elif isinstance(child, ast.keyword):
                parts = [] if child.arg in SKIPPED_KEYWORDS else [child.value]
            else:
                parts = (
                    [child]
                    if isinstance(child, ast.expr) and isinstance(getattr(child, "ctx", None), ast.Load | None)
                    else []
                )
            for part in parts:
                yield from self._expression(part, statement, header, function, scope)

    def _mutant(
        self, node: ast.AST, change: Change, statement: ast.stmt, header: str, function: str
    ) -> Iterator[tuple[Mutant, int]]:
        operator, replacement = change
        text = ast.unparse(ast.fix_missing_locations(replacement))
        if isinstance(replacement, PARENTHESISED):
            text = f"({text})"
        begin, end = self._span(node)
        first, last = self._head_span(statement)
        mutated = _normal((self._raw[first:begin] + text.encode() + self._raw[end:last]).decode())
        target, _, value = mutated.partition(" = ")
        mutated = "pass" if target == value else mutated
        line, last_line = node.lineno, node.end_lineno  # type: ignore[attr-defined]
        yield Mutant(self._file, function, line, last_line, operator, header, mutated, 0, begin, end, text), first

    def _header(self, statement: ast.stmt) -> str:
        first, last = self._head_span(statement)
        return _normal(self._raw[first:last].decode())

    def _head_span(self, statement: ast.stmt) -> tuple[int, int]:
        """Return the bytes of a statement; of a compound one, up to its body."""
        begin, end = self._span(statement)
        body = getattr(statement, "body", None)
        return (begin, self._span(body[0])[0]) if body else (begin, end)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self._lines[node.lineno - 1] + node.col_offset,  # type: ignore[attr-defined]
            self._lines[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[attr-defined]
        )


def _expressions(node: ast.stmt) -> Iterator[ast.expr]:
    """Yield the expressions of a statement itself that are read."""
    match node:
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign() | ast.Expr() | ast.Return():
            if node.value is not None:
                yield node.value
        case ast.If() | ast.While():
            yield node.test
        case ast.For():
            yield node.iter
        case ast.With():
            yield from (item.context_expr for item in node.items)


def _normal(text: str) -> str:
    """Return a statement, or the header of one, as `ast` writes it."""
    text = text.strip().removeprefix("el") if text.lstrip().startswith("elif") else text.strip()
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:
        body = "pass\nexcept Exception: pass" if text.startswith("try") else "pass"
        return ast.unparse(ast.parse(f"{text}\n {body}")).split("\n")[0]
