"""Finding what is declared: methods, problems, data sets and more, in a folder of the package, in other installed packages, in plugins.

Each sort has one `Registry`; no list is kept by hand. A plugin is a Python file; it may declare several things, of several sorts.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import math
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from metabench.core.errors import MetabenchError, unknown

T = TypeVar("T")


class Declarable:
    """Base class of what a plugin may declare: an instance in a module's namespace, or a subclass without abstract methods."""


class Found(dict[str, T]):
    """What was found, by name.

    Attributes:
        homes: by name, the module that declares it.
        left_out: by name, why it cannot be used.
    """

    def __init__(self, found: Mapping[str, T], homes: Mapping[str, str], left_out: Mapping[str, str]) -> None:
        super().__init__(found)
        self.homes = dict(homes)
        self.left_out = dict(left_out)


@dataclass(frozen=True)
class Installed:
    """What another installed package offers under a group of entry points.

    Attributes:
        name: of the entry point.
        value: where it leads, 'package.module' or 'package.module:object'.
        distribution: the package that declares it, with its version.
        content: the module or object; None if it cannot be imported.
        problem: why it cannot be imported; empty if it can.
    """

    name: str
    value: str
    distribution: str
    content: Any
    problem: str

    @property
    def package(self) -> str:
        """The top-level package of the value."""
        return self.value.partition(":")[0].partition(".")[0].strip()


