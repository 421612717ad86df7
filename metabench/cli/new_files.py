"""`metabench new-method`, `new-problem` and `new-strategy`: a complete, working example to start from, and its test."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import keyword
import shlex
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from string import Template

from metabench.core.errors import MetabenchError
from metabench.core.registry import Found
from metabench.methods import methods
from metabench.problems import problems

_TEMPLATES = Path(__file__).parent / "templates"
_SUITABLE = (
    "none, unrolled, mixflow, forward, truncated, t1t2, darts, sama, ift_cg, ift_neumann, ift_nystrom, "
    "ift_fixed_point, f2sa, bome, evograd"
)
"""Methods for a problem whose meta-parameters enter the inner loss; `es` and `pes` suit it, too, and take longer."""


def write_method(name: str, folder: Path) -> tuple[Path, Path]:
    """Write NAME.py and test_NAME.py into `folder`, created if missing; return their paths.

    Raises:
        MetabenchError: the name is not a Python identifier or is taken, or one of the files exists; nothing is written then.
    """
    known = methods()
    taken = {taken: f"{known.homes[taken]}: {found.title}" for taken, found in known.items()}
    return _write("method", name, folder, taken)


def write_problem(name: str, folder: Path) -> tuple[Path, Path, Path]:
    """Write NAME.py, test_NAME.py and the data NAME_data.npz into `folder`, created if missing; return their paths.

    The data are scikit-learn's diabetes: `inputs` of shape [442, 10] in their units, `targets` of shape [442], the progression of the
    disease in a year.

    Raises:
        MetabenchError: as `write_method`.
    """
    known: Found = problems()
    taken = {taken: f"{known.homes[taken]}: {found.card.title}" for taken, found in known.items()}
    data = folder / f"{name}_data.npz"
    written = _write("problem", name, folder, taken, data)
    # Here: they take longer to import than the other commands take.
    import numpy as np
    from sklearn.datasets import load_diabetes  # type: ignore[import-untyped]

    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    np.savez(data, inputs=inputs, targets=targets)
    return *written, data


def write_strategy(name: str, folder: Path) -> tuple[Path, Path]:
    """Write NAME.py and test_NAME.py into `folder`; raise MetabenchError as `write_method`."""
    from metabench.search.strategy import strategies

    known = strategies()
    taken = {taken: f"{known.homes[taken]}: {found.card.title}" for taken, found in known.items()}
    return _write("strategy", name, folder, taken)


def after_strategy(name: str, written: tuple[Path, Path]) -> str:
    """Return what to do with the two files: run the strategy's test, and compare it with random search."""
    strategy, test = (shlex.quote(str(path)) for path in written)
    return f"""\
written: {strategy}, {test}

Does it keep the rules?
  pytest {test}
Does it beat random search, on nets that are trained as it asks for them?
  metabench search random {name} --plugin {strategy} --fitness train --outer-steps 20 --budget 10 --seeds 3
"""


def after_method(name: str, written: tuple[Path, Path]) -> str:
    """Return what to do with the two files: certify the method, run its test, and compare it with others in a suite."""
    method, test = (shlex.quote(str(path)) for path in written)
    return f"""\
written: {method}, {test}

Certify it in float64:
  metabench certify --plugin {method} --method {name}
The same as a test:
  pytest {test}
{_comparison(name, written[0], "toy_1d", f"none, unrolled, ift_cg, {name}")}"""


def after_problem(name: str, written: tuple[Path, Path, Path]) -> str:
    """Return what to do with the three files: run the problem's test, and compare methods on it in a suite."""
    problem, test, data = (shlex.quote(str(path)) for path in written)
    return f"""\
written: {problem}, {test}, {data}

Is it well posed, and which methods suit it?
  metabench check --plugin {problem}
Methods of every kind, as a test:
  pytest {test}
{_comparison(name, written[0], name, _SUITABLE)}"""


def _comparison(name: str, plugin: Path, problem: str, compared: str) -> str:
    suite = plugin.with_suffix(".yaml")
    return f"""\
Compare {"methods on it" if name == problem else "it with others"}, with this as {shlex.quote(str(suite))}:
  name: {name}
  plugins: [{plugin}]
  experiments:
    first:
      problem: {problem}
      methods: [{compared}]
  snakemake --cores 1 --configfile {shlex.quote(str(suite))}
"""


def _write(sort: str, name: str, folder: Path, taken: Mapping[str, str], *others: Path) -> tuple[Path, Path]:
    """Write the source and the test of a new method or problem; `others` are further files, which must not exist either."""
    _check_name(sort, name, taken)
    source, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in (source, test, *others):
        if path.exists():
            raise MetabenchError(f"'{path}' already exists and is not overwritten: choose another name or folder")
    if folder.exists() and not folder.is_dir():
        raise MetabenchError(f"'{folder}' is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path, template in ((source, sort), (test, f"test_{sort}")):
        with path.open("x", encoding="utf-8") as file:
            file.write(_filled(template, name))
    return source, test


def _filled(template: str, name: str) -> str:
    text = (_TEMPLATES / f"{template}.py.template").read_text(encoding="utf-8")
    return Template(text).substitute(name=name, year=date.today().year, class_name=_class_name(name))


def _class_name(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) or name


def _check_name(sort: str, name: str, taken: Mapping[str, str]) -> None:
    """Raise MetabenchError if a method or problem, and a Python file, could not have this name."""
    what = f"{sort} name '{name}'"
    if not (name.isascii() and name.isidentifier()):
        suggestion = "".join(c if c.isascii() and c.isalnum() else "_" for c in name).strip("_").lower()
        hint = f": did you mean '{suggestion}'?" if suggestion.isidentifier() and suggestion != name else ""
        raise MetabenchError(f"{what} is not a Python identifier (letters, digits and _, no digit first){hint}")
    if keyword.iskeyword(name):
        raise MetabenchError(f"{what} is a Python keyword")
    if name in taken:
        raise MetabenchError(f"{what} is taken by {taken[name]}")
    if {name, _class_name(name)} & {*dir(builtins), *_words_of_template(sort)}:
        raise MetabenchError(
            f"{what} means something else in the file: choose one that is neither a builtin nor used there"
        )
    if name in sys.stdlib_module_names or _is_installed(name):
        raise MetabenchError(f"{what} is a Python module, which a file of that name would hide")


def _words_of_template(sort: str) -> set[str]:
    """Return the names that the template binds or reads."""
    found = set()
    for node in ast.walk(ast.parse(_filled(sort, "name_of_this_file"))):
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
