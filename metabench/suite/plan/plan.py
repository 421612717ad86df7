"""From a suite to its cells: grids are expanded, and every name and option is checked before anything runs. Does not import torch."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from metabench import __version__
from metabench.core.atomic import write_bytes_atomically, write_text_atomically
from metabench.core.errors import MetabenchError
from metabench.core.kind import Kind
from metabench.core.method import Method, Target
from metabench.core.options import build
from metabench.core.problem import Problem
from metabench.core.registry import pick
from metabench.data import DatasetCard, datasets
from metabench.data import card as dataset_card
from metabench.data.sets.own_text import is_own_text
from metabench.kinds import kinds
from metabench.methods import methods
from metabench.problems import problems
from metabench.suite.config.keys import DEFAULT_BASELINE, Experiment, Suite, Timing
from metabench.suite.config.load import load_suite, memory_bytes, to_yaml
from metabench.suite.plan.batches import Batch, batches
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.groups import Group, settings
from metabench.suite.plan.preparations import Preparation, preparations, preparations_of
from metabench.suite.plan.shards import Shard
from metabench.suite.plan.specs import specs_text

__all__ = ["Plan", "kept_plan", "load_suite", "plan"]

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """A suite and its cells, in the order of the suite: experiment, data set, size, problem options, inner steps, method; partners last."""

    suite: Suite
    cells: tuple[Cell, ...]

    @property
    def folder(self) -> Path:
        """Folder of the suite's files: results/<suite>; that of a shard is in it."""
        return _folder(self.suite)

    @property
    def rows(self) -> int:
        """How many rows a complete run has: one per cell and seed."""
        return sum(len(cell.seeds) for cell in self.cells)

    def row_file(self, cell: Cell) -> Path:
        """Return the path of the rows of `cell`; its log is next to it, as .log."""
        return self.folder / "cells" / cell.folder / f"{cell.stem}.parquet"

    def own_files(self) -> list[Path]:
        """Return the row files of the cells that lie in the suite's folder, wherever links in it lead."""
        inside = (self.folder / "cells").resolve()
        return [path for cell in self.cells if (path := self.row_file(cell)).parent.resolve().is_relative_to(inside)]

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """The cells that are timed side by side, by setting; none if every cell times itself."""
        if not _in_rounds(self.suite):
            return ()
        return tuple(
            Group(name, tuple(cells), tuple(map(self.row_file, cells)), self.suite.rounds, self.suite.baseline or DEFAULT_BASELINE)
            for name, cells in settings(self.cells).items()
        )

    @functools.cached_property
    def batches(self) -> tuple[Batch, ...]:
        """The cells that one job runs; none where each has its own."""
        return batches(self.cells, self.suite.batch)

    def batch_mark(self, batch: Batch) -> Path:
        """Return the path of the file that says that the cells of a batch have their rows; its log is next to it, as .log."""
        return self.folder / "batches" / f"{batch.name}.json"

    def made(self, cells: Iterable[Cell]) -> list[Path]:
        """Return the files that jobs make for these cells: their row files, or the marks of their batches."""
        return list(dict.fromkeys(self._marks.get(cell.hash) or self.row_file(cell) for cell in cells))

    def log_file(self, cell: Cell) -> Path:
        """Return the log of the job that makes the rows of `cell`."""
        return (self._marks.get(cell.hash) or self.row_file(cell)).with_suffix(".log")

    @functools.cached_property
    def _marks(self) -> dict[str, Path]:
        return {cell.hash: self.batch_mark(batch) for batch in self.batches for cell in batch.cells}

    def times_file(self, group: Group) -> Path:
        """Return the path of the times of `group`; its description and log are next to it, as .json and .log."""
        return self.folder / "times" / f"{group.name}.parquet"

    @property
    def prepared(self) -> Path:
        """Folder of what is prepared before cells."""
        return self.folder / "prepared"

    @functools.cached_property
    def preparations(self) -> dict[str, Preparation]:
        """What is prepared before the cells of the suite, by hash."""
        return preparations(self.cells)

    def preparation_marks(self, cell: Cell) -> list[Path]:
        """Return the files that say that what a cell needs is prepared."""
        return [self.preparation_mark(one) for seed in cell.seeds for one in preparations_of(cell, seed).values()]

    def preparation_mark(self, one: Preparation) -> Path:
        """Return the file that says that something is prepared."""
        return self.prepared / f"{one.hash}.json"

    @property
    def predictions(self) -> Path:
        """Where the predictions for the suite's cells go."""
        return self.folder / "predictions.jsonl"

    @property
    def suite_file(self) -> Path:
        """Where the suite goes as it was planned, with every override."""
        return self.folder / "suite.yaml"

    @property
    def suite_hash(self) -> str:
        """Twelve hexadecimal digits over the suite."""
        return hashlib.sha256(to_yaml(self.suite).encode()).hexdigest()[:12]

    @property
    def specs(self) -> Path:
        """Where the specs of all cells go, one per line."""
        return self.folder / "cells.jsonl"

    @property
    def cell_list(self) -> Path:
        """Where the list of row files goes, one per line."""
        return self.folder / "cells.txt"

    @property
    def certificate_list(self) -> Path:
        """Where the list of certificates goes, one per line."""
        return self.folder / "certificates.txt"

    @property
    def times_list(self) -> Path:
        """Where the list of the groups' times goes, one per line."""
        return self.folder / "times.txt"

    @property
    def results(self) -> Path:
        """Where all rows go."""
        return self.folder / "results.parquet"

    @property
    def curves(self) -> Path:
        """Where all curves go."""
        return self.folder / "curves.parquet"

    @property
    def times(self) -> Path:
        """Where the times of all rounds go."""
        return self.folder / "times.parquet"

    @property
    def certificates(self) -> list[Path]:
        """Where the certificates go, one file per method; none if the suite asks for none."""
        methods = dict.fromkeys(cell.method for cell in self.cells if self.suite.certify)
        return [self.folder / "certificates" / f"{method}.parquet" for method in methods]

    def write(self) -> None:
        """Write what the jobs read: the spec of each cell, the groups, lists, the suite. Files that already say so are left alone."""
        of_batch = {cell.hash: batch.name for batch in self.batches for cell in batch.cells}
        texts = {self.specs: specs_text(self.cells, lambda cell: of_batch.get(cell.hash, ""))}
        texts |= {self.times_file(group).with_suffix(".json"): group.to_json() for group in self.groups}
        texts[self.times_list] = "".join(f"{self.times_file(group)}\n" for group in self.groups)
        texts[self.suite_file] = to_yaml(self.suite)
        texts[self.cell_list] = "".join(f"{self.row_file(cell)}\n" for cell in self.cells)
        texts[self.certificate_list] = "".join(f"{path}\n" for path in self.certificates)
        for path, text in texts.items():
            if not path.is_file() or path.read_bytes() != text.encode():
                write_text_atomically(path, text)
        # What takes longest, so that it is kept, too.
        assert self.groups is not None and self.preparations is not None and self._marks is not None
        # A part of a plugin's kind may depend on what cannot be kept: jobs plan the suite then.
        with contextlib.suppress(pickle.PicklingError, AttributeError, TypeError):
            write_bytes_atomically(_kept_file(self.suite), pickle.dumps((__version__, self)))


