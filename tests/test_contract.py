"""The house's layers, its types, and what may be read without torch."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from metabench import __version__

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_imports_point_downward_only() -> None:
    done = run(BIN / "lint-imports", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow  # mypy reads the types of torch
def test_the_contract_is_strictly_typed() -> None:
    done = run(sys.executable, "-m", "mypy")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "from metabench.methods import methods; found = methods()",
        "from metabench.problems import problems; found = [kind.card for kind in problems().values()]",
        "from metabench.data import datasets; found = datasets()",
    ],
)
def test_declarations_are_read_without_torch(code: str) -> None:
    done = run(sys.executable, "-c", f"import sys; {code}; assert found; print('torch' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_a_method_or_problem_is_listed_nowhere_but_in_its_file() -> None:
    for folder in ("methods", "problems"):
        package = ROOT / "metabench" / folder
        names = [path.stem for path in package.glob("*.py") if path.stem != "__init__"]
        imports = [
            line for line in (package / "__init__.py").read_text(encoding="utf-8").splitlines() if "import" in line
        ]
        assert names
        assert not [line for line in imports if any(re.search(rf"\b{folder}\.{name}\b", line) for name in names)]


def test_the_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [__version__]


def test_the_lock_pins_every_requirement_of_the_package() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = dict(line.lower().replace("_", "-").split("==") for line in lock.splitlines() if not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    assert not re.search(r"://|@|\+", "".join(pins.values()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    required = {re.split(r"[^\w.-]", text)[0].lower() for text in wanted}
    assert {"torch", "snakemake", "higher"} <= required
    assert required - {"metabench"} <= set(pins)
