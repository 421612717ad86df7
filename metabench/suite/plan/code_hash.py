"""Which source a cell depends on, as a hash: editing one method reruns the cells of that method and no others.

The sources are read, not imported: their import statements are followed inside the package. The registries find methods and problems
by listing a folder, so no import leads from one to its siblings, and none leads to the command line or the report.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import metabench
from metabench.core.method import Method
from metabench.core.registry import Registry, is_plugin, pick
from metabench.data.fetch.files import content_sha256
from metabench.data.registry import DATASETS, dataset
from metabench.data.sets.own_text import is_own_text
from metabench.kinds import KINDS
from metabench.learned.declared import LEARNED_OPTIMISERS, read_optimiser
from metabench.methods import METHODS
from metabench.problems import PROBLEMS
from metabench.suite.plan.cell import Cell

RUNNER = "metabench.suite.run.run_cell"
TIMER = "metabench.suite.rounds.time_group"
WORKER = "metabench.suite.rounds.worker"
PREDICTOR = "metabench.suite.predict.one_cell"
_PACKAGE = "metabench"


class Sources:
    """The modules of a package's folder: their files, what they import from each other, and a hash of their text.

    With `package` empty they are the modules that lie in the folder `root` itself, as beside a plugin.
    """

    def __init__(self, root: Path, package: str = _PACKAGE) -> None:
        self.root = root
        self.package = package
        self._imports: dict[str, frozenset[str]] = {}
        self._digests: dict[str, str] = {}

    def file(self, module: str) -> Path | None:
        """Return the file of a module of the package by its dotted name; None if there is none."""
        names = module.split(".")
        if (self.package and names.pop(0) != self.package) or (not self.package and names[0] == _PACKAGE):
            return None
        path = self.root.joinpath(*names)
        return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)

    def closure(self, modules: Iterable[str]) -> set[str]:
        """Return `modules` and all that they import from the package, directly or indirectly, anywhere in their code.

        The package's own `__init__` holds only the version, and the names of the library, which it imports by text: it is left out, and a
        release alone reruns nothing.
        """
        found: set[str] = set()
        waiting = list(modules)
        while waiting:
            module = waiting.pop()
            if module not in found:
                found.add(module)
                waiting.extend(self._imported(module))
        return found - {_PACKAGE}

    def digest(self, modules: Iterable[str]) -> str:
        """Return twelve hexadecimal digits over the names and the text of `modules`."""
        lines = [f"{module} {self._digest(module)}" for module in sorted(modules)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

    def imported_by(self, text: bytes, package: str) -> Iterator[str]:
        """Yield the modules of the package that the source `text` of a module in `package` imports; of a package, its first file."""
        for node in _statements(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if self.file(alias.name))
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(package.split(".")[: -(node.level - 1) or None]) if node.level else ""
                module = ".".join(part for part in (base, node.module) if part)
                if self.file(module):
                    yield module
                    yield from (name for alias in node.names if self.file(name := f"{module}.{alias.name}"))

    def _imported(self, module: str) -> frozenset[str]:
        if module not in self._imports:
            path = self._path(module)
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            self._imports[module] = frozenset(self.imported_by(path.read_bytes(), package))
        return self._imports[module]

    def _digest(self, module: str) -> str:
        if module not in self._digests:
            self._digests[module] = hashlib.sha256(self._path(module).read_bytes()).hexdigest()
        return self._digests[module]

    def _path(self, module: str) -> Path:
        path = self.file(module)
        if path is None:
            raise ValueError(f"no module '{module}' in {self.root}")
        return path


def _statements(of: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements within a syntax tree, and what holds them; expressions, most of a tree, are left out."""
    for child in ast.iter_child_nodes(of):
        if not isinstance(child, ast.expr):
            yield child
            yield from _statements(child)


def code_hash(cell: Cell) -> str:
    """Return twelve hexadecimal digits over the source that decides the cell's rows: its kind, method, problem, data set and the runner.

    Of what a plugin declares, its file counts, and what that imports from its folder, or its package, and from this package; of the user's
    own data, and of files that options name, their content. Source is read once per process.
    """
    code = _hash(_installed(), _modules(cell))
    files = (
        *PROBLEMS.pick(cell.problem, cell.plugin_files).card.files,
        *dataset(cell.dataset, cell.plugin_files).files,
        *_needs(cell),
    )
    if not files:
        return code
    return _digest([code, *(f"{path.name} {content_sha256(path)}" for path in files)])


def part_hash(cell: Cell, picks: Iterable[tuple[Registry[Any], str]]) -> str:
    """Return the hash of the source behind a part that the cell's kind prepares; of what the kind's options pick, `picks` alone count."""
    picked = (_home(registry, name, cell.plugin_files) for registry, name in picks)
    return _hash(_installed(), (*_modules(cell, whole=False), *picked))


@functools.cache
def predictor_hash() -> str:
    """Return twelve hexadecimal digits over the source that predicts. Predictions depend on it and on the cell's own source."""
    sources = _installed()
    return sources.digest(sources.closure([PREDICTOR]))


@functools.cache
def timer_hash() -> str:
    """Return twelve hexadecimal digits over the source that times cells side by side; what they compute is in their own hashes."""
    sources = _installed()
    return sources.digest(sources.closure([TIMER, WORKER]))