def kept_plan(suite: Suite) -> Plan | None:
    """Return the plan that the run of `suite` wrote last; None where there is none, or it is of another suite or version.

    For the jobs of a cluster: thousands of them need not plan thousands of cells each.
    """
    with contextlib.suppress(OSError, pickle.UnpicklingError, AttributeError, EOFError, ImportError, TypeError, ValueError):
        version, found = pickle.loads(_kept_file(suite).read_bytes())
        if version == __version__ and isinstance(found, Plan) and found.suite == suite:
            return found
    return None


def _kept_file(suite: Suite) -> Path:
    return _folder(suite) / "plan.pickle"


def _folder(suite: Suite) -> Path:
    return Path(suite.results, suite.name, *([Shard.parse(suite.shard).folder] if suite.shard else []))


def plan(suite: Suite) -> Plan:
    """Return the cells of `suite`.

    Raises:
        MetabenchError: an unknown method, problem, data set, size or option (the nearest valid one is named); an invalid option
            value; a cell described twice, in one experiment or in two; no experiment, one without methods, or none with the baseline;
            a plugin that cannot be used; a figure's file that is not there; a study without a subject that its experiments compare.
    """
    plugins = [Path(path) for path in suite.plugins]
    known_methods, known_problems = methods(plugins), problems(plugins)
    if not suite.experiments:
        raise MetabenchError(
            f"suite '{suite.name}' has no experiments: 'metabench list problems' shows what one may be of"
        )
    for figure in suite.figures:
        if not Path(figure).is_file():
            raise MetabenchError(f"figure '{figure}': no such file")
    found: dict[Path, Cell] = {}
    for name, experiment in suite.experiments.items():
        try:
            cells = list(_cells(suite, name, experiment, known_methods, known_problems))
        except MetabenchError as error:
            raise MetabenchError(f"experiment '{name}': {error}") from error
        for cell in cells:
            place = cell.folder / cell.stem
            if place in found:
                first = found[place].experiment
                who = f"experiment '{name}' twice" if first == name else f"experiments '{first}' and '{name}'"
                options = f"problem options {cell.problem_options}, method options {cell.method_options}"
                raise MetabenchError(f"duplicate cell {place}, described by {who}: {options}")
            found[place] = cell
    if suite.baseline and all(cell.method != suite.baseline for cell in found.values()):
        pick("baseline method", suite.baseline, known_methods)
        names = ", ".join(f"'{name}'" for name in suite.experiments)
        run = ", ".join(dict.fromkeys(cell.method for cell in found.values()))
        raise MetabenchError(
            f"no experiment runs the baseline '{suite.baseline}' ({names}): add it to one, or choose the baseline among {run}"
        )
    _check_memory_study(suite, found.values(), known_methods)
    _check_rival_study(suite, found.values(), known_methods)
    cells = (*found.values(), *_partners(suite, found.values()))
    return Plan(suite, Shard.parse(suite.shard).of(cells) if suite.shard else cells)


