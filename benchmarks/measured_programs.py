"""The programs that `benchmarks/memory.py` measures: each builder takes a place and returns a call and what it is given.

Among them are those whose kernels allocate inside (convolutions that write out columns, softmax in other strides, sorts, fused
attention, LAPACK), those where autograd holds and adds, and hypergradients of the suite's own problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from metabench import data
from metabench.autodiff.inner import detached
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.core.randomness import generator
from metabench.methods import methods
from metabench.problems import problem

Program: TypeAlias = tuple[Callable[[], Any], Any]
"""A call and every tensor that it is given."""


@dataclass(frozen=True)
class Place:
    """Where a program runs, and how many examples it takes; draws its tensors, the same at every call."""

    device: torch.device
    batch: int = 32

    def draw(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return a Gaussian tensor."""
        stream = torch.Generator().manual_seed(sum(shape))
        return torch.randn(*shape, generator=stream, dtype=torch.float64).to(self.device, dtype)

    def leaf(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return a smaller one that gradients are taken of."""
        return (0.1 * self.draw(*shape, dtype=dtype)).requires_grad_()

    def integers(self, below: int, *shape: int) -> torch.Tensor:
        """Return integers in [0, below)."""
        return torch.randint(below, shape, generator=torch.Generator().manual_seed(below)).to(self.device)


def gradients(outputs: Callable[[], torch.Tensor], leaves: Sequence[torch.Tensor], *others: torch.Tensor) -> Program:
    """Return the program that differentiates the sum of squares of `outputs` by the leaves."""
    return lambda: torch.autograd.grad(outputs().square().sum(), leaves), (leaves, others)


def convolutions(place: Place, dtype: torch.dtype = torch.float32) -> Program:
    """Return kernels of 1, 3, 5 and 7, strided, dilated, grouped and transposed: vendor kernels where there are some, else columns."""
    images = place.draw(place.batch, 3, 28, 28, dtype=dtype)
    shapes = ((16, 3, 7, 7), (32, 16, 1, 1), (32, 32, 3, 3), (32, 16, 5, 5), (32, 32, 3, 3), (32, 16, 2, 2))
    taps = [place.leaf(*shape, dtype=dtype) for shape in shapes]

    def outputs() -> torch.Tensor:
        hidden = F.conv2d(images, taps[0], padding=3)
        hidden = F.conv2d(hidden.relu(), taps[1])
        hidden = F.conv2d(hidden.relu(), taps[2], stride=2, padding=1)
        hidden = F.conv2d(hidden.relu(), taps[3], padding=2, groups=2)
        hidden = F.conv2d(hidden.relu(), taps[4], padding=2, dilation=2)
        return F.conv_transpose2d(hidden.relu(), taps[5], stride=2)

    return gradients(outputs, taps, images)


def convolutions_without_mkldnn(place: Place) -> Program:
    """Return the same in float32 by torch's own kernels."""
    call, arguments = convolutions(place)

    def plain() -> Any:
        # Not torch.backends.mkldnn.flags: it sets TF32 as well, and warns that there is none.
        flags: Any = torch.backends.mkldnn
        before = flags.enabled
        flags.enabled = False
        try:
            return call()
        finally:
            flags.enabled = before

    return plain, arguments


def convolution_of_volumes(place: Place) -> Program:
    """Return a convolution of three dimensions in float64, which writes out the columns of every image."""
    images, taps = place.leaf(place.batch, 2, 8, 12, 12, dtype=torch.float64), place.leaf(4, 2, 3, 3, 3).detach()
    taps = taps.double().requires_grad_()
    return gradients(lambda: F.conv3d(images, taps, padding=1), (images, taps))


def second_order_convolutions(place: Place) -> Program:
    """Return the gradient of a gradient's norm through two convolutions and a pooling."""
    images, first, second = place.draw(place.batch, 3, 20, 20), place.leaf(8, 3, 3, 3), place.leaf(8, 8, 3, 3)

    def norms() -> torch.Tensor:
        hidden = F.avg_pool2d(F.conv2d(images, first, padding=1).tanh(), 2)
        outputs = F.conv2d(hidden, second).square().mean()
        return torch.cat(
            [slope.flatten() for slope in torch.autograd.grad(outputs, (first, second), create_graph=True)]
        )

    return gradients(norms, (first, second), images)


def softmaxes(place: Place, dtype: torch.dtype = torch.float32) -> Program:
    """Return softmax and log-softmax of scores that lie transposed: on a CPU the kernels copy them, forward and backward."""
    scores, ahead = place.leaf(place.batch, 40, 50, dtype=dtype), place.draw(50, 40, place.batch, dtype=dtype)

    def call() -> Any:
        transposed = scores.transpose(0, 2)
        (first,) = torch.autograd.grad(transposed.softmax(-1), scores, ahead)
        (second,) = torch.autograd.grad(transposed.log_softmax(1), scores, ahead)
        return first, second, *torch.autograd.grad(scores.softmax(0), scores, ahead.transpose(0, 2))

    return call, (scores, ahead)


def cross_entropies(place: Place) -> Program:
    """Return a cross-entropy over many classes, with smoothed labels, weights and a label that is passed over."""
    scores, labels = place.leaf(8 * place.batch, 1000), place.integers(1000, 8 * place.batch)
    weights = place.draw(1000).abs()

    def outputs() -> torch.Tensor:
        return F.cross_entropy(scores, labels, weights, ignore_index=3, label_smoothing=0.1) + F.cross_entropy(
            scores, labels
        )

    return gradients(outputs, (scores,), labels, weights)


def transformer_block(place: Place, fused: bool = False) -> Program:
    """Return causal attention and a feed-forward layer, scores written out or by the fused kernel."""
    width, heads, length = 64, 4, 48
    weights = [place.leaf(width, 3 * width), place.leaf(width, width)]
    weights += [place.leaf(width, 4 * width), place.leaf(4 * width, width)]
    tokens, later = place.draw(place.batch, length, width), torch.ones(length, length, dtype=torch.bool).triu(1)
    later = later.to(place.device)

    def outputs() -> torch.Tensor:
        projected = F.layer_norm(tokens, (width,)) @ weights[0]
        queries, keys, values = projected.view(place.batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        if fused:
            mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        else:
            scores = (queries @ keys.transpose(-1, -2)).masked_fill(later, -1e9)
            mixed = torch.softmax(scores, -1) @ values
        hidden = tokens + mixed.transpose(1, 2).reshape(place.batch, length, width) @ weights[1]
        return hidden + F.gelu(F.layer_norm(hidden, (width,)) @ weights[2]) @ weights[3]

    return gradients(outputs, weights, tokens, later)


def normalisations(place: Place) -> Program:
    """Return layer, group and batch norm with their scales and shifts."""
    images = place.leaf(place.batch, 16, 12, 12)
    scale, shift = place.leaf(16), place.leaf(16)
    rows = place.leaf(12)

    def outputs() -> torch.Tensor:
        hidden = F.layer_norm(images, (12,), rows)
        hidden = F.group_norm(hidden, 4, scale, shift)
        return F.batch_norm(hidden, None, None, scale, shift, training=True)

    return gradients(outputs, (images, scale, shift, rows))


def embeddings(place: Place) -> Program:
    """Return the dense gradients of an embedding, plain, scaled by frequency, and summed in bags."""
    table, tokens = place.leaf(2000, 32), place.integers(2000, place.batch, 64)

    def outputs() -> torch.Tensor:
        plain = F.embedding(tokens, table, padding_idx=0)
        return (
            plain.mean(1) + F.embedding(tokens, table, scale_grad_by_freq=True).sum(1) + F.embedding_bag(tokens, table)
        )

    return gradients(outputs, (table,), tokens)


def updates_in_place(place: Place) -> Program:
    """Return Adam's update written in place, with a buffer that grows."""
    weights, inputs = place.draw(200, 100), place.draw(8 * place.batch, 200)

    def call() -> Any:
        trained, mean, square = weights.clone(), torch.zeros_like(weights), torch.zeros_like(weights)
        record = torch.empty(0, device=weights.device)
        for step in range(1, 6):
            slope = inputs.t() @ (inputs @ trained).relu_()
            mean.lerp_(slope, 0.1)
            square.mul_(0.99).addcmul_(slope, slope, value=0.01)
            trained.addcdiv_(mean, square.sqrt().add_(1e-8), value=-0.01)
            record.resize_(step * trained.numel())
            record[-trained.numel() :].copy_(trained.flatten())
            trained[::2].clamp_(-1, 1)
        return trained, record

    return call, (weights, inputs)


def accumulated_gradients(place: Place) -> Program:
    """Return `backward` of several losses into the same `.grad`, and torch.optim's step."""
    weights, inputs = place.draw(150, 150), place.draw(4 * place.batch, 150)

    def call() -> Any:
        trained = weights.clone().requires_grad_()
        optimiser = torch.optim.SGD([trained], lr=0.1, momentum=0.9, foreach=False)
        for part in inputs.chunk(4):
            ((part @ trained).tanh() @ trained).square().mean().backward()
        optimiser.step()
        return trained.detach(), trained.grad

    return call, (weights, inputs)


def sorting_and_indexing(place: Place) -> Program:
    """Return sorts, order statistics and indexed sums, whose kernels allocate scratch of their own."""
    values, rows = place.leaf(64 * place.batch, 30), place.integers(64 * place.batch, 100 * place.batch)

    def call() -> Any:
        ordered, order = values.sort(dim=0, stable=True)
        largest, _ = values.topk(5, dim=1)
        summed = torch.zeros_like(values).index_put((rows,), ordered[rows], accumulate=True)
        added = torch.zeros_like(values).index_add(0, rows, values[rows])
        outputs = summed.cumsum(0).sum() + largest.sum() + added.logcumsumexp(1).sum() + values.median(0).values.sum()
        return torch.autograd.grad(outputs, values), order, rows.argsort(), rows.unique(), (values > 0).nonzero()

    return call, (values, rows)


def strided_matrix_products(place: Place) -> Program:
    """Return batched products whose operands lie transposed, sliced and broadcast."""
    one, other = place.leaf(2 * place.batch, 48, 40), place.leaf(40, 2 * place.batch, 96)

    def outputs() -> torch.Tensor:
        strided = other.transpose(0, 1)[:, :, ::2]
        product = torch.bmm(one, strided) @ one[:1].expand_as(one)
        return torch.einsum("bij,bkj->bik", product, strided.transpose(1, 2))

    return gradients(outputs, (one, other))


def gradients_per_example(place: Place) -> Program:
    """Return torch.func: vmap of a gradient, and a Hessian product forward over reverse."""
    weights, direction = place.draw(32, 64), place.draw(32, 64) / 10
    inputs, targets = place.draw(4 * place.batch, 32), place.draw(4 * place.batch, 64)

    def loss(trained: torch.Tensor, one: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (torch.tanh(one @ trained) - target).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))

    def call() -> Any:
        product = torch.func.jvp(lambda at: torch.func.grad(loss)(at, inputs, targets), (weights,), (direction,))
        return each(weights, inputs, targets).square().sum(0), product

    return call, (weights, direction, inputs, targets)


def decompositions(place: Place) -> Program:
    """Return LAPACK's Cholesky, QR and SVD with their gradients, and a Fourier transform."""
    matrices = place.leaf(place.batch, 24, 24, dtype=torch.float64)

    def outputs() -> torch.Tensor:
        positive = matrices @ matrices.transpose(1, 2) + 24 * torch.eye(24, dtype=torch.float64, device=place.device)
        factor = torch.linalg.cholesky(positive)
        values, spectrum = torch.linalg.svdvals(positive), torch.fft.fft2(factor).abs()
        total: torch.Tensor = torch.linalg.qr(matrices).R + factor + values[:, None] + spectrum
        return total

    return gradients(outputs, (matrices,))


def recurrent_network(place: Place) -> Program:
    """Return two layers of torch's LSTM, gradients through time."""
    torch.manual_seed(0)
    network = nn.LSTM(24, 32, num_layers=2).to(place.device)
    inputs = place.draw(20, place.batch, 24)
    return gradients(lambda: network(inputs)[0], list(network.parameters()), inputs)


def half_precision(place: Place) -> Program:
    """Return a bfloat16 perceptron of float32 parameters, whose products are converted inside on a CPU without such instructions."""
    weights, inputs = [place.leaf(256, 512), place.leaf(512, 256)], place.draw(4 * place.batch, 256)

    def outputs() -> torch.Tensor:
        hidden = F.gelu(inputs.bfloat16() @ weights[0].bfloat16())
        return (hidden @ weights[1].bfloat16()).float()

    return gradients(outputs, weights, inputs)


def hypergradient(place: Place, method: str, name: str, size: str, steps: int, chosen: Mapping[str, Any]) -> Program:
    """Return one hypergradient of a problem of the suite at its start."""
    kind, how = problem(name), methods()[method]
    options: Any = build(kind.card.options, chosen, f"problem '{name}'")
    loaded = data.load(kind.card.datasets[0])
    instance = kind(Setting(size, options, steps, 0, place.device, torch.float32, loaded))
    state, meta = instance.initial_state()
    state, window = detached(state), next(iter(instance.windows()))[0]
    settings: Any = build(how.options, {}, f"method '{method}'")

    def call() -> Any:
        found = how(instance, state, meta, window, settings, generator(0, "benchmark", place.device))
        return found.meta, found.state.params

    return call, (state.params, state.optimiser, meta, window.inner, window.outer)


def of_label_noise(place: Place, method: str, size: str, steps: int) -> Program:
    """Return a hypergradient of learning with noisy labels."""
    return hypergradient(place, method, "label_noise", size, steps, {"batch": place.batch, "train": 1000})


def of_regularisation(place: Place, method: str) -> Program:
    """Return a hypergradient of logistic regression with a penalty per feature, inner Adam."""
    chosen = {"train": 4 * place.batch, "optimiser": "adam", "learning_rate": 0.01}
    return hypergradient(place, method, "regularisation", "linear", 8, chosen)


PROGRAMS: Mapping[str, Callable[[Place], Program]] = {
    "convolutions_float32": convolutions,
    "convolutions_without_mkldnn": convolutions_without_mkldnn,
    "convolutions_float64": partial(convolutions, dtype=torch.float64),
    "convolution_of_volumes": convolution_of_volumes,
    "second_order_convolutions": second_order_convolutions,
    "softmaxes_float32": softmaxes,
    "softmaxes_float64": partial(softmaxes, dtype=torch.float64),
    "cross_entropies": cross_entropies,
    "transformer_block": transformer_block,
    "transformer_block_fused": partial(transformer_block, fused=True),
    "normalisations": normalisations,
    "embeddings": embeddings,
    "updates_in_place": updates_in_place,
    "accumulated_gradients": accumulated_gradients,
    "sorting_and_indexing": sorting_and_indexing,
    "strided_matrix_products": strided_matrix_products,
    "gradients_per_example": gradients_per_example,
    "decompositions": decompositions,
    "recurrent_network": recurrent_network,
    "half_precision": half_precision,
    "unrolled_of_label_noise": partial(of_label_noise, method="unrolled", size="mlp256", steps=6),
    "mixflow_of_label_noise": partial(of_label_noise, method="mixflow", size="mlp256", steps=6),
    "unrolled_of_convnet": partial(of_label_noise, method="unrolled", size="conv16", steps=2),
    "mixflow_of_regularisation": partial(of_regularisation, method="mixflow"),
}
