"""Portable kernels give the bytes and the qualities that the same variables give from outside, to the last bit; native ones do not.

The cells are of the default suite, with fewer meta-updates.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metabench.measure.kernels import NATIVE, PORTABLE, foreseen, variables
from metabench.measure.processor import processor
from metabench.results.store import read_rows
from metabench.suite.plan.plan import load_suite, plan

ROOT = Path(__file__).parents[2]

SUITE: dict[str, Any] = {
    "name": "portable",
    "aa": False,
    "seeds": [0],
    "measure": {"time_repeats": 1, "time_budget": 0.001, "error_windows": 0, "checkpoint": 1},
    "experiments": {
        "convolutions": {
            "problem": "label_noise",
            "sizes": ["conv4"],
            "outer_steps": 2,
            "methods": ["unrolled", "evograd"],
        },
        "noise": {"problem": "label_noise", "sizes": ["mlp64"], "outer_steps": 10, "methods": ["t1t2"]},
        "regularisation": {"problem": "regularisation", "outer_steps": 3, "methods": ["ift_cg"]},
    },
}

PROGRAM = """
import json, sys
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.run_cell import run_cell
cells = plan(load_suite(json.loads(sys.argv[1]))).cells
print(json.dumps([row for cell in cells for row in run_cell(cell, lambda *progress: None)], default=vars))
"""

RESULTS = ("status", "peak_bytes", "static_bytes", "dynamic_bytes", "quality", "metrics", "outer_loss", "meta_summary")

pytestmark = pytest.mark.slow  # each test starts processes that import torch

needs_avx2 = pytest.mark.skipif(not processor().has_avx2, reason="the processor has no AVX2")
needs_avx512 = pytest.mark.skipif(not processor().has_avx512, reason="the processor has no AVX-512")


def environment(**given: str) -> dict[str, str]:
    """Return this environment with no kernels named but those given."""
    return {name: value for name, value in os.environ.items() if name not in variables(PORTABLE)} | given


@functools.cache
def rows(kernels: str, from_outside: bool = False) -> dict[str, dict[str, Any]]:
    """Return a row per cell, by size and method, measured in a process whose environment names the portable kernels, or names none."""
    given = environment(**variables(PORTABLE)) if from_outside else environment()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(SUITE | {"kernels": kernels})],
        env=given,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {f"{row['size']} {row['method']}": row for row in json.loads(done.stdout)}


def results(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {cell: {name: row[name] for name in RESULTS} for cell, row in found.items()}


@needs_avx2
def test_portable_rows_are_those_of_a_process_whose_environment_names_the_kernels() -> None:
    chosen, given = rows(PORTABLE), rows(NATIVE, from_outside=True)
    assert {row["status"] for row in chosen.values()} == {"ok"}
    assert results(chosen) == results(given)
    assert {row["instruction_set"] for row in [*chosen.values(), *given.values()]} == {"AVX2"}
    assert {row["kernels"] for row in chosen.values()} == {"portable"}
    assert {row["kernels"] for row in given.values()} == {"native"}


@needs_avx512
def test_native_kernels_with_avx512_take_other_bytes_on_convolutions_and_the_same_elsewhere() -> None:
    portable, native = rows(PORTABLE), rows(NATIVE)
    assert {row["instruction_set"] for row in native.values()} == {"AVX-512"}
    other = {cell for cell in portable if portable[cell]["peak_bytes"] != native[cell]["peak_bytes"]}
    assert other == {"conv4 unrolled", "conv4 evograd"}
    assert native["conv4 unrolled"]["dynamic_bytes"] > 1.3 * portable["conv4 unrolled"]["dynamic_bytes"]


@needs_avx2
def test_the_command_line_chooses_the_kernels_of_a_cell_whatever_a_plugin_imports(tmp_path: Path) -> None:
    plugin = tmp_path / "early.py"
    plugin.write_text(
        "import torch\nfrom metabench.core import Cost, Target, method\nfrom metabench.methods import t1t2\n\n\n"
        "@method(title='early', target=Target.ONE_STEP, exact=True, cost=Cost(), citation='')\n"
        "def early(problem, state, meta, window, options, generator):\n"
        "    return t1t2.t1t2.function(problem, state, meta, window, t1t2.t1t2.options(), generator)\n"
    )
    experiment = {"problem": "toy_1d", "inner_steps": [2], "outer_steps": 2, "methods": ["early"]}
    suite = SUITE | {"plugins": [str(plugin)], "experiments": {"toy": experiment}}
    (cell,) = plan(load_suite(suite)).cells
    spec, predictions, out = tmp_path / "spec.json", tmp_path / "predictions.jsonl", tmp_path / "rows.parquet"
    spec.write_text(cell.to_json())
    command = [sys.executable, "-m", "metabench"]
    for arguments in (
        ["predict", "--spec", str(spec), "--out", str(predictions)],
        ["run", "--spec", str(spec), "--out", str(out), "--predictions", str(predictions)],
    ):
        subprocess.run([*command, *arguments], env=environment(), cwd=ROOT, check=True, capture_output=True)
    _, entry = map(json.loads, predictions.read_text().splitlines())
    (row,) = read_rows(out).to_pylist()
    assert (row["status"], row["kernels"], row["instruction_set"]) == ("ok", "portable", "AVX2")
    assert (entry["kernels"], entry["instruction_set"], entry["note"]) == ("portable", "AVX2", "")
    assert row["predicted_bytes"] == entry["peak_bytes"]
    assert row["prediction_note"] == ""


@needs_avx2
@pytest.mark.parametrize("command", ["certify", "plan"])
def test_every_command_that_measures_or_predicts_chooses_the_kernels_before_it_imports_a_plugin(
    command: str, tmp_path: Path
) -> None:
    plugin = tmp_path / "early.py"
    plugin.write_text(
        "import torch\nfrom pathlib import Path\n"
        f"Path({str(tmp_path)!r}, 'found').write_text(torch.backends.cpu.get_cpu_capability())\n"
        "raise RuntimeError('seen')\n"
    )
    config = tmp_path / "suite.yaml"
    toy = {"problem": "toy_1d", "methods": ["t1t2"]}
    config.write_text(json.dumps(SUITE | {"plugins": [str(plugin)], "experiments": {"toy": toy}}))
    arguments = {"certify": ["--plugin", str(plugin)], "plan": [str(config), "--predict"]}[command]
    done = subprocess.run(
        [sys.executable, "-m", "metabench", command, *arguments],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "seen" in done.stderr
    assert (tmp_path / "found").read_text() == "AVX2"


@needs_avx512
def test_a_cell_is_not_measured_by_a_process_that_runs_other_kernels(tmp_path: Path) -> None:
    program = f"""
