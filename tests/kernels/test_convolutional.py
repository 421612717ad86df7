"""Kernels of infinitely wide convolutional networks: against another library, many digits, finite networks, and planted mistakes."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d

from metabench.core.errors import MetabenchError
from metabench.kernels import pixels, propagation
from metabench.kernels.activations import Erf
from metabench.kernels.convolutional import ConvNet
from metabench.kernels.dense import MLP
from metabench.measure.memory.meter import measure_memory

STORED = json.loads(Path(__file__).with_name("neural_tangents_convolutional.json").read_text())
CASES = STORED["cases"]


def _tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _name(case: dict[str, Any]) -> str:
    options = case["network"]
    pools = "".join(str(layer) for layer in options["pools"])
    return f"{options['activation']}-{options['depth']}-{options['b_std']}-{options['readout']}{pools}"


def _error(case: dict[str, Any], **options: Any) -> float:
    """Return the largest error relative to the largest number."""
    found = ConvNet(**case["network"]).kernels(_tensor(STORED["rows"]), _tensor(STORED["columns"]), **options)
    return max(
        float((one - _tensor(other)).abs().max() / _tensor(other).abs().max())
        for one, other in ((found.nngp, case["nngp"]), (found.ntk, case["ntk"]))
    )


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_kernels_are_those_of_neural_tangents(case: dict[str, Any]) -> None:
    assert _error(case) < 2e-14
    if case["network"]["depth"] == 2 and case["network"]["b_std"]:
        # One pair in a block, and slabs of one row of pixels.
        assert _error(case, cache=1) < 2e-14


def _planted(activations: set[str], biases: bool) -> float:
    """Return the least of the errors of these kernels, two layers deep; a refusal is as large as can be."""
    found = []
    for case in CASES:
        options = case["network"]
        if options["activation"] in activations and options["depth"] == 2 and (options["b_std"] > 0) == biases:
            try:
                found.append(_error(case))
            except MetabenchError:
                found.append(math.inf)
    assert len(found) == 5 * len(activations)
    return min(found)


def test_an_edge_that_wraps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrapped(out: torch.Tensor, source: torch.Tensor, dimensions: Any, offset: int, start: int) -> None:
        moved = source.roll([-offset] * len(dimensions), list(dimensions))
        out.add_(moved[start : start + len(out)])

    monkeypatch.setattr(pixels, "_add_moved", wrapped)
    assert _planted({"relu", "erf"}, biases=False) > 1e-3


def test_a_patch_without_its_corners_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(source: torch.Tensor, start: int, work: torch.Tensor, out: torch.Tensor, spatial: int) -> None:
        out.add_(source[start : start + len(out)])
        for first in (0, 1):
            for offset in (-1, 1):
                pixels._add_moved(out, source, range(first, spatial, 2), offset, start if first == 0 else 0)

    monkeypatch.setattr(pixels, "add_patches", without)
    assert _planted({"relu"}, biases=False) > 1e-3


def test_a_tangent_kernel_without_the_factor_of_the_derivatives_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = propagation.rectified

    def doubled(layer: Any, left: Any, other: Any, before: Any, after: Any, *rest: Any) -> None:
        right(layer, left, other, before, after, *rest)
        after[1].mul_(2)

    smooth = Erf.after

    def unscaled(self: Erf, before: Any) -> Any:
        values, slopes = smooth(self, before)
        return values, slopes * math.pi / 4

    monkeypatch.setattr(propagation, "rectified", doubled)
    monkeypatch.setattr(Erf, "after", unscaled)
    assert _planted({"relu", "erf"}, biases=False) > 1e-2


def test_biases_added_once_too_often_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = propagation.Propagation._patches

    def twice(self: Any, base: torch.Tensor) -> torch.Tensor:
        found = right(self, base)
        return torch.cat([found, found[:, -1:]], 1)

    monkeypatch.setattr(propagation.Propagation, "_patches", twice)
    assert _planted({"relu"}, biases=True) > 1e-3


@pytest.mark.parametrize(("name", "readout"), [("erf", "flatten"), ("gelu", "gap"), ("relu", "pool")])
def test_a_correlation_above_one_is_an_error_and_not_clipped(
    name: str, readout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = propagation.Propagation._units

    def shrunk(self: Any, *given: Any, **options: Any) -> Any:
        found = right(self, *given, **options)
        return pixels.Units(found.roots * 0.995, found.vectors, found.before * 0.995)

    monkeypatch.setattr(propagation.Propagation, "_units", shrunk)
    x = _images(2, 1, 4, 4)
    with pytest.raises(MetabenchError, match=r"the correlation 1\.0\d+: expected at most 1"):
        ConvNet(2, name, 1.4, 0.1, readout, (1,) if readout == "pool" else ()).kernels(x)
    with pytest.raises(MetabenchError, match=r"the correlation 1\.01: expected at most 1"):
        pixels.deficit_of(_tensor([1.0]), _tensor([1.01]))
    assert pixels.deficit_of(_tensor([1.0]), _tensor([1 + 1e-15])).item() == 0


def _exact(x: torch.Tensor, y: torch.Tensor, network: ConvNet) -> tuple[float, float]:
    """Return NNGP and NTK of ReLU for two images in 60 digits, by the formula with arccos, pair of pixels by pair."""
    with mpmath.workdps(60):
        scale, added = mpmath.mpf(network.W_std) ** 2, mpmath.mpf(network.b_std) ** 2
        h, w = x.shape[1:]
        places = list(itertools.product(range(h), range(w)))
        pairs = list(itertools.product(places, places))
        around = list(itertools.product((-1, 0, 1), (-1, 0, 1)))
        given = [[[mpmath.mpf(v) for v in one[:, i, j].tolist()] for i, j in places] for one in (x, y)]

        def patches(values: dict[Any, Any], p: Any, q: Any) -> Any:
            moved = (((p[0] + i, p[1] + j), (q[0] + i, q[1] + j)) for i, j in around)
            return scale / 9 * mpmath.fsum(values.get(one, 0) for one in moved)

        def products(one: list[Any], other: list[Any]) -> dict[Any, Any]:
            return {
                (p, q): mpmath.fdot(u, v) / len(x)
                for (p, u), (q, v) in itertools.product(zip(places, one, strict=True), zip(places, other, strict=True))
            }

        a, b, c = products(given[0], given[0]), products(given[1], given[1]), products(*given)
        tangents = dict.fromkeys(pairs, mpmath.mpf(0))
        for _ in range(network.depth):
            a, b, c = ({pair: patches(one, *pair) + added for pair in pairs} for one in (a, b, c))
            tangents = {pair: patches(tangents, *pair) + c[pair] for pair in pairs}
            after = []
            for one, left, right in ((a, a, a), (b, b, b), (c, a, b)):
                dual = {}
                for p, q in pairs:
                    root = mpmath.sqrt(left[p, p] * right[q, q])
                    angle = mpmath.acos(max(-1, min(1, one[p, q] / root))) if root else mpmath.mpf(0)
                    dual[p, q] = root * (mpmath.sin(angle) + (mpmath.pi - angle) * mpmath.cos(angle)) / (2 * mpmath.pi)
                    if one is c:
                        tangents[p, q] *= (mpmath.pi - angle) / (2 * mpmath.pi)
                after.append(dual)
            a, b, c = after
        read = pairs if network.readout in ("gap", "pool") else [(p, p) for p in places]
        nngp, tangent = (scale * mpmath.fsum(one[pair] for pair in read) / len(read) for one in (c, tangents))
        return float(nngp + added), float(tangent + nngp + added)


@pytest.mark.parametrize("b_std", [0.0, 0.3])
@pytest.mark.parametrize(("readout", "pools"), [("flatten", ()), ("gap", ()), ("pool", (2,))])
def test_nearby_images_lose_no_digits(readout: Any, pools: tuple[int, ...], b_std: float) -> None:
    # On 2 x 2 pixels, pooling after the last layer is the mean over all of them.
    x, aside = _images(2, 1, 2, 2, seed=3)
    x[0, 0, 0] = 0.0
    others = [x + distance * aside for distance in (0.0, 1e-12, 1e-9, 1e-6, 0.1)] + [-x, 2 * x, -x + 1e-9 * aside]
    network = ConvNet(2, "relu", 1.4, b_std, readout, pools)
    found, size = network.kernels(x[None], torch.stack(others)), float(network.kernels(x[None]).ntk)
    for place, other in enumerate(others):
        nngp, ntk = _exact(x, other, network)
        assert abs(float(found.nngp[0, place]) - nngp) < 1e-14 * size
        assert abs(float(found.ntk[0, place]) - ntk) < 1e-14 * size


def test_pooling_between_layers_loses_half_of_the_digits_of_nearby_images_and_no_more() -> None:
    x, aside = _images(2, 1, 4, 4, seed=4)
    network = ConvNet(2, "relu", 1.4, 0.1, "gap", (1,))
    gram = network.kernels(torch.stack([x, x + 1e-10 * aside])).ntk
    assert (gram - gram[0, 0]).abs().max() < 1e-7 * gram[0, 0]


def test_a_sum_of_products_would_lose_half_of_the_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    x, aside = _images(2, 1, 2, 2, seed=3)
    other, network = x + 1e-9 * aside, ConvNet(2, "relu", 1.4, 0.3, "flatten")
    exact = _exact(x, other, network)[1]

    def cancelling(left: torch.Tensor, right: torch.Tensor, joined: Any, work: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(((left.square() + right.square()).sum(0) - 2 * (left * right).sum(0)).abs())

    assert abs(float(network.kernels(x[None], other[None]).ntk) - exact) < 1e-14
    monkeypatch.setattr(pixels, "_squared_distance", cancelling)
    assert abs(float(network.kernels(x[None], other[None]).ntk) - exact) > 1e-10


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "identity", "erf", "gelu", "tanh"])
@pytest.mark.parametrize(("readout", "pools"), [("flatten", ()), ("gap", ()), ("pool", (1,))])
def test_a_gram_matrix_is_symmetric_and_positive(name: str, readout: Any, pools: tuple[int, ...]) -> None:
    shape = (3, 1, 2, 2) if name == "tanh" else (4, 2, 4, 6)
    x = _images(*shape, seed=5)
    x[1] = x[0] + 1e-9 * x[2]
    network = ConvNet(2, name, 1.4, 0.1, readout, pools)
    gram, part, same = network.kernels(x), network.kernels(x[1:], x), network.kernels(x, x)
    for whole, rectangular, again in ((gram.nngp, part.nngp, same.nngp), (gram.ntk, part.ntk, same.ntk)):
        assert torch.equal(whole, whole.mT) and torch.equal(whole, again)
        # Pooling between layers loses half of the digits, see above.
        accepted = 1e-8 if pools else 1e-13
        assert torch.allclose(whole[1:], rectangular, rtol=accepted, atol=0)
        assert torch.linalg.eigvalsh(whole).min() > -accepted * whole.max()


@pytest.mark.parametrize("readout", ["flatten", "gap"])
def test_an_image_of_one_pixel_is_an_mlp_on_a_ninth_of_its_variance(readout: Any) -> None:
    x = _images(4, 3, 1, 1, seed=6)
    # Eight of the nine pixels of a patch are zeros beside the image; of the dense layer at the end, none.
    found = ConvNet(1, "relu", 3 * 2**0.5, 0.0, readout).kernels(x)
    expected = MLP(1, "relu", 2**0.5).kernels(x.flatten(1))
    assert torch.allclose(found.nngp, 9 * expected.nngp, atol=1e-14)
    assert torch.allclose(found.ntk, 9 * expected.ntk, atol=1e-14)


def test_zeros_in_an_image_have_a_kernel_and_a_zero_image_has_one_with_biases() -> None:
    x = _images(3, 1, 6, 6, seed=7)
    x[:, :, 2:] = 0
    for readout in ("flatten", "gap"):
        assert ConvNet(2, readout=readout).kernels(x).ntk.isfinite().all()
        x[1] = 0
        found, near = (ConvNet(2, "relu", 1.4, 0.3, readout).kernels(one).ntk for one in (x, x + 1e-13))
        assert found.isfinite().all() and torch.allclose(found, near, atol=1e-12)
        x[1] = x[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("readout", ["flatten", "gap"])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "identity"])
def test_opposite_images_have_a_kernel_at_any_scale(name: str, readout: Any, dtype: torch.dtype) -> None:
    x, network = _images(2, 1, 4, 4, seed=10).to(dtype), ConvNet(3, name, 1.4, 0.0, readout)
    x[1] = -x[0]
    found = network.kernels(x)
    for scale in (1e-6, 1e3, 1e6):
        other = network.kernels(scale * x)
        for one, scaled in ((found.nngp, other.nngp), (found.ntk, other.ntk)):
            assert scaled.isfinite().all()
            assert torch.allclose(scaled / scale**2, one, rtol=100 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", ["relu", "erf"])
def test_float32_is_near_float64(name: str) -> None:
    x = _images(3, 2, 6, 6, seed=8).abs()
    x[1] = x[0]
    for readout, pools in (("flatten", ()), ("gap", ()), ("pool", (1,))):
        network = ConvNet(3, name, 1.4, 0.1, readout, pools)
        exact, found = network.kernels(x).ntk, network.kernels(x.float()).ntk
        assert found.dtype == torch.float32
        assert (found - exact).abs().max() < (3e-4 if pools else 2e-6) * exact.max()


def _empirical(
    x: torch.Tensor, width: int, b_std: float, head: Callable[[torch.Tensor], torch.Tensor], seed: int
) -> torch.Tensor:
    """Return the tangent kernel of a network of two convolutions, by its gradients."""
    drawn = torch.Generator().manual_seed(seed)
    units = head(x.new_zeros(1, width, *x.shape[2:])).shape[1]
    shapes = [(width, x.shape[1], 3, 3), (width,), (width, width, 3, 3), (width,), (units,)]
    params = [torch.randn(shape, generator=drawn, dtype=torch.float64).requires_grad_() for shape in shapes]
    rows = []
    for one in x:
        found = one[None]
        for weight, bias in (params[:2], params[2:4]):
            fan_in = weight[0].numel()
            found = conv2d(found, 2**0.5 / fan_in**0.5 * weight, b_std * bias, padding=1).relu()
        output = 2**0.5 / units**0.5 * head(found)[0] @ params[4]
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(output, params)]))
    features = torch.stack(rows)
    return features @ features.T + b_std**2


@pytest.mark.parametrize(
    ("readout", "head"),
    [
        ("flatten", lambda found: found.flatten(1)),
        ("gap", lambda found: found.mean((2, 3))),
        ("pool", lambda found: avg_pool2d(found, 2).flatten(1)),
    ],
)
def test_wide_networks_have_these_kernels(readout: Any, head: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x, width = _images(3, 1, 4, 4, seed=9), 128
    pools = (2,) if readout == "pool" else ()
    exact = ConvNet(2, "relu", 2**0.5, 0.2, readout, pools).kernels(x).ntk
    drawn = torch.stack([_empirical(x, width, 0.2, head, seed) for seed in range(24)])
    mean, error = drawn.mean(0), drawn.std(0) / len(drawn) ** 0.5
    assert ((mean - exact).abs() < 4 * error + 0.02 * exact.max()).all()
    assert (error < 0.05 * exact.max()).all()


@pytest.mark.parametrize(
    ("options", "n", "m", "size", "dtype"),
    [
        ({"readout": "gap"}, 8, 9, 8, torch.float64),
        ({"readout": "gap", "b_std": 0.1}, 2, 3, 14, torch.float32),
        ({"readout": "flatten"}, 64, 40, 14, torch.float64),
        ({"readout": "gap", "pools": (1,)}, 8, 8, 8, torch.float64),
        ({"readout": "gap", "activation": "erf"}, 8, 9, 8, torch.float64),
        ({"readout": "flatten", "activation": "gelu"}, 64, 64, 14, torch.float32),
    ],
)
def test_memory_of_a_block_is_predicted_within_a_tenth(
    options: dict[str, Any], n: int, m: int, size: int, dtype: torch.dtype
) -> None:
    x, y = (_images(count, 1, size, size).to(dtype) for count in (n, m))
    network = ConvNet(2, **options)
    _, memory = measure_memory(lambda: network.kernels(x, y), (x, y), "cpu")
    assert 0.9 < network.block_bytes(x.shape, m, x.element_size()) / memory.dynamic_bytes < 1.1
    with pytest.raises(MetabenchError, match="computed by quadrature"):
        ConvNet(1, "tanh").block_bytes(x.shape, m)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"activation": "rleu"}, "unknown activation with a kernel 'rleu': did you mean 'relu'?"),
        ({"depth": 0}, "with depth 0, W_std 1.41421 and b_std 0: expected 1 or more layers"),
        ({"W_std": -1.0}, "W_std -1 and"),
        ({"b_std": math.nan}, "b_std nan"),
        ({"readout": "max"}, "readout 'max': expected one of flatten, pool, gap"),
        ({"readout": "flatten", "pools": (1,)}, "expected readout 'pool' or 'gap'"),
        ({"pools": (4,)}, "pooling after layers [4] of 3"),
        ({"pools": (1, 1)}, "each once"),
    ],
)
def test_a_network_that_there_is_not_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        ConvNet(**options)
    assert words in str(error.value)


def _changed(value: float, *place: int) -> torch.Tensor:
    images = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    images[place] = value
    return images


ONES = torch.ones(2, 1, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (ONES, _changed(math.nan, 1, 0, 2, 3), "image 1 of the second ones has a value that is not finite"),
        (_changed(math.inf, 0, 0, 0, 0), None, "image 0 of the first ones has a value that is not finite"),
        (ONES, _changed(0.0, 1), "image 1 of the second ones is zero, and the network has no biases (b_std 0)"),
        (
            ONES,
            torch.ones(2, 3, 4, 4, dtype=torch.float64),
            "images of shape [1, 4, 4], torch.float64, on cpu, and of [3, 4, 4]",
        ),
        (ONES, ONES.float(), "torch.float32, on cpu have no kernel: expected them alike"),
        (ONES[0], None, "the first images are of shape [1, 4, 4]: expected [images, channels, height, width]"),
        (ONES[:0], None, "the first images are of shape [0, 1, 4, 4]"),
        (ONES.long(), None, "the first images are of torch.int64: expected float64 or float32"),
        (ONES.half(), None, "torch.float16"),
        (
            torch.ones(1, 1, 6, 6, dtype=torch.float64),
            None,
            "pooling of 2 x 2 pixels after layer 2 does not divide 3 x 3 pixels, of images of 6 x 6",
        ),
    ],
)
def test_images_without_a_kernel_are_refused(rows: torch.Tensor, columns: torch.Tensor | None, words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        ConvNet(2, readout="pool").kernels(rows, columns)
    assert words in str(error.value)


def test_pooling_is_after_every_layer_unless_some_are_named() -> None:
    x = _images(3, 1, 4, 4)
    every, some = ConvNet(2, readout="pool"), ConvNet(2, readout="pool", pools=(1, 2))
    assert torch.equal(every.kernels(x).ntk, some.kernels(x).ntk)
    assert not torch.allclose(every.kernels(x).ntk, ConvNet(2, readout="pool", pools=(2,)).kernels(x).ntk)
    # Down to one pixel, flattening and the mean over pixels are the same.
    assert torch.allclose(every.kernels(x).ntk, ConvNet(2, readout="gap", pools=(1, 2)).kernels(x).ntk, rtol=1e-14)
