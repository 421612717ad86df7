"""The report's data: results.parquet with the seeds of each cell combined.

An `Entry` is one method in one setting with one number of inner steps; a `Setting` is what makes entries comparable. Tables, figures
and the page are made from a `Suite` alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from metabench.core.errors import MetabenchError
from metabench.report.certified import NEVER, read_certificates, verdict, worst
from metabench.report.columns import finite, greatest, largest, mean, median, present
from metabench.report.exactness import exceeds, excess
from metabench.report.style import LabelStyle, assign_styles, method_order, natural_key
from metabench.results.certificate import Certificate
from metabench.results.metadata import Metadata, decode_metadata
from metabench.results.schema import STATUSES
from metabench.results.statistics import Estimate, intervals, paired_differences
from metabench.results.store import read_rows

DEFAULT_BASELINE = "unrolled"
Row = dict[str, Any]

GRADIENT_COLUMNS = (
    "hypergradient_cosine",
    "hypergradient_norm_ratio",
    "hypergradient_error",
    "target_cosine",
    "target_norm_ratio",
    "target_error",
    # Of methods that draw only.
    "hypergradient_cosine_sd",
    "hypergradient_mean_cosine",
    "target_cosine_sd",
    "target_mean_cosine",
)


@dataclass(frozen=True, order=True)
class Task:
    """A problem on a data set: a section of the page."""

    problem: str
    dataset: str

    @property
    def slug(self) -> str:
        """Name for files."""
        return slug(self.problem, self.dataset)


@dataclass(frozen=True, order=True)
class Place:
    """Where and how a row was measured. Bytes and the last digits of qualities depend on the kernels, times on the hardware.

    kernels, instruction_set: of the CPU; empty on a GPU, and in rows of versions that did not record them.
    """

    device: str
    dtype: str
    kernels: str
    instruction_set: str
    hardware: str

    @classmethod
    def of(cls, row: Row) -> Place:
        """Return the place of a row."""
        used = row["instruction_set"] or ""
        return cls(row["device"], row["dtype"], (row["kernels"] or "") if used else "", used, row["hardware"])

    @property
    def kernel_words(self) -> str:
        """The CPU kernels, as 'portable kernels (AVX2)'; empty where they are not known."""
        return f"{self.kernels} kernels ({self.instruction_set})" if self.instruction_set else ""

    @property
    def caption_of_kernels(self) -> str:
        """The same for a caption, with a note that native kernels determine the bytes."""
        own = f", whose bytes are those of {self.instruction_set}" * (self.kernels == "native")
        return f"{self.kernel_words}{own}" if self.kernel_words else ""

    @property
    def caption(self) -> str:
        """Hardware and kernels for a caption."""
        return ", ".join(filter(None, (self.hardware, self.caption_of_kernels)))


@dataclass(frozen=True, order=True)
class Setting:
    """What two entries must share to be compared: task, size, the problem's options, experiment, kind and where they ran."""

    task: Task
    size: str
    problem_options: str
    experiment: str
    kind: str
    place: Place


