"""Schedules equal torch.optim.lr_scheduler's, can be differentiated and traced, and are written and read as texts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import lr_scheduler

from metabench.core import MetabenchError
from metabench.core.options import build
from metabench.core.problem import OuterOptimiser
from metabench.core.schedules import Constant, Cosine, Piecewise, Power, Schedule, WarmUp, read_schedule, schedule_text
from metabench.problems.regularisation import Options

STEPS = 20


def reference(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]) -> list[float]:
    """Return the factors of one of torch's schedulers."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, found = make(optimiser), []
    for _ in range(STEPS):
        found.append(float(optimiser.param_groups[0]["lr"]))
        optimiser.step()
        scheduler.step()
    return found


def sequence(o: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    parts = [lr_scheduler.LinearLR(o, 1 / 5, total_iters=4), lr_scheduler.CosineAnnealingLR(o, 30, 0.1)]
    return lr_scheduler.SequentialLR(o, parts, [5])  # type: ignore[arg-type]


PEERS: dict[str, tuple[Schedule, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]]] = {
    "constant": (Constant(), lambda o: lr_scheduler.LambdaLR(o, lambda step: 1.0)),
    "cosine 25 to 0.1": (Cosine(25, 0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 25, 0.1)),
    "cosine 7": (
        Cosine(7),
        lambda o: lr_scheduler.LambdaLR(o, lambda step: (1 + math.cos(math.pi * min(step, 7) / 7)) / 2),
    ),
    "piecewise 4:0.1 10:0.01": (Piecewise((4, 10), (0.1, 0.01)), lambda o: lr_scheduler.MultiStepLR(o, [4, 10], 0.1)),
    "power -0.5": (Power(-0.5), lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / math.sqrt(1 + step))),
    "power 0.33": (Power(0.33), lambda o: lr_scheduler.LambdaLR(o, lambda step: (1 + step) ** 0.33)),
    "warm-up 5": (WarmUp(5), lambda o: lr_scheduler.LinearLR(o, 1 / 5, total_iters=4)),
    "warm-up 5, cosine 30 to 0.1": (WarmUp(5, Cosine(30, 0.1)), sequence),
}


@pytest.mark.parametrize("text", list(PEERS))
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_factors_equal_torchs_step_by_step(text: str) -> None:
    schedule, peer = PEERS[text]
    found = [float(schedule(torch.tensor(step, dtype=torch.float64))) for step in range(STEPS)]
    assert found == pytest.approx(reference(peer), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("text", list(PEERS))
def test_a_text_reads_back(text: str) -> None:
    schedule = PEERS[text][0]
    assert schedule_text(schedule) == str(schedule) == text
    assert read_schedule(text) == schedule


def test_digits_of_a_text_are_kept_and_a_schedule_of_ones_own_has_a_name() -> None:
    schedule = WarmUp(3, WarmUp(2.5, Piecewise((1 / 3, 1e5), (0.1 + 0.2, 1e-7))))
    assert read_schedule(str(schedule)) == schedule

    def halving(step: torch.Tensor) -> torch.Tensor:
        return 0.5**step

    assert schedule_text(halving).endswith("halving")
    assert schedule_text(WarmUp(3, halving)).startswith("warm-up 3, ")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text", list(PEERS))
def test_a_schedule_keeps_the_dtype_and_is_traced_with_the_step_as_its_input(text: str, dtype: torch.dtype) -> None:
    schedule = PEERS[text][0]
    traced = make_fx(schedule)(torch.tensor(1.0, dtype=dtype))
    for step in range(STEPS):
        at = torch.tensor(step, dtype=dtype)
        assert schedule(at).dtype is dtype
        assert schedule(at).shape == ()
        assert torch.equal(traced(at), schedule(at))


@pytest.mark.parametrize("text", list(PEERS))
def test_a_schedule_is_differentiable_forward_backward_and_vectorised(text: str) -> None:
    schedule = PEERS[text][0]
    for step in (0.0, 2.3, 6.4, 8.7, 19.2):
        at = torch.tensor(step, dtype=torch.float64)
        backward = torch.func.grad(schedule)(at)
        _, forward = torch.func.jvp(schedule, (at,), (torch.ones_like(at),))
        width = 1e-6
        expected = float(schedule(at + width) - schedule(at - width)) / (2 * width)
        if step:
            assert float(backward) == pytest.approx(expected, rel=1e-6, abs=1e-8)
        torch.testing.assert_close(forward, backward, rtol=1e-13, atol=1e-15)
    steps = torch.arange(STEPS, dtype=torch.float64)
    assert torch.equal(torch.func.vmap(schedule)(steps), torch.stack([schedule(step) for step in steps]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cosin 10", "unknown schedule 'cosin': did you mean 'cosine'"),
        ("", "unknown schedule ''"),
        ("cosine", "the schedule 'cosine' cannot be read: expected 'cosine STEPS'"),
        ("cosine ten", "cannot be read"),
        ("cosine 0", "a cosine schedule over 0 steps: expected a number above 0"),
        ("cosine -3", "a cosine schedule over -3 steps"),
        ("cosine 3 to -0.5", "a cosine schedule with the factor -0.5: expected a finite number of at least 0"),
        ("warm-up 0", "a warm-up schedule over 0 steps"),
        ("warm-up 3, cosine 0", "a cosine schedule over 0 steps"),
        ("warm-up 3,", "unknown schedule ''"),
        ("cosine 3, constant", "only a warm-up is followed by another schedule"),
        ("piecewise", "expected 'piecewise STEP:FACTOR"),
        ("piecewise 3:0.1 3:0.01", "the boundary 3 of a piecewise schedule follows 3: they have to increase from 0"),
        ("piecewise 0:0.1", "the boundary 0 of a piecewise schedule follows 0"),
        ("piecewise 3:1e999", "factor inf"),
        ("power", "expected 'power EXPONENT'"),
        ("power 1e999", "a power schedule with the exponent inf: expected a finite number"),
    ],
)
def test_a_bad_schedule_is_refused_with_the_option_that_holds_it(text: str, words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        build(Options, {"schedule": text}, "problem 'regularisation'")
    assert str(error.value).startswith("option 'schedule' of problem 'regularisation': ")
    assert words in str(error.value)


def test_every_boundary_has_a_factor() -> None:
    with pytest.raises(MetabenchError, match="2 boundaries and 1 factors, expected one factor for each boundary"):
        Piecewise((3, 6), (0.1,))


def test_an_outer_optimiser_in_words() -> None:
    assert OuterOptimiser("Adam", 0.1).text() == "Adam, learning rate 0.1"
    whole = OuterOptimiser("SGD", 0.01, 0.9, 1e-4, True, WarmUp(10, Cosine(90)), 2.5)
    assert whole.text() == (
        "SGD, learning rate 0.01, momentum 0.9, Nesterov, weight decay 0.0001, schedule warm-up 10, cosine 90, clip 2.5"
    )


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_an_outer_optimiser_clips_at_a_positive_norm(clip: float) -> None:
    with pytest.raises(MetabenchError, match=r"the outer optimiser clips at .*: expected a norm above 0"):
        OuterOptimiser("Adam", 0.1, clip=clip)
