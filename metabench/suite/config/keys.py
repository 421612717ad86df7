"""The keys of a suite: their types, defaults and meanings.

`config/README.md` is generated from these dataclasses; a test keeps it in step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from metabench.core.randomness import LARGEST_SEED


class Device(Enum):
    """Where a suite runs."""

    cpu = "cpu"
    cuda = "cuda"


class Timing(Enum):
    """What is given to whatever is timed."""

    exclusive = "exclusive"
    device = "device"
    shared = "shared"


class Kernels(Enum):
    """Which CPU kernels run."""

    portable = "portable"
    native = "native"


class NumberType(Enum):
    """Dtype of training and measurement."""

    float32 = "float32"
    float64 = "float64"


DEFAULT_BASELINE = "unrolled"


def key(
    help: str,
    default: Any = MISSING,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: int | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declare a key: its meaning, its default (mutable ones are copied), its closed or open bounds, or its choices.

    The elements of a list are bounded one by one.
    """
    metadata = {"help": help, "minimum": minimum, "above": above, "maximum": maximum, "choices": choices}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Limits:
    """Limits of one cell; a cell that exceeds one becomes a row with that status."""

    seconds: float = key(
        "time limit of a cell, all its seeds together; after it the remaining seeds are `timeout`", 300.0, above=0
    )
    memory: str = key("peak memory of one hypergradient, as '512MiB' or '4GiB'; above it the cell is `oom`", "4GiB")


@dataclass
class Measure:
    """How each cell is measured."""

    time_repeats: int = key("timed hypergradients after warm-up, where a cell times itself", 15, minimum=1)
    time_budget: float = key(
        "seconds per cell and seed after which timing stops early (never before three repeats, or five rounds)",
        1.0,
        above=0,
    )
    checkpoint: int = key(
        "outer steps of plain training, with fixed meta-parameters, before the checkpoint that all methods share",
        3,
        minimum=0,
    )
    error_windows: int = key(
        "windows at the checkpoint over which the hypergradient's error is averaged; 0 leaves it out", 4, minimum=0
    )
    error_draws: int = key("draws per window for methods that sample", 16, minimum=1)
    error_max_params: int = key(
        "most inner parameters for which the exact hypergradient is computed in float64", 300000, minimum=0
    )


@dataclass
class MemoryStudy:
    """What exact hypergradients cost in memory: a method against the baseline, in all experiments that train nothing."""

    subject: str = key("method that the study is about, exact for the unrolled window; empty: no study", "")


@dataclass
class RivalStudy:
    """What one method has over another, problem by problem: quality between baseline and oracle, memory and time."""

    subject: str = key("method that the study is about; empty: no study", "")
    rival: str = key("method that it is set beside", "")


@dataclass
class Studies:
    """Sections of the report beyond the comparison of methods."""

    memory: MemoryStudy = key("what the memory of an exact hypergradient is, and when saving it pays", MemoryStudy)
    rival: RivalStudy = key("one method beside another on every problem, with what papers say of the two", RivalStudy)


@dataclass
class Experiment:
    """A grid: one problem x data sets x sizes x inner steps x methods. Lists are swept; every combination is a cell."""

    problem: str = key("bilevel problem, see `metabench list problems`")
    datasets: list[str] = key(
        "data sets; text:PATH is your own text file, or a folder of them; one of a plugin is accepted where its task is that of the "
        "problem's own; empty: the problem's default",
        [],
    )
    sizes: list[str] = key("named sizes of the model; empty: the problem's default", [])
    methods: list[Any] = key("methods: a name, or {name: {option: value}}; a list as value is a sweep")
    options: dict[str, Any] = key("options of the problem; a list as value is a sweep", {})
    inner_steps: list[int] = key("inner steps per hypergradient; empty: the problem's default", [], minimum=1)
    outer_steps: int | None = key("meta-updates of a run; empty: the problem's default", None, minimum=1)
    kind: Any = key(
        "what is done with each cell, see `metabench list kinds`: a name, or {name: {option: value}}; 'quality' trains and evaluates, "
        "'cost' measures one hypergradient",
        "quality",
    )
    curve: list[int] = key(
        "outer steps after which vectors that a problem observes, as the adapted outputs of few-shot regression, are kept in "
        "`curves.parquet`; the last is kept always",
        [],
        minimum=0,
    )
    seeds: list[int] | None = key("seeds; empty: the suite's", None, minimum=0, maximum=LARGEST_SEED)