@dataclass
class Entry:
    """One method in one setting, its seeds combined. Bytes and seconds are those of one hypergradient.

    Memory is the largest over seeds, time the median of the seeds' medians (quartiles likewise), the hypergradient's figures their mean.
    own_error: largest of a seed, against the method's own target. yardstick_error: largest disagreement of the exact hypergradient with
    plain training. samples: of each seed, windows times draws that the hypergradient's figures are means of. batch: 0 where no seed came
    to draw one.
    verdict: that of the method's certificate for the source of these rows. inexact: why its label, in any setting, is not
    exact as declared; empty if it is, or does not claim to be.
    """

    setting: Setting
    label: str
    method: str
    target: str
    exact: bool
    inner_steps: int
    outer_steps: int
    batch: int
    cells: tuple[str, ...]
    seeds: int
    statuses: dict[str, int]
    messages: dict[str, str]
    metric: str = ""
    higher_is_better: bool = True
    quality_by_seed: dict[int, float] = field(default_factory=dict)
    quality: Estimate | None = None
    difference: Estimate | None = None
    peak_bytes: int | None = None
    dynamic_bytes: int | None = None
    static_bytes: int | None = None
    memory_source: str = ""
    time_median: float | None = None
    time_q1: float | None = None
    time_q3: float | None = None
    first_call: float | None = None
    train: float | None = None
    gradient: dict[str, float | None] = field(default_factory=dict)
    own_error: float | None = None
    yardstick_error: float | None = None
    samples: int | None = None
    n_params: int | None = None
    n_meta: int | None = None
    memory_ratio: float | None = None
    time_ratio: float | None = None
    verdict: str = NEVER
    inexact: str = ""

    @property
    def hardware(self) -> str:
        """Name of the processor or GPU."""
        return self.setting.place.hardware

    @property
    def ok(self) -> int:
        """Number of seeds that finished."""
        return self.statuses.get("ok", 0)

    @property
    def failed(self) -> bool:
        """Whether no seed finished."""
        return self.ok == 0

    @property
    def failures(self) -> dict[str, int]:
        """Seeds by status, those that finished left out."""
        return {status: number for status, number in self.statuses.items() if status != "ok"}

    @property
    def draws(self) -> bool:
        """Whether the method draws at random, so that one cosine of it is noise."""
        return self.gradient.get("hypergradient_cosine_sd") is not None

    @property
    def direction_cosine(self) -> float | None:
        """Cosine with the exact unrolled hypergradient; of the mean draw where the method draws."""
        return self.gradient.get("hypergradient_mean_cosine" if self.draws else "hypergradient_cosine")

    @property
    def worst_status(self) -> str:
        """The most frequent status that is not ok, or ok."""
        failures = self.failures
        return max(failures, key=lambda status: failures[status]) if failures else "ok"


@dataclass
class Suite:
    """Everything that the report shows: the rows, entries, the order and style of labels, and the suite's metadata.

    method_styles: the style of each method, in the suite's order: that of its label without options, whether or not such a label is there.
    """

    rows: list[Row]
    metadata: Metadata
    entries: list[Entry]
    baseline: str
    styles: dict[str, LabelStyle]
    method_styles: dict[str, LabelStyle]
    certificates: dict[str, Certificate]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The suite's configuration; empty where the file says none."""
        return parse_config(self.metadata.suite)

    @cached_property
    def name(self) -> str:
        """The suite's name, from its rows or its configuration."""
        names = sorted({row["suite"] for row in self.rows})
        return ", ".join(names) or str(self.config.get("name", self.config.get("suite", ""))) or "suite"

    @property
    def title(self) -> str:
        """The suite's title, or its name where it has none."""
        return str(self.config.get("title") or self.name)

    @property
    def description(self) -> str:
        """The suite's own description; may be empty."""
        return str(self.config.get("description") or "")

    @cached_property
    def tasks(self) -> list[Task]:
        """Problem and data set pairs, in the order of the rows."""
        return list(dict.fromkeys(entry.setting.task for entry in self.entries))

    @cached_property
    def settings(self) -> dict[Setting, list[Entry]]:
        """Entries of each setting, ordered by task, by number of parameters, then by label and inner steps."""
        place = {label: index for index, label in enumerate(self.styles)}
        tasks = {task: index for index, task in enumerate(self.tasks)}
        weight: dict[tuple[str, str], float] = {}
        for entry in self.entries:
            key = (entry.setting.task.problem, entry.setting.size)
            weight[key] = max(weight.get(key, 0.0), float(entry.n_params or 0))
        grouped: dict[Setting, list[Entry]] = {}
        for entry in self.entries:
            grouped.setdefault(entry.setting, []).append(entry)

        def order(setting: Setting) -> tuple[Any, ...]:
            return (
                tasks[setting.task],
                setting.kind != "quality",
                natural_key(setting.problem_options),
                weight[(setting.task.problem, setting.size)],
                natural_key(setting.size),
                setting.experiment,
                setting.place,
            )

        return {
            setting: sorted(
                grouped[setting],
                key=lambda entry: (place[entry.label], entry.inner_steps, entry.outer_steps),
            )
            for setting in sorted(grouped, key=order)
        }

    @cached_property
    def verdicts(self) -> dict[str, str]:
        """The certificates' verdict on each label: the worst of its entries."""
        return {label: worst(entry.verdict for entry in self.entries if entry.label == label) for label in self.styles}

    @cached_property
    def inexact(self) -> dict[str, str]:
        """Why each label is not exact as declared; empty where it is."""
        return {entry.label: entry.inexact for entry in self.entries}

    @cached_property
    def inexact_methods(self) -> dict[str, str]:
        """The same of each method: that of the first of its labels that is not."""
        return {entry.method: entry.inexact for entry in reversed(self.entries) if entry.inexact}

    @cached_property
    def method_hashes(self) -> dict[str, list[str]]:
        """The hashes of source with which the rows of each method were measured; empty for one without rows."""
        found: dict[str, set[str]] = {method: set() for method in self.method_styles}
        for row in self.rows:
            found[row["method"]].add(row["method_hash"])
        return {method: sorted(hashes) for method, hashes in found.items()}

    @cached_property
    def hardware(self) -> list[str]:
        """Names of processors and GPUs on which rows were measured."""
        return sorted({row["hardware"] for row in self.rows})

    @cached_property
    def titles(self) -> dict[Setting, str]:
        """A short title for each setting within its task: size and options, and as much else as is needed to tell it apart."""
        short = {setting: (setting.task, setting.size, setting.problem_options) for setting in self.settings}
        shared = Counter((setting.place, *key) for setting, key in short.items())
        titles = {}
        for setting in self.settings:
            parts = [setting.size]
            if setting.problem_options:
                parts.append(setting.problem_options)
            if shared[(setting.place, *short[setting])] > 1:
                parts.append(setting.experiment)
            parts += self.apart(setting.place)
            titles[setting] = " · ".join(parts)
        return titles

    @cached_property
    def places(self) -> list[Place]:
        """Where and how rows were measured, in their order."""
        return list(dict.fromkeys(entry.setting.place for entry in self.entries))

    def apart(self, place: Place) -> list[str]:
        """Return what distinguishes a place from the suite's others: device, dtype, and on its device kernels and hardware."""
        words = [name for name in ("device", "dtype") if len({getattr(one, name) for one in self.places}) > 1]
        found = [str(getattr(place, name)) for name in words]
        beside = [one for one in self.places if one.device == place.device]
        if len({one.kernel_words for one in beside}) > 1:
            found.append(place.kernel_words or "kernels not recorded")
        if len({one.hardware for one in beside}) > 1:
            found.append(place.hardware)
        return found

    def card(self, kind: str, name: str) -> dict[str, Any]:
        """Return what the metadata knows of a method, problem or data set; empty where it knows nothing."""
        cards: dict[str, dict[str, Any]] = getattr(self.metadata, kind)
        return cards.get(name, {})


