"""Images are rotated as they should be, by an angle that every mode differentiates, and the angle is learned."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from bilevel import call, checkpoint, make_problem, objective
from torch.fx.experimental.proxy_tensor import make_fx

from metabench.core.randomness import generator
from metabench.methods import method
from metabench.problems.rotation import rotated
from metabench.training.loop import train
from metabench.training.run import Run

IMAGES = torch.rand(3, 2, 9, 9, generator=generator(0, "images"), dtype=torch.float64)


def angle(degrees: float) -> torch.Tensor:
    return torch.tensor(math.radians(degrees), dtype=torch.float64)


def test_nothing_and_quarter_turns_move_whole_pixels() -> None:
    assert torch.equal(rotated(IMAGES, angle(0)), IMAGES)
    for quarters in (-1, 1, 2):
        torch.testing.assert_close(rotated(IMAGES, angle(90 * quarters)), IMAGES.rot90(quarters, (2, 3)))
    wide = torch.rand(1, 1, 4, 7, dtype=torch.float64)
    torch.testing.assert_close(rotated(wide, angle(180)), wide.flip(2, 3))


@pytest.mark.parametrize("degrees", [-100.0, 1.0, 30.0])
def test_it_is_torchs_bilinear_sampling(degrees: float) -> None:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor([[cosine, -sine, 0], [sine, cosine, 0]], dtype=torch.float64).expand(3, 2, 3)
    grid = torch.nn.functional.affine_grid(matrix, [3, 2, 9, 9], align_corners=False)
    expected = torch.nn.functional.grid_sample(IMAGES, grid, align_corners=False)
    torch.testing.assert_close(rotated(IMAGES, angle(degrees)), expected)


def test_the_angle_has_both_derivatives_in_every_mode() -> None:
    def value(at: torch.Tensor) -> torch.Tensor:
        return rotated(IMAGES, at).square().sin().sum()

    at = angle(17.3)
    slope = torch.func.grad(value)
    assert torch.autograd.gradcheck(value, at.clone().requires_grad_())
    assert torch.autograd.gradgradcheck(value, at.clone().requires_grad_())
    first, second = torch.func.jvp(slope, (at,), (torch.ones_like(at),))
    assert float(torch.func.jvp(value, (at,), (torch.ones_like(at),))[1]) == pytest.approx(float(first), rel=1e-12)
    assert float(torch.func.grad(slope)(at)) == pytest.approx(float(second), rel=1e-10)
    several = torch.stack([at, angle(-40)])
    torch.testing.assert_close(torch.func.vmap(slope)(several), torch.stack([slope(one) for one in several]))


def test_the_hypergradient_is_that_of_plain_training() -> None:
    on = make_problem("rotation", dataset="digits", size="lenet_half")
    state, meta, window = checkpoint(on)
    value, width = objective(on, state, window), 1e-6
    ends = [value({"angle": meta["angle"] + by}) for by in (width, -width)]
    found = call("unrolled", on, state, meta, window).meta["angle"]
    assert float(found) == pytest.approx((ends[0] - ends[1]) / (2 * width), rel=1e-5)


def test_validation_and_test_images_are_rotated_and_training_images_by_the_angle_alone() -> None:
    on = make_problem("rotation", dataset="digits", size="lenet_half", train=800, validation=400, batch=400)
    window = next(on.windows())[0]
    centre = {
        name: batch["inputs"].mean((0, 1)) for name, batch in (("in", window.inner[0]), ("out", window.outer[-1]))
    }
    turned = rotated(centre["in"][None, None], angle(30))[0, 0]
    assert float((turned - centre["out"]).norm()) < 0.3 * float((centre["in"] - centre["out"]).norm())
    state, meta = on.initial_state()
    shown = {**window.inner[0], "inputs": rotated(window.inner[0]["inputs"], meta["angle"])}
    assert float(on.inner_loss(state.params, meta, window.inner[0])) == float(on.outer_loss(state.params, meta, shown))


@pytest.mark.parametrize(("start", "error"), [(0.0, 30.0), (25.0, 5.0), (-170.0, 160.0)])
def test_the_error_is_the_shorter_way_round(start: float, error: float) -> None:
    on = make_problem("rotation", dataset="digits", size="lenet_half", start=start)
    state, meta = on.initial_state()
    assert on.evaluate(state.params, meta)["angle error (degrees)"] == pytest.approx(error, abs=1e-9)


def test_the_oracle_starts_at_the_angle() -> None:
    on = make_problem("rotation", dataset="digits", size="lenet_half", known_angle=True, degrees=-20.0)
    assert on.summary(on.initial()) == {"angle (degrees)": pytest.approx(-20)}


def test_the_angle_is_learned() -> None:
    options = {"train": 1000, "validation": 300, "batch": 64, "start": 0.1, "optimiser": "adam", "learning_rate": 2e-3}
    on = make_problem(
        "rotation",
        dataset="digits",
        size="mlp64",
        inner_steps=1,
        dtype=torch.float32,
        **options,
        outer_learning_rate=0.02,
        outer_schedule="cosine 150",
    )
    chosen, run = method("t1t2"), Run.fresh(on, generator(0, "training"))
    for _ in train(on, chosen, chosen.options(), run, 150):
        pass
    learned = run.record.curves()["angle (degrees)"].values
    assert 22 < learned[-1] < 38


def test_a_rotation_that_was_never_made_before_is_traced() -> None:
    size, options = (7, 5), {"train": 100, "validation": 50, "batch": 10}
    on = make_problem("rotation", dataset="digits", size="mlp64", inner_steps=1, **options)
    state, meta, window = checkpoint(on)
    images = torch.rand(2, 1, *size, dtype=torch.float64)
    traced = make_fx(lambda angle: rotated(images, angle), tracing_mode="fake", _allow_non_fake_inputs=True)(meta["angle"])
    torch.testing.assert_close(traced(meta["angle"]), rotated(images, meta["angle"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call("mixflow", on, state, meta, window)
