"""Rows of a memory study, made up for tests of the report from a model of what each method must keep. They are never results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import yaml

Row = dict[str, Any]

HARDWARE = "AMD EPYC 7763 (2 of 64 cores)"
DEFAULTS: dict[str, dict[str, Any]] = {
    "lm_learning_rates": {
        "batch": 4,
        "sequence": 64,
        "blocks": 4,
        "width": 64,
        "optimiser": "sgd",
        "learning_rate": 0.1,
    },
    "label_noise": {"batch": 100, "optimiser": "sgd", "rate": 0.4},
}
DATASETS = {"lm_learning_rates": "jargon", "label_noise": "fashion_mnist_10k"}
SWITCHES = ("mixed_mode", "block_remat", "save_inner_grads")
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "mixflow": {**dict.fromkeys(SWITCHES, True), "compile": False, "trajectory": "device"},
}
_MLP = {"mlp64": 50_890, "mlp1024": 814_090}
# Units of three for a gradient and six for a second-order product: what a step computes beside what plain unrolling does.
_OPERATIONS = {"unrolled": 9.0, "unrolled_remat": 12.0, "mixflow": 14.6}
_TIMES = {"unrolled": 1.0, "unrolled_remat": 1.25, "mixflow": 1.55}


def label_of(method: str, options: dict[str, Any]) -> str:
    """Return a method with its options as rows name it."""
    return f"{method} ({_text(options)})" if options else method


def row(
    method: str,
    inner_steps: int = 8,
    experiment: str = "centre",
    problem: str = "lm_learning_rates",
    size: str = "100k",
    options: dict[str, Any] | None = None,
    status: str = "ok",
    message: str = "",
    seed: int = 0,
    method_options: dict[str, Any] | None = None,
    **changes: Any,
) -> Row:
    """Return one row of a cost experiment: `options` are the problem's, `method_options` those of the method."""
    given, switched = options or {}, method_options or {}
    values = {**DEFAULTS[problem], **given}
    text = _text({name: value for name, value in given.items() if value != DEFAULTS[problem].get(name)})
    parameters, step, blocks = _sizes(problem, size, values)
    state = 3 if values["optimiser"] == "adam" else 1
    static = 4 * parameters * (1 + state) + 3_000 * inner_steps
    kept = 4 * parameters * state * inner_steps
    floor = kept + 4 * parameters * inner_steps + step // max(blocks, 1) // 2 + 8 * parameters
    dynamic, units, time = _cost(method, switched, parameters, step, blocks, kept, floor, inner_steps)
    if method == "unrolled_remat":
        dynamic = kept + int(2.1 * step) + 8 * parameters
    label = label_of(method, switched)
    cell = hashlib.sha256(f"{problem}{size}{text}{label}{inner_steps}".encode()).hexdigest()[:8]
    seconds = 2e-9 * step * inner_steps * time
    data: Row = {
        "suite": "study",
        "experiment": experiment,
        "kind": "cost",
        "kind_options": {},
        "problem": problem,
        "dataset": DATASETS[problem],
        "size": size,
        "problem_options": values,
        "problem_variant": text,
        "method": method,
        "method_options": METHOD_DEFAULTS.get(method, {}) | switched,
        "label": label,
        "target": "unrolled",
        "exact": True,
        "seed": seed,
        "replicate": 0,
        "inner_steps": inner_steps,
        "outer_steps": 0,
        "batch": values["batch"],
        "cell": cell,
        "status": status,
        "message": message,
        "peak_bytes": static + dynamic,
        "static_bytes": static,
        "dynamic_bytes": dynamic,
        "memory_source": "CPU allocator events",
        "predicted_bytes": int(1.01 * (static + dynamic)),
        "floor_bytes": floor if problem.startswith("lm_") else None,
        "flops": int(units * step * inner_steps),
        "first_call_s": seconds + 1.0,
        "time_median_s": seconds,
        "time_q1_s": seconds * 0.98,
        "time_q3_s": seconds * 1.03,
        "time_repeats": 3,
        "measured_s": 6 * seconds,
        "n_params": parameters,
        "n_meta": 20,
        "device": "cpu",
        "hardware": HARDWARE,
        "kernels": "portable",
        "instruction_set": "AVX2",
        "threads": 1,
        "dtype": "float32",
        "load_at_start": 1.0,
        "torch_version": "2.13.0+cpu",
        "python_version": "3.11.9",
        "platform": "Linux-6.1-x86_64",
        "metabench_version": "0.1.0",
        "git_commit": "4f1c2a9",
        "code_hash": hashlib.sha256(f"{method}{problem}".encode()).hexdigest()[:16],
        "method_hash": hashlib.sha256(method.encode()).hexdigest()[:12],
        "lock_hash": "9b1deb4d3b7d",
        "started_at": "2026-01-01T10:00:00Z",
    }
    if status != "ok":
        for name in list(data):
            measured = ("peak_bytes", "static_bytes", "dynamic_bytes", "memory_source", "n_params")
            if name.endswith(("_s", "_repeats")) or name in measured:
                data[name] = None
    return data | changes