def _check_memory_study(suite: Suite, cells: Iterable[Cell], known: Mapping[str, Method]) -> None:
    """Raise MetabenchError unless the memory study, if there is one, has a subject that some experiment compares with the baseline."""
    subject = suite.studies.memory.subject
    if not subject:
        return
    where = "key 'studies.memory.subject'"
    baseline = suite.baseline or DEFAULT_BASELINE
    for name in (pick(f"method of {where}", subject, known).name, pick("baseline method", baseline, known).name):
        if not known[name].exact or known[name].target is not Target.UNROLLED:
            raise MetabenchError(
                f"{where}: '{name}' is not exact for the unrolled window: a memory study compares methods that are"
            )
    trains = {name: kind.trains for name, kind in kinds([Path(path) for path in suite.plugins]).items()}
    measured: dict[str, set[str]] = {}
    for cell in cells:
        if not trains[cell.kind]:
            measured.setdefault(cell.experiment, set()).add(cell.method)
    if subject == baseline or not any({subject, baseline} <= methods for methods in measured.values()):
        raise MetabenchError(
            f"{where}: no experiment of kind 'cost' measures '{subject}' beside the baseline, '{baseline}'"
        )


def _check_rival_study(suite: Suite, cells: Iterable[Cell], known: Mapping[str, Method]) -> None:
    """Raise MetabenchError unless the study of two methods, if there is one, has two that some experiment compares."""
    study = suite.studies.rival
    if not study.subject and not study.rival:
        return
    pair = [
        pick(f"method of key 'studies.rival.{key}'", name, known).name
        for key, name in (("subject", study.subject), ("rival", study.rival))
    ]
    measured: dict[str, set[str]] = {}
    for cell in cells:
        measured.setdefault(cell.experiment, set()).add(cell.method)
    if len(set(pair)) < 2 or not any(set(pair) <= methods for methods in measured.values()):
        raise MetabenchError(f"key 'studies.rival': no experiment runs '{pair[0]}' beside '{pair[1]}', two different methods")


