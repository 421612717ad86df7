"""Rows made up for tests of the report: plausible shapes and every status. They are never results."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable
from typing import Any

import yaml

from metabench.core.curves import Curve

Row = dict[str, Any]

# name: target, exact, memory exponent in steps, time in multiples of a gradient step, quality gained, error
METHODS: dict[str, tuple[str, bool, float, float, float, float]] = {
    "none": ("none", True, 0.0, 1.0, 0.0, 1.0),
    "unrolled": ("unrolled", True, 1.0, 3.0, 0.105, 3e-16),
    "unrolled_remat": ("unrolled", True, 0.5, 4.0, 0.105, 3e-16),
    "mixflow": ("unrolled", True, 0.42, 2.6, 0.104, 8e-16),
    "truncated": ("truncated", True, 0.4, 2.0, 0.085, 0.31),
    "t1t2": ("one_step", True, 0.05, 1.6, 0.074, 0.62),
    "ift_neumann": ("implicit", False, 0.05, 2.4, 0.083, 0.34),
    "ift_cg": ("implicit", False, 0.05, 2.9, 0.088, 0.27),
    "evograd": ("smoothed", False, 0.02, 1.3, 0.066, 0.81),
}
HARDWARE = "AMD EPYC 7763 (2 of 64 cores)"
SIZES = {
    "regularisation": {"digits64": 650},
    "label_noise": {
        "mlp64": 12_730,
        "mlp256": 109_386,
        "mlp1024": 421_642,
        "mlp4096": 1_663_370,
        "conv8": 9_098,
        "conv16": 28_938,
        "conv32": 101_258,
    },
    "toy_1d": {"scalar": 1},
}
DATASETS = {"regularisation": "digits", "label_noise": "fashion_mnist_10k", "toy_1d": "closed_form"}


def label_of(method: str, options: dict[str, Any]) -> str:
    """Return a method with its options as the suite names it."""
    return f"{method}({', '.join(f'{key}={value}' for key, value in options.items())})" if options else method


def typed_options(text: str) -> dict[str, Any]:
    """Return the options of 'noise=flip, rate=0.4', numbers as floats."""
    pairs = (pair.partition("=") for pair in text.split(", ") if pair)
    return {key: float(value) if value[:1].isdigit() else value for key, _, value in pairs}


def method_hash(method: str) -> str:
    """Return the hash of source that the rows of a method have."""
    return hashlib.sha256(method.encode()).hexdigest()[:12]


def row(
    method: str = "unrolled",
    seed: int = 0,
    problem: str = "label_noise",
    size: str = "mlp256",
    inner_steps: int = 16,
    kind: str = "quality",
    experiment: str = "noise",
    problem_variant: str = "noise=flip, rate=0.4",
    options: dict[str, Any] | None = None,
    status: str = "ok",
    message: str = "",
    dataset: str | None = None,
    parameters: int | None = None,
    **changes: Any,
) -> Row:
    """Return one row with every column; a status other than 'ok' leaves empty what such a run would."""
    options = options or {}
    target, exact, growth, work, gain, error = METHODS[method]
    rank = float(next(iter(options.values()))) if options else 8.0
    label = label_of(method, options)
    cell = hashlib.sha256(
        f"{experiment}{problem}{dataset}{size}{problem_variant}{label}{inner_steps}{kind}".encode()
    ).hexdigest()[:8]
    noise = random.Random(f"{cell}{seed}")
    n_params = parameters or SIZES[problem][size]
    static = 4 * n_params * 3 + 20_000
    dynamic = int(
        4 * (2.2 * n_params + 31_000) * (1 + inner_steps**growth) * (1 + 0.04 * rank * (method == "truncated"))
    )
    median = 2e-8 * (n_params + 9_000) * work * max(inner_steps, 1) * (1 + 0.02 * rank) * noise.uniform(0.98, 1.02)
    option_error = error * (8.0 / rank) ** 0.7 if error > 1e-6 and method != "none" else error
    option_error = min(option_error, 0.97) * (1 + 0.02 * noise.gauss(0, 1))
    own = 1.0 if method == "none" else 4e-16 if exact else 0.4 * option_error
    difficulty = 1 - 0.5 * math.exp(-math.log10(n_params + 10) / 3)
    quality = 0.5 + 0.3 * difficulty + gain * (1 + 0.05 * math.log(rank)) * 0.9 + noise.gauss(0, 0.006)
    drawn = method == "evograd"
    minimise = problem == "regularisation"
    data: Row = {
        "suite": "synthetic",
        "experiment": experiment,
        "kind": kind,
        "kind_options": {},
        "problem": problem,
        "dataset": dataset or DATASETS[problem],
        "size": size,
        "problem_options": typed_options(problem_variant),
        "problem_variant": problem_variant,
        "method": method,
        "method_options": options,
        "label": label,
        "target": target,
        "exact": exact,
        "seed": seed,
        "replicate": 0,
        "inner_steps": inner_steps,
        "outer_steps": 400 if kind == "quality" else 0,
        "batch": 100,
        "cell": cell,
        "status": status,
        "message": message,
        "metric": "test loss (nats)" if minimise else "test accuracy",
        "direction": "min" if minimise else "max",
        "quality": 1.4 - quality if minimise else quality,
        "metrics": {"accuracy": round(quality, 4)},
        "outer_loss": 1.2 - quality,
        "validation_loss": 1.2 - quality,
        "meta_summary": {"mean_weight": 0.41},
        "hypergradient_cosine": -0.2 if drawn else 0.0 if method == "none" else max(0.0, 1 - 0.5 * option_error**2),
        "hypergradient_norm_ratio": 0.0 if method == "none" else 1 - 0.6 * option_error,
        "hypergradient_error": option_error,
        "target_cosine": 0.0 if method == "none" else 1 - 0.5 * own**2,
        "target_norm_ratio": 0.0 if method == "none" else 1 - 0.3 * own,
        "target_error": own,
        "hypergradient_samples": 16,
        "hypergradient_digest": hashlib.sha256(f"{cell}{seed}".encode()).hexdigest()[:16],
        # One draw of a method that draws is mostly noise.
        "hypergradient_cosine_sd": 0.9 if drawn else None,
        "hypergradient_mean_cosine": 0.55 if drawn else None,
        "target_cosine_sd": 0.9 if drawn else None,
        "target_mean_cosine": 0.6 if drawn else None,
        "yardstick_error": None if method == "none" else 2e-9,
        "yardstick_precision": None if method == "none" else 1e-8,
        "diagnostics": {"solver_residual": 1e-6, "solver_steps": 10.0} if method == "ift_cg" else None,
        "peak_bytes": static + dynamic,
        "static_bytes": static,
        "dynamic_bytes": dynamic,
        "memory_source": "CPU allocator events",
        "predicted_bytes": None,
        "prediction_note": None,
        "floor_bytes": None,
        "flops": None,
        "first_call_s": median * 5 + 0.4,
        "time_median_s": median,
        "time_q1_s": median * 0.985,
        "time_q3_s": median * 1.02,
        "time_repeats": 10,
        "train_s": 400 * median,
        "data_s": 4 * median,
        "measured_s": 500 * median,
        "n_params": n_params,
        "n_meta": 301,
        "device": "cpu",
        "hardware": HARDWARE,
        "kernels": "portable",
        "instruction_set": "AVX2",
        "threads": 1,
        "dtype": "float32",
        "load_at_start": 1.1,
        "torch_version": "2.13.0+cpu",
        "python_version": "3.11.9",
        "platform": "Linux-6.1-x86_64",
        "metabench_version": "0.1.0",
        "git_commit": "4f1c2a9",
        "code_hash": hashlib.sha256(f"{method}{problem}".encode()).hexdigest()[:16],
        "method_hash": method_hash(method),
        "lock_hash": "9b1deb4d3b7d",
        "started_at": f"2026-01-0{1 + seed % 9}T10:00:00Z",
        "curves": training_curves(1.2 - quality, median, noise) if kind == "quality" else None,
    }
    if kind == "cost":
        for name in _OF_TRAINING:
            data[name] = None
    if status != "ok":
        kept = ("metric", "direction")
        for name in (*_OF_TRAINING, "curves", *(key for key in data if key.endswith("_error"))):
            data[name] = data[name] if name in kept else None
        for name in (
            "hypergradient_cosine",
            "hypergradient_norm_ratio",
            "target_cosine",
            "target_norm_ratio",
            "hypergradient_samples",
            "hypergradient_digest",
            "hypergradient_cosine_sd",
            "hypergradient_mean_cosine",
            "target_cosine_sd",
            "target_mean_cosine",
            "yardstick_precision",
        ):
            data[name] = None
        if status != "diverged":
            for name in ("peak_bytes", "static_bytes", "dynamic_bytes", "memory_source", "n_params", "n_meta"):
                data[name] = None
            for name in ("first_call_s", "time_median_s", "time_q1_s", "time_q3_s", "time_repeats"):
                data[name] = None
    data.update(changes)
    return data


_OF_TRAINING = (
    *("metric", "direction", "quality", "metrics", "outer_loss", "validation_loss", "meta_summary", "train_s"),
    "data_s",
)


def partner(row: Row, factor: float = 1.0) -> Row:
    """Return the second run of a baseline's row, which does not train; `factor`: of its time."""
    own = dict.fromkeys((*_OF_TRAINING, "curves")) | {"replicate": 1, "kind": "cost", "outer_steps": 0}
    seconds = row["time_median_s"] and factor * row["time_median_s"]
    return (
        row | own | {"cell": hashlib.sha256(f"{row['cell']} again".encode()).hexdigest()[:8], "time_median_s": seconds}
    )


