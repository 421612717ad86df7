"""How fast the suite is on this machine: a table, and one last line of JSON (figure name to value).

    python benchmarks/suite.py            # everything, the default suite included (about 12 minutes on two cores)
    python benchmarks/suite.py --quick    # all but the default suite

Times are of this machine and this moment; ratios are within this run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from metabench.results.curves import CURVES_FILE, read_curves
from metabench.results.store import read_rows, rows_of, write_rows
from metabench.suite.config.load import load_suite

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference" / "results.parquet"
ROWS = 20_000


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave the default suite out")
    quick = parser.parse_args().quick
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        figures |= start_up(work)
        figures |= dry_run(work)
        figures |= suite("smoke", ROOT / "config" / "suites" / "smoke.yaml", work)
        if not quick:
            figures |= suite("default", ROOT / "config" / "config.yaml", work)
        figures |= rendering(work)
    table = Table("figure", "value", title="metabench on this machine")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.3f}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)
    print(json.dumps(figures))


def start_up(work: Path) -> dict[str, float]:
    """`metabench list`, and `metabench run` of a trivial cell beyond its own compute, over the time of `import torch`."""
    torch_s, list_s, run_s = [], [], []
    spec = work / "cell.json"
    plan = json.loads(output("metabench", "plan", str(ROOT / "config" / "suites" / "smoke.yaml"), "--json"))
    trivial = next(
        cell for cell in plan["cells"] if (cell["spec"]["problem"], cell["spec"]["method"]) == ("toy_1d", "none")
    )
    trivial["spec"] |= {"outer_steps": 1, "seeds": [0]}
    spec.write_text(json.dumps(trivial["spec"]))
    for repeat in range(5):
        torch_s.append(seconds(sys.executable, "-c", "import torch"))
        list_s.append(seconds("metabench", "list"))
        rows = work / f"trivial-{repeat}.parquet"
        whole = seconds("metabench", "run", "--spec", str(spec), "--out", str(rows))
        run_s.append(whole - pq.read_table(rows)["measured_s"][0].as_py())
    torch_time = statistics.median(torch_s)
    return {
        "import_torch_s": torch_time,
        "list_over_import_torch": statistics.median(list_s) / torch_time,
        "trivial_run_over_import_torch": statistics.median(run_s) / torch_time,
    }


def dry_run(work: Path) -> dict[str, float]:
    """`snakemake -n` of the default suite, nothing built yet."""
    return {"dry_run_s": seconds("snakemake", "-n", "--quiet", "--directory", str(fresh(work, "dry")), cwd=ROOT)}


def suite(name: str, config: Path, work: Path) -> dict[str, float]:
    """A whole suite: seconds, cells, rows, and the share of wall-clock times cores in use that was spent inside measured cells."""
    folder = fresh(work, name)
    whole = seconds(
        "snakemake", "--cores", "all", "--quiet", "--directory", str(folder), "--configfile", str(config), cwd=ROOT
    )
    (results,) = folder.glob("results/*/results.parquet")
    rows = pq.read_table(results)
    chosen = load_suite(config)
    one_by_one = chosen.timing.value == "exclusive" and not chosen.rounds
    in_use = 1 if one_by_one else os.cpu_count() or 1
    return {
        f"{name}_s": whole,
        f"{name}_cells": len(pc.unique(rows["cell"])),
        f"{name}_rows": rows.num_rows,
        f"{name}_measured_share": pc.sum(rows["measured_s"]).as_py() / (whole * in_use),
    }


def rendering(work: Path) -> dict[str, float]:
    """Collecting and rendering 20,000 rows, the reference rows and curves repeated under other seeds, one file a cell."""
    curves = read_curves(REFERENCE.with_name(CURVES_FILE))
    reference = rows_of(read_rows(REFERENCE))
    cells = work / "many" / "cells"
    written, copy = 0, 0
    while written < ROWS:
        by_cell: dict[str, list[dict[str, Any]]] = {}
        for row in reference[: ROWS - written]:
            again = row | {"seed": row["seed"] + 1000 * copy, "curves": curves.get((row["cell"], row["seed"]))}
            by_cell.setdefault(row["cell"], []).append(again)
        for cell, rows in by_cell.items():
            write_rows(cells / f"{copy}-{cell}.parquet", rows)
        written, copy = written + sum(map(len, by_cell.values())), copy + 1
    out = work / "many" / "results.parquet"
    begun = time.perf_counter()
    config = str(ROOT / "config" / "config.yaml")
    subprocess.run(
        ["metabench", "collect", "--cells", str(cells), "--suite", config, "--out", str(out)], check=True, stdout=2
    )
    collected = time.perf_counter()
    subprocess.run(["metabench", "report", str(out), "--out", str(work / "many" / "report")], check=True, stdout=2)
    rendered = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "rendered_rows": pq.read_metadata(out).num_rows,
        "collect_s": collected - begun,
        "render_s": rendered - collected,
        "collect_and_render_peak_gib": peak / 2**20,
    }


def fresh(work: Path, name: str) -> Path:
    """Return a new working folder."""
    folder = work / name
    folder.mkdir()
    return folder


def output(*command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def seconds(*command: str, cwd: Path | None = None) -> float:
    """Run a command and return how long it took; its output goes to standard error."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=2, cwd=cwd)
    return time.perf_counter() - begun


if __name__ == "__main__":
    if shutil.which("metabench") is None or shutil.which("snakemake") is None:
        sys.exit("metabench and snakemake must be installed: pip install -c requirements.lock -e '.[test,workflow]'")
    main()
