"""A problem: an inner and an outer loss, their data, their optimisers and the metrics that judge the outcome."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.options import option
from metabench.core.pictures import Picture
from metabench.core.registry import Declarable, Found, Registry
from metabench.core.schedules import Constant, Schedule, schedule_text
from metabench.core.segments import Segment
from metabench.core.types import Batch, InnerState, OptimiserState, Tree, Window


class MetaRole(str, Enum):
    """Where the meta-parameters enter. A method that cannot handle a role answers `unsupported`, never zero."""

    INNER_LOSS = "inner_loss"
    """The inner loss: regularisation, example weights, the data, a part of the model."""
    OUTER_LOSS = "outer_loss"
    """The outer loss, directly."""
    UPDATE = "update"
    """The inner update: learning rates, a learned optimiser."""
    START = "start"
    """The initial parameters of the inner run (MAML)."""


@dataclass(frozen=True)
class Metric:
    """A number that judges the outcome, and whether higher or lower is better.

    `bounds` are the least and the greatest value that it can take, where there are any: intervals on the page end there.
    """

    name: str
    direction: Literal["max", "min"]
    bounds: tuple[float, float] | None = None


PERCENT = (0.0, 100.0)
"""Bounds of an accuracy."""


class InnerOptimiser(Protocol):
    """The inner update as a pure function, differentiable in every argument."""

    def init(self, params: Tree) -> OptimiserState:
        """Return the state before the first step."""

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and state; nothing is changed in place."""


@dataclass(frozen=True)
class OuterOptimiser:
    """How the meta-parameters are updated: SGD (with momentum) or Adam, with settings as in torch.optim.

    `schedule` multiplies the learning rate; its steps are meta-updates. `clip` is the largest global norm of a hypergradient: a longer one
    is shortened to it, as by `torch.nn.utils.clip_grad_norm_`. None leaves it as it is.

    Raises:
        MetabenchError: `clip` is not positive.
    """

    name: Literal["SGD", "Adam"]
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    schedule: Schedule = field(default_factory=Constant)
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise MetabenchError(
                f"the outer optimiser clips at {self.clip}: expected a norm above 0, or None to leave it as it is"
            )

    def text(self) -> str:
        """Return the settings in words, those at their defaults left out: 'Adam, learning rate 0.1, schedule cosine 100, clip 1'."""
        said = [self.name, f"learning rate {self.learning_rate:g}"]
        said += [f"momentum {self.momentum:g}"] if self.momentum else []
        said += ["Nesterov"] if self.nesterov else []
        said += [f"weight decay {self.weight_decay:g}"] if self.weight_decay else []
        said += [] if self.schedule == Constant() else [f"schedule {schedule_text(self.schedule)}"]
        said += [] if self.clip is None else [f"clip {self.clip:g}"]
        return ", ".join(said)


class MetaStep(str, Enum):
    """When an outer step updates the meta-parameters. Both orders compute the hypergradient through the window's inner steps.

    The papers differ: in EvoGrad's, rotation and few-shot learning step the model first, Meta-Weight-Net the meta-parameters.
    """

    AFTER = "after"
    """After the window's inner steps, which stay."""
    BEFORE = "before"
    """Before them: these were a look ahead, and are redone with the new meta-parameters, at the cost of K more inner gradients."""


def meta_step_option(default: str = MetaStep.AFTER.value) -> Any:
    """Declare the option `meta_step` of a problem's options, by which suites choose the order."""
    return option(
        default,
        choices=tuple(one.value for one in MetaStep),
        help="the meta-update comes after the inner steps of its window, or before: they are then redone",
    )