def too_large(method: str, size: str, inner_steps: int, predicted: int, **given: Any) -> Row:
    """Return the row of a cell that was not run since its predicted peak does not fit."""
    message = f"predicted to need {predicted / 2**30:.1f} GiB, the device has 24 GiB"
    return row(
        method,
        inner_steps,
        "gpu",
        size=size,
        status="unsupported",
        message=message,
        predicted_bytes=predicted,
        floor_bytes=None,
        **given,
    )


def study_rows() -> list[Row]:
    """Return a whole study: sweeps around a centre, an ablation, inner Adam, small perceptrons, and sizes for a GPU."""
    rows: list[Row] = []
    for options in _combinations():
        rows.append(row("mixflow", method_options=options))
    rows += [row("unrolled"), row("unrolled_remat")]
    for method in _OPERATIONS:
        rows += [row(method, steps, "inner_steps") for steps in (2, 4, 16)]
        rows += [row(method, experiment="depth", options={"blocks": blocks}) for blocks in (2, 8, 16)]
        rows += [row(method, experiment="sequence", options={"sequence": length}) for length in (128, 256, 512)]
        rows += [row(method, experiment="batch", options={"batch": batch}) for batch in (1, 16)]
        rows += [row(method, experiment="sizes", size=size) for size in ("1M", "2M", "5M")]
        rows += [row(method, steps, "adam", options={"optimiser": "adam"}) for steps in (2, 4, 8)]
        rows += [row(method, steps, "perceptrons", "label_noise", size) for size in _MLP for steps in (2, 8)]
        peaks = {"unrolled": 400, "unrolled_remat": 120, "mixflow": 30}
        for place, size in enumerate(("44M", "140M", "489M")):
            predicted = peaks[method] * 2**30 * (1 + 2 * place)
            rows.append(too_large(method, size, 2, predicted, options={"sequence": 2048}))
    rows += [row("mixflow", steps, "trajectory", method_options={"trajectory": "recompute"}) for steps in (2, 4, 8, 16)]
    return rows


def metadata(rows: Iterable[Row] = ()) -> dict[str, str]:
    """Return what goes into the file beside the rows, the defaults of the problems among it."""
    problems = {
        name: {
            "title": name,
            "citation": "",
            "options": [{"name": key, "default": value} for key, value in options.items()],
        }
        for name, options in DEFAULTS.items()
    }
    config = {
        "name": "study",
        "title": "A memory study",
        "baseline": "unrolled",
        "studies": {"memory": {"subject": "mixflow"}},
        "device_memory": "24GiB",
        "seeds": [0],
    }
    return {
        "suite": yaml.safe_dump(config, sort_keys=False),
        "methods": json.dumps({name: {"title": name, "citation": ""} for name in _OPERATIONS}),
        "problems": json.dumps(problems),
        "datasets": json.dumps({name: {"title": name, "citation": ""} for name in DATASETS.values()}),
        "certificates": "",
        "git_commit": "4f1c2a9",
        "created_at": "2026-01-06T12:00:00Z",
        "version": "0.1.0",
    }


def _combinations() -> list[dict[str, Any]]:
    """Return, for each combination of switches, those that are off."""
    return [
        {name: False for bit, name in enumerate(SWITCHES) if number >> bit & 1} for number in range(2 ** len(SWITCHES))
    ]


def _sizes(problem: str, size: str, values: dict[str, Any]) -> tuple[int, int, int]:
    """Return the parameters, the bytes of a step's recorded second-order graph, and the blocks."""
    if problem == "label_noise":
        return _MLP[size], 4 * 40 * values["batch"] * 100, 0
    scale = {"100k": 1, "1M": 2, "2M": 3, "5M": 4}.get(size, 16)
    width, blocks = values["width"] * scale, values["blocks"]
    tokens = values["batch"] * values["sequence"]
    return 512 * width + 12 * blocks * width**2, 4 * blocks * tokens * (90 * width + 12 * values["sequence"]), blocks


def _cost(
    method: str, switched: dict[str, Any], parameters: int, step: int, blocks: int, kept: int, floor: int, steps: int
) -> tuple[int, float, float]:
    """Return dynamic bytes, operations in units, and time over that of plain unrolling."""
    units, time = _OPERATIONS[method], _TIMES[method]
    if method == "unrolled":
        return step * steps + 8 * parameters, units, time
    if method != "mixflow" or blocks == 0:
        return kept + int(2.4 * step) + 16 * parameters, units, time
    if switched.get("trajectory") == "recompute":
        return floor - int(0.7 * kept), units + 3, time * 1.2
    dynamic = int(1.1 * floor)
    if switched.get("block_remat") is False:
        dynamic, units, time = dynamic + step, units - 2, time * 0.9
    if switched.get("mixed_mode") is False:
        dynamic, time = dynamic + 2 * step, time * 1.05
    if switched.get("save_inner_grads") is False:
        dynamic, units, time = dynamic - 4 * parameters * steps // 2, units + 3, time * 1.1
    return dynamic, units, time


def _text(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