def method_hash(name: str, plugins: Iterable[str] = ()) -> str:
    """Return twelve hexadecimal digits over the source that decides a method's hypergradient: its module and what that imports.

    Rows with the same hash were made by the same method; a certificate is valid for rows with its hash.
    """
    return _hash(_installed(), (_home(METHODS, name, map(Path, plugins)),))


def problem_hash(name: str, plugins: Iterable[str] = ()) -> str:
    """Return twelve hexadecimal digits over the source of a problem: its module and what that imports."""
    return _hash(_installed(), (_home(PROBLEMS, name, map(Path, plugins)),))


def source_hash(method: Method) -> str:
    """Return `method_hash` of a method that may be in no registry; empty if its module has no file. One of the same name is another."""
    known = getattr(sys.modules.get(method.module), "__file__", None)
    return _hash(_installed(), (method.module,)) if known else ""


@functools.cache
def certifier_hash() -> str:
    """Return twelve hexadecimal digits over the source that certifies methods; no method is part of it."""
    sources = _installed()
    modules = [f"{_PACKAGE}.certify.{path.stem}" for path in sources.root.joinpath("certify").glob("*.py")]
    return sources.digest(sources.closure(name.removesuffix(".__init__") for name in modules))


@functools.cache
def report_hash(own: tuple[str, ...] = ()) -> str:
    """Return twelve hexadecimal digits over every file that makes the report; `own` are the suite's plugins and figures."""
    digest = hashlib.sha256(b"".join(Path(path).read_bytes() for path in own))
    for part in ("report", "results", "papers"):
        for path in sorted(_installed().root.joinpath(part).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def _installed() -> Sources:
    return Sources(Path(metabench.__file__).parent)


@functools.cache
def _hash(sources: Sources, modules: tuple[str, ...]) -> str:
    """Return the hash of modules: of the package's with all that they import from it, and of files outside it, likewise."""
    inside = [module for module in modules if sources.file(module)]
    outside = [
        file.read_bytes()
        for module in dict.fromkeys(modules)
        if module not in inside
        for file in _files_outside(module)
    ]
    imported = [module for text in outside for module in sources.imported_by(text, "")]
    code = sources.digest(sources.closure([*inside, *imported]))
    return _digest([code, *(hashlib.sha256(text).hexdigest() for text in outside)]) if outside else code


def _files_outside(module: str) -> list[Path]:
    """Return the file of a module outside the package, and what it imports, directly or not, of its own package or a plugin's folder."""
    path, top = Path(str(sys.modules[module].__file__)), module.partition(".")[0]
    root = Path(str(sys.modules[top].__file__))
    if is_plugin(module):
        beside = Sources(path.parent, "")
    elif root.name == "__init__.py":
        beside = Sources(root.parent, top)
    else:  # a module alone among other people's packages
        return [path]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = (beside.file(name) for name in sorted(beside.closure(beside.imported_by(path.read_bytes(), package))))
    return [path, *(file for file in found if file is not None and file != path)]


def _modules(cell: Cell, whole: bool = True) -> tuple[str, ...]:
    """Return the modules that decide the cell's rows. A user's own text has none: every loader can read it.

    The registries find what a cell names, so no import leads there. Without `whole` what the options of its kind pick is left out.
    """
    plugins = cell.plugin_files
    loader = () if is_own_text(cell.dataset) else (_home(DATASETS, cell.dataset, plugins),)
    named = [(KINDS, cell.kind), (METHODS, cell.method), (PROBLEMS, cell.problem), *_chosen(cell)]
    if whole:
        named += _picked(KINDS.pick(cell.kind, plugins).options, cell.kind_options)
    return (RUNNER, *(_home(registry, name, plugins) for registry, name in named), *loader)


def _picked(options: type, values: Mapping[str, Any]) -> Iterator[tuple[Registry[Any], str]]:
    """Yield what the values of options pick from registries."""
    for field in dataclasses.fields(options):
        picks = field.metadata.get("picks")
        if picks and field.name in values:
            yield from picks(values[field.name])


def _needs(cell: Cell) -> Iterator[Path]:
    """Yield the files that the values of the problem's options name."""
    for field in dataclasses.fields(PROBLEMS.pick(cell.problem, cell.plugin_files).card.options):
        needs = field.metadata.get("needs")
        if needs and field.name in cell.problem_options:
            yield from needs(cell.problem_options[field.name])


def _chosen(cell: Cell) -> Iterator[tuple[Registry[Any], str]]:
    """Yield what the problem's size and options choose from registries: models, inner optimisers, learned ones."""
    card = PROBLEMS.pick(cell.problem, cell.plugin_files).card
    if isinstance(card.sizes, Registry):
        yield card.sizes, cell.size
    for field in dataclasses.fields(card.options):
        choices, value = field.metadata.get("choices"), cell.problem_options.get(field.name)
        if isinstance(choices, Registry) and isinstance(value, str):
            yield choices, value
        if field.metadata.get("check") is read_optimiser and value:
            yield LEARNED_OPTIMISERS, str(value).partition(",")[0].strip()


def _home(registry: Registry[Any], name: str, plugins: Iterable[Path]) -> str:
    """Return the module that declares the thing of that name."""
    known = registry(plugins)
    pick(registry.sort, name, known)
    return known.homes[name]


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
