"""A fork server: the parent has imported torch and all that is heavy, and nothing of the package; a child imports that with its mutant.

A mutant costs a fork and the import of small modules, a fifth of a second, and then what it takes to find a claim that fails.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.util
import math
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mutation.certificate import executed_lines, verdicts

T = TypeVar("T")

MEMORY = 6 * 2**30
"""Bytes of data that a child may hold."""
LEAST_SECONDS, TIMES = 20.0, 5.0
"""A child may take the most of these seconds and so many times the certificate of the method as it is: the processor's, not the clock's."""
IDLE = 10.0
"""How many times as long it may take by the clock, where other programs have the processor or a child only waits."""


@dataclass(frozen=True)
class Outcome:
    """What came of a mutant: survived, or caught by a wrong value, an exception, a time-out or the end of its process."""

    outcome: str
    where: str = ""
    message: str = ""
    seconds: float = 0.0

    @property
    def caught(self) -> bool:
        """Whether the certificate saw it."""
        return self.outcome != "survived"


@dataclass(frozen=True)
class Baseline:
    """The certificate of a method as it is: how long it takes, what it imports, which lines it runs."""

    seconds: float
    failures: list[str]
    modules: list[str]
    lines: dict[str, list[int]]


def import_what_is_heavy(modules: Iterable[str] = ()) -> dict[str, str]:
    """Import the package for all that it imports, forget the package itself, and return its methods with their modules.

    Nothing is computed here: what starts threads would not survive a fork.
    """
    import torch

    torch.set_num_threads(1)
    importlib.import_module("metabench.certify.run")
    found = {name: method.module for name, method in importlib.import_module("metabench.methods").methods().items()}
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:  # one that only exists once another has made it
            continue
    for name in [name for name in sys.modules if name.partition(".")[0] == "metabench"]:
        del sys.modules[name]
    return found


class _Planted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from source that is not in its file."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        self._module, self._path, self._source = module, path, source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._module:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=self)

    def exec_module(self, module: Any) -> None:
        exec(compile(ast.parse(self._source), str(self._path), "exec"), module.__dict__)

    def get_source(self, name: str) -> str:
        return self._source


def judge(name: str, root: Path, file: str, source: str, kills: Counter[str]) -> Outcome:
    """Return what the certificate of a method says with `source` in the place of `file`; to be called in a child."""
    module = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    sys.meta_path.insert(0, _Planted(module, root / file, source))
    begun = time.process_time()
    try:
        for found in verdicts(name, kills):
            if found.failed:
                raised = "raised " in found.message
                return Outcome(
                    "exception" if raised else "value", found.where, found.message[:300], time.process_time() - begun
                )
    except Exception as error:
        return Outcome("exception", "", f"{type(error).__name__}: {error}"[:300], time.process_time() - begun)
    return Outcome("survived", seconds=time.process_time() - begun)


def measure(name: str, root: Path, lines: bool) -> Baseline:
    """Return what a method's certificate takes, or which lines it runs; to be called in a child that has run none: traces are kept."""
    if lines:
        return Baseline(0.0, [], [], executed_lines(name, root))
    before, begun = set(sys.modules), time.process_time()
    failures = [f"{found.where}: {found.message}" for found in verdicts(name, {}) if found.failed]
    seconds = time.process_time() - begun
    modules = [one for one in sys.modules if one not in before and one.partition(".")[0] != "metabench"]
    return Baseline(seconds, failures, modules, {})


@dataclass
class Task:
    """Something for a child to do, within so many seconds of the processor's time."""

    what: Any
    work: Callable[[], Any]
    seconds: float


def run_all(tasks: Iterable[Task], jobs: int) -> Iterator[tuple[Any, Any]]:
    """Yield (what, its result) of tasks as they end, `jobs` at a time; an Outcome stands for the result of a child that gave none."""
    context = multiprocessing.get_context("fork")
    waiting, running = deque(tasks), list[tuple[Task, Any, Any, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.popleft()
                reading, writing = context.Pipe(duplex=False)
                child = context.Process(target=_child, args=(task, writing), daemon=True)
                child.start()
                writing.close()
                running.append((task, child, reading, time.monotonic()))
            multiprocessing.connection.wait([one[2] for one in running], timeout=0.5)
            for one in list(running):
                task, child, reading, since = one
                if reading.poll():
                    result = _received(reading, child, task)
                elif time.monotonic() - since > IDLE * task.seconds:
                    child.kill()
                    result = _late(task)
                else:
                    continue
                child.join()
                reading.close()
                running.remove(one)
                yield task.what, result
    finally:
        for _, child, _, _ in running:
            child.kill()
            child.join()


def _received(reading: Any, child: Any, task: Task) -> Any:
    try:
        return reading.recv()
    except EOFError:
        child.join()
        if child.exitcode == -signal.SIGXCPU:
            return _late(task)
        return Outcome("crash", message=f"its process ended with exit code {child.exitcode}")


def _late(task: Task) -> Outcome:
    return Outcome("time-out", message=f"more than {task.seconds:.0f} s", seconds=task.seconds)


def _child(task: Task, writing: Any) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    seconds = math.ceil(time.process_time() + task.seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    writing.send(task.work())
    writing.close()
    os._exit(0)  # nothing of the parent's is to be closed here
