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
from metabench.report.palette import LabelStyle, natural_key
from metabench.report.results.certified import NEVER, worst
from metabench.report.results.settings import Group, Place, Row, Setting, Task
from metabench.report.results.side_by_side import Rounds
from metabench.results.certificate import Certificate
from metabench.results.curves import Curves, read_curves
from metabench.results.metadata import Metadata
from metabench.results.pictures import Pictures, read_pictures
from metabench.results.statistics import Estimate

DEFAULT_BASELINE = "unrolled"

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


@dataclass(eq=False)
class Entry:
    """One method in one setting, its seeds combined. Bytes and seconds are those of one hypergradient.

    Seeds are combined as each column declares (`metabench.results.schema`). own_error: largest of a seed, against the method's own
    target. yardstick_error: disagreement of the exact hypergradient with plain training. samples: of each seed, windows times draws that
    the hypergradient's figures are means of. validation_by_seed: the mean outer loss late in training, by which options are chosen.
    fingerprints: of each seed, the digest of its hypergradient and its peak bytes. batch: 0 where no seed came to draw one.
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
    validation_by_seed: dict[int, float] = field(default_factory=dict)
    fingerprints: dict[int, tuple[str, int]] = field(default_factory=dict)
    quality: Estimate | None = None
    answer_quality: float | None = None
    peak_bytes: int | None = None
    dynamic_bytes: int | None = None
    static_bytes: int | None = None
    memory_source: str = ""
    floor_bytes: int | None = None
    predicted_bytes: int | None = None
    flops: int | None = None
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
    problem_options: dict[str, Any] = field(default_factory=dict)
    method_options: dict[str, Any] = field(default_factory=dict)
    memory_ratio: float | None = None
    time_ratio: float | None = None
    verdict: str = NEVER
    inexact: str = ""

    @property
    def group(self) -> Group:
        """What two entries must share to be compared."""
        return (self.setting, self.inner_steps, self.outer_steps)

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


@dataclass(eq=False)
class Suite:
    """Everything that the report shows: the rows, entries, the order and style of labels, and the suite's metadata.

    method_styles: the style of each method, in the suite's order: that of its label without options, whether or not such a label is there.
    curves_file, pictures_file: curves.parquet and pictures.parquet; None where there is none.
    partners: rows of the baseline's second runs, which `rows` leaves out.
    rounds: the times of cells that took turns.
    """

    rows: list[Row]
    metadata: Metadata
    entries: list[Entry]
    baseline: str
    styles: dict[str, LabelStyle]
    method_styles: dict[str, LabelStyle]
    certificates: dict[str, Certificate]
    curves_file: Path | None = None
    pictures_file: Path | None = None
    partners: list[Row] = field(default_factory=list)
    rounds: Rounds | None = None

    @cached_property
    def curves(self) -> Curves:
        """The curves of each cell and seed by name, read when they are first asked for; none where there is no file of them."""
        return read_curves(self.curves_file) if self.curves_file else {}

    @cached_property
    def pictures(self) -> Pictures:
        """The pictures of each cell and seed by name, read when they are first asked for; none where there is no file of them."""
        return read_pictures(self.pictures_file) if self.pictures_file else {}

    @property
    def all_styles(self) -> dict[str, LabelStyle]:
        """The style of every label, and of every method: that of its label without options."""
        return {**self.method_styles, **self.styles}

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
                not setting.trains,
                natural_key(setting.problem_variant),
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
        short = {setting: (setting.task, setting.size, setting.problem_variant) for setting in self.settings}
        shared = Counter((setting.place, *key) for setting, key in short.items())
        titles = {}
        for setting in self.settings:
            parts = [setting.size]
            if setting.problem_variant:
                parts.append(setting.problem_variant)
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

    @cached_property
    def illustrations(self) -> frozenset[Task]:
        """The problems that only illustrate, which no aggregate or headline names; none of a suite that has no others."""
        found = frozenset(task for task in self.tasks if self.card("problems", task.problem).get("illustration"))
        return found if len(found) < len(self.tasks) else frozenset()

    def card(self, kind: str, name: str) -> dict[str, Any]:
        """Return what the metadata knows of a method, problem or data set; empty where it knows nothing."""
        cards: dict[str, dict[str, Any]] = getattr(self.metadata, kind)
        return cards.get(name, {})


def parse_config(text: str) -> dict[str, Any]:
    """Return the suite's YAML as a dictionary. Raises MetabenchError where it is none."""
    try:
        config = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise MetabenchError(f"the suite's configuration in the results is not YAML: {error}") from error
    return config if isinstance(config, dict) else {}