def _partners(suite: Suite, cells: Iterable[Cell]) -> Iterator[Cell]:
    """Yield the partner of each cell of the baseline that is timed; one for all cells whose timed part is the same."""
    if not suite.aa or suite.timing is Timing.shared:
        return
    known = kinds([Path(path) for path in suite.plugins])
    found: dict[Path, Cell] = {}
    for cell in cells:
        if cell.method != (suite.baseline or DEFAULT_BASELINE) or not (name := known[cell.kind].partner):
            continue
        kind = pick(f"partner of kind of experiment '{cell.kind}'", name, known)
        changes: dict[str, Any] = {} if name == cell.kind else {"kind": name, "kind_options": dataclasses.asdict(_options(kind, {}))}
        steps = cell.outer_steps if kind.trains else 0
        partner = dataclasses.replace(cell, **changes, outer_steps=steps, curve=[], replicate=1)
        place = partner.folder / partner.stem
        seeds = list(dict.fromkeys([*found.get(place, partner).seeds, *partner.seeds]))
        found[place] = dataclasses.replace(found.get(place, partner), seeds=seeds)
    yield from found.values()


def _options(kind: Kind, given: Mapping[str, Any]) -> Any:
    """Return the options of a kind of experiment, typed."""
    return build(kind.options, given, f"kind of experiment '{kind.name}'")


def _cells(
    suite: Suite,
    name: str,
    experiment: Experiment,
    known_methods: Mapping[str, Method],
    known_problems: Mapping[str, type[Problem]],
) -> Iterator[Cell]:
    declared = pick("problem", experiment.problem, known_problems)
    card = declared.card
    where = f"problem '{experiment.problem}'"
    plugins = [Path(path) for path in suite.plugins]
    kind, kind_options = _entry("kind of experiment", experiment.kind, kinds(plugins))
    if experiment.outer_steps is not None and not kind.trains:
        raise MetabenchError(f"'outer_steps' has no meaning where kind is '{kind.name}': nothing is trained")
    of_kind = _options(kind, kind_options)
    known_data = datasets(plugins)
    offered = {name: pick(f"data set of {where}", name, known_data) for name in card.datasets}
    for dataset in experiment.datasets:
        if is_own_text(dataset):
            _check_own_text(dataset_card(dataset), list(offered.values()), where)
        elif not _is_plugins(dataset, known_data) or known_data[dataset].task not in {
            one.task for one in offered.values()
        }:
            pick(f"data set of {where}" if dataset in known_data else "data set", dataset, offered)
    sizes = card.named_sizes(plugins)
    for size in experiment.sizes:
        pick(f"size of {where}", size, sizes)
    if not experiment.methods:
        raise MetabenchError("no methods: expected at least one of " + ", ".join(known_methods))
    chosen = [
        (method, options)
        for entry in experiment.methods
        for method, given in [_entry("method", entry, known_methods)]
        for options in _sweep(method.options, given, f"method '{method.name}'")
    ]
    measure = dataclasses.asdict(suite.measure) | ({"time_repeats": 0} if _in_rounds(suite) else {})
    trained = card.outer_steps if experiment.outer_steps is None else experiment.outer_steps
    if experiment.curve and not kind.trains:
        raise MetabenchError(f"'curve' has no meaning where kind is '{kind.name}': nothing is trained")
    if beyond := [step for step in experiment.curve if step > trained]:
        raise MetabenchError(f"'curve' names outer step {beyond[0]}, and training ends after {trained}")
    for dataset, size, problem_options, inner_steps, (method, method_options) in itertools.product(
        experiment.datasets or card.datasets[:1],
        experiment.sizes or list(sizes)[:1],
        list(_sweep(card.options, experiment.options, where)),
        experiment.inner_steps or [card.inner_steps],
        chosen,
    ):
        needed = declared.examples_needed(build(card.options, problem_options, where))
        if needed > (there := dataset_card(dataset, plugins).sizes.get("train", 0)):
            raise MetabenchError(f"{where} takes {needed:,} training examples, data set '{dataset}' has {there:,}")
        if kind.check:
            kind.check(of_kind, declared, problem_options, method)
        trains = kind.trains and (kind.trains_none or method.target is not Target.NONE)
        yield Cell(
            suite=suite.name,
            experiment=name,
            kind=kind.name,
            kind_options=dataclasses.asdict(of_kind),
            problem=experiment.problem,
            dataset=dataset,
            size=size,
            problem_options=problem_options,
            inner_steps=inner_steps,
            outer_steps=trained if trains else 0,
            method=method.name,
            method_options=method_options,
            curve=sorted(set(experiment.curve)) if trains else [],
            seeds=list(suite.seeds if experiment.seeds is None else experiment.seeds),
            device=suite.device.value,
            dtype=suite.dtype.value,
            threads=suite.threads,
            limit_seconds=suite.limits.seconds,
            limit_bytes=memory_bytes(suite.limits.memory),
            measure=measure,
            plugins=list(suite.plugins),
            device_bytes=memory_bytes(suite.device_memory) if suite.device_memory else 0,
            kernels=suite.kernels.value,
            checkpoint_minutes=suite.checkpoint_minutes,
        )