def slug(*parts: str) -> str:
    """Join names into a file's name: lower-case letters, digits, '.', '_' and '-' only."""
    cleaned = (
        "".join(letter if (letter.isalnum() and letter.isascii()) or letter in "._" else "-" for letter in part)
        for part in parts
    )
    return "-".join(text.strip("-") for text in cleaned if text.strip("-")).lower()


def parse_config(text: str) -> dict[str, Any]:
    """Return the suite's YAML as a dictionary. Raises MetabenchError where it is none."""
    try:
        config = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise MetabenchError(f"the suite's configuration in the results is not YAML: {error}") from error
    return config if isinstance(config, dict) else {}


def load_suite(results: Path) -> Suite:
    """Read results.parquet and combine the seeds of each cell. Raises as `read_rows`."""
    table = read_rows(results)
    metadata = decode_metadata(table.schema.metadata)
    rows: list[Row] = table.to_pylist()
    baseline = str(parse_config(metadata.suite).get("baseline") or DEFAULT_BASELINE)
    methods = method_order(metadata.methods, {row["method"] for row in rows})
    styles = assign_styles(methods, {row["label"]: row["method"] for row in rows})
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        setting = Setting(
            Task(row["problem"], row["dataset"]),
            row["size"],
            row["problem_options"],
            row["experiment"],
            row["kind"],
            Place.of(row),
        )
        # Not by batch: a seed that failed before its first batch has none, and belongs to the same cell.
        grouped.setdefault((setting, row["label"], row["inner_steps"], row["outer_steps"]), []).append(row)
    certificates = read_certificates(metadata.certificates)
    entries = [_entry(key[0], group) for key, group in grouped.items()]
    for entry, group in zip(entries, grouped.values(), strict=True):
        entry.verdict = verdict(certificates.get(entry.method), (row["method_hash"] for row in group))
    _add_exactness(entries)
    _add_quality(entries)
    _add_comparisons(entries, baseline)
    own = assign_styles(methods, {method: method for method in methods})
    return Suite(rows, metadata, entries, baseline, styles, own, certificates)


