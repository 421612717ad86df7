"""The command line: what it prints, how it ends, and what it does not import."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from metabench import __version__
from metabench.cli import main
from metabench.measure.kernels import PORTABLE, variables
from metabench.measure.processor import processor
from metabench.results.store import read_metadata, read_rows
from metabench.suite.predict.predictions import write_predictions

ROOT = Path(__file__).parents[1]

TINY = """
name: tiny
seeds: [0, 1]
measure: {time_repeats: 3, time_budget: 0.01, error_windows: 1}
experiments:
  toy: {problem: toy_1d, inner_steps: [2], outer_steps: 2, methods: [none, t1t2]}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def metabench(*arguments: str | Path, cwd: Path = ROOT) -> Done:
    """Run a command in this process: to import torch for each would take longer than the command."""
    out, err, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGINT)
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGINT, handler)
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def in_its_own_process(*arguments: str | Path, python: tuple[str, ...] = ()) -> Done:
    """Run a command as a user does; `python` are options of the interpreter."""
    command = [sys.executable, *python, "-m", "metabench", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A suite of two cells with two seeds each."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def imported(*arguments: str | Path) -> set[str]:
    """Return the modules that a command imports."""
    done = in_its_own_process(*arguments, python=("-X", "importtime"))
    assert done.code == 0, done.err
    return {line.rpartition("|")[2].strip() for line in done.err.splitlines() if line.startswith("import time:")}


HEAVY = {"torch", "pandas", "pyarrow", "matplotlib", "scipy", "sklearn", "snakemake", "seaborn"}


@pytest.mark.parametrize(
    "arguments", [("list",), ("list", "--json"), ("plan",), ("plan", "--json"), ("--help",), ("fetch", "digits")]
)
def test_listing_and_planning_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    modules = imported(*arguments)
    assert "typer" in modules
    assert modules & HEAVY == set()


def test_running_a_cell_keeps_torch_out_of_the_process_that_forks(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(cells(tiny)[0]["spec"]))
    code = (
        "import sys, os\n"
        "before = os.fork\n"
        "def fork():\n"
        "    print(sorted({'torch', 'numpy', 'pyarrow', 'omegaconf', 'rich'} & set(sys.modules)), flush=True)\n"
        "    return before()\n"
        "os.fork = fork\n"
        "from metabench.cli import main\n"
        f"main(['run', '--spec', {str(tmp_path / 'spec.json')!r}, '--out', {str(tmp_path / 'rows.parquet')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "[]"
    assert read_rows(tmp_path / "rows.parquet").num_rows == 2


def cells(suite: Path) -> list[dict[str, object]]:
    return json.loads(metabench("plan", suite, "--json").out)["cells"]


def test_version() -> None:
    assert in_its_own_process("--version").out == f"{__version__}\n"


def test_list_as_a_table() -> None:
    text = metabench("list").out
    for word in (
        "t1t2",
        "one_step",
        "luketina2016scalable",
        "label_noise",
        "fashion_mnist_10k",
        "embedded",
        "mlp64",
        "config/config.yaml",
    ):
        assert word in text


def test_list_as_json() -> None:
    found = json.loads(metabench("list", "--json").out)
    assert list(found) == ["methods", "problems", "datasets", "sizes", "optimisers", "learned", "strategies", "kinds", "suites"]
    methods = {entry["name"]: entry for entry in found["methods"]}
    assert methods["evograd"]["options"][0] == {
        "name": "copies",
        "type": "int",
        "default": 2,
        "help": "N, perturbed copies of the parameters",
        "minimum": 2,
    }
    t1t2 = methods["t1t2"]
    assert (t1t2["target"], t1t2["exact"], t1t2["citation_key"]) == ("one_step", True, "luketina2016scalable")
    assert {entry["name"] for entry in found["suites"]} >= {"default", "smoke"}
    suites = {entry["name"]: entry for entry in json.loads(metabench("list", "suites", "--json").out)}
    assert suites["default"]["rows"] >= 180
    assert suites["smoke"]["cells"] > 0
    assert json.loads(metabench("list", "methods", "--json").out) == found["methods"]


def test_listing_takes_less_than_importing_torch() -> None:
    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    rounds = [(seconds("-m", "metabench", "list"), seconds("-c", "import torch")) for _ in range(2)]
    listing, importing = (min(times) for times in zip(*rounds, strict=True))
    assert listing < 0.7 * importing, rounds


@pytest.mark.parametrize("text", ["nam: x", "[", "3", "\xff"])
def test_list_shows_why_a_suite_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "config" / "suites").mkdir(parents=True)
    (tmp_path / "config" / "suites" / "wrong.yaml").write_text(text, encoding="latin-1")
    done = metabench("list", "suites", cwd=tmp_path)
    assert done.code == 0
    if text == "nam: x":
        assert "unknown key 'nam': did you mean 'name'?" in done.out
    brief = metabench("list", cwd=tmp_path)
    assert brief.code == 0
    assert "wrong.yaml" in brief.out
    assert ("metabench plan config/suites/wrong.yaml" in brief.out) == (text != "nam: x")


def test_list_with_a_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from metabench.core import Cost, Target, method\n"
        "@method(title='mine', target=Target.NONE, exact=True, cost=Cost(), citation='')\n"
        "def mine(problem, state, meta, window, options, generator): ...\n"
    )
    assert [m["name"] for m in json.loads(metabench("list", "methods", "--json", "--plugin", plugin).out)][-1] == "mine"


