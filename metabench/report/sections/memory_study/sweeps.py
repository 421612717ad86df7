"""The sweeps of a study: configurations that differ in one thing, how memory grows along it, and the method's switches on and off."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass

from metabench.report.figure import Axis
from metabench.report.figures.parts import FIT_AT_LEAST, family
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.settings import Task
from metabench.report.sections.memory_study.study import ITEM_BYTES, Configuration, Study, too_large
from metabench.results.statistics import Fit, line

AT_LEAST = 3  # values along an axis
_AXES = {
    "inner_steps": "inner steps K",
    "size": "inner parameters",
    "blocks": "blocks (depth)",
    "sequence": "sequence length",
}
_SHOWN_FIRST = ("inner_steps", "blocks", "sequence", "batch", "size")
SWITCHES = {
    "mixed_mode": "mixed mode",
    "block_remat": "block rematerialisation",
    "save_inner_grads": "saved inner gradients",
}
_OWN = ("", "0")  # left to the named size, or to the data
_UNITS = {"k": 1e3, "M": 1e6, "B": 1e9}


@dataclass(frozen=True)
class Sweep:
    """Configurations that differ in one thing only, by its value in rising order.

    title: what is swept, then what sets these configurations apart from the most common ones of the problem.
    """

    swept: str
    title: str
    places: tuple[tuple[float, Configuration], ...]

    @property
    def axis(self) -> Axis:
        """The axis along which it runs."""
        return Axis(axis_name(self.swept), "count")


@dataclass(frozen=True)
class Growth:
    """Dynamic memory of one label along a sweep, a straight line by least squares.

    parameters: bytes of the inner parameters where the sweep leaves these alone, else how many bytes of them one unit of the sweep adds.
    """

    label: str
    fit: Fit
    parameters: float | None

    @property
    def over_parameters(self) -> float | None:
        """Growth per unit over those bytes."""
        return self.fit.slope / self.parameters if self.parameters else None


@dataclass(frozen=True)
class Ablation:
    """All combinations of a method's switches in one configuration, from all off to all on. Keys: the switches that are on."""

    configuration: Configuration
    method: str
    switches: tuple[str, ...]
    runs: dict[frozenset[str], Entry]


def axis_name(swept: str) -> str:
    """Return what an axis says of what is swept."""
    return _AXES.get(swept, swept.replace("_", " "))


def parameters_of(study: Study, configuration: Configuration) -> float | None:
    """Return the number of inner parameters: as measured, else what the size is called, as '44M'; None where neither says it."""
    measured = [run.n_params for run in study.runs[configuration].values() if run.n_params]
    if measured:
        return float(measured[0])
    named = re.fullmatch(r"(\d+(?:\.\d+)?)([kMB])", configuration.size)
    return float(named[1]) * _UNITS[named[2]] if named else None


def sweeps(suite: Suite, study: Study) -> list[Sweep]:
    """Return every sweep with three values or more at which the subject was compared, or is too large for this machine.

    Sizes are swept within one family of models.
    """
    usual = _usual(study)
    groups: dict[tuple[str, tuple[object, ...]], dict[float, Configuration]] = {}
    for configuration in study.runs:
        for swept in configuration.values:
            value = _value(study, configuration, swept)
            if value is not None:
                fixed = tuple(pair for pair in configuration.values.items() if pair[0] != swept)
                of = family(suite, configuration.task.problem, configuration.size) if swept == "size" else ""
                where = (configuration.task, configuration.place, of, fixed)
                groups.setdefault((swept, where), {}).setdefault(value, configuration)
    several = len({configuration.task for configuration in study.runs}) > 1
    found = []
    for (swept, _), places in groups.items():
        if len(places) < AT_LEAST or not any(_compared(study, one) for one in places.values()):
            continue
        first = next(iter(places.values()))
        title = " · ".join(
            [axis_name(swept), *[first.task.problem] * several, *differences(first, usual[first.task], {swept})]
        )
        found.append(Sweep(swept, title, tuple(sorted(places.items(), key=lambda pair: pair[0]))))
    order = {name: place for place, name in enumerate(_SHOWN_FIRST)}
    # Of several along one axis, those first that differ least from what is usual.
    return sorted(found, key=lambda one: (order.get(one.swept, len(order)), one.swept, one.title.count(" · ")))


def centre_words(study: Study) -> str:
    """Return what most configurations of each problem share: titles name the differences from it."""
    parts = []
    for task, values in _usual(study).items():
        varying = {
            name
            for one in study.runs
            if one.task == task
            for name, value in one.values.items()
            if value != values[name]
        }
        said = [name_value(name, value) for name, value in values.items() if name in varying and value not in _OWN]
        parts.append(f"{task.problem}: {', '.join(said)}" if said else task.problem)
    return "; ".join(parts)


