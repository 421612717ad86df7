"""`metabench.compare`: every method on one problem, by error, memory and time."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.method import Method
from metabench.core.problem import Problem
from metabench.library.call import named, options_of
from metabench.library.losses import Losses
from metabench.library.prepared import Prepared, prepared
from metabench.measure.clock import deadline
from metabench.measure.outcome import outcome
from metabench.methods import methods as all_methods
from metabench.report.results.certified import verdict
from metabench.results.certificate import Certificate, read_all_certificates
from metabench.stages.cost import cost
from metabench.stages.error import error
from metabench.stages.subject import PRECISE, Subject
from metabench.stages.well_posed import well_posed
from metabench.suite.plan.code_hash import source_hash
from metabench.suite.plan.labels import label

Entry = str | Method | tuple[str | Method, Mapping[str, Any]]

CERTIFICATES = Path("results/certificates.parquet")
"""Where `metabench certify` writes unless another file is named."""

ROUNDING = 1e-6
"""Relative error below which hypergradients count as equal: among those, memory and time decide the order."""


def compare(
    problem: Problem | Callable[..., torch.Tensor],
    *arguments: Any,
    methods: Iterable[Entry] | None = None,
    budget: float = 60.0,
    draws: int = 8,
    seed: int = 0,
    certificates: Sequence[Path | str] | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Measure one hypergradient by each method at the beginning of an inner run, and return one row per method, the best first.

        metabench.compare(inner_loss, outer_loss, params, meta, inner_batches, outer_batch, optimiser=metabench.SGD(0.1))

    Methods whose relative error is below 1e-6 come first, the smallest peak first; then the others by error; then those without one.

    Args:
        problem: a problem of the suite; or the inner loss, followed by the other arguments of `metabench.hypergradient` after the method.
        methods: names, or pairs (name, options); all methods with their defaults unless given.
        budget: seconds for all methods together. One that takes more than a third of those left, and than an even share of them, has the
            status 'timeout'; in another thread than the main one it is not stopped.
        draws: hypergradients averaged over in the errors of a method that draws.
        seed: of what methods draw.
        certificates: files of `metabench certify`; by default `results/certificates.parquet`, if there is one.

    Returns:
        Columns: `method`; `label`, with its options; `target`, what it estimates; `certificate`, the verdict on its present source;
        `status` ('ok', 'unsupported', 'diverged', 'timeout', 'oom', 'error') and `message`, why; `cosine` and `relative_error` against the
        exact unrolled hypergradient, and `target_error` against the method's own target; `error_dtype`, in which these are computed;
        `peak_bytes`, the allocator's, arguments included; `time_s`, the median, and `first_call_s`.

    Raises:
        MetabenchError: an argument is not valid, a problem is not well posed, or a method or option does not exist.
    """
    entries = [_entry(entry) for entry in (all_methods() if methods is None else methods)]
    certified = _certificates(certificates)
    make, dtype, error_dtype, device = _maker(problem, arguments, settings)
    end = time.monotonic() + budget
    rows = []
    for place, (chosen, options) in enumerate(entries):
        left = max(end - time.monotonic(), 1e-3)
        share = max(left / (len(entries) - place), left / 3)
        subject = Subject(
            make=make,
            dtype=dtype,
            method=chosen,
            options=options,
            seed=seed,
            device=device,
            measure=_measures(share, draws),
            limit_bytes=None,
            check_seconds=share / 4,
            outer_steps=1,
            first=True,
            progress=lambda *_: None,
        )
        if place == 0 and isinstance(problem, Problem):
            _examine(subject)
        rows.append({**_described(chosen, options, certified), "error_dtype": error_dtype, **_measured(subject, share)})
    return _sorted(pd.DataFrame(rows, columns=COLUMNS))


COLUMNS = [
    "method",
    "label",
    "target",
    "certificate",
    "status",
    "message",
    "cosine",
    "relative_error",
    "target_error",
    "error_dtype",
    "peak_bytes",
    "time_s",
    "first_call_s",
]
_FIGURES = {
    "hypergradient_cosine": "cosine",
    "hypergradient_error": "relative_error",
    "target_error": "target_error",
    "peak_bytes": "peak_bytes",
    "time_median_s": "time_s",
    "first_call_s": "first_call_s",
    "message": "message",
}


