"""The row: one per cell and seed. Columns are declared, typed and described only here.

`SCHEMA_VERSION` is stored in every file. A file of an older version is read where `metabench.results.upgrades` says how, with the columns
that it lacks empty; any other version is refused, never guessed at.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 5


STATUSES = ("ok", "oom", "diverged", "timeout", "unsupported", "error")


@dataclass(frozen=True)
class Column:
    """A column: its Arrow type, whether a row may leave it empty, and what it says (units included)."""

    name: str
    type: pa.DataType
    description: str
    required: bool = False


_STRING, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()

COLUMNS: tuple[Column, ...] = (
    # What the cell is.
    Column("suite", _STRING, "name of the suite", required=True),
    Column("experiment", _STRING, "name of the experiment within the suite", required=True),
    Column("kind", _STRING, "'quality': trained and evaluated; 'cost': cost only, no quality", required=True),
    Column("problem", _STRING, "bilevel problem", required=True),
    Column("dataset", _STRING, "data set", required=True),
    Column("size", _STRING, "named size of the model", required=True),
    Column("problem_options", _STRING, "the problem's options that differ from its defaults, as 'key=value, ...'", required=True),
    Column("method", _STRING, "hypergradient method", required=True),
    Column("method_options", _STRING, "the method's options that differ from its defaults, as 'key=value, ...'", required=True),
    Column("label", _STRING, "method with its options, as tables and figures name it", required=True),
    Column("target", _STRING, "what it estimates: unrolled, truncated, implicit, one_step, smoothed, persistent or none", required=True),
    Column("exact", pa.bool_(), "whether the method is exact for that target", required=True),
    Column("seed", _INT, "seed of initialisation, noise and the order of batches", required=True),
    Column("inner_steps", _INT, "inner steps per hypergradient", required=True),
    Column("outer_steps", _INT, "meta-updates of the whole run", required=True),
    Column("batch", _INT, "examples in an inner batch; 0 where the problem has no batches", required=True),
    Column("outer_optimiser", _STRING, "how the meta-parameters are updated: optimiser, learning rate, schedule and clipping, in words"),
    Column("cell", _STRING, "hash of the cell's spec: eight hexadecimal digits", required=True),
    # What became of it.
    Column("status", _STRING, "one of " + ", ".join(STATUSES), required=True),
    Column("message", _STRING, "why the status is not ok, or what is missing from an ok row; empty otherwise", required=True),
    # Quality, on the test split, at the end of the run (never the best of several evaluations).
    Column("metric", _STRING, "name of the problem's first metric, with its unit"),
    Column("direction", _STRING, "'max' or 'min': which end of the metric is better"),
    Column("quality", _FLOAT, "value of `metric` on the test split after the last step"),
    Column("metrics", _STRING, "every test metric of the problem, a JSON object"),
    Column("outer_loss", _FLOAT, "outer objective of the last window, on meta-validation data; evograd's is at its mixture of copies"),
    Column("meta_summary", _STRING, "a few named numbers about the final meta-parameters, a JSON object"),
    # The hypergradient at a checkpoint that all methods share, in float64, averaged over windows and draws.
    Column("hypergradient_cosine", _FLOAT, "cosine with the exact hypergradient of the whole unrolled window"),
    Column("hypergradient_norm_ratio", _FLOAT, "norm over the norm of the exact hypergradient of the unrolled window"),
    Column("hypergradient_error", _FLOAT, "norm of the difference from the exact unrolled hypergradient, over its norm"),
    Column("target_cosine", _FLOAT, "cosine with the exact value of the method's own target"),
    Column("target_norm_ratio", _FLOAT, "norm over the norm of the exact value of the method's own target"),
    Column("target_error", _FLOAT, "norm of the difference from the exact value of the method's own target, over its norm"),
    Column("hypergradient_samples", _INT, "windows times draws over which the six figures above are averaged"),
    Column("hypergradient_cosine_sd", _FLOAT, "standard deviation of the cosine over those samples; methods that draw only"),
    Column("hypergradient_mean_cosine", _FLOAT, "cosine of the mean of a window's draws, averaged over windows; methods that draw only"),
    Column("target_cosine_sd", _FLOAT, "the same standard deviation, against the method's own target"),
    Column("target_mean_cosine", _FLOAT, "the same cosine of the mean, against the method's own target"),
    Column(
        "yardstick_error",
        _FLOAT,
        "relative difference of the exact hypergradient from finite differences of plain training, at the first window; the larger of two "
        "where the method's own target goes through fewer steps; empty if too expensive",
    ),
    Column("yardstick_precision", _FLOAT, "the part of yardstick_error that may come from the finite differences"),
    Column("diagnostics", _STRING, "the method's own diagnostics at the checkpoint (residual of a solver, ...), a JSON object"),
    # Memory of one hypergradient, from the allocator, float32.
    Column("peak_bytes", _INT, "static_bytes + dynamic_bytes"),
    Column("static_bytes", _INT, "bytes of the storages given to the method: parameters, inner optimiser state, meta-parameters, batches"),
    Column("dynamic_bytes", _INT, "peak of live allocator bytes during the hypergradient minus those live before it"),
    Column("memory_source", _STRING, "where the bytes were read: the CPU allocator's events or the CUDA allocator"),
    Column("predicted_bytes", _INT, "peak_bytes as predicted before the cell was run; empty where nothing was predicted"),
    Column("prediction_note", _STRING, "what predicted_bytes omits, if anything: unknown workspaces of CPU kernels"),
    Column("floor_bytes", _INT, "analytic floor of dynamic_bytes for mixed mode, block by block; problems with segments only"),
    Column("flops", _INT, "floating-point operations of one hypergradient, counted without running it; empty where nothing was predicted"),
    # Time, seconds. Memory and time are measured in separate passes.
    Column("first_call_s", _FLOAT, "first call in its process, with one-time costs not yet paid by earlier checks and plain steps"),
    Column("time_median_s", _FLOAT, "median time of one hypergradient after warm-up"),
    Column("time_q1_s", _FLOAT, "lower quartile of the same"),
    Column("time_q3_s", _FLOAT, "upper quartile of the same"),
    Column("time_repeats", _INT, "timed repeats"),
    Column("train_s", _FLOAT, "the whole run of outer_steps meta-updates, data included, evaluation left out"),
    Column("data_s", _FLOAT, "time of drawing batches within train_s"),
    Column("measured_s", _FLOAT, "time spent inside measured work for this row: training, evaluation, error, memory and time passes"),
    # Sizes.
    Column("n_params", _INT, "number of inner parameters"),
    Column("n_meta", _INT, "number of meta-parameters"),
    # Environment.
    Column("device", _STRING, "'cpu' or 'cuda'", required=True),
    Column("hardware", _STRING, "processor, its generation, vector instructions and cores; or GPU and memory", required=True),
    Column("kernels", _STRING, "CPU kernels that were asked for: 'portable' or 'native'; empty in older rows"),
    Column("instruction_set", _STRING, "instruction set of the CPU kernels that ran; empty on a GPU and in older rows"),
    Column("threads", _INT, "threads of torch", required=True),
    Column("dtype", _STRING, "dtype of training and measurement", required=True),
    Column("load_at_start", _FLOAT, "one-minute load average when the cell began"),
    Column("torch_version", _STRING, "version of torch"),
    Column("python_version", _STRING, "version of Python"),
    Column("platform", _STRING, "operating system"),
    Column("metabench_version", _STRING, "version of metabench", required=True),
    Column("git_commit", _STRING, "commit of the source, with '+' where files differed from it; empty outside a checkout"),
    Column("code_hash", _STRING, "hash of the source that the cell depends on", required=True),
    Column("method_hash", _STRING, "hash of the source that the method alone depends on, as in its certificate", required=True),
    Column("lock_hash", _STRING, "hash of requirements.lock; empty where there is none"),
    Column("started_at", _STRING, "UTC time, ISO 8601", required=True),
)

SCHEMA = pa.schema(
    [pa.field(c.name, c.type, nullable=not c.required, metadata={"description": c.description}) for c in COLUMNS],
    metadata={"metabench_schema": str(SCHEMA_VERSION)},
)