def differences(configuration: Configuration, usual: dict[str, str], aside: set[str]) -> list[str]:
    """Return what sets a configuration apart from the usual values, as 'batch 4'."""
    return [
        name_value(name, value)
        for name, value in configuration.values.items()
        if name not in aside and usual.get(name) != value and value not in _OWN
    ]


def name_value(name: str, value: str) -> str:
    """Write one thing of a configuration: 'K = 8', 'mlp64', 'batch 16', 'optimiser adam'."""
    if name == "inner_steps":
        return f"K = {value}"
    return value if name == "size" else f"{name.replace('_', ' ')} {value}"


def configuration_words(study: Study, configuration: Configuration) -> str:
    """Return a configuration by all that varies within its problem, so that no two are called the same."""
    mine = [one for one in study.runs if one.task == configuration.task]
    varying = {name for one in mine for name, value in one.values.items() if value != configuration.values.get(name)}
    values = configuration.values
    named = [
        name_value(name, value) for name, value in values.items() if name in varying or name in ("size", "inner_steps")
    ]
    apart = [
        getattr(configuration.place, name)
        for name in ("device", "dtype", "kernel_words", "hardware")
        if len({getattr(one.place, name) for one in study.runs}) > 1
    ]
    return ", ".join([*named, *apart])


def growths(study: Study, sweep: Sweep) -> list[Growth]:
    """Return how the dynamic memory of each label grows along a sweep; labels with too few values for a fit are left out."""
    found = []
    for label in [study.reference, *study.labels]:
        places = [
            (value, configuration, run.dynamic_bytes)
            for value, configuration in sweep.places
            if (run := study.runs[configuration].get(label)) is not None and run.dynamic_bytes
        ]
        values = [value for value, _, _ in places]
        fit = line(values, [memory for _, _, memory in places]) if len(places) >= FIT_AT_LEAST else None
        if fit is not None:
            found.append(Growth(label, fit, _parameter_bytes(study, values, [one for _, one, _ in places])))
    return found


def ablations(study: Study) -> list[Ablation]:
    """Return the ablations of which every combination was asked for.

    A switch is an option that is on or off and that some runs of a configuration turn the other way than the method does by default. Of a
    method with switches of the paper, these alone.
    """
    found = []
    for configuration, runs in study.runs.items():
        for method in dict.fromkeys(run.method for run in runs.values()):
            mine = [run for run in runs.values() if run.method == method]
            if method not in runs:
                continue
            default = runs[method].method_options
            changed = [
                {name for name, value in run.method_options.items() if value != default.get(name)} for run in mine
            ]
            turned = {name for names in changed for name in names if isinstance(default.get(name), bool)}
            named = turned & SWITCHES.keys() or turned
            # Other options set a run apart from the ablation.
            runs_by_switches = {
                frozenset(name for name in named if run.method_options[name]): run
                for run, names in zip(mine, changed, strict=True)
                if names <= named
            }
            if len(named) > 1 and len(runs_by_switches) == 2 ** len(named):
                switches = (*(name for name in SWITCHES if name in named), *sorted(named - SWITCHES.keys()))
                every = [one for size in range(len(named) + 1) for one in itertools.combinations(switches, size)]
                ordered = {frozenset(one): runs_by_switches[frozenset(one)] for one in every}
                found.append(Ablation(configuration, method, switches, ordered))
    return found


def _usual(study: Study) -> dict[Task, dict[str, str]]:
    """Return the most common value of each thing that may be swept, for each task."""
    counted: dict[Task, dict[str, Counter[str]]] = {}
    for configuration in study.runs:
        for name, value in configuration.values.items():
            counted.setdefault(configuration.task, {}).setdefault(name, Counter())[value] += 1
    return {
        task: {name: values.most_common(1)[0][0] for name, values in names.items()} for task, names in counted.items()
    }


def _value(study: Study, configuration: Configuration, swept: str) -> float | None:
    """Return a configuration's place on an axis; None if its value is not a positive number."""
    if swept == "size":
        return parameters_of(study, configuration)
    try:
        value = float(configuration.values[swept])
    except ValueError:
        return None
    return value if value > 0 else None


def _compared(study: Study, configuration: Configuration) -> bool:
    runs = study.runs[configuration]
    return all(
        label in runs and (runs[label].dynamic_bytes is not None or too_large(runs[label]))
        for label in (study.reference, study.subject)
    )


def _parameter_bytes(study: Study, values: list[float], configurations: list[Configuration]) -> float | None:
    """Return bytes of the parameters, or by how many a unit of the sweep adds to them."""
    counts = [count for one in configurations if (count := parameters_of(study, one)) is not None]
    if len(counts) < len(values):
        return None
    item = ITEM_BYTES[configurations[0].place.dtype]
    if len(set(counts)) == 1:
        return item * counts[0]
    fit = line(values, counts)
    return item * fit.slope if fit is not None else None
