"""The results as one pandas DataFrame: a row for each method, options and number of inner steps in each setting, its seeds combined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metabench.report.results.certified import short
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.outcomes import Outcome, by_group
from metabench.report.results.settings import Setting
from metabench.report.verdicts import memory_verdict
from metabench.results.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd


def frame(suite: Suite) -> pd.DataFrame:
    """Return every entry with all that the tables of settings say of it: their CSV files, one below the other."""
    import pandas as pd  # here: it takes longer to import than most tables to make

    decided = by_group(suite)
    return pd.DataFrame(
        [record(entry, decided[entry.group]) for entries in suite.settings.values() for entry in entries]
    )


def record(entry: Entry, outcome: Outcome) -> dict[str, Any]:
    """Return everything that tables say of an entry, by column, with every digit."""
    setting, difference = entry.setting, outcome.against_baseline.get(entry.label)
    return {
        **setting_columns(setting),
        "device": setting.place.device,
        "dtype": setting.place.dtype,
        "kernels": setting.place.kernels,
        "instruction_set": setting.place.instruction_set,
        "hardware": entry.hardware,
        "label": entry.label,
        "method": entry.method,
        "target": entry.target,
        "exact": entry.exact,
        "certificate": short(entry.verdict),
        "exceeds_rounding": bool(entry.inexact),
        "inner_steps": entry.inner_steps,
        "outer_steps": entry.outer_steps,
        "batch": entry.batch,
        "runs": entry.seeds,
        "ok": entry.ok,
        "failures": "; ".join(f"{status}={number}" for status, number in entry.failures.items()),
        "message": "; ".join(entry.messages.values()),
        "metric": entry.metric,
        "direction": ("max" if entry.higher_is_better else "min") if entry.metric else "",
        **estimate_columns("quality", entry.quality),
        "answer_quality": entry.answer_quality,
        **estimate_columns("difference_to_baseline", difference.difference if difference else None),
        "peak_bytes": entry.peak_bytes,
        "dynamic_bytes": entry.dynamic_bytes,
        "static_bytes": entry.static_bytes,
        "memory_ratio": entry.memory_ratio,
        "memory_source": entry.memory_source,
        "time_median_s": entry.time_median,
        "time_q1_s": entry.time_q1,
        "time_q3_s": entry.time_q3,
        "time_ratio": entry.time_ratio,
        "first_call_s": entry.first_call,
        "train_s": entry.train,
        **entry.gradient,
        "largest_target_error": entry.own_error,
        "largest_yardstick_error": entry.yardstick_error,
        "hypergradient_samples": entry.samples,
        "n_params": entry.n_params,
        "n_meta": entry.n_meta,
        **_verdicts(entry, outcome),
    }


def _verdicts(entry: Entry, outcome: Outcome) -> dict[str, Any]:
    ranking, against = outcome.ranking, outcome.against_baseline.get(entry.label)
    chosen = entry in outcome.entries
    best = ranking.verdicts.get(entry.label) if ranking and chosen else None
    return {
        "chosen": chosen,
        "best": bool(chosen and ranking and ranking.best == entry.label),
        "against_best": best.word if best else None,
        **estimate_columns("difference_to_best", best.difference if best else None),
        "against_baseline": against.word if against and chosen else None,
        "memory_verdict": str(memory_verdict(entry.memory_ratio, 1.0)) if entry.memory_ratio else None,
        "time_verdict": outcome.time_verdict(entry) or None,
        "same_as": "; ".join(one.label for one in outcome.twins(entry.label)),
    }


def setting_columns(setting: Setting) -> dict[str, Any]:
    """Return the columns that name a setting."""
    return {
        "problem": setting.task.problem,
        "dataset": setting.task.dataset,
        "size": setting.size,
        "problem_variant": setting.problem_variant,
        "experiment": setting.experiment,
        "kind": setting.kind,
    }


def estimate_columns(name: str, found: Estimate | None) -> dict[str, Any]:
    """Return an estimate as four columns: the value, the ends of its interval, and n."""
    return {
        name: found.value if found else None,
        f"{name}_low": found.low if found else None,
        f"{name}_high": found.high if found else None,
        f"{name}_n": found.n if found else None,
    }