@dataclass(frozen=True, eq=False)
class Registry(Generic[T]):
    """Everything of one sort, by name.

    Attributes:
        sort: what one is called in messages.
        kind: the class that it is an instance of, or with `classes` a subclass of.
        package: the folder of metabench whose modules declare the package's own, as 'package.module'.
        group: entry points under which an installed package offers its own: the value is a module, or 'module:object'.
        name: from a thing, and the stem of the file that declares it, to its name.
        check: raises MetabenchError if a thing with that name cannot be used. The package's own are checked by its tests.
        hint: how one is declared, for messages.
        classes: whether a thing is a class.

    A thing may have an `order`, its place in tables; those without one follow by name. As the choices of an option a registry holds the
    names that this process knows: the package's, those of installed packages and of the plugins loaded so far.
    """

    sort: str
    kind: type
    package: str
    group: str
    name: Callable[[T, str], str]
    check: Callable[[T, str], None]
    hint: str
    classes: bool = False

    def __call__(self, plugins: Iterable[Path] = ()) -> Found[T]:
        """Return all by name: the package's own, those of other installed packages, and those of `plugins` (Python files).

        One of an installed package that cannot be used is left out: a line on standard error says so once, and `pick` says why on
        request. A plugin that cannot be used is an error, because it was requested.

        Raises:
            MetabenchError: a plugin cannot be imported, declares nothing, declares one wrongly, or takes a name that is in use.
        """
        return self._with(plugins)

    def _with(self, plugins: Iterable[Path], last_counts: bool = False) -> Found[T]:
        """Return what a call returns. last_counts: the last of two of one name counts, and what cannot be used is left out."""
        offered = _offered(self)
        found, homes = {**self._own, **offered}, {**self._own.homes, **offered.homes}
        for path in plugins:
            module = load_file(path.resolve())
            for name, thing, home in self._declared(module, module.__name__):
                try:
                    self._check(name, thing)
                except MetabenchError as error:
                    if last_counts:  # Refused when it was loaded; whoever loaded it went on.
                        continue
                    raise MetabenchError(f"plugin '{path}': {error}") from error
                if name in found and found[name] is not thing and not (last_counts and is_plugin(homes[name])):
                    if last_counts:
                        continue
                    raise MetabenchError(f"plugin '{path}' declares {self._taken(name, homes)}")
                found[name], homes[name] = thing, home
        ordered = sorted(found.items(), key=lambda item: (getattr(item[1], "order", math.inf), item[0]))
        left_out = {name: reason for name, reason in offered.left_out.items() if name not in found}
        return Found(dict(ordered), homes, left_out)

    def pick(self, name: str, plugins: Iterable[Path] = ()) -> T:
        """Return one by name; raise MetabenchError naming the nearest valid one, or why it was left out."""
        return pick(self.sort, name, self(plugins))

    def loaded(self) -> Found[T]:
        """Return all by name, those of the plugins that this process has loaded included: where two declare a name, the last counts."""
        return self._with(_LOADED, last_counts=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaded())

    def __contains__(self, name: object) -> bool:
        return name in self.loaded()

    def __len__(self) -> int:
        return len(self.loaded())

    @functools.cached_property
    def _own(self) -> Found[T]:
        found: dict[str, T] = {}
        homes: dict[str, str] = {}
        for module in modules_of(self.package):
            for name, thing, home in self._declared(module, self.package):
                if name in found and found[name] is not thing:
                    raise ValueError(f"{home} declares {self._taken(name, homes)}")
                if name not in found:
                    found[name], homes[name] = thing, home
        return Found(found, homes, {})

    def _offer(self, point: Installed) -> Iterator[tuple[str, T, str]]:
        """Yield what an entry point leads to; raise MetabenchError, a clause that follows its name, if it cannot be used."""
        if point.problem:
            raise MetabenchError(point.problem)
        if isinstance(point.content, ModuleType):
            offered = list(self._declared(point.content, point.package))
        elif self._is_one(point.content):
            module = sys.modules[point.value.partition(":")[0].strip()]
            offered = [self._entry(point.content, module)]
        else:
            raise MetabenchError(f"is a {type(point.content).__name__}, not a module or a {self.sort}: {self.hint}")
        if not offered:
            raise MetabenchError(f"declares no {self.sort}: {self.hint}")
        for name, thing, home in offered:
            self._check(name, thing)
            # Rows carry a hash of the source that made them.
            if Path(_file(home)).suffix != ".py":
                raise MetabenchError(f"declares '{name}' in a module without a source file, '{home}'")
            yield name, thing, home

    def _declared(self, module: ModuleType, package: str) -> Iterator[tuple[str, T, str]]:
        """Yield the things in a module that were declared in `package` or below it, each once: name, thing, module.

        What a module imports, to build on it, is not what it declares.
        """
        for thing in _values(module):
            if self._is_one(thing) and _is_of(thing, package) and not self._is_imported(thing, package):
                yield self._entry(thing, module)

    def _entry(self, thing: T, module: ModuleType) -> tuple[str, T, str]:
        home = _home(thing) or module.__name__
        path = Path(_file(home))
        return self.name(thing, path.parent.name if path.stem == "__init__" else path.stem), thing, home

    def _is_one(self, value: Any) -> bool:
        return _is_declared_class(value, self.kind) if self.classes else isinstance(value, self.kind)

    def _is_imported(self, thing: T, package: str) -> bool:
        """Return whether a thing that does not know its module is the package's own."""
        return not _home(thing) and package != self.package and any(thing is own for own in self._own.values())

    def _check(self, name: str, thing: T) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise MetabenchError(f"{self.sort} '{name}': a name consists of letters, digits, _ and -")
        self.check(thing, name)

    def _taken(self, name: str, homes: Mapping[str, str]) -> str:
        return f"the {self.sort} '{name}', a name that '{_file(homes[name])}' has declared"


@functools.cache
def _offered(registry: Registry[Any]) -> Found[Any]:
    """Return what installed packages offer, and by name why others were left out. Warns on standard error, once."""
    own = registry._own
    found: dict[str, Any] = {}
    homes: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for point in installed(registry.group):
        try:
            for name, thing, home in registry._offer(point):
                if found.get(name) is thing:
                    continue
                if name in own or name in found:
                    raise MetabenchError(f"declares {registry._taken(name, {**own.homes, **homes})}")
                found[name], homes[name] = thing, home
        except MetabenchError as error:
            reason = f"entry point '{point.name} = {point.value}' of {point.distribution} {error}"
            left_out[point.name] = reason
            print(f"warning: a {registry.sort} is left out: {reason}", file=sys.stderr)
    return Found(found, homes, left_out)


