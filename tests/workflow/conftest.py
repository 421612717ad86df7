"""A tiny suite in a copy of the source, run by the real Snakemake; each test gets a copy of its folder to do with as it likes."""

from __future__ import annotations

import compileall
import functools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from metabench.results.store import read_rows, rows_of
from metabench.suite.plan.plan import load_suite, plan
from tests.workflow.forked_jobs import serve

SOURCE = Path(__file__).parents[2]

SUITE: dict[str, Any] = {
    "name": "tiny",
    "seeds": [0, 1],
    "baseline": "t1t2",
    "aa": False,  # a third of the cells more; the tests of partners turn it on
    "plugins": ["plugin.py"],
    "certify": False,  # takes seconds a method; the tests of certificates turn it on
    "predict": False,  # likewise; the tests of predictions turn it on
    "rounds": 0,  # likewise; the tests of times turn it on
    "measure": {"time_repeats": 3, "time_budget": 0.05, "error_windows": 1, "error_draws": 2, "checkpoint": 1},
    "experiments": {
        "toy": {
            "problem": "toy_1d",
            "inner_steps": [2],
            "outer_steps": 3,
            "methods": ["none", "t1t2", "broken"],
        }
    },
}

PLUGIN = '''"""Methods of the tests: one that fails, and one that waits for as long as there is a file `hold`."""

from __future__ import annotations

import time
from pathlib import Path

from metabench.core import Cost, Target, method
from metabench.methods import none as baseline


@method(title="fails", target=Target.NONE, exact=False, cost=Cost(), citation="")
def broken(problem, state, meta, window, options, generator):
    raise RuntimeError("out of luck")


@method(title="waits", target=Target.NONE, exact=True, cost=Cost(), citation="")
def patient(problem, state, meta, window, options, generator):
    while Path("hold").exists():
        time.sleep(0.02)
    return baseline.none.function(problem, state, meta, window, options, generator)
'''


@dataclass(frozen=True)
class Outcome:
    """How a run of Snakemake ended, and all that it said."""

    code: int
    text: str


@dataclass(frozen=True)
class Workflow:
    """A folder with the source and a suite as its config/config.yaml."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", *([] if "--cores" in arguments else ["--cores", "2"]), *arguments]

    def snakemake(self, *arguments: str, expect: int | None = 0) -> Outcome:
        """Run Snakemake to its end and check its exit code; None takes any but 0."""
        said = self.folder.with_name(f"{self.folder.name}.said")
        server = forking()
        assert server.stdin is not None and server.stdout is not None
        request = [str(self.folder), self.command(*arguments)[3:], str(said), str(jobs_python())]
        print(json.dumps(request), file=server.stdin, flush=True)
        outcome = Outcome(int(server.stdout.readline()), said.read_text(encoding="utf-8"))
        assert outcome.code == expect if expect is not None else outcome.code != 0, outcome.text
        return outcome

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Snakemake in a process group of its own, as a terminal does; whoever runs the tests may ignore interrupts."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def write_suite(self, path: str = "config/config.yaml", **changes: Any) -> str:
        """Write the tiny suite, with some keys changed, and return the path."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yaml.safe_dump(SUITE | changes), encoding="utf-8")
        return path

    def results(self, suite: str = "tiny") -> Path:
        return self.folder / "results" / suite

    def row_file(self, method: str, suite: str = "tiny") -> Path:
        """Return the one row file of a method, where there is one."""
        (found,) = (self.results(suite) / "cells").rglob(f"{method}-*.parquet")
        return found

    def row_files(self, suite: str = "tiny") -> dict[str, int]:
        """Return every row file, by its name without the hash, with the time at which it was written."""
        return {
            path.name.split("-")[0]: path.stat().st_mtime_ns
            for path in (self.results(suite) / "cells").rglob("*.parquet")
        }

    def certificate_files(self, suite: str = "tiny") -> dict[str, int]:
        """Return every file of certificates, by method, with the time at which it was written."""
        folder = self.results(suite) / "certificates"
        return {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}

    def rows(self, suite: str = "tiny") -> list[dict[str, Any]]:
        return rows_of(read_rows(self.results(suite) / "results.parquet"))

    def spec(self, method: str, suite: str = "tiny") -> dict[str, Any]:
        """Return the spec of a method's cell, as jobs read it."""
        lines = map(json.loads, (self.results(suite) / "cells.jsonl").read_text(encoding="utf-8").splitlines())
        (found,) = (line["spec"] for line in lines if line["spec"]["method"] == method)
        return dict(found)

    def target(self, method: str) -> str:
        """Return the row file of a method as a target, whether or not it exists."""
        suite = load_suite(SUITE | {"plugins": [str(self.folder / "plugin.py")]})
        planned = plan(suite)
        return next(str(planned.row_file(cell)) for cell in planned.cells if cell.method == method)


@functools.cache
def forking() -> subprocess.Popen[str]:
    """Return the process from which runs of Snakemake are forked."""
    script = Path(__file__).with_name("forking.py")
    return subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@functools.cache
def jobs_python() -> Path:
    """Return an interpreter beside which there is a `metabench` whose work is done in forked processes."""
    return serve()


def copy_source(folder: Path) -> None:
    for name in ("metabench", "workflow", "profiles"):
        shutil.copytree(SOURCE / name, folder / name)
    # What has not been compiled yet: once, not in each of the hundred processes that the jobs are.
    compileall.compile_dir(folder / "metabench", quiet=1)
    shutil.copy2(SOURCE / "Snakefile", folder)
    (folder / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    Workflow(folder).write_suite()


@pytest.fixture(scope="session", autouse=True)
def forking_ends() -> Iterator[None]:
    """End the process from which runs are forked, if there is one."""
    yield
    if forking.cache_info().currsize:
        with forking() as server:
            assert server.stdin is not None
            server.stdin.close()


@pytest.fixture(scope="session")
def source_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source and the tiny suite; nothing has run."""
    folder = tmp_path_factory.mktemp("source")
    copy_source(folder)
    return folder


@pytest.fixture(scope="module")
def first_run(source_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workflow, Outcome]:
    """The tiny suite run to its end, and what was said. Not to be changed: tests that change something take `built`."""
    folder = tmp_path_factory.mktemp("built") / "tree"
    shutil.copytree(source_folder, folder)
    workflow = Workflow(folder)
    return workflow, workflow.snakemake()


@pytest.fixture
def fresh(source_folder: Path, tmp_path: Path) -> Workflow:
    """A folder in which nothing has run."""
    shutil.copytree(source_folder, tmp_path / "tree")
    return Workflow(tmp_path / "tree")


@pytest.fixture
def built(first_run: tuple[Workflow, Outcome], tmp_path: Path) -> Workflow:
    """A folder in which the tiny suite has run."""
    shutil.copytree(first_run[0].folder, tmp_path / "tree")
    return Workflow(tmp_path / "tree")
