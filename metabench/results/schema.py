"""The row: one per cell and seed. Columns are declared, typed and described only here.

`SCHEMA_VERSION` is stored in every file. Files of another version are refused: rows are made again, never guessed at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from metabench.results.typed import CURVES, NUMBERS, OPTIONS, PICTURES
from metabench.results.version import SCHEMA_VERSION

STATUSES = ("ok", "oom", "diverged", "timeout", "unsupported", "error")


Seeds = Literal["same", "max", "median", "mean", "interval"]


@dataclass(frozen=True)
class Column:
    """A column: its Arrow type, whether a row may leave it empty, what it says (units included), and what the seeds of a cell become.

    seeds: 'same': one value for all; 'max', 'median' or 'mean' of the values that are finite; 'interval': the mean with its interval;
    None: they are not aggregated. Named numbers are aggregated by name.
    """

    name: str
    type: pa.DataType
    description: str
    required: bool = False
    seeds: Seeds | None = None


_STRING, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()

COLUMNS: tuple[Column, ...] = (
    # What the cell is.
    Column("suite", _STRING, "name of the suite", required=True, seeds="same"),
    Column("experiment", _STRING, "name of the experiment within the suite", required=True, seeds="same"),
    Column(
        "kind", _STRING, "kind of experiment; 'quality': trained and evaluated; 'cost': cost only, no quality", required=True, seeds="same"
    ),
    Column("kind_options", OPTIONS, "every option of the kind of experiment, with its type", required=True, seeds="same"),
    Column("problem", _STRING, "bilevel problem", required=True, seeds="same"),
    Column("dataset", _STRING, "data set", required=True, seeds="same"),
    Column("size", _STRING, "named size of the model", required=True, seeds="same"),
    Column("problem_options", OPTIONS, "every option of the problem, with its type", required=True, seeds="same"),
    Column(
        "problem_variant",
        _STRING,
        "the problem's options that differ from its defaults, as 'key=value, ...'",
        required=True,
        seeds="same",
    ),
    Column("method", _STRING, "hypergradient method", required=True, seeds="same"),
    Column("method_options", OPTIONS, "every option of the method, with its type", required=True, seeds="same"),
    Column("label", _STRING, "method with its options, as tables and figures name it", required=True, seeds="same"),
    Column(
        "target",
        _STRING,
        "what it estimates: unrolled, truncated, implicit, minimum, one_step, smoothed, persistent, carried or none",
        required=True,
        seeds="same",
    ),
    Column("exact", pa.bool_(), "whether the method is exact for that target", required=True, seeds="same"),
    Column("seed", _INT, "seed of initialisation, noise and the order of batches", required=True),
    Column(
        "replicate",
        _INT,
        "0; 1: the baseline's timed part again, in another process, to show how far times of the same computation differ",
        required=True,
        seeds="same",
    ),
    Column("inner_steps", _INT, "inner steps per hypergradient", required=True, seeds="same"),
    Column("outer_steps", _INT, "meta-updates of the whole run", required=True, seeds="same"),
    Column("batch", _INT, "examples in an inner batch; 0 where the problem has no batches", required=True, seeds="max"),
    Column(
        "outer_optimiser",
        _STRING,
        "how the meta-parameters are updated: optimiser, learning rate, schedule and clipping, in words",
        seeds="same",
    ),
    Column("cell", _STRING, "hash of the cell's spec: eight hexadecimal digits", required=True, seeds="same"),
    # What became of it.
    Column("status", _STRING, "one of " + ", ".join(STATUSES), required=True),
    Column(
        "message",
        _STRING,
        "why the status is not ok, or what is missing from an ok row; empty otherwise",
        required=True,
    ),
    # Quality, on the test split, at the end of the run (never the best of several evaluations).
    Column("metric", _STRING, "name of the problem's first metric, with its unit", seeds="same"),
    Column("direction", _STRING, "'max' or 'min': which end of the metric is better", seeds="same"),
    Column(
        "quality",
        _FLOAT,
        "value of `metric` on the test split after the last step; of a problem that stops early, at its best validation",
        seeds="interval",
    ),
    Column("metrics", NUMBERS, "every test metric of the problem, by name", seeds="mean"),
    Column(
        "metrics_answer",
        NUMBERS,
        "the same at the parameters that the method itself proposes; methods that move a second point only",
        seeds="mean",
    ),
    Column(
        "outer_loss",
        _FLOAT,
        "outer objective of the last window, on meta-validation data; evograd's is at its mixture of copies",
        seeds="mean",
    ),
    Column(
        "validation_loss",
        _FLOAT,
        "mean of the outer objective over the last tenth of the outer steps that lead to the outcome: by which options are chosen",
        seeds="mean",
    ),
    Column("meta_summary", NUMBERS, "a few named numbers about the final meta-parameters", seeds="mean"),
    # The hypergradient at a checkpoint that all methods share, in float64, averaged over windows and draws.
    Column("hypergradient_cosine", _FLOAT, "cosine with the exact hypergradient of the whole unrolled window", seeds="mean"),
    Column(
        "hypergradient_norm_ratio",
        _FLOAT,
        "norm over the norm of the exact hypergradient of the unrolled window",
        seeds="mean",
    ),
    Column(
        "hypergradient_error",
        _FLOAT,
        "norm of the difference from the exact unrolled hypergradient, over its norm",
        seeds="mean",
    ),
    Column("target_cosine", _FLOAT, "cosine with the exact value of the method's own target", seeds="mean"),
    Column("target_norm_ratio", _FLOAT, "norm over the norm of the exact value of the method's own target", seeds="mean"),
    Column(
        "target_error",
        _FLOAT,
        "norm of the difference from the exact value of the method's own target, over its norm",
        seeds="mean",
    ),
    Column("hypergradient_samples", _INT, "windows times draws over which the six figures above are averaged", seeds="max"),
    Column(
        "hypergradient_cosine_sd",
        _FLOAT,
        "standard deviation of the cosine over those samples; methods that draw only",
        seeds="mean",
    ),
    Column(
        "hypergradient_mean_cosine",
        _FLOAT,
        "cosine of the mean of a window's draws, averaged over windows; methods that draw only",
        seeds="mean",
    ),
    Column("target_cosine_sd", _FLOAT, "the same standard deviation, against the method's own target", seeds="mean"),
    Column("target_mean_cosine", _FLOAT, "the same cosine of the mean, against the method's own target", seeds="mean"),
    Column(
        "episode_cosine",
        _FLOAT,
        "cosine of an episode's summed hypergradients with the exact one of the whole episode, at the initial meta-parameters, in float64",
        seeds="mean",
    ),
    Column(
        "episode_norm_ratio",
        _FLOAT,
        "norm of that sum over the norm of the exact hypergradient of the whole episode, at the initial meta-parameters",
        seeds="mean",
    ),
    Column(
        "episode_cosine_trained",
        _FLOAT,
        "cosine of an episode's summed hypergradients with the exact one of the whole episode, at the trained ones, in float64",
        seeds="mean",
    ),
    Column(
        "episode_norm_ratio_trained",
        _FLOAT,
        "norm of that sum over the norm of the exact hypergradient of the whole episode, at the trained ones",
        seeds="mean",
    ),
    Column(
        "hypergradient_digest",
        _STRING,
        "hash of the hypergradient at the first window in `dtype`: methods with equal digest and peak_bytes compute the same",
    ),
    Column(
        "yardstick_error",
        _FLOAT,
        "relative difference of the exact hypergradient from finite differences of plain training, at the first window; the larger of two "
        "where the method's own target goes through fewer steps; empty if too expensive",
        seeds="max",
    ),
    Column(
        "yardstick_precision",
        _FLOAT,
        "the part of yardstick_error that may come from the finite differences",
        seeds="max",
    ),
    Column(
        "diagnostics",
        NUMBERS,
        "the method's own diagnostics at the checkpoint (residual of a solver, ...), by name",
        seeds="mean",
    ),
    # Memory of one hypergradient, from the allocator, float32.
    Column("peak_bytes", _INT, "static_bytes + dynamic_bytes", seeds="max"),
    Column(
        "static_bytes",
        _INT,
        "bytes of the storages given to the method: parameters, inner optimiser state, meta-parameters, batches",
        seeds="max",
    ),
    Column(
        "dynamic_bytes",
        _INT,
        "peak of live allocator bytes during the hypergradient minus those live before it",
        seeds="max",
    ),
    Column(
        "memory_source",
        _STRING,
        "where the bytes were read: the CPU allocator's events or the CUDA allocator",
        seeds="same",
    ),
    Column(
        "predicted_bytes",
        _INT,
        "peak_bytes as predicted before the cell was run; empty where nothing was predicted",
        seeds="max",
    ),
    Column(
        "prediction_note",
        _STRING,
        "what predicted_bytes omits, if anything: unknown workspaces of CPU kernels",
        seeds="same",
    ),
    Column(
        "floor_bytes",
        _INT,
        "analytic floor of dynamic_bytes for mixed mode, block by block; problems with segments only",
        seeds="max",
    ),
    Column(
        "flops",
        _INT,
        "floating-point operations of one hypergradient, counted without running it; empty where nothing was predicted",
        seeds="max",
    ),
    # Time, seconds. Memory and time are measured in separate passes.
    Column(
        "first_call_s",
        _FLOAT,
        "first call in its process, with one-time costs not yet paid by earlier checks and plain steps",
        seeds="median",
    ),
    Column("time_median_s", _FLOAT, "median time of one hypergradient after warm-up; where cells take turns, of one seed", seeds="median"),
    Column("time_q1_s", _FLOAT, "lower quartile of the same", seeds="median"),
    Column("time_q3_s", _FLOAT, "upper quartile of the same", seeds="median"),
    Column("time_repeats", _INT, "timed repeats; where methods were timed side by side, rounds", seeds="median"),
    Column(
        "train_s",
        _FLOAT,
        "the whole run of outer_steps meta-updates, data included, evaluation left out; in rounds or where timing is shared, "
        "others may have run beside it",
        seeds="median",
    ),
    Column("data_s", _FLOAT, "time of drawing batches within train_s, under the same conditions", seeds="median"),
    Column(
        "measured_s",
        _FLOAT,
        "time spent inside measured work for this row: training, evaluation, error, memory and time passes",
        seeds="median",
    ),
    Column(
        "resumed",
        _INT,
        "how often the run went on from a checkpoint; above 0, its times join pieces of several jobs; empty where nothing was trained",
        seeds="max",
    ),
    # Sizes.
    Column("n_params", _INT, "number of inner parameters", seeds="max"),
    Column("n_meta", _INT, "number of meta-parameters", seeds="max"),
    # Environment.
    Column("device", _STRING, "'cpu' or 'cuda'", required=True, seeds="same"),
    Column(
        "hardware",
        _STRING,
        "processor, its generation, vector instructions and cores; or GPU and memory",
        required=True,
        seeds="same",
    ),
    Column(
        "kernels",
        _STRING,
        "CPU kernels that were asked for: 'portable' or 'native'; empty where it is not known",
        seeds="same",
    ),
    Column("instruction_set", _STRING, "instruction set of the CPU kernels that ran; empty on a GPU", seeds="same"),
    Column("threads", _INT, "threads of torch", required=True, seeds="same"),
    Column("dtype", _STRING, "dtype of training and measurement", required=True, seeds="same"),
    Column("load_at_start", _FLOAT, "one-minute load average when the cell began", seeds="max"),
    Column("torch_version", _STRING, "version of torch"),
    Column("python_version", _STRING, "version of Python"),
    Column("platform", _STRING, "operating system"),
    Column("metabench_version", _STRING, "version of metabench", required=True),
    Column("git_commit", _STRING, "commit of the source, with '+' where files differed from it; empty outside a checkout"),
    Column("code_hash", _STRING, "hash of the source that the cell depends on", required=True),
    Column(
        "method_hash",
        _STRING,
        "hash of the source that the method alone depends on, as in its certificate",
        required=True,
    ),
    Column("lock_hash", _STRING, "hash of requirements.lock; empty where there is none"),
    Column("started_at", _STRING, "UTC time, ISO 8601", required=True),
)

CURVES_COLUMN = Column("curves", CURVES, "curves of the run by name; in the files of cells only, results have them in curves.parquet")
PICTURES_COLUMN = Column("pictures", PICTURES, "pictures by name; in the files of cells only, results have them in pictures.parquet")
CELL_COLUMNS = (*COLUMNS, CURVES_COLUMN, PICTURES_COLUMN)
"""The columns of a cell's file. results.parquet has `COLUMNS`: curves would be most of it."""

BY_NAME = {column.name: column for column in CELL_COLUMNS}

SCHEMA = pa.schema(
    [pa.field(c.name, c.type, nullable=not c.required, metadata={"description": c.description}) for c in COLUMNS],
    metadata={"metabench_schema": str(SCHEMA_VERSION)},
)