def training_curves(last: float, seconds: float, noise: random.Random) -> dict[str, Curve]:
    """Return the outer loss and the time along 400 outer steps, the loss ending near `last`."""
    steps = [10.0 * index for index in range(41)]
    slow = noise.uniform(0.9, 1.1)
    losses = [last + 1.6 * math.exp(-step / (70 * slow)) + noise.gauss(0, 0.015) for step in steps]
    return {
        "outer loss": Curve(steps, losses, "nat", "outer step"),
        "time": Curve(steps, [seconds * slow * (step + 3) for step in steps], "s", "outer step"),
    }


# What `metabench.suite.run.rows.base_row` knows before a seed is run.
_KNOWN_BEFORE = (
    *(
        "suite",
        "experiment",
        "kind",
        "kind_options",
        "problem",
        "dataset",
        "size",
        "problem_options",
        "problem_variant",
        "method",
        "method_options",
        "label",
    ),
    *(
        "target",
        "exact",
        "seed",
        "replicate",
        "inner_steps",
        "outer_steps",
        "cell",
        "metric",
        "direction",
        "device",
        "threads",
        "dtype",
    ),
    *("hardware", "kernels", "instruction_set"),
    *("load_at_start", "torch_version", "python_version", "platform", "metabench_version", "git_commit"),
    *("lock_hash", "code_hash", "method_hash", "started_at", "status", "message"),
)