import json, sys, torch
from pathlib import Path
from metabench.core.errors import MetabenchError
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.predict.one_cell import predict
from metabench.suite.predict.cells import predict_cells
from metabench.suite.predict.predictions import Predictions
from metabench.suite.run.run_cell import run_cell
from metabench.suite.run.supervise import supervise
cell = plan(load_suite(json.loads(sys.argv[1]))).cells[0]
silent = lambda *progress: None
out = Path({str(tmp_path)!r}) / "rows.parquet"
said = [predict(cell).message]
for measure in (
    lambda: list(run_cell(cell, silent)),
    lambda: supervise(cell, out, silent),
    lambda: predict_cells([cell], Predictions(), silent),
):
    try:
        measure()
    except MetabenchError as error:
        said.append(str(error))
print(json.dumps([said, out.exists()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(SUITE)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    said, written = json.loads(done.stdout)
    assert len(said) == 4
    assert all("torch is loaded in this process with other kernels (AVX-512)" in words for words in said)
    assert not written


def test_a_cell_that_was_never_started_says_what_it_would_have_run(tmp_path: Path) -> None:
    program = """
import json, sys
from pathlib import Path
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.supervise import supervise
def killed(cell, progress):
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
    yield {}
cell = plan(load_suite(json.loads(sys.argv[1]))).cells[0]
(row,) = supervise(cell, Path(sys.argv[2]), lambda *progress: None, killed)
print(json.dumps([row["status"], row["kernels"], row["instruction_set"], "torch" in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(SUITE), str(tmp_path / "rows.parquet")],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)[:3] == ["error", "portable", foreseen(PORTABLE)]