@dataclass(frozen=True)
class Validation:
    """When meta-training is validated, and whether it ends early.

    Attributes:
        every: outer steps from one validation to the next.
        metric: which of the numbers that `validate` returns decides, and whether higher or lower is better.
        patience: validations in a row without an improvement after which training ends; the outcome is then that of the best one.
            0: training runs to its end.
        best: whether the outcome is that of the best validation even where training runs to its end; otherwise it is the last step's.

    Raises:
        MetabenchError: `every` is not positive, or `patience` is negative.
    """

    every: int
    metric: Metric
    patience: int = 0
    best: bool = False

    def __post_init__(self) -> None:
        if self.every < 1 or self.patience < 0:
            raise MetabenchError(
                f"validation every {self.every} outer steps with patience {self.patience}: expected 1 or more, and 0 or more"
            )


@dataclass(frozen=True)
class ProblemCard:
    """What a problem declares, readable without torch.

    Attributes:
        title: one line for tables.
        datasets: names of the data sets that it can run on; the first is its default.
            ('own',) if it reads its own files, or draws its data.
        sizes: named sizes of its model, with one line each; or a registry of models, to which plugins add.
        metrics: the first is the one that tables show.
        citation: key in `references.bib` of the paper that introduced the setting, or BibTeX; empty for one that is yours.
        options: frozen dataclass of its options.
        inner_steps: K, the default number of inner steps per hypergradient.
        outer_steps: the default number of meta-updates of a run.
        name: the word in a suite; empty: the name of its file.
        files: data files that it reads itself; a cell depends on their content.
        default_size: empty: the first of `sizes`. A registry needs one, because plugins may change what is first.
        illustration: whether it only illustrates how methods differ: it never enters an aggregate or headline.
        references: what a method is judged between, by name: options under which the method `none` is that. `baseline` does without
            meta-learning, `oracle` knows what is to be learned, others have names of their own.
    """

    title: str
    datasets: tuple[str, ...]
    sizes: Mapping[str, str] | Registry[Any]
    metrics: tuple[Metric, ...]
    citation: str
    options: type
    inner_steps: int
    outer_steps: int
    name: str = ""
    files: tuple[Path, ...] = ()
    default_size: str = ""
    illustration: bool = False
    references: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def named_sizes(self, plugins: Iterable[Path] = ()) -> Found[str]:
        """Return every size by name with its line, the default first; raise MetabenchError as `Registry`."""
        if isinstance(self.sizes, Registry):
            models = self.sizes(plugins)
            known = Found({name: str(model.title) for name, model in models.items()}, models.homes, models.left_out)
        else:
            known = Found(self.sizes, {}, {})
        default = self.default_size or next(iter(known))
        return Found({default: known[default], **known}, known.homes, known.left_out)


@dataclass(frozen=True)
class Setting:
    """What a problem is built from: one cell's choices and one seed.

    Attributes:
        size: a name from the card's table.
        options: an instance of the card's options.
        inner_steps: K, the inner steps of a window.
        seed: of initialisation, noise and the order of batches.
        device: where tensors live.
        dtype: of parameters and data.
        data: what `metabench.data.load` returned for the cell's data set; None where the problem needs no data.
        outer_steps: meta-updates of a run; 0 where none is planned.
        prepared: the folder of what the problem `prepares`; None: it is computed whenever the problem is built.
        simulated: whether shapes alone count: numbers that take long may be any then.
    """

    size: str
    options: Any
    inner_steps: int
    seed: int
    device: torch.device
    dtype: torch.dtype
    data: Any
    outer_steps: int = 0
    prepared: Path | None = None
    simulated: bool = False


