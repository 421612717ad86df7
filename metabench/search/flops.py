"""FLOPs of a call, as torch's counter counts them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from metabench.autodiff.unrolled.sweep import through_graph
from metabench.core import Problem
from metabench.measure.predicted.flops import flop_formula
from metabench.tasks.adapting import AdaptingClassifier
from metabench.tasks.joint import Joint, jointly_trained
from metabench.tasks.trained import Answer

T = TypeVar("T")


def counted(call: Callable[[], T]) -> tuple[T, int]:
    """Return what a call returns, and the FLOPs of its matrix products and convolutions, derivatives included."""
    # Here: listings load this module without torch.
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(
            self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            given = dict(kwargs or {})
            out = function(*args, **given)
            if (formula := flop_formula(function._overloadpacket)) is not None:
                self.total += formula(*args, **given, out_val=out)
            return out

    with Counting() as mode:
        result = call()
    return result, mode.total


def of_joint_training(problem: AdaptingClassifier, joint: Joint) -> float:
    """Return the FLOPs of joint training: those of its first step, times the steps."""
    one = dataclasses.replace(joint, steps=1)
    return float(counted(lambda: jointly_trained(problem, one))[1] * joint.steps)


def of_training(problem: Problem, outer_steps: int, answer: Answer = through_graph) -> float:
    """Return the FLOPs of meta-training: those of the first task's hypergradient, times tasks and outer steps."""
    windows = next(iter(problem.windows()))
    call = functools.partial(answer, *problem.entered(windows[0], None), problem.initial(), windows[0])
    return float(counted(call)[1] * len(windows) * outer_steps)
