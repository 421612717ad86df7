"""`metabench new-method`: a complete, correct method as a starting point, and its test."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import keyword
import shlex
import sys
from datetime import date
from pathlib import Path
from string import Template

from metabench.core.errors import MetabenchError
from metabench.methods import methods

_TEMPLATES = Path(__file__).parent / "templates"


def write_method(name: str, folder: Path) -> tuple[Path, Path]:
    """Write NAME.py and test_NAME.py into `folder`, created if missing; return their paths.

    Raises:
        MetabenchError: the name is not a Python identifier or is taken, or one of the files exists; nothing is written then.
    """
    _check_name(name)
    paths = (folder / f"{name}.py", folder / f"test_{name}.py")
    for path in paths:
        if path.exists():
            raise MetabenchError(f"'{path}' already exists and is not overwritten: choose another name or folder")
    if folder.exists() and not folder.is_dir():
        raise MetabenchError(f"'{folder}' is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path, template in zip(paths, ("method.py.template", "test.py.template"), strict=True):
        with path.open("x", encoding="utf-8") as file:
            file.write(_filled(template, name))
    return paths


def next_commands(name: str, written: tuple[Path, Path]) -> str:
    """Return what to do with the two files: certify the method, run its test, and compare it with others in a suite."""
    method, test = (shlex.quote(str(path)) for path in written)
    suite = written[0].with_suffix(".yaml")
    return f"""\
written: {method}, {test}

Certify it in float64:
  metabench certify --plugin {method} --method {name}
The same as a test:
  pytest {test}
Compare it with others, with this as {shlex.quote(str(suite))}:
  name: {name}
  plugins: [{written[0]}]
  experiments:
    first:
      problem: toy_1d
      methods: [none, unrolled, ift_cg, {name}]
  snakemake --cores 1 --configfile {shlex.quote(str(suite))}
"""


def _filled(template: str, name: str) -> str:
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    return Template(text).substitute(name=name, year=date.today().year)


def _check_name(name: str) -> None:
    """Raise MetabenchError if a method, and a Python file, could not have this name."""
    what = f"method name '{name}'"
    if not (name.isascii() and name.isidentifier()):
        suggestion = "".join(c if c.isascii() and c.isalnum() else "_" for c in name).strip("_").lower()
        hint = f": did you mean '{suggestion}'?" if suggestion.isidentifier() and suggestion != name else ""
        raise MetabenchError(f"{what} is not a Python identifier (letters, digits and _, no digit first){hint}")
    if keyword.iskeyword(name):
        raise MetabenchError(f"{what} is a Python keyword")
    known = methods()
    if name in known:
        raise MetabenchError(f"{what} is taken by {known[name].module}: {known[name].title}")
    if name in dir(builtins) or name in _words_of_template():
        raise MetabenchError(
            f"{what} means something else in the file: choose one that is neither a builtin nor used there"
        )
    if name in sys.stdlib_module_names or _is_installed(name):
        raise MetabenchError(f"{what} is a Python module, which a file of that name would hide")


def _words_of_template() -> set[str]:
    """Return the names that the template binds or reads."""
    found = set()
    for node in ast.walk(ast.parse(_filled("method.py.template", "method_of_this_file"))):
        for attribute in ("id", "name", "arg", "asname"):
            if isinstance(word := getattr(node, attribute, None), str):
                found.add(word)
    return found


def _is_installed(name: str) -> bool:
    """Return whether a module of that name can be imported from outside the current folder."""
    found = importlib.util.find_spec(name)
    if found is None:
        return False
    places = [found.origin] if found.origin else list(found.submodule_search_locations or [])
    return any(Path(place).resolve().parent != Path.cwd() for place in places)
