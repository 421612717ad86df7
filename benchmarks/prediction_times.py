"""How long predictions take, and how far those that are read off lines lie from simulations in full: one last line of JSON.

    python benchmarks/prediction_times.py                        # the default suite, the mixflow suite and 9,800 cells with T up to 101
    python benchmarks/prediction_times.py default --jobs 1       # some of them, in so many processes
    python benchmarks/prediction_times.py default --lines 40     # and simulate up to 40 cells in full, drawn from those with T above 4

Each is timed as a user would: one `metabench predict` with a new file, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from metabench.measure.kernels import choose_kernels
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.predict.cells import FIGURES, predict_group
from metabench.suite.predict.predictions import read_predictions

ROOT = Path(__file__).resolve().parents[1]

SWEEP = {
    "name": "sweep",
    "aa": False,
    "seeds": [0],
    "experiments": {
        "sweep": {
            "problem": "regularisation",
            "sizes": ["linear"],
            "inner_steps": list(range(2, 102)),
            "options": {"learning_rate": [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]},
            "methods": [
                "none", "unrolled", "unrolled_remat", "truncated", "forward", "mixflow", "t1t2", "ift_cg", "ift_neumann", "ift_nystrom",
                "first_order", "darts", "sama", "evograd",
            ],
        }
    },
}  # fmt: skip
"""A sweep of 9,800 cells."""


def main() -> None:
    """Time what is asked for, print a line for each, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {"default": ROOT / "config/config.yaml", "mixflow": ROOT / "config/suites/mixflow.yaml", "sweep": None}
    parser.add_argument("suites", nargs="*", choices=[*known, []], default=list(known))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; one per core unless given")
    parser.add_argument("--lines", type=int, default=0, help="cells with T above 4 that are simulated in full, too")
    given = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.suites:
            path = known[name] or Path(folder) / "sweep.yaml"
            if known[name] is None:
                path.write_text(yaml.safe_dump(SWEEP), encoding="utf-8")
            figures[name] = _timed(path, Path(folder) / f"{name}.jsonl", given.jobs)
            if given.lines:
                figures[name] |= _held_to_full(path, Path(folder) / f"{name}.jsonl", given.lines)
            print(name, figures[name], flush=True)
    print(json.dumps(figures))


def _timed(suite: Path, out: Path, jobs: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "metabench", "predict", str(suite), "--out", str(out), "--jobs", str(jobs)]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    found = list(read_predictions(out))
    said = sum(bool(entry.message) for entry in found)
    return {"cells": len(found), "without": said, "jobs": jobs, "seconds": round(seconds, 1)}


def _held_to_full(suite: Path, out: Path, most: int) -> dict[str, Any]:
    """Return the largest relative error, over all figures, of cells with T above 4, drawn at random, against simulations in full."""
    predictions = read_predictions(out)
    cells = [cell for cell in plan(load_suite(suite)).cells if cell.inner_steps > 4]
    choose_kernels(cells[0].kernels)
    predicted = [(cell, read) for cell in cells if (read := predictions.of(cell)) is not None and not read.message]
    chosen = random.Random(0).sample(predicted, min(most, len(predicted)))
    worst, of = 0.0, ""
    for cell, read in chosen:
        (full,) = predict_group([cell], lines=False)
        for name in FIGURES:
            there = getattr(full, name)
            error = abs(getattr(read, name) - there) / max(there, 1)
            if error > worst:
                worst, of = error, f"{name} of {cell.problem} {cell.size} {cell.method} T={cell.inner_steps}"
    return {"held_to_full": len(chosen), "largest_error": worst, "of": of}


if __name__ == "__main__":
    main()
