"""`metabench new-method` writes a method that is complete and right, and refuses names that would not work."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from bilevel import checkpoint, make_problem, relative_error

from metabench.autodiff.exact import exact_target
from metabench.certify import certify
from metabench.cli.new_files import after_method, write_method
from metabench.core import MetabenchError, Target
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.methods import method
from metabench.suite.config.load import load_suite
from metabench.suite.plan.plan import plan

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_it_writes_fifty_lines_that_lint_and_are_listed(tmp_path: Path) -> None:
    done = run("-m", "metabench", "new-method", "my_method", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "my_method.py").read_text()
    assert 40 <= len([line for line in text.splitlines() if line]) <= 55
    for name in ("my_method.py", "test_my_method.py"):
        command = ["-m", "ruff", "check", "--no-cache", "--config", ROOT / "pyproject.toml", name]
        checked = run(*command, cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout
    found = run("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "test_my_method.py", cwd=tmp_path)
    assert "test_my_method.py::test_my_method" in found.stdout
    made = method("my_method", [tmp_path / "my_method.py"])
    assert made.target is Target.IMPLICIT
    assert made.limit is not None
    assert made.citation.startswith("@misc{my_method,")


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_its_method_is_the_implicit_hypergradient_at_any_scale(tmp_path: Path, scale: float) -> None:
    path, _ = write_method("right_from_the_start", tmp_path)
    made = method("right_from_the_start", [path])
    problem = make_problem("toy_1d", optimiser="momentum", learning_rate=0.05)
    at = checkpoint(problem)
    options = build(made.options, {"scale": scale}, "method 'right_from_the_start'")
    found = made(problem, *at, options, generator(0, "test"))
    exact = exact_target(Target.IMPLICIT, problem, *at, options)
    assert exact is not None
    assert relative_error(found.meta, exact) < 1e-13


@pytest.mark.usefixtures("few_cases")
def test_its_test_passes_and_fails_where_the_scale_is_forgotten(tmp_path: Path) -> None:
    path, test = write_method("mine", tmp_path)
    runpy.run_path(str(test))["test_mine"]()
    text = path.read_text()
    forgetting = text.replace("tree.scale(options.scale, hessian(direction))", "hessian(direction)")
    forgetting = forgetting.replace("squared / tree.dot(", "squared / options.scale / tree.dot(")
    assert forgetting.count("options.scale") == text.count("options.scale")
    wrong, test = write_method("wrong", tmp_path)
    wrong.write_text(forgetting.replace("mine", "wrong"))
    with pytest.raises(AssertionError):
        runpy.run_path(str(test))["test_wrong"]()
    words = "right with scale 1, wrong with scale 0.1: is the scale applied to the residual, too?"
    assert any(words in row["message"] for row in certify("wrong", plugins=[wrong]))


def test_the_suite_that_it_shows_is_one(tmp_path: Path) -> None:
    written = write_method("shown", tmp_path)
    text = after_method("shown", written)
    shown = text[text.index("  name: shown") : text.index("  snakemake")]
    path = tmp_path / "shown.yaml"
    path.write_text("\n".join(line.removeprefix("  ") for line in shown.splitlines()))
    planned = plan(load_suite(path))
    assert [cell.method for cell in planned.cells] == ["none", "unrolled", "ift_cg", "shown", "unrolled"]


NAMES = {
    "class": "is a Python keyword",
    "my-cg": "is not a Python identifier .*: did you mean 'my_cg'?",
    "9lives": "is not a Python identifier",
    "": "is not a Python identifier",
    "../up": "is not a Python identifier .*: did you mean 'up'?",
    "größe": "is not a Python identifier",
    "ift_cg": "is taken by metabench.methods.ift_cg: implicit differentiation with conjugate gradients",
    "solve": "means something else in the file",
    "tree": "means something else in the file",
    "print": "means something else in the file",
    "torch": "means something else in the file",
    "numpy": "is a Python module, which a file of that name would hide",
    "json": "is a Python module, which a file of that name would hide",
}


@pytest.mark.parametrize("name", list(NAMES))
def test_a_name_that_would_not_work_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(MetabenchError, match=f"^method name '{name}' {NAMES[name]}".replace("?", r"\?")):
        write_method(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("kept")
    with pytest.raises(MetabenchError, match=f"'.*{there}' already exists and is not overwritten"):
        write_method("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "kept"


def test_a_folder_is_made_and_what_is_no_folder_is_named(tmp_path: Path) -> None:
    written = write_method("mine", tmp_path / "deep" / "folder")
    assert [path.name for path in written] == ["mine.py", "test_mine.py"]
    done = run("-m", "metabench", "new-method", "other", "--out", "deep/folder/mine.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: 'deep/folder/mine.py' is not a folder\n")
