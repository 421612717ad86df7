"""Few-shot classification: the initial parameters of a network that tells N unseen classes apart after K examples of each.

An inner run adapts to a task with a few steps of SGD on its support; F is the cross-entropy of its queries, and the meta-parameters are the
start of every inner run (Finn et al. 2017). With `adaptation: proximal` the inner loss holds the parameters near the meta-parameters, as
in iMAML (Rajeswaran et al. 2019, eq. 3); a run begins at these, but that it does counts as constant, so that implicit and one-step methods
answer. With `head` the last layer alone adapts (ANIL, Raghu et al. 2020).

The network is a size: Conv-4 of MAML, ResNet-12, or `subnet`, a net of a space of architectures that the option `architecture` names.
Both losses are chains of blocks; blocks of the same sizes share a trace, so that one net after another of a space costs no new ones.

All classes of a task are of one domain. Reported is the accuracy on tasks of the test domains, after as many steps as in training and,
as a curve, after fewer and more. Normalisation by the batch takes the statistics of a task's queries all together, as in MAML: the
accuracy is then *transductive*, and the one beside it normalises each query by the support's statistics, as if it came alone. By groups
of channels (`norm: group`) the two are the same.

The two learning rates were chosen among eight settings by the accuracy on validation scripts of one net of the space 'tiny', seed 0. Where
second derivatives are dropped an inner rate of 0.1 does better; with a proximal term, a rate of 0.2 and ten steps.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from metabench.autodiff.optimisers import SGD
from metabench.core import MetaRole, Metric, ProblemCard, Tree, option
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.problem import PERCENT, OuterOptimiser, Setting, Validation
from metabench.core.schedules import read_schedule
from metabench.models.block_losses import proximal
from metabench.models.choice_blocks import BY_BATCH, NORMS, BlockNet, Choice, Head, Residual, Stem
from metabench.models.spaces import space
from metabench.models.supernet import Supernet
from metabench.tasks.accuracy import interval
from metabench.tasks.adapting import AdaptingClassifier

START, PROXIMAL, HEAD = "start", "proximal", "head"
_ROLES = {
    START: frozenset({MetaRole.START}),
    PROXIMAL: frozenset({MetaRole.INNER_LOSS}),
    HEAD: frozenset({MetaRole.START, MetaRole.INNER_LOSS, MetaRole.OUTER_LOSS}),
}
ACCURACY = Metric("accuracy on unseen classes (%)", "max", PERCENT)
SUBNET = "subnet"
_CONV4 = {f"conv4-{width}": width for width in (8, 16, 32, 64)}
_RESNET12 = {f"resnet12-{width}": width for width in (16, 32, 64)}


@dataclass(frozen=True)
class Options:
    """Options of `few_shot`."""

    ways: int = option(5, minimum=2, help="classes of a task")
    shots: int = option(1, minimum=1, help="labelled images per class of a task")
    queries: int = option(5, minimum=1, help="images per class of a task that its loss and accuracy are of")
    tasks: int = option(4, minimum=1, help="tasks per outer step")
    adaptation: str = option(
        START,
        choices=(START, PROXIMAL, HEAD),
        help="MAML; iMAML, with a proximal term in the inner loss; or ANIL, whose head alone adapts",
    )
    proximal: float = option(0.5, above=0, help="c of the term c / 2 |w - l|^2, where 'adaptation' is 'proximal'")
    space: str = option("tiny", check=space, help="of the net, where the size is 'subnet': tiny, small, large or darts")
    architecture: str = option("conv3-conv3-conv3", help="encoding of the net, where the size is 'subnet'")
    norm: str = option(
        BY_BATCH, choices=NORMS, help="statistics of normalisation: of the batch, or of groups of channels"
    )
    learning_rate: float = option(0.3, above=0, help="of SGD on a task's support")
    outer_learning_rate: float = option(1e-2, above=0, help="of the outer optimiser, Adam")
    outer_schedule: str = option("constant", check=read_schedule, help="of that, over outer steps: 'cosine 400'")
    validated: int = option(100, minimum=2, help="tasks of the validation domains, by which options are chosen")
    validate_every: int = option(0, minimum=0, help="outer steps between validations, the best of which is tested; 0: none")
    tested: int = option(200, minimum=2, help="test tasks, of the test domains in turn")


class FewShot(AdaptingClassifier):
    """Learn the parameters from which a network adapts to a few examples of unseen classes."""

    card = ProblemCard(
        title="initial parameters of few-shot classifiers of unseen characters",
        datasets=("glyphs", "glyphs28", "glyphs_far", "omniglot", "fc100", "mini_imagenet", "cross_domain_84"),
        sizes={name: f"Conv-4 of {width} channels" for name, width in _CONV4.items()}
        | {name: f"ResNet-12 with stages of {width} to {8 * width} channels" for name, width in _RESNET12.items()}
        | {SUBNET: "a net of a space of architectures, named by the option 'architecture'"},
        default_size="conv4-8",
        metrics=(
            ACCURACY,
            Metric("95 % interval over tasks (%)", "min"),
            Metric("accuracy, queries one at a time (%)", "max", PERCENT),
            Metric("above nearest pixels (%)", "max"),
            Metric("accuracy before adaptation (%)", "max", PERCENT),
        ),
        citation="finn2017model",
        options=Options,
        inner_steps=5,
        outer_steps=150,
    )
    roles = frozenset({MetaRole.START})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options: Options = setting.options
        self.optimiser = SGD(options.learning_rate)
        self.outer_optimiser = OuterOptimiser(
            "Adam", options.outer_learning_rate, schedule=read_schedule(options.outer_schedule)
        )
        if options.validate_every:
            self.validation = Validation(options.validate_every, ACCURACY, best=True)
        self._choose(_net(setting.size, options, self.tasks.image))

    def _choose(self, net: BlockNet) -> None:
        """Make a net the network of this problem."""
        options = self.setting.options
        head, held = options.adaptation == HEAD, options.adaptation == PROXIMAL
        self._take(net, net.names_of("head") if head else tuple(net.shapes()))
        if held:
            self._inner = proximal(self._outer, options.proximal)
        self.roles = _ROLES[options.adaptation]
        self.start_only = self._adapted if head else frozenset()
        # The detached start of a proximal run.
        self.stops_gradients = held

    def subnet(self, architecture: str) -> FewShot:
        """Return the same problem, with its tasks and data, for a net of the option `space`.

        Raises:
            MetabenchError: the space has no such net.
        """
        options = dataclasses.replace(self.setting.options, architecture=architecture)
        other = self.with_net(_net(SUBNET, options, self.tasks.image))
        other.setting = dataclasses.replace(self.setting, size=SUBNET, options=options)
        return other

    def supernet(self) -> Supernet:
        """Return the supernet of the option `space`, for images and classes of this problem's tasks."""
        options = self.setting.options
        return Supernet(space(options.space), self.tasks.image, options.ways, options.norm)

    def with_net(self, net: BlockNet) -> FewShot:
        """Return the same problem, with its tasks and data, for another network."""
        other = copy.copy(self)
        # What was derived from the network before.
        other.__dict__.pop("_continued", None)
        other._choose(net)
        return other

    def initial(self) -> Tree:
        """Return the network's parameters, drawn from the seed."""
        return self._drawn()

    def start(self, params: Tree, meta: Tree) -> Tree:
        """Return the meta-parameters that adapt: every inner run starts there, a proximal one at constants of their values."""
        if self.setting.options.adaptation == PROXIMAL:
            return {name: leaf.detach() for name, leaf in meta.items()}
        return super().start(params, meta)

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float | Curve]:
        """Return the metrics over test tasks, and the accuracy against the steps of adaptation with the 95 % interval over tasks."""
        (before, after), (alone, pixels), curve = self.tested(meta)
        values = (after.mean(), interval(after), alone.mean(), (after - pixels).mean(), before.mean())
        named = {metric.name: float(value) for metric, value in zip(self.card.metrics, values, strict=True)}
        return {**named, "accuracy against steps of adaptation": curve}

    def chosen_by(self, meta: Tree) -> dict[str, float]:
        """Return the accuracy on tasks of the validation domains (%)."""
        return {ACCURACY.name: self.validation_accuracy(meta, self.setting.options.validated)}

    def validate(self, meta: Tree) -> dict[str, float | Curve]:
        """Return the same, along a run."""
        return dict(self.chosen_by(meta))

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return how many parameters the network has."""
        return {"parameters of the network": float(self.net.parameters())}


def _net(size: str, options: Options, image: Sequence[int]) -> BlockNet:
    """Return the network of a size for images of a shape [channels, side, side]."""
    if size == SUBNET:
        return space(options.space).net(options.architecture, image, options.ways, options.norm)
    channels, side = image[0], image[-1]
    if side < 16:
        raise MetabenchError(
            f"few_shot: images of {side} x {side} pixels are too small for {size}, which halves them 4 times"
        )
    if size in _CONV4:
        width = _CONV4[size]
        rest = [(f"block{i}", Choice("conv3", width, options.norm, halves=True)) for i in range(1, 4)]
        blocks = (("block0", Stem(channels, width, options.norm, halves=True)), *rest)
        return BlockNet(blocks, Head(options.ways, width, side // 16))
    widths = [_RESNET12[size] * 2**i for i in range(4)]
    before = [channels, *widths]
    stages = ((f"stage{i}", Residual(before[i], width, options.norm, first=i == 0)) for i, width in enumerate(widths))
    return BlockNet(tuple(stages), Head(options.ways, widths[-1], side // 16, means=True))