class Problem(Declarable, ABC):
    """A bilevel problem: minimise F(w_K(l), l) over meta-parameters l, where w_K comes from K steps of an inner optimiser on f(w, l).

    Everything a loss depends on is an argument; an instance holds data and constants, never parameters, and never changes after it was
    made: traces of the losses treat it as constant. An instance can be rebuilt in another dtype from the same setting and then gives
    the same problem, rounded differently.
    """

    card: ClassVar[ProblemCard]

    roles: frozenset[MetaRole]
    """Where the meta-parameters enter."""
    start_only: frozenset[str] = frozenset()
    """Names of meta-parameters that only the start reads, where others enter elsewhere, too. A method that cannot see the start refuses
    them, rather than give them zero."""
    optimiser: InnerOptimiser
    """The inner optimiser."""
    outer_optimiser: OuterOptimiser
    """How the meta-parameters are updated."""
    batch: int
    """Examples in an inner batch; 0 where there are no batches."""
    stops_gradients: bool = False
    """Whether the losses stop derivatives on purpose (`detach()`, straight-through estimators). What is stopped then counts as a constant,
    at every order, and the hypergradient is that of the recorded derivatives; difference methods see through the stop. Otherwise
    a loss whose recorded derivative is not that of its values is refused."""
    validation: Validation | None = None
    """When `validate` is called; None for never."""
    meta_step: MetaStep = MetaStep.AFTER
    """Whether the meta-parameters are updated after a window's inner steps or before; an option of this name decides."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.meta_step = MetaStep(getattr(setting.options, "meta_step", self.meta_step))

    @classmethod
    def examples_needed(cls, options: Any) -> int:
        """Return how many training examples of a data set these options need: a suite that needs more than exist is refused."""
        return 0

    @classmethod
    def prepares(cls, size: str, options: Any) -> Mapping[str, Any]:
        """Return the settings on which a computation depends that many cells share, such as a Gram matrix; empty: there is none.

        It then has a job of its own for each data set and seed, before the cells whose problems agree in these settings. The job builds the
        problem, which writes into the folder `setting.prepared`, and reads there when it is built again.
        """
        return {}

    @abstractmethod
    def initial(self) -> Tree:
        """Return the initial meta-parameters, drawn from the setting's seed."""

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return the parameters from which an inner run starts, given those that its first window `begins` with.

        A differentiable map, the identity unless meta-parameters are initial parameters (`MetaRole.START`).
        """
        return params

    @abstractmethod
    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f(w, l) on `batch`, a scalar."""

    @abstractmethod
    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F(w, l) on `batch`, a scalar."""

    def inner_segments(self) -> Sequence[Segment]:
        """Return f as a chain of segments, block by block, for methods that can use it; empty if it is one piece.

        It is the same loss as `inner_loss`.
        """
        return ()

    def outer_segments(self) -> Sequence[Segment]:
        """Return F as a chain of segments; empty if it is one piece. It is the same loss as `outer_loss`."""
        return ()

    @abstractmethod
    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the windows of one outer step after another, endlessly.

        One window per outer step, or one per task in a batch of tasks, whose hypergradients the meta-update averages. An inner run begins
        where a window `begins` with parameters, and continues in the windows at the same place of the next outer steps until another
        begins: once where training is online, at every window for MAML, every so often for episodes. The first window of each place
        begins a run. The order is a function of the seed alone.
        """

    def windows_after(self, outer_steps: int) -> Iterator[Sequence[Window]]:
        """Yield `windows()` except those of the first `outer_steps`; a problem that can skip them without drawing them says how."""
        return itertools.islice(self.windows(), outer_steps, None)

    @abstractmethod
    def evaluate(self, params: Tree, meta: Tree) -> Mapping[str, float | Curve | Picture]:
        """Return every metric of the card, on test data that neither loss ever sees, and curves and pictures if there are any."""

    def after_update(self, step: int, meta: Tree, memory: Mapping[str, Tree]) -> tuple[Tree, Mapping[str, Tree]]:
        """Return the meta-parameters to go on with after outer step `step` (from 1), and what to keep until the next one.

        A projection onto valid meta-parameters, or what a search does between two updates. It returns new tensors: to write to those of
        `meta` is an error. `memory` is what was returned last, at first
        empty. Random numbers come from `generator(seed, f"... {step}")`, so that a resumed run draws the same.
        """
        return meta, memory

    def validate(self, meta: Tree) -> Mapping[str, float | Curve]:
        """Return what is followed on validation data, at the outer steps that `validation` names. It is not part of the training time."""
        return {}

    def chosen_by(self, meta: Tree) -> Mapping[str, float]:
        """Return numbers on validation data by which options are chosen, by name; of each, `evaluate` has the same on test data.

        The first decides; each of the others decides for the test of its name where that is tuned by itself: in 'TEST: NUMBER', TEST.
        Lower is better, except where a number has the name of a metric of the card of which higher is.
        """
        return {}

    def observe(self, params: Tree, meta: Tree) -> Mapping[str, float | Curve]:
        """Return what is followed along a run, by name: numbers become curves against the outer step; of a curve the last is kept.

        `params` are those of the first task: before the first window, as outer step 0, then after the windows of at most 200 outer steps.
        It is not part of the time.
        """
        return {}

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return a few named numbers that describe what was learned."""
        return {}

    def initial_state(self) -> tuple[InnerState, Tree]:
        """Return the inner state before the first window of the first task, and the initial meta-parameters."""
        return self.entered(next(self.window_lists())[0], None)[1], self.initial()

    def window_lists(self, after: int = 0) -> Iterator[Sequence[Window]]:
        """Yield `windows()` after the first `after` outer steps, looked at.

        Raises:
            MetabenchError: they end, or are not one window or more for an outer step.
        """
        done = after
        windows = self.windows_after(after) if after else self.windows()
        for done, tasks in enumerate(windows if isinstance(windows, Iterable) else (), start=after + 1):
            if not isinstance(tasks, Sequence) or not tasks or not all(isinstance(task, Window) for task in tasks):
                raise MetabenchError(
                    f"windows() yields {_said(tasks)} for outer step {done}, expected a list of one Window or more"
                )
            yield tasks
        raise MetabenchError(
            f"windows() ends after {done} outer steps, expected a list of windows for every outer step, endlessly"
        )

    def entered(self, window: Window, state: InnerState | None) -> tuple[Problem, InnerState]:
        """Return the problem and the inner state that a method is given for a window; `state` is that after the window before it.

        Where a run begins it is a fresh state with an empty memory. Where the run continues, its start is past: the problem has no role
        START there, and `start` is the identity.

        Raises:
            MetabenchError: there is no run to continue, or the window begins with other parameters than those of the run before it.
        """
        if window.begins is not None:
            if state is not None:
                check_alike(
                    window.begins, state.params, "an inner run begins with", "the run before it has", "parameter"
                )
            return self, InnerState(window.begins, self.optimiser.init(window.begins))
        if state is None:
            raise MetabenchError(
                "the first window begins no inner run: the first of each task needs `begins`, the initial parameters"
            )
        return self._continued if MetaRole.START in self.roles else self, state

    @functools.cached_property
    def _continued(self) -> Problem:
        """The same problem in the middle of an inner run, where the start is constant."""
        continued = copy.copy(self)
        continued.roles = self.roles - {MetaRole.START}
        continued.start_only = frozenset()
        continued.start = _where_it_is  # type: ignore[method-assign]
        return continued


def _where_it_is(params: Tree, meta: Tree) -> Tree:
    return params


def _said(tasks: object) -> str:
    return "an empty list" if isinstance(tasks, Sequence) and not tasks else f"a {type(tasks).__name__}"


def check_alike(found: Tree, like: Tree, gives: str, has: str, of: str) -> None:
    """Raise MetabenchError if two trees differ in names, shapes or dtypes; the last three say where each is from and what it holds."""
    if list(found) != list(like):
        raise MetabenchError(f"{gives} the {of}s {list(found)}, and {has} {list(like)}")
    for name, leaf in found.items():
        if (leaf.shape, leaf.dtype) != (like[name].shape, like[name].dtype):
            raise MetabenchError(
                f"{gives} the {of} '{name}' of shape {tuple(leaf.shape)} in {leaf.dtype}, and {has} one of shape "
                f"{tuple(like[name].shape)} in {like[name].dtype}"
            )
