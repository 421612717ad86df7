"""A cell's code hash changes with the source that its rows depend on, and with nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import metabench
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import RUNNER, Sources, _hash, _modules, code_hash
from metabench.suite.plan.plan import Plan, load_suite, plan

PACKAGE = Path(metabench.__file__).parent


@pytest.fixture(scope="module")
def cells() -> dict[str, Cell]:
    """Cells by 'problem method'."""
    grids = {
        problem: {"problem": problem, "methods": ["none", "t1t2", "evograd", "ift_cg"]}
        for problem in ("toy_1d", "label_noise")
    }
    return {f"{c.problem} {c.method}": c for c in plan(load_suite({"name": "x", "experiments": grids})).cells}


@pytest.fixture
def edited(tmp_path: Path, cells: dict[str, Cell]) -> Callable[[str], set[str]]:
    """Return the cells whose hash changes when a line is added to a file of the package."""
    root = tmp_path / "metabench"
    shutil.copytree(PACKAGE, root, ignore=shutil.ignore_patterns("__pycache__", "embedded"))

    def hashes() -> dict[str, str]:
        sources = Sources(root)
        return {name: _hash(sources, _modules(c)) for name, c in cells.items()}

    def edit(path: str) -> set[str]:
        before = hashes()
        file = root / path
        file.write_text(file.read_text() + "\n# edited\n")
        after = hashes()
        return {name for name in cells if before[name] != after[name]}

    return edit


def test_editing_a_method_changes_its_cells_only(edited: Callable[[str], set[str]]) -> None:
    assert edited("methods/t1t2.py") == {"toy_1d t1t2", "label_noise t1t2"}


def test_editing_a_problem_changes_its_cells_only(edited: Callable[[str], set[str]], cells: dict[str, Cell]) -> None:
    assert edited("problems/toy_1d.py") == {name for name in cells if name.startswith("toy_1d")}


def test_editing_a_data_set_changes_the_cells_on_it_only(
    edited: Callable[[str], set[str]], cells: dict[str, Cell]
) -> None:
    assert edited("data/sets/fashion_mnist.py") == {name for name in cells if name.startswith("label_noise")}
    assert edited("data/sets/jargon.py") == set()


def test_editing_a_network_changes_the_cells_on_it_only(
    edited: Callable[[str], set[str]], cells: dict[str, Cell]
) -> None:
    assert edited("models/mlp.py") == {name for name in cells if name.startswith("label_noise")}
    assert edited("models/convnet.py") == set()
    assert edited("models/classifiers.py") == {name for name in cells if name.startswith("label_noise")}


@pytest.mark.parametrize(
    "path",
    [
        "core/tree.py",
        "core/method.py",
        "core/__init__.py",
        "suite/run/run_cell.py",
        "suite/run/rows.py",
        "measure/memory/meter.py",
    ],
)
def test_editing_the_contract_or_the_runner_changes_every_cell(
    edited: Callable[[str], set[str]], cells: dict[str, Cell], path: str
) -> None:
    assert edited(path) == set(cells)


@pytest.mark.parametrize(
    "path",
    [
        "cli/app.py",
        "report/build.py",
        "suite/plan/plan.py",
        "suite/run/supervise.py",
        "suite/rounds/worker.py",
        "suite/rounds/turns.py",
        "__init__.py",
        "__main__.py",
        "data/fetching.py",
    ],
)
def test_editing_what_no_row_depends_on_changes_nothing(edited: Callable[[str], set[str]], path: str) -> None:
    assert edited(path) == set()


def test_the_installed_source_gives_the_same_hash_at_every_call(cells: dict[str, Cell]) -> None:
    found = {name: code_hash(cell) for name, cell in cells.items()}
    assert found == {name: code_hash(cell) for name, cell in cells.items()}
    assert all(len(value) == 12 and int(value, 16) >= 0 for value in found.values())
    assert len(set(found.values())) == len(cells)


def test_options_and_seeds_are_no_code(planned: Callable[..., Plan]) -> None:
    grid = planned(methods=[{"evograd": {"copies": [2, 3]}}], inner_steps=[1, 2])
    assert len({code_hash(cell) for cell in grid.cells}) == 1


def test_no_method_lies_in_the_runners_closure_and_no_problem(cells: dict[str, Cell]) -> None:
    closure = Sources(PACKAGE).closure([RUNNER])
    assert not [
        m
        for m in closure
        if m.startswith(("metabench.methods.", "metabench.problems.", "metabench.cli", "metabench.report"))
    ]


def test_imports_are_followed_however_they_are_written(tmp_path: Path) -> None:
    files = {
        "__init__.py": "",
        "a/__init__.py": "from metabench.a.first import x\n",
        "a/first.py": "x = 1\n",
        "a/second.py": "from . import third\nfrom ..b import y\n",
        "a/third.py": "import metabench.c as c\n",
        "b.py": "def f():\n    from metabench.d import z\n",
        "c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from metabench.e import w\n",
        "d.py": "import metabench.unknown, os\nfrom metabench.f.g import h\n",
        "e.py": "",
        "f/__init__.py": "",
        "f/g.py": "",
        "unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = Sources(tmp_path).closure(["metabench.a.second"])
    assert found == {f"metabench.{name}" for name in ("a.second", "a", "a.first", "a.third", "b", "c", "d", "e", "f.g")}


def test_a_plugin_counts_with_its_file_and_what_it_imports(tmp_path: Path) -> None:
    def planned(text: str, name: str) -> tuple[Cell, ...]:
        plugin = tmp_path / name
        plugin.write_text(
            f"from metabench.core import Cost, Target, method\n{text}\n"
            "@method(title='t', target=Target.NONE, exact=True, cost=Cost(), citation='')\n"
            "def mine(problem, state, meta, window, options, generator): ...\n"
        )
        grid = {"a": {"problem": "toy_1d", "methods": ["mine", "none"]}}
        return plan(load_suite({"name": "x", "plugins": [str(plugin)], "experiments": grid})).cells

    (one, other), (edited, _) = planned("", "one.py"), planned("# edited", "two.py")
    assert code_hash(one) != code_hash(edited)
    (plain,) = plan(load_suite({"name": "x", "experiments": {"a": {"problem": "toy_1d", "methods": ["none"]}}})).cells
    assert code_hash(other) == code_hash(plain)


def test_a_file_beside_a_plugin_counts_where_the_plugin_imports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "beside_it.py").write_text("factor = 2.0\n")
    (tmp_path / "unrelated.py").write_text("factor = 2.0\n")
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "import numpy\nfrom beside_it import factor\nfrom metabench.core import Cost, Target, method\n"
        "@method(title='t', target=Target.NONE, exact=True, cost=Cost(), citation='')\n"
        "def mine(problem, state, meta, window, options, generator): ...\n"
    )
    grid = {"a": {"problem": "toy_1d", "methods": ["mine"]}}
    (cell,) = plan(load_suite({"name": "x", "plugins": [str(plugin)], "experiments": grid})).cells

    def edited(name: str) -> bool:
        before = code_hash(cell)
        (tmp_path / name).write_text("factor = 3.0\n")
        _hash.cache_clear()
        return code_hash(cell) != before

    assert [edited(name) for name in ("beside_it.py", "unrelated.py")] == [True, False]
