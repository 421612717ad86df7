"""Meta-training the weights of a supernet, by any method of the suite.

At each outer step every operation of every layer is used once, by as many nets as there are operations (strict fairness, Chu et al. 2021).
Each net is a problem of its own, to which a method answers as in any cell; its hypergradient goes back to the net's place among the shared
weights, those of all nets are averaged, and Adam moves the whole.

Four ways lead to shared weights. `meta` is that. `joint` trains without inner runs: one softmax over all training classes, whose head is
dropped. `joint_meta` begins the first with the second. `untrained` leaves the weights as drawn.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metabench.autodiff.outer import OuterUpdate
from metabench.autodiff.unrolled.sweep import through_graph
from metabench.core import Tree, tree
from metabench.core.atomic import write_bytes_atomically
from metabench.core.errors import Diverged, MetabenchError, missing_file, unknown
from metabench.core.lazy import torch
from metabench.core.problem import OuterOptimiser
from metabench.core.randomness import generator, stream_seed
from metabench.core.types import OptimiserState
from metabench.models.choice_blocks import Head
from metabench.models.supernet import Supernet, first
from metabench.problems.few_shot import FewShot
from metabench.results.searches import JOINT, JOINT_META, META, UNTRAINED, WAYS
from metabench.search.flops import counted
from metabench.tasks.images import TRAIN
from metabench.tasks.joint import OVER_ALL, Joint, drawn_head, head_over_all, joint_gradient, without_head
from metabench.tasks.trained import Answer

_FORMAT = b"metabench shared weights 3\n"


@dataclass(frozen=True)
class SharedTraining:
    """How shared weights are trained.

    Attributes:
        way: one of `WAYS`.
        outer_steps: of meta-training; each has as many nets as a layer has operations.
        outer_learning_rate: of Adam.
        joint: how joint training goes; each of its steps has as many nets, with a batch of their own.

    Raises:
        MetabenchError: the way is unknown.
    """

    way: str = META
    outer_steps: int = 150
    outer_learning_rate: float = 1e-2
    joint: Joint = field(default_factory=lambda: Joint(600, batch=64, learning_rate=0.01))

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise unknown("way to shared weights", self.way, WAYS)

    @property
    def phases(self) -> tuple[tuple[str, int], ...]:
        """What is done, in order: 'joint' or 'meta', and the number of steps."""
        joint, meta = (JOINT, self.joint.steps), (META, self.outer_steps)
        return {META: (meta,), JOINT: (joint,), JOINT_META: (joint, meta), UNTRAINED: ()}[self.way]

    def done(self, shared: Shared) -> int:
        """Return how many steps of all phases are done."""
        return sum(steps for _, steps in self.phases[: shared.phase]) + shared.step


@dataclass
class Shared:
    """Shared weights on their way.

    Attributes:
        weights: by name.
        optimiser: the state of Adam in the present phase.
        phase: number of the phase.
        step: steps done in it.
        adaptations: inner runs paid for so far.
        gradients: inner and outer gradients on a batch of images paid for so far.
        flops: of all steps so far. Those of a phase's first step are counted; every other takes as many times more or fewer as its nets
            do to score an image, which differs where nets have several widths.
        flop_rate: FLOPs of a step of the present phase for each FLOP by which its nets score an image.
        seconds: of training, in all processes that had a part in it.
    """

    weights: Tree
    optimiser: OptimiserState
    phase: int = 0
    step: int = 0
    adaptations: int = 0
    gradients: int = 0
    flops: float = 0.0
    flop_rate: float = 0.0
    seconds: float = 0.0


def paths(supernet: Supernet, seed: int, step: int) -> list[str]:
    """Return the nets of a step: together they use every operation of every layer once. Their widths are drawn."""
    space = supernet.space
    stream = np.random.Generator(np.random.PCG64(stream_seed(seed, f"paths {step}")))
    layers = [stream.permutation(len(space.operations)) for _ in range(space.layers)]
    widths = stream.integers(len(space.widths), size=len(space.operations))
    several = len(space.widths) > 1
    return [
        space.text([*(int(layer[i]) for layer in layers), *([int(widths[i])] if several else [])])
        for i in range(len(space.operations))
    ]


class SharedTrainer:
    """Trains the shared weights of the space of a `few_shot` problem.

    Args:
        problem: of any net of the space; its seed decides weights, tasks and paths.
        training: how.
        answer: from the number of an inner run to the method with its options, where hypergradients move the weights: what it draws is
            then the same in a run that was interrupted.
    """

    def __init__(
        self, problem: FewShot, training: SharedTraining, answer: Callable[[int], Answer] = lambda number: through_graph
    ) -> None:
        self.problem, self.training, self._answer = problem, training, answer
        self.supernet = problem.supernet()
        self._seed = problem.setting.seed

    def fresh(self) -> Shared:
        """Return the weights as drawn."""
        drawn = self.supernet.initial(generator(self._seed, "shared weights"), self.problem.setting.dtype)
        weights = {name: leaf.to(self.problem.setting.device) for name, leaf in drawn.items()}
        return self._entered(Shared(weights, {}))

    def _entered(self, shared: Shared) -> Shared:
        """Return the state in which the present phase begins."""
        if shared.phase < len(self.training.phases):
            shared.optimiser = self._update(shared).init(self._moved(shared))
        return shared

    def _update(self, shared: Shared) -> OuterUpdate:
        training = self.training
        if training.phases[shared.phase][0] == JOINT:
            return OuterUpdate(training.joint.optimiser)
        return OuterUpdate(OuterOptimiser("Adam", training.outer_learning_rate))

    def _moved(self, shared: Shared) -> Tree:
        """Return what the present phase moves: jointly, the head over all classes besides the body."""
        if self.training.phases[shared.phase][0] == META:
            return shared.weights
        if OVER_ALL + "weight" not in shared.weights:
            some = next(iter(shared.weights.values()))
            shared.weights |= drawn_head(self._joint_head(), self._seed, some)
        return shared.weights

    def _joint_head(self) -> Head:
        shape = self.supernet.shapes["head.weight"]
        return head_over_all(self.problem.tasks, Head(shape[0], shape[1], shape[2]))

    def run(self, shared: Shared | None = None) -> Iterator[Shared]:
        """Train on from `shared`, or from the weights as drawn; yield after every step, the last one included.

        Raises:
            Diverged: a gradient is not finite.
        """
        shared = self.fresh() if shared is None else shared
        phases = self.training.phases
        if shared.phase == len(phases):
            yield shared
        while shared.phase < len(phases):
            kind, steps = phases[shared.phase]
            while shared.step < steps:
                began = time.perf_counter()
                gradient = self._gradient(kind, shared)
                if not tree.all_finite(gradient):
                    raise Diverged(
                        f"shared weights: the gradient is not finite in {kind} step {shared.step + 1} of {steps}"
                    )
                shared.weights, shared.optimiser = self._update(shared).update(
                    gradient, shared.weights, shared.optimiser
                )
                shared.flops += shared.flop_rate * self._scoring_flops(shared.step)
                shared.step += 1
                shared.seconds += time.perf_counter() - began
                if shared.step < steps:
                    yield shared
            shared.phase, shared.step = shared.phase + 1, 0
            if kind == JOINT:
                shared.weights = without_head(shared.weights)
            self._entered(shared)
            yield shared

    def _gradient(self, kind: str, shared: Shared) -> Tree:
        """Return the gradient of a step; the FLOPs of the first one of a phase are counted."""
        call = functools.partial(self._meta if kind == META else self._joint, shared)
        if shared.step:
            return call()
        found, flops = counted(call)
        shared.flop_rate = flops / self._scoring_flops(shared.step)
        return found

    def _scoring_flops(self, step: int) -> int:
        """Return the FLOPs by which the nets of a step score an image each."""
        supernet, nets = self.supernet, paths(self.supernet, self._seed, step)
        return sum(supernet.space.flops(net, supernet.shape, supernet.ways) for net in nets)

    def _meta(self, shared: Shared) -> Tree:
        """Return the mean hypergradient of a step's nets, each at its place."""
        nets, found = paths(self.supernet, self._seed, shared.step), []
        count = self.problem.setting.options.tasks
        for place, net in enumerate(nets):
            subnet = self.problem.subnet(net)
            meta = {name: leaf.clone() for name, leaf in self.supernet.cut(shared.weights, net).items()}
            for i in range(count):
                number = (shared.step * len(nets) + place) * count + i
                window = subnet.window(number, subnet.start(meta, meta))
                answer = self._answer(shared.adaptations)(*subnet.entered(window, None), meta, window)
                found.append(self.supernet.scatter(net, answer.meta))
                shared.adaptations += 1
                shared.gradients += len(window.inner) + 1
        return tree.mean(found)

    def _joint(self, shared: Shared) -> Tree:
        """Return the mean gradient of a step's nets on batches of training images, over all classes."""
        found: list[Tree] = []
        whole, joint = self._joint_head(), self.training.joint
        over_all = {name: leaf for name, leaf in shared.weights.items() if name.startswith(OVER_ALL)}
        body = {name: leaf for name, leaf in shared.weights.items() if name not in over_all}
        for place, net in enumerate(paths(self.supernet, self._seed, shared.step)):
            number = shared.step * len(self.supernet.space.operations) + place
            images, targets = self.problem.tasks.jointly(TRAIN, number, joint.batch)
            part = self.supernet.net(net)
            head = dataclasses.replace(whole, width=part.head.width)
            # A narrower net reads the first channels.
            own = {OVER_ALL + name: over_all[OVER_ALL + name][first(shape)] for name, shape in head.shapes().items()}
            gradient = joint_gradient(part, head, self.supernet.cut(body, net) | own, images, targets)
            of_head = tree.zeros_like(over_all)
            for name in of_head:
                leaf = gradient.pop(name)
                of_head[name][first(leaf.shape)] = leaf
            found.append(self.supernet.scatter(net, gradient) | of_head)
            shared.gradients += 1
        return tree.mean(found)


