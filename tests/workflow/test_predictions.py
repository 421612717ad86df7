"""A suite predicts its cells before it runs them: what cannot fit is not started, and what is asked of a scheduler follows."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.conftest import Workflow

pytestmark = pytest.mark.slow  # each test starts Snakemake, and some run cells

# In the place of the real one, which tests/suite hold to what is measured: it costs nothing, and what it says is known.
PREDICTOR = '''"""Predicts what the tests expect."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.suite.run import run_cell as run  # the source that decides a cell's rows decides its prediction


@dataclass(frozen=True)
class Prediction:
    peak_bytes: int
    static_bytes: int
    dynamic_bytes: int
    flops: int
    operations: int
    message: str = ""
    note: str = ""
    tasks: int = 1


def predict(cell, device=None, known=None):
    assert run
    if cell.method == "broken":
        return Prediction(0, 0, 0, 0, 0, "no trace of it")
    peak = 2**33 if cell.method == "patient" else 2**20
    return Prediction(peak, 2**10, peak - 2**10, 1000, 10)
'''

EXPERIMENTS = {
    "toy": {
        "problem": "toy_1d",
        "inner_steps": [2],
        "outer_steps": 3,
        "methods": ["unrolled", "t1t2", "broken", "patient"],
    }
}
SETTINGS: dict[str, Any] = {"predict": True, "device_memory": "4GiB", "seeds": [0], "experiments": EXPERIMENTS}
ASKED = "mem_mb={resources.mem_mb} runtime={resources.runtime}"
RESULTS = "results/tiny/results.parquet"


@pytest.fixture(scope="module")
def predicted(source_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workflow, str]:
    """The tiny suite, with a declared device and the predictor above; each cell says what it asks for. Not to be changed."""
    folder = tmp_path_factory.mktemp("predicted") / "tree"
    shutil.copytree(source_folder, folder)
    workflow = Workflow(folder)
    (folder / "metabench" / "suite" / "predict" / "one_cell.py").write_text(PREDICTOR, encoding="utf-8")
    rule = folder / "workflow" / "rules" / "run.smk"
    text = rule.read_text(encoding="utf-8")
    rule.write_text(text.replace('"{params.title}"', f'"{{params.title}} · {ASKED}"'), encoding="utf-8")
    workflow.write_suite(**SETTINGS)
    assert "mem_mb=10240 runtime=10" in workflow.snakemake("-n", RESULTS).text  # the limits: a dry run predicts nothing
    assert not workflow.results().exists()
    return workflow, workflow.snakemake(RESULTS).text


@pytest.fixture
def again(predicted: tuple[Workflow, str], tmp_path: Path) -> Workflow:
    """A copy of it, to do with as the test likes."""
    shutil.copytree(predicted[0].folder, tmp_path / "tree")
    return Workflow(tmp_path / "tree")


def predictions(workflow: Workflow) -> dict[str, dict[str, Any]]:
    _, *lines = (workflow.results() / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["method"]: entry for entry in map(json.loads, lines)}


def test_every_cell_is_predicted_before_any_runs(predicted: tuple[Workflow, str]) -> None:
    workflow, said = predicted
    assert said.index("3 of 4 cells predicted") < said.index("toy_1d/analytic/scalar · unrolled")
    assert predictions(workflow).keys() == set(EXPERIMENTS["toy"]["methods"])


def test_rows_say_what_was_predicted(predicted: tuple[Workflow, str]) -> None:
    rows = {row["method"]: row for row in predicted[0].rows()}
    assert [rows[method]["predicted_bytes"] for method in ("unrolled", "t1t2", "broken")] == [2**20, 2**20, None]
    assert [rows[method]["flops"] for method in ("unrolled", "t1t2", "broken")] == [1000, 1000, None]


def test_a_cell_that_cannot_fit_is_not_started_and_one_without_a_prediction_is(predicted: tuple[Workflow, str]) -> None:
    rows = {row["method"]: row for row in predicted[0].rows()}
    assert (rows["patient"]["status"], rows["broken"]["status"]) == ("unsupported", "error")
    assert rows["patient"]["message"] == "predicted to need 8 GiB, the device has 4 GiB"
    assert rows["patient"]["predicted_bytes"] == 2**33
    assert "out of luck" in rows["broken"]["message"]


def test_what_a_job_asks_for_follows_from_its_prediction(predicted: tuple[Workflow, str]) -> None:
    jobs = re.findall(r"toy_1d\S+ · (\w+) · .*mem_mb=(\d+) runtime=(\d+)", predicted[1])
    asked = {method: (int(memory), int(minutes)) for method, memory, minutes in jobs}
    limits = (2048 + 2 * 4096, 10)
    assert asked["broken"] == limits
    for method in ("unrolled", "t1t2"):
        assert asked[method][0] < limits[0] and asked[method][1] < limits[1]


def test_a_changed_or_lost_file_of_predictions_alone_runs_nothing_again(again: Workflow) -> None:
    path = again.results() / "predictions.jsonl"
    os.utime(path)
    assert "Nothing to be done" in again.snakemake(RESULTS).text
    path.unlink()
    assert "Nothing to be done" in again.snakemake(RESULTS).text


def test_an_edited_method_and_an_added_one_are_predicted_and_no_other_and_whatever_is_due_runs(again: Workflow) -> None:
    before, rows = predictions(again), again.row_files()
    method = again.folder / "metabench" / "methods" / "t1t2.py"
    method.write_text(method.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    more = {"toy": EXPERIMENTS["toy"] | {"methods": [*EXPERIMENTS["toy"]["methods"], "truncated"]}}
    again.write_suite(**SETTINGS | {"experiments": more})
    path = again.results() / "predictions.jsonl"
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    marked = [json.dumps(json.loads(line) | {"seconds": 12345.0}) for line in lines]
    path.write_text("\n".join([head, *marked, ""]), encoding="utf-8")
    broken = again.row_file("broken")
    broken.unlink()
    said = again.snakemake("-n", RESULTS).text
    assert re.search(r"run_cell\s+3\n", said)
    assert all(f" · {name} · " in said for name in ("t1t2", "truncated", "broken"))
    # One cell of them: all are predicted before it runs.
    assert "4 of 5 cells predicted" in again.snakemake(str(broken.relative_to(again.folder))).text
    after = predictions(again)
    assert {name for name in after if after[name]["seconds"] != 12345.0} == {"t1t2", "truncated"}
    assert {name for name in before if after[name]["code_hash"] != before[name]["code_hash"]} == {"t1t2"}
    assert {name for name, time in again.row_files().items() if time != rows.get(name)} == {"broken"}
