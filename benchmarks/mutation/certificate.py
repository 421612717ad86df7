"""What mutation testing asks of the certificate: its findings one by one, those that have caught most first.

The only place here that knows how a certificate is made. All of it runs in the process of one mutant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """One thing that was checked: whether it failed, where, and in what words."""

    failed: bool
    where: str
    message: str


def verdicts(name: str, kills: Mapping[str, int], wrapped: Callable[[Any], Any] | None = None) -> Iterator[Verdict]:
    """Yield what the certificate of a method finds, as `certify` does but for the curve, on which nothing can fail.

    Args:
        kills: how many mutants each place has caught; the cases come in that order.
        wrapped: changes the method before it is judged.
    """
    from metabench.certify import run
    from metabench.methods import method as method_named

    method = method_named(name)
    method = wrapped(method) if wrapped else method
    checks = run.checks(method)
    for one in sorted(checks, key=lambda one: -kills.get(one.text, 0)):
        found = one.check(method)
        words = found.message or ("" if found.error is None else f"relative error {found.error:.2g}")
        yield Verdict(found.verdict == run.FAILED, one.text, f"{found.kind}: {words}")
    if not checks:
        row = run.undeclared_row(method)
        yield Verdict(row["verdict"] == run.FAILED, "undeclared", row["message"])


def executed_lines(name: str, root: Path) -> dict[str, list[int]]:
    """Return the lines of the methods and their derivatives that run while a method is called by its certificate, by file.

    What the references alone run is not among them.
    """
    waiting: dict[Any, set[int]] = {}  # by code: its lines that have not run yet
    folders = (str(root / "metabench/methods"), str(root / "metabench/autodiff"))

    def local(frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            waiting[frame.f_code].discard(frame.f_lineno)
        return local

    def entering(frame: Any, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code not in waiting:
            ours = code.co_filename.startswith(folders)
            waiting[code] = _lines(code) if ours else set()
        return local if waiting[code] else None

    def wrapped(method: Any) -> Any:
        import dataclasses

        def function(*arguments: Any) -> Any:
            sys.settrace(entering)
            try:
                return method.function(*arguments)
            finally:
                sys.settrace(None)

        return dataclasses.replace(method, function=function)

    for _ in verdicts(name, {}, wrapped):
        pass
    found: dict[str, set[int]] = {}
    for code, left in waiting.items():
        if code.co_filename.startswith(folders):
            found.setdefault(str(Path(code.co_filename).relative_to(root)), set()).update(_lines(code) - left)
    return {file: sorted(lines) for file, lines in found.items()}


def _lines(code: Any) -> set[int]:
    return {line for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno}