def _entry(setting: Setting, rows: list[Row]) -> Entry:
    first = rows[0]
    statuses = Counter(row["status"] for row in rows)
    messages: dict[str, str] = {}
    for row in rows:
        # An ok row may have one as well: what is missing from it.
        if row["message"]:
            messages.setdefault(row["status"], row["message"])
    directions = present(rows, "direction")
    return Entry(
        setting=setting,
        label=first["label"],
        method=first["method"],
        target=first["target"],
        exact=first["exact"],
        inner_steps=first["inner_steps"],
        outer_steps=first["outer_steps"],
        batch=max(row["batch"] for row in rows),
        cells=tuple(dict.fromkeys(row["cell"] for row in rows)),
        seeds=len(rows),
        statuses={status: statuses[status] for status in STATUSES if statuses[status]},
        messages=messages,
        metric=next(iter(present(rows, "metric")), ""),
        higher_is_better=next(iter(directions), "max") != "min",
        quality_by_seed={
            row["seed"]: row["quality"] for row in rows if row["status"] == "ok" and finite(row["quality"])
        },
        peak_bytes=largest(rows, "peak_bytes"),
        dynamic_bytes=largest(rows, "dynamic_bytes"),
        static_bytes=largest(rows, "static_bytes"),
        memory_source=next(iter(present(rows, "memory_source")), ""),
        time_median=median(rows, "time_median_s"),
        time_q1=median(rows, "time_q1_s"),
        time_q3=median(rows, "time_q3_s"),
        first_call=median(rows, "first_call_s"),
        train=median(rows, "train_s"),
        gradient={name: mean(rows, name) for name in GRADIENT_COLUMNS},
        own_error=greatest(rows, "target_error"),
        yardstick_error=greatest(rows, "yardstick_error"),
        samples=largest(rows, "hypergradient_samples"),
        n_params=largest(rows, "n_params"),
        n_meta=largest(rows, "n_meta"),
    )


def _add_exactness(entries: list[Entry]) -> None:
    """Mark every entry of a label if one of them exceeds rounding: a method that is inexact anywhere is trusted nowhere."""
    worst: dict[str, Entry] = {}
    for entry in entries:
        if exceeds(entry.exact, entry.target, entry.own_error):
            known = worst.setdefault(entry.label, entry)
            worst[entry.label] = max(known, entry, key=lambda one: one.own_error or 0.0)
    for entry in entries:
        if found := worst.get(entry.label):
            task = found.setting.task
            where = f"{task.problem} on {task.dataset}, {found.setting.size}, K = {found.inner_steps}"
            entry.inexact = excess(found.own_error or 0.0, where)


def _add_quality(entries: list[Entry]) -> None:
    """Fill in the interval of quality over seeds, of all entries together."""
    measured = [entry for entry in entries if entry.quality_by_seed]
    for entry, found in zip(
        measured, intervals([list(entry.quality_by_seed.values()) for entry in measured]), strict=True
    ):
        entry.quality = found


def _add_comparisons(entries: list[Entry], baseline: str) -> None:
    """Fill in ratios and the paired difference to the baseline of the same setting, inner steps and outer steps."""
    references = {comparable(entry): entry for entry in entries if entry.label == baseline}
    compared = [(entry, references[comparable(entry)]) for entry in entries if comparable(entry) in references]
    for entry, reference in compared:
        entry.memory_ratio = _quotient(entry.peak_bytes, reference.peak_bytes)
        entry.time_ratio = _quotient(entry.time_median, reference.time_median)
    others = [(entry, reference) for entry, reference in compared if entry is not reference]
    found = paired_differences([(entry.quality_by_seed, reference.quality_by_seed) for entry, reference in others])
    for (entry, _), difference in zip(others, found, strict=True):
        entry.difference = difference


def comparable(entry: Entry) -> tuple[Any, ...]:
    """Return what two entries must share for a ratio or a paired difference between them to mean something."""
    return (entry.setting, entry.inner_steps, entry.outer_steps)


def _quotient(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None