def failed_row(method: str, seed: int, status: str, message: str, **options: Any) -> Row:
    """Return the row of a seed that has no figures, not even the size of its batch, as `metabench.suite.run.rows.failed_row` makes it."""
    made = row(method, seed, status=status, message=message, **options)
    return {name: made[name] for name in _KNOWN_BEFORE} | {"batch": 0}


MESSAGES = {
    "oom": "2.31 GiB of live storage passed the cell's limit of 2.00 GiB at inner step 41",
    "diverged": "inner loss is nan at inner step 12 of meta-update 37 (learning_rate=0.5)",
    "timeout": "passed the time limit of 120 s after 212 of 400 meta-updates",
    "unsupported": "ift_cg needs an inner problem with a minimum; toy_1d with learning_rate_schedule has none",
    "error": "RuntimeError: derivative for aten::_scaled_dot_product_flash_attention_backward is not implemented <see log>",
}


def suite_rows(seeds: int = 5) -> list[Row]:
    """Return the rows of a small suite that covers every figure, every status, one to `seeds` seeds and both purposes."""
    rows: list[Row] = []
    for size in ("mlp64", "mlp256", "mlp1024"):
        for method in METHODS:
            for seed in range(seeds):
                outcome = _outcome(method, size, seed)
                rows.append(row(method, seed, size=size, status=outcome, message=MESSAGES.get(outcome, "")))
        for rank in (1, 2, 4, 16):
            rows += [row("truncated", seed, size=size, options={"window": rank}) for seed in range(seeds)]
    for method in METHODS:
        rows += [
            row(method, seed, "regularisation", "digits64", 32, problem_variant="", experiment="features")
            for seed in range(2)
        ]
    for method in METHODS:
        status = "unsupported" if method.startswith("ift_cg") else "ok"
        rows.append(
            row(
                method, 0, "toy_1d", "scalar", 1, "cost", "certify", "", status=status, message=MESSAGES.get(status, "")
            )
        )
    for method in METHODS:
        for steps in (1, 2, 4, 8, 16, 32, 64, 128):
            status = (
                "oom"
                if method == "unrolled" and steps >= 64
                else "timeout"
                if method == "ift_cg" and steps == 128
                else "ok"
            )
            if method == "evograd" and steps == 2:
                status = "error"
            rows.append(
                row(
                    method,
                    0,
                    "label_noise",
                    "mlp256",
                    steps,
                    "cost",
                    "steps",
                    "",
                    status=status,
                    message=MESSAGES.get(status, ""),
                )
            )
        for size in SIZES["label_noise"]:
            status = "oom" if method in ("unrolled", "unrolled_remat") and size == "mlp4096" else "ok"
            if size != "mlp256":
                rows.append(
                    row(
                        method,
                        0,
                        "label_noise",
                        size,
                        16,
                        "cost",
                        "sizes",
                        "",
                        status=status,
                        message=MESSAGES.get(status, ""),
                    )
                )
    return rows


def _outcome(method: str, size: str, seed: int) -> str:
    if method == "unrolled" and size == "mlp1024":
        return "oom"
    if method == "ift_neumann" and size == "mlp1024":
        return "diverged" if seed < 2 else "ok"
    if method == "ift_cg" and size == "mlp1024":
        return "timeout"
    return "ok"


