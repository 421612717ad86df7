"""Building a table of nets: every net of a space trained from nothing by a method, several seeds, on the same tasks.

A shard is one net and one seed, a file of its own, so that shards can be built anywhere, in any order, and again after a kill.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metabench.core.arrays import read_arrays, write_arrays
from metabench.core.errors import Diverged, MetabenchError, unknown
from metabench.core.lazy import torch
from metabench.core.method import Hypergradient
from metabench.core.options import build
from metabench.core.problem import Problem, Setting
from metabench.core.randomness import generator, stream_seed
from metabench.core.types import InnerState, Tree, Window
from metabench.data import card, load
from metabench.data.formats.net_table import TEST, VALIDATION, NetTable
from metabench.measure.memory.meter import measure_memory
from metabench.methods import method as method_named
from metabench.models.search_space import Space
from metabench.models.spaces import space
from metabench.problems.few_shot import SUBNET, FewShot, Options
from metabench.search.flops import of_joint_training, of_training
from metabench.tasks.joint import Joint, jointly_trained
from metabench.tasks.trained import Answer, meta_trained

_TOGETHER = {"unrolled": True, "first_order": False}
"""Methods that are computed for all tasks of an outer step at once, and whether with second derivatives."""


JOINT, META = "joint", "meta"
WAYS = (JOINT, META)


@dataclass(frozen=True)
class TableSettings:
    """What decides a table, besides the code.

    Attributes:
        space: whose nets are trained.
        way: 'joint', over all training classes, or 'meta', by the hypergradients of a method.
        dataset: of the tasks.
        seeds: of training.
        joint: how joint training goes.
        method: whose hypergradients train, with 'meta'.
        outer_steps: of that.
        inner_steps: of adaptation in it, and of searches.
        steps: of adaptation, after which answers are counted, ascending.
        tasks: how many of the validation domains, and of the test domains.
        options: of `few_shot`, where they are not its defaults.
    """

    space: str = "tiny"
    dataset: str = "glyphs"
    seeds: tuple[int, ...] = (0, 1, 2)
    way: str = JOINT
    joint: Joint = dataclasses.field(default_factory=Joint)
    method: str = "unrolled"
    outer_steps: int = 400
    inner_steps: int = 5
    steps: tuple[int, ...] = (1, 2, 3, 4, 5)
    tasks: tuple[int, int] = (300, 500)
    options: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"learning_rate": 0.1})

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise unknown("way to train the nets of a table", self.way, WAYS)
        if len(self.tasks) != 2 or min(self.tasks) < 1:
            raise MetabenchError(f"tasks {self.tasks}: expected two positive numbers, of validation and of test domains")
        if self.inner_steps not in self.steps or sorted(set(self.steps)) != list(self.steps):
            raise MetabenchError(
                f"a table counts answers after {self.steps} steps of adaptation: expected ascending numbers, {self.inner_steps} among them"
            )

    def about(self) -> dict[str, Any]:
        """Return the settings as JSON, the shape of the tasks and the sha256 of the data among them."""
        options = build(Options, {**self.options, "space": self.space}, "problem 'few_shot'")
        said = dataclasses.asdict(self) | {"options": dict(self.options)} | self._paid(options.tasks)
        shape = {
            "ways": options.ways,
            "shots": options.shots,
            "queries": options.queries,
        }
        source = {"data": [file.sha256 for file in card(self.dataset).files]}
        return json.loads(json.dumps(said | shape | source))

    def _paid(self, tasks: int) -> dict[str, Any]:
        """Return what training a net costs, in inner runs and gradients."""
        runs = 0 if self.way == JOINT else self.outer_steps * tasks
        gradients = self.joint.steps if self.way == JOINT else runs * (self.inner_steps + 1)
        return {"training_adaptations": runs, "training_gradients": gradients}

    def key(self) -> str:
        """Return the hash of the settings."""
        return hashlib.sha256(json.dumps(self.about(), sort_keys=True).encode()).hexdigest()[:16]


class Builder:
    """Trains nets of a table, one after another, on data that are loaded once."""

    def __init__(self, settings: TableSettings) -> None:
        self.settings = settings
        self.space: Space = space(settings.space)
        options = build(Options, {**settings.options, "space": settings.space}, "problem 'few_shot'")
        data = load(settings.dataset)
        first = self.space.all()[0]
        self._problems = {
            seed: FewShot(
                Setting(
                    SUBNET,
                    dataclasses.replace(options, architecture=first),
                    settings.inner_steps,
                    seed,
                    torch.device("cpu"),
                    torch.float32,
                    data,
                    outer_steps=settings.outer_steps,
                )
            )
            for seed in settings.seeds
        }

    def shard(self, net: str, seed: int, folder: Path) -> Path:
        """Train one net with one seed, unless its file is there; return the file.

        Raises:
            MetabenchError: the file is of other settings.
        """
        path, key = shard_file(folder, net, seed), f"{self.settings.key()} {net} {seed}"
        if read_arrays(path, key) is None:
            write_arrays(path, key, self.answers(net, seed))
        return path

    def answers(self, net: str, seed: int) -> dict[str, np.ndarray]:
        """Train one net with one seed; return its right answers by part, shape [steps, tasks], and its costs."""
        problem = self._problems[seed].subnet(net)
        method = self.settings.method
        answer = method_answer(method, seed)
        began = time.process_time()
        found: dict[str, np.ndarray] = {}
        try:
            meta = self._trained(problem, answer)
        except Diverged:
            # Its answers are what it would give: none is right.
            meta = None
        found["seconds"] = np.array(time.process_time() - began)
        found["flops"] = np.array(self._flops(problem, answer))
        found["peak_bytes"] = np.array(_peak_bytes(problem, answer))
        # One set of tasks for all seeds.
        judge = self._problems[self.settings.seeds[0]].subnet(net)
        for part, count in zip((VALIDATION, TEST), self.settings.tasks, strict=True):
            if meta is None:
                found[part] = np.zeros((len(self.settings.steps), count), np.uint8)
                continue
            found[part] = judge.answers(meta, part, count, self.settings.steps).together.numpy().astype(np.uint8)
        return found

    def _trained(self, problem: FewShot, answer: Answer) -> Tree:
        settings, method = self.settings, self.settings.method
        if settings.way == JOINT:
            return jointly_trained(problem, settings.joint)
        alone = None if method in _TOGETHER else answer
        return meta_trained(problem, settings.outer_steps, alone, exact=_TOGETHER.get(method, True))

    def _flops(self, problem: FewShot, answer: Answer) -> float:
        if self.settings.way == META:
            return of_training(problem, self.settings.outer_steps, answer)
        return of_joint_training(problem, self.settings.joint)

    def collected(self, *folders: Path) -> NetTable:
        """Return the table of the shards in some folders.

        Raises:
            MetabenchError: shards are missing; the first is named.
        """
        settings, nets = self.settings, self.space.all()
        key = settings.key()
        rows: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        for net in nets:
            for seed in settings.seeds:
                found = (read_arrays(shard_file(folder, net, seed), f"{key} {net} {seed}") for folder in folders)
                shard = next((one for one in found if one is not None), None)
                if shard is None:
                    raise MetabenchError(
                        f"the shard of '{net}' with seed {seed} is missing from '{folders[0]}': build it first"
                    )
                rows[net, seed] = shard
        judge = self._problems[settings.seeds[0]]
        parts = dict(zip((VALIDATION, TEST), settings.tasks, strict=True))
        image, ways = judge.tasks.image, judge.setting.options.ways
        return NetTable(
            about=settings.about() | {"image": list(image)},
            nets=nets,
            seeds=settings.seeds,
            steps=settings.steps,
            domains={part: _domains(judge.tasks.domains(part), count) for part, count in parts.items()},
            right={
                part: np.stack([np.stack([rows[net, seed][part] for seed in settings.seeds]) for net in nets])
                for part in parts
            },
            pixels={part: _pixels(judge, part, count) for part, count in parts.items()},
            costs={
                "parameters": np.array([self.space.parameters(net, image, ways) for net in nets], np.float64),
                "flops": np.array([self.space.flops(net, image, ways) for net in nets], np.float64),
                "training_flops": np.array([rows[net, settings.seeds[0]]["flops"] for net in nets], np.float64),
                "peak_bytes": np.array([rows[net, settings.seeds[0]]["peak_bytes"] for net in nets], np.float64),
                "seconds": np.array(
                    [np.mean([rows[net, seed]["seconds"] for seed in settings.seeds]) for net in nets]
                ).round(2),
            },
        )


def method_answer(name: str, seed: int) -> Answer:
    """Return a method with its default options, whose draws a seed decides; raise MetabenchError if there is none."""
    method, stream = method_named(name), generator(seed, "hypergradients")
    options = build(method.options, {}, f"method '{name}'")

    def answer(problem: Problem, state: InnerState, meta: Tree, window: Window) -> Hypergradient:
        return method(problem, state, meta, window, options, stream)

    return answer


def numbered_answers(name: str, seed: int) -> Callable[[int], Answer]:
    """Return, from a number, a method with its default options, whose draws seed and number decide; raises as `method_answer`."""
    method_answer(name, seed)
    return lambda number: method_answer(name, stream_seed(seed, f"inner run {number}"))


def read_settings(path: Path | None) -> TableSettings:
    """Return the settings in a YAML file; None: those of the table that ships.

    Raises:
        MetabenchError: the file cannot be read, or a key is unknown.
    """
    if path is None:
        return TableSettings()
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        given = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        raise MetabenchError(f"settings '{path}' cannot be read: {error}") from error
    if not isinstance(given, dict):
        raise MetabenchError(f"settings '{path}': expected keys and values")
    known = {field.name for field in dataclasses.fields(TableSettings)}
    for key in given:
        if key not in known:
            raise unknown(f"key of '{path}'", str(key), known)
    values, where = {str(key): value for key, value in given.items()}, f"'{path}'"
    if "joint" in values:
        if not isinstance(values["joint"], dict):
            raise MetabenchError(f"key 'joint' of {where}: expected keys and values, got {values['joint']!r}")
        values["joint"] = build(Joint, values["joint"], f"'joint' in {where}")
    for key, default in ((field.name, getattr(TableSettings(), field.name)) for field in dataclasses.fields(TableSettings)):
        if isinstance(default, tuple) and key in values:
            values[key] = _numbers(values[key], f"key '{key}' of {where}")
        elif not isinstance(values.get(key, default), type(default)):
            raise MetabenchError(f"key '{key}' of {where}: expected {type(default).__name__}, got {values[key]!r}")
    return TableSettings(**values)  # type: ignore[arg-type]


def _numbers(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(one) is int and one >= 0 for one in value):
        raise MetabenchError(f"{what}: expected a list of whole numbers, got {value!r}")
    return tuple(value)


def shard_file(folder: Path, net: str, seed: int) -> Path:
    """Return where a net's answers are."""
    return folder / f"{net}.{seed}.npz"


def shards(settings: TableSettings, part: tuple[int, int] = (0, 1)) -> Sequence[tuple[str, int]]:
    """Return the nets and seeds of one of several parts of the work, `part` = (number, of how many)."""
    every = [(net, seed) for seed in settings.seeds for net in space(settings.space).all()]
    return every[part[0] :: part[1]]


def _peak_bytes(problem: Problem, answer: Answer) -> int:
    """Return the peak memory of one hypergradient, of one task, to the byte."""
    meta, window = problem.initial(), next(iter(problem.windows()))[0]
    on, state = problem.entered(window, None)
    # What is made once per process is made by the first call.
    answer(on, state, meta, window)
    arguments = (state.params, state.optimiser, meta, window.inner, window.outer)
    return measure_memory(lambda: answer(on, state, meta, window), arguments, "cpu")[1].peak_bytes


def _domains(names: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(names[number % len(names)] for number in range(count))


def _pixels(judge: FewShot, part: str, count: int) -> np.ndarray:
    found = np.zeros(count, np.uint8)
    stacks: Iterable[Any] = judge.tasks.stacks(part, count)
    for numbers, stack in stacks:
        found[numbers] = stack.nearest().cpu().numpy()
    return found
