"""Architecture search by gradients on few-shot tasks: each layer is a mixture of operations, and the logits of the mixtures are learned.

`formulation: darts` (Liu et al. 2019): the meta-parameters are the logits, which enter the inner loss on a task's support and the outer
loss on its queries. The weights of every run begin as drawn, so what is learned is an architecture that learns well from a few examples.
`formulation: tnas` (Lian et al. 2020): weights *and* logits are initial parameters, and both adapt to a task, each with a rate of its own.

Layers, operations and images are those of a space, and one net of it is what the logits select: of each layer the operation with the
largest. Reported is the accuracy of the mixture on tasks of the test domains, and beside it that of the net selected, trained from nothing
by MAML on the same training tasks, as `few_shot` with its defaults does it. What the search is worth is the second; the gap between the
two says how far a mixture is from what it stands for. The summary has the collapse that DARTS is known for: the entropy of the mixtures,
and how many layers select an operation without weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from metabench.autodiff.optimisers import SGD
from metabench.core import MetaRole, Metric, ProblemCard, Tree, option
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import PERCENT, OuterOptimiser, Setting
from metabench.models.choice_blocks import BY_BATCH, LOGITS, NORMS, BlockNet, Mixture
from metabench.models.operations import OPERATIONS
from metabench.models.search_space import Space
from metabench.models.spaces import space
from metabench.problems.few_shot import SUBNET, FewShot
from metabench.problems.few_shot import Options as FewShotOptions
from metabench.tasks.accuracy import interval
from metabench.tasks.adapting import AdaptingClassifier
from metabench.tasks.trained import meta_trained

DARTS, TNAS = "darts", "tnas"
_WIDTHS = (12, 6, 24, 48)


@dataclass(frozen=True)
class Options:
    """Options of `architecture_search`."""

    formulation: str = option(
        DARTS,
        choices=(DARTS, TNAS),
        help="logits are meta-parameters of both losses; or weights and logits are initial parameters, and adapt",
    )
    space: str = option("tiny", check=space, help="whose layers and operations are mixed: tiny, small, large or darts")
    temperature: float = option(1.0, above=0, help="by which logits are divided before the softmax")
    part: int = option(
        1, minimum=1, help="one over the part of the channels that are mixed, the rest pass by: memory for accuracy"
    )
    ways: int = option(5, minimum=2, help="classes of a task")
    shots: int = option(1, minimum=1, help="labelled images per class of a task")
    queries: int = option(5, minimum=1, help="images per class of a task that its loss and accuracy are of")
    tasks: int = option(4, minimum=1, help="tasks per outer step")
    norm: str = option(
        BY_BATCH, choices=NORMS, help="statistics of normalisation: of the batch, or of groups of channels"
    )
    learning_rate: float = option(0.2, above=0, help="of SGD on a task's support")
    logit_rate: float = option(2.0, above=0, help="the same of logits, where they adapt")
    outer_learning_rate: float = option(0.03, above=0, help="of the outer optimiser, Adam")
    tested: int = option(200, minimum=2, help="test tasks, of the test domains in turn")
    selected_steps: int = option(
        150, minimum=0, help="outer steps by which the net selected is trained from nothing; 0: it adapts from weights as drawn"
    )


class ArchitectureSearch(AdaptingClassifier):
    """Learn the logits of mixtures of operations."""

    card = ProblemCard(
        title="mixtures of operations whose logits select an architecture for few-shot tasks",
        datasets=("glyphs", "glyphs28", "omniglot", "fc100", "mini_imagenet", "cross_domain_84"),
        sizes={f"w{width}": f"{width} channels" for width in _WIDTHS},
        metrics=(
            Metric("accuracy of the net selected (%)", "max", PERCENT),
            Metric("95 % interval over tasks (%)", "min"),
            Metric("accuracy of the mixture (%)", "max", PERCENT),
            Metric("mixture above the net selected (%)", "min"),
            Metric("above nearest pixels (%)", "max"),
        ),
        citation="liu2019darts lian2020towards",
        options=Options,
        inner_steps=3,
        outer_steps=150,
    )
    roles = frozenset({MetaRole.INNER_LOSS, MetaRole.OUTER_LOSS})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options: Options = setting.options
        width = int(setting.size.removeprefix("w"))
        self.space = dataclasses.replace(space(options.space), widths=(width,))
        if width % options.part:
            raise MetabenchError(
                f"architecture_search: {width} channels do not divide into {options.part} parts: 'part' is a divisor of the width"
            )
        net = _mixtures(self.space, width, options, self.tasks.image)
        self._logits = [name for name in net.shapes() if name.endswith(LOGITS)]
        adapted = [name for name in net.shapes() if name not in self._logits]
        self._learns_start = options.formulation == TNAS
        if self._learns_start:
            self.roles = frozenset({MetaRole.START})
            adapted += self._logits
        self._take(net, adapted)
        self.optimiser = SGD(self._rates if self._learns_start else options.learning_rate)
        self.outer_optimiser = OuterOptimiser("Adam", options.outer_learning_rate)

    def _rates(self, meta: Tree, step: torch.Tensor) -> Tree:
        """Return the inner rate of every weight and of every layer's logits."""
        options = self.setting.options
        return {
            name: torch.full_like(step, options.logit_rate if name in self._logits else options.learning_rate)
            for name in meta
        }

    def initial(self) -> Tree:
        """Return the logits, nearly equal; with 'tnas' the weights as well."""
        drawn = self._drawn()
        return drawn if self._learns_start else {name: drawn[name] for name in self._logits}

    def selected(self, meta: Tree) -> str:
        """Return the encoding of the net that the logits select: of each layer the operation of the largest."""
        genes = [int(meta[name].argmax()) for name in self._logits]
        return self.space.text(genes)

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float | Curve]:
        """Return the metrics over test tasks, and the mixture's accuracy against the steps of adaptation."""
        (_, mixture), (_, pixels), curve = self.tested(meta, alone=False)
        chosen = self._trained(self.selected(meta))
        values = (chosen.mean(), interval(chosen), mixture.mean(), (mixture - chosen).mean(), (chosen - pixels).mean())
        named = {metric.name: float(value) for metric, value in zip(self.card.metrics, values, strict=True)}
        return {**named, "accuracy of the mixture against steps of adaptation": curve}

    def _trained(self, encoding: str) -> torch.Tensor:
        """Return the accuracy (%) on each test task of a net of the space that is trained from nothing."""
        problem = self.alone(encoding)
        return problem.test_accuracies(meta_trained(problem, self.setting.options.selected_steps))

    def alone(self, encoding: str) -> FewShot:
        """Return `few_shot` for a net of the space, on the same tasks."""
        mine = self.setting
        same = ("ways", "shots", "queries", "tasks", "norm", "tested")
        options = FewShotOptions(**{name: getattr(mine.options, name) for name in same})
        setting = dataclasses.replace(mine, size=SUBNET, options=options, inner_steps=FewShot.card.inner_steps)
        return FewShot(setting).with_net(self.space.net(encoding, self.tasks.image, options.ways, options.norm))

    def observe(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the entropy of the mixtures."""
        return {"entropy of the mixtures (nats)": self._entropy(meta)}

    def _entropy(self, meta: Tree) -> float:
        """Return the mean entropy of the layers' mixtures, in nats."""
        weights = [(meta[name].double() / self.setting.options.temperature).softmax(0) for name in self._logits]
        return sum(float(torch.special.entr(one).sum()) for one in weights) / len(weights)

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return what tells a collapse: the entropy, and the layers that select an operation without weights; and the net's size."""
        encoding, image, ways = self.selected(meta), self.tasks.image, self.setting.options.ways
        bare = [name for name in self.space.operations_of(encoding) if not OPERATIONS[name].shapes(1)]
        chosen = {f"layer {layer} selects": float(meta[name].argmax()) for layer, name in enumerate(self._logits)}
        return {
            "entropy of the mixtures (nats)": self._entropy(meta),
            "layers without weights": float(len(bare)),
            "parameters of the net selected": float(self.space.parameters(encoding, image, ways)),
            **chosen,
        }


def _mixtures(of: Space, width: int, options: Options, image: Sequence[int]) -> BlockNet:
    """Return the network of mixtures for images of a shape [channels, side, side]."""

    def mixture(place: int, halves: bool) -> Mixture:
        return Mixture(of.operations, width, options.norm, halves, options.temperature, options.part)

    return of.of_layers(mixture, width, image, options.ways, options.norm)
