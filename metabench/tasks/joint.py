"""Training without inner runs: one softmax over all training classes, whose head is dropped afterwards.

What is left adapts to tasks with a head of zeros. It is the baseline of every way to learn initial parameters: weights shared by
classification alone (Tian et al. 2020 call it a good embedding).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from metabench.autodiff.outer import OuterUpdate
from metabench.core import Tree, option, tree
from metabench.core.errors import Diverged
from metabench.core.lazy import torch
from metabench.core.problem import OuterOptimiser
from metabench.core.randomness import generator
from metabench.core.schedules import Cosine
from metabench.models.choice_blocks import BlockNet, Head
from metabench.tasks.adapting import AdaptingClassifier
from metabench.tasks.images import TRAIN, ImageTasks

OVER_ALL = "joint."
"""Before the names of the head over all classes."""
HEAD = "head."


@dataclass(frozen=True)
class Joint:
    """How a network is trained over all classes: Adam, its rate a cosine to zero.

    Attributes:
        steps: how many.
        batch: images of a step.
        learning_rate: at the beginning.
    """

    steps: int = option(800, minimum=1, help="how many")
    batch: int = option(128, minimum=1, help="images of a step")
    learning_rate: float = option(0.02, above=0, help="at the beginning")

    @property
    def optimiser(self) -> OuterOptimiser:
        """The optimiser of a run."""
        return OuterOptimiser("Adam", self.learning_rate, schedule=Cosine(self.steps))


def head_over_all(tasks: ImageTasks, head: Head) -> Head:
    """Return the head over all training classes that takes the place of another."""
    return dataclasses.replace(head, ways=tasks.classes(TRAIN))


def drawn_head(head: Head, seed: int, like: torch.Tensor) -> Tree:
    """Return the weights of a head over all classes, by their names among the network's."""
    stream, found = generator(seed, "joint head"), {}
    for name, shape in head.shapes().items():
        scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.0
        found[OVER_ALL + name] = (torch.randn(shape, generator=stream, dtype=torch.float64) * scale).to(like)
    return found


def joint_gradient(net: BlockNet, head: Head, leaves: Tree, images: torch.Tensor, targets: torch.Tensor) -> Tree:
    """Return the gradient of the mean cross-entropy over all classes.

    Args:
        net: whose own head is left out.
        head: over all classes.
        leaves: the weights of both, those of the latter under `OVER_ALL`; they are all in the gradient.
        images: shape [n, channels, side, side].
        targets: classes among all, shape [n].
    """
    moved = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    own = {name: moved[OVER_ALL + name] for name in head.shapes()}
    loss = torch.nn.functional.cross_entropy(head.scores(own, net.maps(moved, images)), targets)
    found = torch.autograd.grad(loss, list(moved.values()), materialize_grads=True, allow_unused=True)
    return dict(zip(moved, found, strict=True))


def without_head(leaves: Tree) -> Tree:
    """Return weights after joint training: the head over all classes is gone, that of a task is zero, so no class is preferred."""
    kept = {name: leaf for name, leaf in leaves.items() if not name.startswith(OVER_ALL)}
    return {name: torch.zeros_like(leaf) if name.startswith(HEAD) else leaf for name, leaf in kept.items()}


def jointly_trained(problem: AdaptingClassifier, joint: Joint) -> Tree:
    """Return the parameters of a problem's network after training over all classes of its training domains.

    Raises:
        Diverged: a gradient is not finite.
    """
    tasks, net, seed = problem.tasks, problem.net, problem.setting.seed
    head, leaves = head_over_all(tasks, net.head), problem.initial()
    leaves = leaves | drawn_head(head, seed, next(iter(leaves.values())))
    update = OuterUpdate(joint.optimiser)
    state = update.init(leaves)
    for step in range(joint.steps):
        gradient = joint_gradient(net, head, leaves, *tasks.jointly(TRAIN, step, joint.batch))
        if not tree.all_finite(gradient):
            raise Diverged(f"the gradient is not finite after {step} of {joint.steps} joint steps")
        leaves, state = update.update(gradient, leaves, state)
    return without_head(leaves)
