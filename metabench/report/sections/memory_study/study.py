"""The cost of exact hypergradients of the unrolled window, relative to plain unrolling: configurations, and the ratios within each.

A configuration is everything that the cost experiments fix: problem, data set, size, options, inner steps, dtype, kernels and hardware.
Experiments that sweep one thing at a time share their centre, so configurations are merged across experiments.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from metabench.report.results.entries import Entry, Suite
from metabench.report.results.settings import Place, Task

FOURFOLD = 4.0
"""The gain of which Kemaev et al. 2025 say in how many of their configurations it is reached."""
ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Configuration:
    """What is measured. options: the problem's options by name, as texts."""

    task: Task
    size: str
    options: tuple[tuple[str, str], ...]
    inner_steps: int
    place: Place

    @property
    def values(self) -> dict[str, str]:
        """All that may be swept, by name."""
        return {"inner_steps": str(self.inner_steps), "size": self.size, **dict(self.options)}


@dataclass(frozen=True)
class Comparison:
    """A method and the reference of its configuration. Gains are the reference's bytes over the method's: above 1 the method needs less.

    slowdown: its time over that of the reference; arithmetic: its operations over those of the reference; over_floor: its dynamic bytes
    over the floor; against_recomputation: dynamic bytes of recomputation, step by step, over its own. Each is None where a part is missing.
    """

    configuration: Configuration
    run: Entry
    reference: Entry
    recomputation: Entry | None

    @property
    def dynamic_gain(self) -> float | None:
        return _quotient(self.reference.dynamic_bytes, self.run.dynamic_bytes)

    @property
    def total_gain(self) -> float | None:
        return _quotient(self.reference.peak_bytes, self.run.peak_bytes)

    @property
    def predicted_gain(self) -> float | None:
        return _quotient(self.reference.predicted_bytes, self.run.predicted_bytes)

    @property
    def slowdown(self) -> float | None:
        return _quotient(self.run.time_median, self.reference.time_median)

    @property
    def arithmetic(self) -> float | None:
        return _quotient(self.run.flops, self.reference.flops)

    @property
    def over_floor(self) -> float | None:
        return _quotient(self.run.dynamic_bytes, self.run.floor_bytes)

    @property
    def against_recomputation(self) -> float | None:
        return _quotient(self.recomputation.dynamic_bytes, self.run.dynamic_bytes) if self.recomputation else None

    @property
    def why_not_worth_it(self) -> str:
        """Return why the method does not pay here, judged by the whole peak; empty where it does, and where that is not known."""
        gain, slowdown = self.total_gain, self.slowdown
        if gain is None:
            return ""
        if gain <= 1.0:
            return "more memory"
        if slowdown is not None and gain < slowdown:
            return "less gain than cost"
        # Recomputation that needs no more memory and no more time.
        other = self.recomputation
        if other is None or other.label == self.run.label:
            return ""
        memory = _quotient(self.run.peak_bytes, other.peak_bytes)
        time = _quotient(self.run.time_median, other.time_median)
        dominated = memory is not None and time is not None and memory >= 1.0 and time >= 1.0
        return "recomputation does as well" if dominated else ""


@dataclass
class Study:
    """All configurations with the reference or a method of the study. reference: the label to which all is compared.

    subject: the method of which the study tells. runs: configuration to label to run.
    """

    reference: str
    subject: str
    runs: dict[Configuration, dict[str, Entry]]
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """Labels that are compared with the reference, the ablation's left out: methods as they come, and options measured widely."""
        counted = Counter(one.run.label for one in self.comparisons if one.dynamic_gain is not None)
        methods = {one.run.method for one in self.comparisons}
        every = dict.fromkeys(one.run.label for one in self.comparisons)
        return [label for label in every if label in methods or counted[label] >= _WIDELY]

    @property
    def methods(self) -> list[str]:
        """Those of the labels that are methods as they come."""
        return [label for label in self.labels if any(one.run.method == label for one in self.of(label))]

    @property
    def others(self) -> list[str]:
        """Methods as they come, without the subject."""
        return [label for label in self.methods if label != self.subject]

    def of(self, label: str) -> list[Comparison]:
        """Return the comparisons of one label, in the order of the configurations."""
        return [comparison for comparison in self.comparisons if comparison.run.label == label]

    def floor(self, configuration: Configuration) -> int | None:
        """Return the floor of a configuration, that of the subject's own run where it has one."""
        runs = self.runs[configuration]
        floors = [runs[self.subject].floor_bytes] if self.subject in runs else []
        return next((floor for floor in [*floors, *(run.floor_bytes for run in runs.values())] if floor), None)

    @property
    def entries(self) -> list[Entry]:
        """Every entry of the study."""
        return [entry for runs in self.runs.values() for entry in runs.values()]


_WIDELY = 3


def memory_study(suite: Suite) -> Study | None:
    """Return the study that the suite declares; None if it declares none, or no experiment measured its subject along with the baseline.

    The study is of methods that are exact for the hypergradient of the unrolled window, the baseline among them.
    """
    declared = (suite.config.get("studies") or {}).get("memory") or {}
    subject = declared.get("subject")
    if not subject:
        return None
    exact = [
        entry for entry in suite.entries if not entry.setting.trains and entry.exact and entry.target == "unrolled"
    ]
    runs: dict[Configuration, dict[str, Entry]] = {}
    for entry in sorted(exact, key=lambda entry: entry.failed):  # of one measured twice, the run that finished
        runs.setdefault(_configuration(entry), {}).setdefault(entry.label, entry)
    places = {label: place for place, label in enumerate(suite.styles)}
    ordered = {
        configuration: dict(sorted(runs[configuration].items(), key=lambda pair: places[pair[0]]))
        for configuration in dict.fromkeys(_configuration(entry) for entry in exact)
    }
    comparisons = [
        Comparison(configuration, run, found[suite.baseline], found.get("unrolled_remat"))
        for configuration, found in ordered.items()
        if suite.baseline in found
        for label, run in found.items()
        if label != suite.baseline
    ]
    compared = {comparison.run.label for comparison in comparisons if comparison.total_gain is not None}
    return Study(suite.baseline, subject, ordered, comparisons) if subject in compared else None


def _configuration(entry: Entry) -> Configuration:
    setting = entry.setting
    options = {
        name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in entry.problem_options.items()
    }
    return Configuration(setting.task, setting.size, tuple(sorted(options.items())), entry.inner_steps, setting.place)


def _quotient(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def too_large(entry: Entry) -> bool:
    """Whether a method was not run because its predicted peak does not fit."""
    return bool(entry.predicted_bytes) and entry.peak_bytes is None and "unsupported" in entry.statuses
