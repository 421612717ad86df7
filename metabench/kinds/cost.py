"""Measure one hypergradient: its memory, its time and its error; nothing is trained."""

from __future__ import annotations

from metabench.core.kind import Kind
from metabench.stages.cost import cost
from metabench.stages.episode import episode
from metabench.stages.error import error
from metabench.stages.well_posed import SIZES, well_posed

COST = Kind(
    name="cost",
    title="memory, time and error of one hypergradient; nothing is trained",
    stages=(well_posed, cost, error, episode),
    columns=(
        *SIZES,
        "hypergradient_digest",
        "diagnostics",
        "peak_bytes",
        "static_bytes",
        "dynamic_bytes",
        "memory_source",
        "floor_bytes",
        "first_call_s",
        "time_median_s",
        "time_q1_s",
        "time_q3_s",
        "time_repeats",
        "yardstick_error",
        "yardstick_precision",
        "hypergradient_samples",
        *(
            f"{against}_{figure}"
            for against in ("hypergradient", "target")
            for figure in ("cosine", "norm_ratio", "error", "cosine_sd", "mean_cosine")
        ),
        "episode_cosine",
        "episode_norm_ratio",
    ),
    partner="cost",
    module=__name__,
    order=2,
)