def test_list_into_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m metabench list --json | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_plan_counts_cells_and_rows(tiny: Path) -> None:
    done = metabench("plan", tiny, "--set", "seeds=[0, 1, 2]", "--set", "results=elsewhere")
    assert done.out.endswith("2 cells, 6 rows, timed in 1 group, into elsewhere/tiny\n")
    for word in ("toy_1d", "none, t1t2", "300 s", "4 GiB"):
        assert word in done.out


def test_plan_as_json_is_what_run_reads(tiny: Path, tmp_path: Path) -> None:
    found = cells(tiny)
    folder = "results/tiny/cells/toy_1d/analytic/scalar"
    assert [cell["row_file"].rpartition("-")[0] for cell in found] == [f"{folder}/none", f"{folder}/t1t2"]
    assert all(len(cell["code_hash"]) == 12 for cell in found)
    spec, out = tmp_path / "spec.json", tmp_path / "new" / "rows.parquet"
    spec.write_text(json.dumps(found[1]["spec"]))
    done = metabench("run", "--spec", spec, "--out", out)
    assert done.code == 0, done.err
    assert read_rows(out).select(["method", "seed", "status", "code_hash"]).to_pylist() == [
        {"method": "t1t2", "seed": seed, "status": "ok", "code_hash": found[1]["code_hash"]} for seed in (0, 1)
    ]
    stages = [line.partition(": ")[2] for line in done.err.splitlines()]
    assert "seed 0: training" in stages
    assert stages[-1].startswith("seed 1: ok: outer loss")
    assert "\x1b" not in done.err


def test_run_shows_a_bar_on_a_terminal(tiny: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(cells(tiny)[0]["spec"]))
    command = [sys.executable, "-m", "metabench", "run", "--spec", str(spec), "--out", str(tmp_path / "rows.parquet")]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, cwd=ROOT, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    ) as process:
        os.close(theirs)
        text = b""
        while piece := _read(ours):
            text += piece
    os.close(ours)
    assert process.returncode == 0
    assert "━" in text.decode()
    assert "training" in text.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how a terminal says that its other end has closed
        return b""


def predictions_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_predictions_are_written_reused_and_stand_in_the_rows(tiny: Path, tmp_path: Path) -> None:
    out, spec, rows = tmp_path / "new" / "predictions.jsonl", tmp_path / "spec.json", tmp_path / "rows.parquet"
    done = metabench("predict", tiny, "--out", out)
    assert done.code == 0, done.err
    assert done.err.splitlines()[-1] == f"2 of 2 cells predicted: {out}"
    written = predictions_in(out)
    found = cells(tiny)
    assert [entry["code_hash"] for entry in written] == [cell["code_hash"] for cell in found]
    assert all(entry["peak_bytes"] == entry["static_bytes"] + entry["dynamic_bytes"] > 0 for entry in written)
    before = out.read_text()
    assert metabench("predict", tiny, "--out", out).code == 0
    assert out.read_text() == before
    spec.write_text(json.dumps(found[1]["spec"]))
    assert metabench("run", "--spec", spec, "--out", rows, "--predictions", out).code == 0
    assert read_rows(rows).select(["predicted_bytes", "flops"]).to_pylist() == [
        {"predicted_bytes": written[1]["peak_bytes"], "flops": written[1]["flops"]}
    ] * 2


def test_single_cells_are_predicted_from_their_specs(tiny: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(cells(tiny)[1]["spec"]))
    done = metabench("predict", "--spec", spec, "--out", tmp_path / "one.jsonl")
    assert done.code == 0, done.err
    assert [entry["method"] for entry in predictions_in(tmp_path / "one.jsonl")] == ["t1t2"]


def test_a_cell_that_cannot_fit_its_device_is_not_started(tiny: Path, tmp_path: Path) -> None:
    declared = ("--set", "device_memory=1B")
    out, spec, rows = tmp_path / "predictions.jsonl", tmp_path / "spec.json", tmp_path / "rows.parquet"
    assert metabench("predict", tiny, *declared, "--out", out).code == 0
    spec.write_text(json.dumps(json.loads(metabench("plan", tiny, *declared, "--json").out)["cells"][1]["spec"]))
    done = metabench("run", "--spec", spec, "--out", rows, "--predictions", out)
    assert done.code == 0, done.err
    assert "seed 0: unsupported: predicted to need" in done.err
    assert read_rows(rows)["status"].to_pylist() == ["unsupported"] * 2
    assert "first call" not in done.err


