"""The effect of each switch of a method: memory, time and operations of all combinations."""

from __future__ import annotations

from collections.abc import Callable

from metabench.report import numbers
from metabench.report.figure import Axis, Bar, Figure, Panel
from metabench.report.results.entries import Entry
from metabench.report.sections.memory_study.figure_parts import memory_figure
from metabench.report.sections.memory_study.study import Study
from metabench.report.sections.memory_study.sweeps import Ablation, ablations, configuration_words, switch_name


def ablation_figure(study: Study) -> Figure | None:
    """Memory, time and operations of all combinations of the switches, relative to all of them off."""
    panels = []
    measures: tuple[tuple[str, Callable[[Entry], float | None]], ...] = (
        ("dynamic memory", lambda run: run.dynamic_bytes),
        ("time", lambda run: run.time_median),
        ("operations", lambda run: run.flops),
    )
    letters = ""
    found = ablations(study)
    for ablation in found:
        base, base_name = ablation.runs[frozenset()], "with all off"
        if base.dynamic_bytes is None and study.reference in study.runs[ablation.configuration]:
            base, base_name = study.runs[ablation.configuration][study.reference], f"of {study.reference}"
        letters = ", ".join(f"{_letter(switch)}: {switch_name(switch)}" for switch in ablation.switches)
        title = f" · {configuration_words(study, ablation.configuration)}" if len(found) > 1 else ""
        for word, value_of in measures:
            below = value_of(base)
            bars = _ablation_bars(ablation, below, value_of) if below else []
            if any(bar.value for bar in bars):
                panels.append(
                    Panel(
                        f"{word.capitalize()}{title}",
                        Axis("switches that are on", "plain"),
                        Axis(f"{word} over that {base_name}", "ratio", log=False),
                        bars=bars,
                    )
                )
    if not panels:
        return None
    return memory_figure(
        study,
        "study_ablation",
        f"What each switch of {found[0].method} does",
        f"All combinations, {letters}. Lower is better; every combination computes the same hypergradient",
        panels,
    )


def _ablation_bars(ablation: Ablation, below: float, value_of: Callable[[Entry], float | None]) -> list[Bar]:
    bars = []
    for on, run in ablation.runs.items():
        group = "+".join(_letter(switch) for switch in ablation.switches if switch in on) or "none"
        value = value_of(run)
        if value:
            bars.append(Bar(ablation.method, group, value / below, run.label, numbers.fixed(value / below, 2)))
        elif run.failed:
            bars.append(Bar(ablation.method, group, 0.0, run.label, status=run.worst_status))
    return bars


def _letter(switch: str) -> str:
    return switch[0].upper()
