"""The keys of a suite: their types, defaults and meanings.

`config/README.md` is generated from these dataclasses; a test keeps it in step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

PURPOSES = ("quality", "cost")


class Device(Enum):
    """Where a suite runs."""

    cpu = "cpu"
    cuda = "cuda"


class Timing(Enum):
    """Whether cells may run side by side on one machine."""

    exclusive = "exclusive"
    shared = "shared"


class Kernels(Enum):
    """Which CPU kernels run."""

    portable = "portable"
    native = "native"


class NumberType(Enum):
    """Dtype of training and measurement."""

    float32 = "float32"
    float64 = "float64"


def key(
    help: str,
    default: Any = MISSING,
    *,
    minimum: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declare a key: its meaning, its default (mutable ones are copied), its closed or open lower bound, or its choices.

    The elements of a list are bounded one by one.
    """
    metadata = {"help": help, "minimum": minimum, "above": above, "choices": choices}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Limits:
    """Budgets of one cell; a cell that passes one ends as a row with that status."""

    seconds: float = key(
        "time limit of a cell, all its seeds together; past it the remaining seeds are `timeout`", 300.0, above=0
    )
    memory: str = key("peak memory of one hypergradient, as '512MiB' or '4GiB'; past it the cell is `oom`", "4GiB")


@dataclass
class Measure:
    """How each cell is measured."""

    time_repeats: int = key("timed hypergradients after warm-up", 15, minimum=1)
    time_budget: float = key("seconds after which timing stops early (never before three repeats)", 1.0, above=0)
    checkpoint: int = key(
        "outer steps of plain training, meta-parameters fixed, before the shared checkpoint of all methods",
        3,
        minimum=0,
    )
    error_windows: int = key(
        "windows at the checkpoint over which the hypergradient's error is averaged; 0 leaves it out", 4, minimum=0
    )
    error_draws: int = key("draws per window for methods that sample", 16, minimum=1)
    error_max_params: int = key(
        "inner parameters up to which the exact hypergradient is computed in float64", 300000, minimum=0
    )


@dataclass
class Experiment:
    """A grid: one problem x data sets x sizes x inner steps x methods. Lists are swept; every combination is a cell."""

    problem: str = key("bilevel problem, see `metabench list problems`")
    datasets: list[str] = key("data sets; text:PATH is a text file, or a folder of them, of your own; empty: the problem's default", [])
    sizes: list[str] = key("named sizes of the model; empty: the problem's default", [])
    methods: list[Any] = key("methods: a name, or {name: {option: value}}; a list as value is a sweep")
    options: dict[str, Any] = key("options of the problem; a list as value is a sweep", {})
    inner_steps: list[int] = key("inner steps per hypergradient; empty: the problem's default", [], minimum=1)
    outer_steps: int | None = key("meta-updates of a run; empty: the problem's default", None, minimum=1)
    purpose: str = key(
        "'quality': train to the end and evaluate; 'cost': measure one hypergradient only", "quality", choices=PURPOSES
    )
    seeds: list[int] | None = key("seeds; empty: the suite's", None, minimum=0)


@dataclass
class Suite:
    """A suite: experiments and what they share."""

    name: str = key("name of the suite and of its folder in `results/`")
    title: str = key("one line for the report", "")
    description: str = key("a paragraph for the report: the question that the suite answers", "")
    experiments: dict[str, Experiment] = key("experiments by name", {})
    seeds: list[int] = key("seeds; each is a row", [0, 1, 2], minimum=0)
    baseline: str = key("method to which times and memory are compared as ratios", "unrolled")
    device: Device = key("'cpu' or 'cuda'", Device.cpu)
    device_memory: str = key(
        "memory of the device, as '24GiB'; cells predicted to need more are not started and become `unsupported` rows; "
        "empty: nothing is left out",
        "",
    )
    dtype: NumberType = key("'float32' or 'float64'", NumberType.float32)
    kernels: Kernels = key(
        "CPU kernels of torch and oneDNN. 'portable': those for AVX2 on every x86 processor that has it, so that bytes are the same on "
        "machines with and without AVX-512; 'native': the widest that the processor has, whose bytes belong to its instruction set",
        Kernels.portable,
    )
    threads: int = key("threads of torch in a cell", 1, minimum=1)
    timing: Timing = key(
        "'exclusive': one cell at a time on a machine, so that times can be compared; 'shared': side by side",
        Timing.exclusive,
    )
    limits: Limits = key("budgets of a cell", Limits)
    measure: Measure = key("how cells are measured", Measure)
    certify: bool = key(
        "certify each method against its target in float64; without it every method counts as not certified", True
    )
    predict: bool = key(
        "predict the memory of each cell before it is run: for `device_memory`, for what its job asks a scheduler for, and for the "
        "report, which compares; the predictions stand in `predictions.json`",
        True,
    )
    plugins: list[str] = key("Python files that declare further methods, relative to the working folder", [])
    results: str = key("folder under which the suite's folder is made", "results")