def _measures(share: float, draws: int) -> dict[str, Any]:
    return {
        "checkpoint": 0,
        "time_repeats": 20,
        "time_budget": share / 20,
        "error_windows": 1,
        "error_draws": draws,
        "error_max_params": math.inf,
    }


def _entry(entry: Entry) -> tuple[Method, Any]:
    method, options = entry if isinstance(entry, tuple) else (entry, {})
    chosen = named(method)
    return chosen, options_of(chosen, options)


def _described(method: Method, options: Any, certified: Mapping[str, Certificate]) -> dict[str, Any]:
    return {
        "method": method.name,
        "label": label(method.name, options),
        "target": method.target.value,
        "certificate": verdict(certified.get(method.name), [source_hash(method)]),
    }


def _examine(subject: Subject) -> None:
    """Raise MetabenchError, in one sentence, if the problem is not well posed, or fails in code of its own."""
    try:
        for _ in well_posed(subject):
            pass
    except MetabenchError:
        raise
    except Exception as raised:
        raise MetabenchError(outcome(raised)[1]) from raised


def _measured(subject: Subject, share: float) -> dict[str, Any]:
    row: dict[str, Any] = {"status": "ok", "message": ""}
    main = threading.current_thread() is threading.main_thread()
    try:
        with deadline(share) if main else contextlib.nullcontext():
            for stage in (cost, error):
                for part in stage(subject):
                    row |= {_FIGURES[name]: value for name, value in part.items() if name in _FIGURES}
    except Exception as raised:
        row["status"], row["message"] = outcome(raised)
    return row


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    order = rows.assign(
        failed=rows["status"] != "ok",
        error=rows["relative_error"]
        .astype(float)
        .where(lambda error: error > ROUNDING, 0.0)
        .where(rows["relative_error"].notna()),
    ).sort_values(["failed", "error", "peak_bytes", "time_s"], na_position="last", kind="stable")
    return rows.loc[order.index].reset_index(drop=True)


def _certificates(paths: Sequence[Path | str] | None) -> dict[str, Certificate]:
    if paths is None:
        return read_all_certificates([CERTIFICATES] if CERTIFICATES.is_file() else [])
    return read_all_certificates([Path(path) for path in paths])


Maker = Callable[[str], Problem]


def _maker(problem: Any, arguments: tuple[Any, ...], settings: Mapping[str, Any]) -> tuple[Maker, str, str, str]:
    """Return the problem as a function of its dtype, the dtype given, that of errors, and the device."""
    if isinstance(problem, Problem) and not isinstance(problem, Losses):
        if arguments or settings:
            unread = [*map(str, arguments), *settings]
            raise MetabenchError(f"a problem of the suite has its own losses and data, and nothing reads {unread}")
        setting, kind = problem.setting, type(problem)

        def make(dtype: str) -> Problem:
            return kind(dataclasses.replace(setting, dtype=getattr(torch, dtype)))

        return make, _name(setting.dtype), PRECISE, str(setting.device)
    if settings.get("state") is not None:
        raise MetabenchError(
            "a comparison begins an inner run: pass the state's parameters as `params`, and no `state`"
        )
    given = prepared(problem, *arguments, **settings, keep=False)
    found = {"as given": _placed(given)}
    like = next(iter(given.state.params.values()))
    dtype = _name(like.dtype)
    if dtype != PRECISE:
        try:
            values, more = _in_float64((arguments, settings))
            found[PRECISE] = _placed(prepared(problem, *values, **more, keep=False))
        except Exception:  # the losses use tensors of their own, in another dtype
            pass
    precise = PRECISE if dtype == PRECISE or PRECISE in found else dtype
    return lambda wanted: found.get(wanted, found["as given"]), dtype, precise, str(like.device)


def _placed(given: Prepared) -> Losses:
    return given.problem.at(given.meta, dataclasses.replace(given.window, begins=given.state.params))


def _in_float64(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """Return the value with its floating-point tensors in float64; what is one object stays one."""
    seen = {} if seen is None else seen
    if id(value) not in seen:
        seen[id(value)] = _cast(value, seen)
    return seen[id(value)]


def _cast(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value).double()
    if isinstance(value, torch.Tensor):
        return value.detach().double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {name: _in_float64(leaf, seen) for name, leaf in value.items()}
    if isinstance(value, tuple | list):
        leaves = [_in_float64(leaf, seen) for leaf in value]
        return type(value)(*leaves) if hasattr(value, "_fields") else type(value)(leaves)
    return value


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