def test_run_says_where_there_is_no_prediction_and_runs(tiny: Path, tmp_path: Path) -> None:
    spec, out, rows = tmp_path / "spec.json", tmp_path / "predictions.jsonl", tmp_path / "rows.parquet"
    spec.write_text(json.dumps(cells(tiny)[1]["spec"]))
    write_predictions(out, [])
    done = metabench("run", "--spec", spec, "--out", rows, "--predictions", out)
    assert done.code == 0
    assert f"'{out}' has no prediction of this cell" in done.err
    assert read_rows(rows)["status"].to_pylist() == ["ok"] * 2


def test_plan_shows_what_cells_are_predicted_to_need_and_whether_they_fit(tiny: Path) -> None:
    fitting = json.loads(metabench("plan", tiny, "--predict", "--json").out)["cells"]
    assert [(cell["fits_limit"], cell["fits_device"]) for cell in fitting] == [(True, None)] * 2
    assert all(cell["prediction"]["peak_bytes"] > 0 for cell in fitting)
    for cell in fitting:
        hypergradients = cell["spec"]["outer_steps"] * len(cell["spec"]["seeds"])
        assert cell["training_flops"] == cell["prediction"]["flops"] * hypergradients
    text = metabench("plan", tiny, "--predict", "--set", "device_memory=1B").out
    assert text.count("NO: predicted to need") == 2
    assert "2 of 2 cells predicted, 2 do not fit the device" in text
    text = metabench("plan", tiny, "--predict", "--set", "limits.memory=1B").out
    assert text.count("NO: the limit is 1 B; it will end as oom") == 2


@pytest.mark.skipif(not processor().has_avx512, reason="the processor has no AVX-512")
def test_plan_says_what_predictions_of_native_kernels_leave_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables(PORTABLE):
        monkeypatch.delenv(name, raising=False)
    experiment = {"problem": "label_noise", "sizes": ["conv4"], "kind": "cost", "methods": ["t1t2"]}
    suite = tmp_path / "suite.yaml"
    suite.write_text(json.dumps({"name": "native", "kernels": "native", "experiments": {"a": experiment}}))
    left_out = "workspaces of convolutions are not counted: not known for AVX-512"
    text = in_its_own_process("plan", suite, "--predict").out
    assert "perhaps: predicted too low" in text
    assert f"note: 1 predicted too low: {left_out}" in text
    assert f"note: T may be too large: {left_out}" in in_its_own_process("plan", suite, "--budget", "24MiB", "--size", "conv4").out
    assert left_out not in metabench("plan", suite, "--predict", "--set", "kernels=portable").out


def test_plan_answers_what_fits_into_a_budget(tiny: Path) -> None:
    plenty = json.loads(metabench("plan", tiny, "--budget", "1GiB", "--json").out)
    (answer,) = plenty["problems"]
    assert (plenty["budget_bytes"], answer["problem"], answer["sizes"]) == (2**30, "toy_1d", ["scalar"])
    assert list(answer["methods"]) == ["none", "t1t2"]
    assert all(found["scalar"]["any"] or found["scalar"]["steps"] >= 16 for found in answer["methods"].values())
    text = metabench("plan", tiny, "--budget", "1B").out
    assert "toy_1d (analytic, float32, cpu): largest number of inner steps T within 1 B" in text
    assert "none: not even T = 1 fits" in text


def test_collect_puts_rows_together(tiny: Path, tmp_path: Path) -> None:
    files = []
    for index, cell in enumerate(cells(tiny)):
        spec, out = tmp_path / f"{index}.json", tmp_path / "cells" / f"{index}.parquet"
        spec.write_text(json.dumps(cell["spec"]))
        assert metabench("run", "--spec", spec, "--out", out).code == 0
        files.append(out)
    (tmp_path / "list.txt").write_text(f"{files[1]}\n{files[0]}\n")
    from_list = metabench(
        "collect", "--cells", tmp_path / "list.txt", "--suite", tiny, "--out", tmp_path / "a" / "results.parquet"
    )
    from_folder = metabench(
        "collect", "--cells", tmp_path / "cells", "--suite", tiny, "--out", tmp_path / "b" / "results.parquet"
    )
    assert (from_list.code, from_folder.code) == (0, 0)
    assert "4 rows of 2 cells (4 ok)" in from_list.err
    assert read_rows(tmp_path / "a" / "results.parquet").column("method").to_pylist() == [
        "t1t2",
        "t1t2",
        "none",
        "none",
    ]
    assert read_rows(tmp_path / "b" / "results.parquet").column("method").to_pylist() == [
        "none",
        "none",
        "t1t2",
        "t1t2",
    ]
    assert list(read_metadata(tmp_path / "a" / "results.parquet").methods) == ["none", "t1t2"]
    assert (tmp_path / "a" / "results.csv").is_file()