def many_rows(number: int) -> list[Row]:
    """Return `number` rows of five seeds a cell, spread as a large suite would: 12 tasks, four sizes, sweeps of options and steps.

    The baseline's second runs are among them."""
    rows: list[Row] = []
    partners: list[Row] = []
    sizes = list(SIZES["label_noise"].items())
    while len(rows) + len(partners) < number:
        index = len(rows) // 5
        index, method = divmod(index, len(METHODS))
        index, steps = divmod(index, 4)
        index, size = divmod(index, len(sizes))
        index, task = divmod(index, 12)
        rate = index
        name = list(METHODS)[method]
        for seed in range(5):
            status = "oom" if name == "unrolled" and size == 3 and steps == 3 else "ok"
            rows.append(
                row(
                    name,
                    seed,
                    "label_noise",
                    sizes[size][0],
                    4 * 2**steps,
                    dataset=f"data{task}",
                    problem_variant=f"rate=0.{rate}",
                    status=status,
                    message=MESSAGES.get(status, ""),
                    parameters=sizes[size][1],
                )
            )
        partners += [partner(rows[-1], 1.02)] * (name == "unrolled" and status == "ok")
    return [*rows, *partners][:number]


def certificate(method: str, **changes: Any) -> dict[str, Any]:
    """Return what the metadata says of a method that is what it declares to be; keywords change that."""
    target, exact, *_ = METHODS.get(method, ("implicit", False))
    verdict = "certified" if exact else "approximate-as-declared"
    values: dict[str, Any] = {
        "method": method,
        "method_hash": method_hash(method),
        "title": f"{method} hypergradient",
        "target": target,
        "verdict": verdict,
        "claims": {"certified": 12, **({} if exact else {verdict: 9}), "unsupported": 2},
        "error": 3e-13,
        "error_float32": 2e-7,
        "cosine": None if target == "none" else 1.0 if exact else 0.962,
        "norm_ratio": None if target == "none" else [1.0, 1.0] if exact else [0.71, 1.08],
        "failures": [],
        "unsupported": [f"{method} needs an inner minimum", "no analytic outer loss"],
        "curves": [],
        "torch_version": "2.13.0+cpu",
        "instruction_set": "AVX2",
    }
    if method.startswith("ift"):
        curves = [["ridge", "steps", [[steps, 0.3**steps] for steps in (1, 2, 4, 8)] + [[16, 0.0]]]]
        curves += [["logistic", "steps", [[steps, 0.5**steps] for steps in (1, 2, 4, 8)]]]
        values["curves"] = curves
    return values | changes


def certificates(methods: Iterable[str] = (), **changes: dict[str, Any]) -> str:
    """Return the certificates of `methods` (all of METHODS if none is given) as metadata; keywords change those of one method."""
    return json.dumps({name: certificate(name, **changes.get(name, {})) for name in methods or METHODS})


def metadata(baseline: str = "unrolled") -> dict[str, str]:
    """Return the metadata of the synthetic suite, as `collect` takes it: every method is certified."""
    citation = "@article{%s2024,\n  title = {A Method Called {%s}},\n  author = {Doe, Jane},\n  year = {2024},\n  url = {https://example.org/%s}\n}"
    methods = {
        name: {
            "title": f"{name} hypergradient",
            "target": values[0],
            "exact": values[1],
            "cost": "K gradients, K HVPs",
            "memory": "O(K)",
        }
        | {"citation": citation % (name, name, name)}
        for name, values in METHODS.items()
    }
    problems = {
        "label_noise": {
            "title": "A network weighs examples with noisy labels",
            "citation": citation % ("shu", "Meta-Weight-Net", "mwn"),
        },
        "regularisation": {
            "title": "An l2 penalty for each feature of logistic regression",
            "citation": citation % ("reg", "Reg", "reg"),
        },
        "toy_1d": {"title": "One dimension, closed form", "citation": ""},
    }
    datasets = {name: {"title": name, "citation": citation % (name, name, name)} for name in DATASETS.values()}
    config = {
        "name": "synthetic",
        "title": "Synthetic rows",
        "description": "Made up for tests.",
        "baseline": baseline,
        "seeds": [0, 1, 2, 3, 4],
        "limits": {"time_s": 120, "memory_bytes": 2**31},
        "experiments": [{"name": "noise", "problem": "label_noise", "methods": list(METHODS)}],
    }
    return {
        "suite": yaml.safe_dump(config, sort_keys=False),
        "methods": json.dumps(methods),
        "problems": json.dumps(problems),
        "datasets": json.dumps(datasets),
        "certificates": certificates(),
        "git_commit": "4f1c2a9",
        "created_at": "2026-01-06T12:00:00Z",
        "version": "0.1.0",
    }
