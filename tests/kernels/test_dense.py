"""Kernels of infinitely wide MLPs: against another library, against many digits, against sampling, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch

from metabench.core.errors import MetabenchError
from metabench.kernels.activations import ACTIVATIONS, Leaky, Quadrature, activation
from metabench.kernels.covariances import Covariances, of_inputs, of_moments
from metabench.kernels.dense import MLP

STORED = json.loads(Path(__file__).with_name("neural_tangents.json").read_text())


def _tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _name(case: dict[str, Any]) -> str:
    options = case["mlp"]
    return f"{options['activation']}-{options['depth']}-{options['b_std']}-{options['parametrisation']}"


@pytest.mark.parametrize("case", STORED["cases"], ids=_name)
def test_kernels_are_those_of_neural_tangents(case: dict[str, Any]) -> None:
    found = MLP(**case["mlp"]).kernels(_tensor(STORED["rows"]), _tensor(STORED["columns"]))
    for one, other in ((found.nngp, case["nngp"]), (found.ntk, case["ntk"])):
        assert (one - _tensor(other)).abs().max() < 5e-15 * _tensor(other).abs().max()


def _exact(x: list[Any], y: list[Any], depth: int, w_std: float, b_std: float) -> tuple[float, float]:
    """Return NNGP and NTK of ReLU in 60 digits, by the formula with arccos."""
    with mpmath.workdps(60):
        scale, added = mpmath.mpf(w_std) ** 2, mpmath.mpf(b_std) ** 2
        a, b, c = (
            mpmath.fsum(mpmath.mpf(p) * mpmath.mpf(q) for p, q in zip(one, other, strict=True)) / len(x)
            for one, other in ((x, x), (y, y), (x, y))
        )
        tangent = mpmath.mpf(0)
        for layer in range(depth + 1):
            if layer:
                root = mpmath.sqrt(a * b)
                angle = mpmath.acos(max(-1, min(1, c / root)))
                tangent *= (mpmath.pi - angle) / (2 * mpmath.pi)
                c = root * (mpmath.sin(angle) + (mpmath.pi - angle) * mpmath.cos(angle)) / (2 * mpmath.pi)
                a, b = a / 2, b / 2
            a, b, c = (scale * one + added for one in (a, b, c))
            tangent = scale * tangent + c
        return float(c), float(tangent)


@pytest.mark.parametrize(("w_std", "b_std"), [(2**0.5, 0.0), (1.2, 0.3)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_nearby_inputs_lose_no_digits(depth: int, w_std: float, b_std: float) -> None:
    stream = torch.Generator().manual_seed(depth)
    x, aside = torch.randn((2, 6), generator=stream, dtype=torch.float64)
    points = [x + distance * aside for distance in (0.0, 1e-12, 1e-9, 1e-7, 1e-4, 0.1, 3.0)] + [-x, 2 * x]
    network = MLP(depth, "relu", w_std, b_std)
    found, size = network.kernels(x[None], torch.stack(points)), float(network.kernels(x[None]).ntk)
    for place, point in enumerate(points):
        nngp, ntk = _exact(x.tolist(), point.tolist(), depth, w_std, b_std)
        assert abs(float(found.nngp[0, place]) - nngp) < 1e-14 * size
        assert abs(float(found.ntk[0, place]) - ntk) < 1e-14 * size


def test_an_arccos_would_lose_half_of_the_digits() -> None:
    x = _tensor([[1.0, 2.0, 3.0]])
    y = x + 1e-9 * _tensor([[1.0, -1.0, 0.5]])
    values = of_inputs(x, y)
    cosine = (x * y).sum() / (x.norm() * y.norm())
    exact = _exact(x[0].tolist(), y[0].tolist(), 1, 1.0, 0.0)[1]
    assert abs(float(MLP(1, W_std=1.0).kernels(x, y).ntk) - exact) < 1e-15
    wrong = float(values.covariance[0, 0] * (math.pi - torch.arccos(cosine.clamp(max=1))) / (2 * math.pi))
    right = float(values.covariance[0, 0] * (math.pi - values.angle[0, 0]) / (2 * math.pi))
    assert abs(wrong - right) > 1e-10


@pytest.mark.parametrize("name", ["erf", "gelu", "identity", "tanh"])
def test_closed_forms_are_what_quadrature_gives(name: str) -> None:
    smooth = activation(name)

    def derivative(values: torch.Tensor) -> torch.Tensor:
        given = values.detach().requires_grad_()
        (slope,) = torch.autograd.grad(smooth(given).sum(), given)
        return slope

    stream = torch.Generator().manual_seed(0)
    x, y = torch.randn((2, 4, 3), generator=stream, dtype=torch.float64)
    before = of_inputs(x, y)
    found, slopes = smooth.after(before)
    expected, other = Quadrature(smooth, derivative).after(before)
    assert torch.allclose(found.covariance, expected.covariance, rtol=1e-9, atol=1e-10)
    assert torch.allclose(found.rows, expected.rows, rtol=1e-9) and torch.allclose(slopes, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_dual_functions_are_means_over_normal_numbers(name: str) -> None:
    stream = torch.Generator().manual_seed(0)
    root = _tensor([[1.2, 0.0], [0.5, 0.7]])
    u, v = root @ torch.randn((2, 400_000), generator=stream, dtype=torch.float64)
    between, (a, b, c) = activation(name), (1.44, 0.74, 0.6)
    found, slopes = between.after(of_moments(_tensor([a]), _tensor([b]), _tensor([[c]])))

    def slope(values: torch.Tensor) -> torch.Tensor:
        return (between(values + 1e-6) - between(values - 1e-6)) / 2e-6

    for drawn, exact in (
        (between(u) * between(v), found.covariance[0, 0]),
        (between(u).square(), found.rows[0]),
        (between(v).square(), found.columns[0]),
        (slope(u) * slope(v), slopes[0, 0]),
    ):
        assert abs(float(drawn.mean() - exact)) < 5 * float(drawn.std()) / math.sqrt(u.numel()) + 1e-7


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_rows_and_columns_are_alike_and_a_gram_matrix_is_positive(name: str) -> None:
    stream = torch.Generator().manual_seed(1)
    x = torch.randn((6, 3), generator=stream, dtype=torch.float64)
    x[1] = x[0] + 1e-8
    network = MLP(2, name, 1.4, 0.1)
    gram, part = network.kernels(x), network.kernels(x[2:], x)
    for whole, rectangular in ((gram.nngp, part.nngp), (gram.ntk, part.ntk)):
        assert torch.allclose(whole, whole.mT, rtol=0, atol=1e-14) and torch.allclose(
            whole[2:], rectangular, atol=1e-14
        )
        assert torch.linalg.eigvalsh(whole).min() > -1e-13


def test_a_batch_is_as_one_by_one() -> None:
    stream = torch.Generator().manual_seed(2)
    x, y = (torch.randn((3, n, 4), generator=stream, dtype=torch.float64) for n in (5, 2))
    network = MLP(2, "gelu", 1.4, 0.1)
    whole = network.kernels(x, y)
    for one in range(3):
        assert torch.allclose(whole.ntk[one], network.kernels(x[one], y[one]).ntk, atol=1e-15)


def test_exchanged_covariances_are_those_of_exchanged_inputs() -> None:
    x, y = _tensor([[1.0, 2.0], [3.0, -1.0]]), _tensor([[0.5, 0.5]])
    turned, other = of_inputs(x, y).affine(1.3, 0.4).transposed, of_inputs(y, x).affine(1.3, 0.4)
    for name in ("rows", "columns", "deficit", "excess", "gap"):
        assert torch.allclose(getattr(turned, name), getattr(other, name), atol=1e-15)


def test_an_mlp_without_hidden_layers_is_linear() -> None:
    x = _tensor([[1.0, 2.0], [3.0, -1.0]])
    found = MLP(0, W_std=2.0, b_std=0.5).kernels(x)
    expected = 4 * x @ x.T / 2 + 0.25
    assert torch.allclose(found.nngp, expected, atol=1e-15) and torch.allclose(found.ntk, expected, atol=1e-15)


def test_a_kink_is_refused_by_quadrature_with_its_error() -> None:
    kinked = Quadrature(torch.relu, lambda values: (values > 0).to(values.dtype))
    before = of_inputs(_tensor([[1.0, 2.0]]), _tensor([[2.0, -0.5]]))
    with pytest.raises(MetabenchError, match=r"quadrature with 640 nodes is off by about \d\.\de-0[3-6], relative"):
        kinked.after(before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"activation": "rleu"}, "unknown activation with a kernel 'rleu': did you mean 'relu'?"),
        ({"depth": -1}, "expected 0 or more layers"),
        ({"W_std": 0.0}, "expected 0 or more layers, a W_std above 0"),
        ({"parametrisation": "standard"}, "with 0 widths for 1 hidden layers"),
        ({"widths": (3,)}, "parametrisation 'ntk' with 1 widths"),
        ({"parametrisation": "mup"}, "expected 'ntk' or 'standard'"),
    ],
)
def test_a_network_that_there_is_not_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        MLP(**options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]], "of 2 and of 3 dimensions"),
        ([[1.0, math.nan]], [[1.0, 2.0]], "input 0 of the first ones has a value that is not finite"),
        ([[1.0, 2.0]], [[1.0, 2.0], [math.inf, 0.0]], "input 1 of the second ones"),
        ([[1.0, 2.0]], [[0.0, 0.0]], "input 0 of the second ones is zero, and the network has no biases"),
    ],
)
def test_inputs_without_a_kernel_are_refused(rows: Any, columns: Any, words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        MLP().kernels(_tensor(rows), _tensor(columns))
    assert words in str(error.value)
    with pytest.raises(MetabenchError, match=r"of torch\.int64: expected float64"):
        of_inputs(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64))


def test_a_zero_input_with_biases_has_a_kernel() -> None:
    x = _tensor([[0.0, 0.0], [1.0, 2.0]])
    found = MLP(1, "relu", 1.4, 0.5).kernels(x)
    near = MLP(1, "relu", 1.4, 0.5).kernels(x + 1e-13)
    assert found.ntk.isfinite().all() and torch.allclose(found.ntk, near.ntk, atol=1e-12)


def test_a_correlation_above_one_is_an_error_and_not_clipped() -> None:
    with pytest.raises(MetabenchError, match=r"the correlation 1\.01: expected at most 1"):
        of_moments(_tensor([1.0]), _tensor([1.0]), _tensor([[1.01]]))
    assert of_moments(_tensor([1.0]), _tensor([1.0]), _tensor([[1 + 1e-15]])).deficit.item() == 0


@pytest.mark.parametrize("name", ["relu", "erf", "gelu", "tanh"])
def test_float32_is_float64_rounded_of_near_inputs_too(name: str) -> None:
    x = torch.randn((6, 5), generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, x[:2] + 1e-4, 3 * x[:2]])
    found, exact = (MLP(2, name, 1.4, 0.1).kernels(points) for points in (x, x.double()))
    assert found.ntk.dtype == torch.float32
    torch.testing.assert_close(found.ntk.double(), exact.ntk, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.nngp.double(), exact.nngp, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("slope", [0.0, 0.3, -0.5])
def test_the_deficit_is_that_of_the_covariance(slope: float) -> None:
    stream = torch.Generator().manual_seed(3)
    x, y = torch.randn((2, 5, 3), generator=stream, dtype=torch.float64)
    found, _ = Leaky(slope).after(of_inputs(x, y).affine(1.5, 0.2))
    assert isinstance(found, Covariances)
    again = of_moments(found.rows, found.columns, found.covariance)
    for name in ("deficit", "excess", "gap"):
        assert torch.allclose(getattr(again, name), getattr(found, name), atol=1e-15)


def test_finite_networks_approach_the_kernel_as_the_root_of_their_width() -> None:
    stream = torch.Generator().manual_seed(4)
    x = torch.randn((4, 3), generator=stream, dtype=torch.float64)
    exact = MLP(1, "relu", 2**0.5, 0.0).kernels(x).ntk
    errors = []
    for width, seed in itertools.product((64, 1024), range(32)):
        drawn = torch.Generator().manual_seed(seed)
        first = torch.randn((width, 3), generator=drawn, dtype=torch.float64)
        last = torch.randn(width, generator=drawn, dtype=torch.float64)
        before = x @ first.T * (2 / 3) ** 0.5
        # d/d last and d/d first of sqrt(2 / width) last' relu(sqrt(2 / 3) first x).
        features = before.relu() * (2 / width) ** 0.5
        inner = (before > 0) * last * (2 / width) ** 0.5
        found = features @ features.T + (inner @ inner.T) * (x @ x.T) * 2 / 3
        errors.append(float((found - exact).norm() / exact.norm()))
    narrow, wide = (sum(part) / 32 for part in (errors[:32], errors[32:]))
    assert -0.6 < math.log(wide / narrow) / math.log(1024 / 64) < -0.4