def save(path: Path, shared: Shared, identity: str, *, finished: bool) -> None:
    """Write shared weights, whole or not at all; `identity` says of what run they are, `finished` whether it is at its end."""
    archive = io.BytesIO()
    values = {field.name: getattr(shared, field.name) for field in dataclasses.fields(shared)}
    torch.save({"identity": identity, "finished": finished, "shared": values}, archive)
    content = archive.getvalue()
    write_bytes_atomically(path, _FORMAT + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def read(path: Path, identity: str, device: torch.device) -> Shared | None:
    """Return the shared weights of a file, on a device; None where there is none.

    Raises:
        MetabenchError: the file is damaged, of another version, or of another space, seed or training.
    """
    if not path.exists():
        return None
    values = _values(path, device)
    if values["identity"] != identity:
        raise MetabenchError(
            f"'{path}' holds shared weights of another run ({values['identity']}, expected {identity}): move it away"
        )
    return Shared(**values["shared"])


def read_weights(path: Path, device: torch.device) -> Tree:
    """Return the weights of a file, whatever run they are of, on a device.

    Raises:
        MetabenchError: as `read`; there is no such file; or the run is not at its end.
    """
    if not path.is_file():
        raise missing_file("shared weights", path)
    values = _values(path, device)
    if not values["finished"]:
        raise MetabenchError(f"the training of the shared weights in '{path}' is not finished: the command that began it goes on")
    weights: Tree = values["shared"]["weights"]
    return weights


def _values(path: Path, device: torch.device) -> dict[str, Any]:
    content = path.read_bytes()
    if not content.startswith(_FORMAT):
        raise MetabenchError(f"'{path}' holds no shared weights of this version: move it away")
    digest, _, archive = content[len(_FORMAT) :].partition(b"\n")
    if hashlib.sha256(archive).hexdigest().encode() != digest:
        raise MetabenchError(f"'{path}' is damaged: move it away, and the weights are trained anew")
    found: dict[str, Any] = torch.load(io.BytesIO(archive), map_location=device, weights_only=True)
    return found


def identity_of(problem: FewShot, dataset: str, training: SharedTraining, method: str) -> str:
    """Return the hash of what shared weights depend on: space, tasks, data set and method by name, training, and seed."""
    setting = problem.setting
    options = dataclasses.asdict(setting.options) | {"architecture": ""}
    said = [
        options,
        dataset,
        dataclasses.asdict(training),
        method,
        setting.inner_steps,
        setting.seed,
        str(setting.dtype),
        list(problem.tasks.image),
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