def _values(module: ModuleType) -> Iterator[Any]:
    """Yield what a module's names stand for, each once; of a tuple, its elements."""
    seen = set()
    for value in vars(module).values():
        for thing in value if isinstance(value, tuple) else (value,):
            if id(thing) not in seen:
                seen.add(id(thing))
                yield thing


def _is_declared_class(value: Any, kind: type) -> bool:
    """Return whether `value` is a subclass of `kind` that stands for something: not one for others to derive from."""
    return (
        isinstance(value, type)
        and issubclass(value, kind)
        and not value.__name__.startswith("_")
        and (not inspect.isabstract(value) or "card" in vars(value))
    )


def _home(thing: Any) -> str:
    """Return the module that a thing says it is from; empty if it does not know."""
    return str(thing.__module__ if isinstance(thing, type) else getattr(thing, "module", ""))


def _is_of(thing: Any, package: str) -> bool:
    home = _home(thing)
    return not home or home == package or home.startswith(f"{package}.")


def _file(module: str) -> str:
    return str(getattr(sys.modules.get(module), "__file__", None) or module)


def modules_of(package: str) -> list[ModuleType]:
    """Return the imported modules of `package`, in the order of their names; of a module, itself."""
    found = importlib.import_module(package)
    if not hasattr(found, "__path__"):
        return [found]
    return [importlib.import_module(f"{package}.{info.name}") for info in pkgutil.iter_modules(found.__path__)]


_PLUGIN = "metabench_plugin_"


def is_plugin(module: str) -> bool:
    """Return whether a module of that name is a plugin, and not of an installed package."""
    return module.startswith(_PLUGIN)


_LOADED: list[Path] = []
"""The plugins that this process has loaded."""


@functools.cache
def load_file(path: Path) -> ModuleType:
    """Import a plugin, a Python file outside the package; raise MetabenchError if that fails."""
    if not path.is_file():
        raise MetabenchError(f"plugin '{path}': no such file")
    # Two plugins may have the same file name in different folders.
    name = f"{_PLUGIN}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise MetabenchError(f"plugin '{path}': not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        what = str(error) if isinstance(error, MetabenchError) else f"cannot be imported: {_said(error)}"
        raise MetabenchError(f"plugin '{path}': {what}") from error
    if not any(
        (isinstance(value, Declarable) or _is_declared_class(value, Declarable)) and _is_of(value, name)
        for value in _values(module)
    ):
        raise MetabenchError(
            f"plugin '{path}' declares nothing: decorate a function with metabench.core.method, derive a class from "
            "metabench.core.Problem, or name a metabench.data.Dataset"
        )
    _LOADED.append(path)
    return module


@functools.cache
def installed(group: str) -> tuple[Installed, ...]:
    """Return what other installed packages declare under `group`, by name; looked up once per process.

    One that cannot be imported is included, with the reason.
    """
    if not _mentioned(group):
        return ()
    # Here and not above: importing it adds a sixth to the time of `metabench list`.
    from importlib.metadata import entry_points

    found = []
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        owner = f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed package"
        try:
            content, problem = point.load(), ""
        # Somebody else's package: whatever it does when it is imported, this one goes on.
        except (Exception, SystemExit) as error:
            content, problem = None, f"cannot be imported: {_said(error)}"
        found.append(Installed(point.name, point.value, owner, content, problem))
    return tuple(found)


def _mentioned(group: str) -> bool:
    """Return whether the metadata of an importable package names `group`, or cannot be read as a file."""
    for place in dict.fromkeys(Path(entry or ".") for entry in sys.path):
        if place.is_file():
            return True
        for pattern in ("*.dist-info/entry_points.txt", "*.egg-info/entry_points.txt"):
            if any(group in file.read_text(encoding="utf-8", errors="replace") for file in place.glob(pattern)):
                return True
    return False


def pick(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Return `known[name]`, or raise an error that says why it was left out, or names the nearest valid one."""
    if name in known:
        return known[name]
    if isinstance(known, Found) and name in known.left_out:
        raise MetabenchError(f"{kind} '{name}' was left out: {known.left_out[name]}")
    raise unknown(kind, name, known)


def _said(error: BaseException) -> str:
    """Return an exception's kind and message, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()) if str(error) else type(error).__name__