def test_collect_moves_no_file_but_the_suites_own(tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(f"{TINY}results: {tmp_path / 'results'}\n")
    planned = Path(str(cells(tiny)[0]["row_file"]))
    others = [tmp_path / "elsewhere" / "data.parquet", planned.with_name("data.parquet"), tmp_path / "elsewhere" / planned.name]
    for path in (planned, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"PAR1 of somebody")

    def collect(place: Path) -> Done:
        return metabench("collect", "--cells", place, "--suite", tiny, "--out", tmp_path / "results.parquet")

    for folder in (tmp_path / "elsewhere", planned.parent):
        done = collect(folder)
        assert done.code == 2 and "Traceback" not in done.err
        assert all(path.read_bytes() == b"PAR1 of somebody" for path in others)
    assert "1 corrupt row file was set aside" in done.err and not planned.exists()
    done = collect(planned.parent)
    assert done.code == 2 and "data.parquet' is corrupt or truncated" in done.err
    assert others[1].is_file()


def test_config_reference_writes_the_file(tmp_path: Path) -> None:
    assert metabench("config-reference", "--out", tmp_path / "README.md").code == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == (ROOT / "config/README.md").read_text(
        encoding="utf-8"
    )


MISTAKES = [
    (("plan", "nowhere.yaml"), "configuration 'nowhere.yaml': no such file"),
    (("plan", "--set", "seds=[0]"), "unknown key 'seds': did you mean 'seeds'?"),
    (
        ("plan", "--set", "experiments.toy.methods=[t1t3]"),
        "experiment 'toy': unknown method 't1t3': did you mean 't1t2'?",
    ),
    (
        ("run", "--spec", "nowhere.json", "--out", "x.parquet"),
        "spec 'nowhere.json' cannot be read: No such file or directory",
    ),
    (("run", "--spec", "config/config.yaml", "--out", "x.parquet"), "config/config.yaml: not a cell's spec"),
    (("plan", "--budget", "24G"), "--budget: expected a number of bytes with its unit, as '512MiB' or '4GiB', got '24G'"),
    (("plan", "--budget", "1GiB", "--size", "mlp65"), "unknown size 'mlp65': did you mean 'mlp64'?"),
    (("plan", "--size", "mlp64"), "--size chooses among the sizes that --budget considers"),
    (("predict", "--spec", "x.json"), "--spec: say with --out where the predictions go"),
    (("predict", "--spec", "nowhere.json", "--out", "x.json"), "spec 'nowhere.json' cannot be read"),
    (("list", "--plugin", "nowhere.py"), "nowhere.py': no such file"),
    (("collect", "--cells", "nowhere.txt", "--out", "x.parquet"), "list of row files 'nowhere.txt' cannot be read"),
    (("report", "nowhere.parquet", "--out", "x"), "nowhere.parquet"),
    (("fetch", "fashion_mnits"), "unknown data set 'fashion_mnits': did you mean 'fashion_mnist'?"),
    (("config-reference", "--out", "nowhere/README.md"), "'nowhere' is not a folder"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_users_mistake_is_one_message_and_no_traceback(arguments: tuple[str, ...], message: str) -> None:
    done = metabench(*arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    for arguments in (("--debug", "plan", "nowhere.yaml"), ("plan", "nowhere.yaml", "--debug")):
        done = metabench(*arguments)
        assert done.code == 2
        assert "Traceback" in done.err
        assert "MetabenchError: configuration 'nowhere.yaml': no such file" in done.err


@pytest.mark.parametrize("arguments", [("plna",), ("plan", "--sett", "x"), ("run",), ("list", "method")])
def test_a_command_line_that_is_none_is_refused(arguments: tuple[str, ...]) -> None:
    done = metabench(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_a_folder_that_cannot_be_written_is_found_before_the_cell_runs(tiny: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(cells(tiny)[0]["spec"]))
    done = metabench("run", "--spec", spec, "--out", spec / "rows.parquet")
    assert done.code == 2
    assert done.err == f"error: cannot write into '{spec}': File exists\n"


def test_a_spec_of_another_version_is_refused(tiny: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(cells(tiny)[0]["spec"] | {"version": 0}))
    done = metabench("run", "--spec", spec, "--out", tmp_path / "rows.parquet")
    assert done.code == 2
    assert "spec version 0, expected 4: plan the suite again" in done.err