def _in_rounds(suite: Suite) -> bool:
    """Return whether cells are timed side by side, so that none times itself."""
    return suite.timing is not Timing.shared and suite.rounds > 0


def _is_plugins(dataset: str, known: Mapping[str, DatasetCard]) -> bool:
    """Return whether a plugin declares the data set: no problem of the package names it."""
    return dataset in known and dataset not in datasets()


def _check_own_text(own: DatasetCard, offered: Sequence[DatasetCard], where: str) -> None:
    """Raise MetabenchError unless a problem with the data sets `offered` accepts the user's own text as it loads: whole, or by domain."""
    texts = [card for card in offered if card.task == "text"]
    if not texts:
        raise MetabenchError(
            f"{where} takes no text, so not '{own.name}': known: {', '.join(card.name for card in offered)}"
        )
    if not any(bool(card.domains) == bool(own.domains) for card in texts):
        needed = "a folder with a .txt file for each domain" if texts[0].domains else "one file"
        raise MetabenchError(
            f"{where} takes text as in data set '{texts[0].name}': name {needed}, not "
            + (f"a folder of {len(own.domains)} texts, '{own.name}'" if own.domains else f"one text, '{own.name}'")
        )


def _entry(sort: str, entry: Any, known: Mapping[str, T]) -> tuple[T, dict[str, Any]]:
    """Return the method or kind that an entry of a suite names, 'name' or {name: {option: value}}, and the options given."""
    name, options = entry, {}
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, options),) = entry.items()
        options = {} if options is None else options
    if not isinstance(name, str) or not isinstance(options, dict):
        raise MetabenchError(f"{sort}: expected a name or {{name: {{option: value}}}}, got {entry!r}")
    return pick(sort, name, known), options


def _sweep(options: type, given: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Yield every combination of the given options, complete and validated; a list is a sweep."""
    for name, value in given.items():
        if value == []:
            raise MetabenchError(
                f"option '{name}' of {where}: an empty list sweeps nothing; give a value, or leave the option out"
            )
    axes = [value if isinstance(value, list) else [value] for value in given.values()]
    for values in itertools.product(*axes):
        yield dataclasses.asdict(build(options, dict(zip(given, values, strict=True)), where))