@dataclass
class Suite:
    """A suite: experiments and what they share."""

    name: str = key("name of the suite and of its folder in `results/`")
    title: str = key("one line for the report", "")
    description: str = key("a paragraph for the report: the question that the suite answers", "")
    experiments: dict[str, Experiment] = key("experiments by name", {})
    seeds: list[int] = key("seeds, one row each", [0, 1, 2], minimum=0, maximum=LARGEST_SEED)
    baseline: str = key("method to which ratios of time and memory refer; empty: unrolled, where it runs", "")
    device: Device = key("'cpu' or 'cuda'", Device.cpu)
    device_memory: str = key(
        "memory of the device, as '24GiB'; cells predicted to need more are not started and become `unsupported` rows; "
        "empty: no limit",
        "",
    )
    dtype: NumberType = key("'float32' or 'float64'", NumberType.float32)
    kernels: Kernels = key(
        "CPU kernels of torch and oneDNN. 'portable': AVX2 on every x86 processor that has it, so that machines with and without AVX-512 "
        "give the same bytes; 'native': the widest instructions of the processor, whose bytes depend on them",
        Kernels.portable,
    )
    threads: int = key("torch threads per cell", 1, minimum=1)
    timing: Timing = key(
        "'exclusive': what times hypergradients, the jobs of `rounds` and cells without rounds, has the machine to itself, on a cluster a "
        "whole node; all others run in parallel, on a GPU each with a device of its own; 'device': it has its own GPU, cores and memory, "
        "and other jobs run on the machine's other GPUs and cores; 'shared': as that, without `rounds` and A/A comparison",
        Timing.exclusive,
    )
    aa: bool = key(
        "A/A comparison: repeat the timed part of each cell of the baseline in another process, to show by how much times of the same "
        "computation differ; not where timing is shared",
        True,
    )
    rounds: int = key(
        "unless `timing` is shared, the methods of a setting are timed side by side: each in its own process, with one seed, taking turns, "
        "this often, after all cells have run; 0: each cell times itself when it runs",
        15,
        minimum=0,
    )
    shard: str = key(
        "a part of the suite, as '3/16': only its cells run, into a folder of their own, on any allocation or cluster; cells whose "
        "methods are compared stay together. `metabench collect --shard` merges all parts. Empty: the whole suite",
        "",
    )
    batch: int = key(
        "cells of one experiment that a job runs, one after another, in a process that imports torch once; 1: a job each. For thousands "
        "of short cells on a cluster",
        1,
        minimum=1,
    )
    limits: Limits = key("limits of one cell", Limits)
    measure: Measure = key("how each cell is measured", Measure)
    checkpoint_minutes: float = key(
        "minutes after which a run of meta-training is saved beside its rows, to go on from there after whatever ended its job; it is also "
        "saved when its job is asked to end; 0: only then",
        5.0,
        minimum=0,
    )
    certify: bool = key(
        "certify each method against its target in float64; otherwise every method counts as not certified", True
    )
    predict: bool = key(
        "predict the memory of each cell before it runs: for `device_memory`, for the memory that its job requests, and for "
        "comparison in the report; predictions are stored in `predictions.jsonl`",
        True,
    )
    studies: Studies = key("studies that the report makes of these experiments", Studies)
    plugins: list[str] = key(
        "Python files that declare methods, problems, data sets, models, inner optimisers or kinds of experiment, "
        "relative to the working folder",
        [],
    )
    figures: list[str] = key(
        "Python files with a function `draw(frame, axes)`: your own figures in the report, from a pandas DataFrame of all results to "
        "Matplotlib axes; relative to the working folder",
        [],
    )
    results: str = key("folder in which the suite's folder is created", "results")
