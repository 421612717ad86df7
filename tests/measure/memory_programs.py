"""Ten programs whose memory is measured: each builder returns the call and its arguments.

Run as a script, it prints the peak of each as JSON, so that a test can compare processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from metabench.measure.memory.meter import measure_memory

Program = tuple[Callable[[], Any], Any]


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _leaf(*shape: int) -> torch.Tensor:
    return (0.1 * _draw(*shape)).requires_grad_()


def _gradients(network: nn.Module, inputs: torch.Tensor) -> Program:
    weights = list(network.parameters())
    labels = torch.arange(len(inputs)) % 10

    def call() -> Any:
        return torch.autograd.grad(F.cross_entropy(network(inputs), labels), weights)

    return call, (weights, inputs, labels)


def perceptron() -> Program:
    network = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return _gradients(network, _draw(128, 64))


def convolutions() -> Program:
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    return _gradients(network, _draw(32, 1, 28, 28))


def attention() -> Program:
    queries, keys, values = _leaf(4, 4, 64, 32), _leaf(4, 4, 64, 32), _leaf(4, 4, 64, 32)

    def call() -> Any:
        mixed = torch.softmax(queries @ keys.transpose(-1, -2) / 32**0.5, -1) @ values
        return torch.autograd.grad(mixed.square().sum(), (queries, keys, values))

    return call, (queries, keys, values)


def transformer_block() -> Program:
    width, heads = 64, 4
    weights = {"qkv": _leaf(width, 3 * width), "out": _leaf(width, width)}
    weights |= {"up": _leaf(width, 4 * width), "down": _leaf(4 * width, width)}
    tokens = _draw(8, 64, width)

    def block(hidden: torch.Tensor) -> torch.Tensor:
        batch, length, _ = hidden.shape
        projected = F.layer_norm(hidden, (width,)) @ weights["qkv"]
        queries, keys, values = projected.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = (queries @ keys.transpose(-1, -2)).masked_fill(later, -1e9)
        mixed = (torch.softmax(scores, -1) @ values).transpose(1, 2).reshape(batch, length, width)
        hidden = hidden + mixed @ weights["out"]
        return hidden + F.gelu(F.layer_norm(hidden, (width,)) @ weights["up"]) @ weights["down"]

    def call() -> Any:
        return torch.autograd.grad(block(block(tokens)).square().mean(), list(weights.values()))

    return call, (weights, tokens)


def layer_norms() -> Program:
    scale, inputs = torch.ones(128, requires_grad=True), _leaf(256, 128)

    def call() -> Any:
        hidden = inputs
        for _ in range(6):
            hidden = F.layer_norm(hidden, (128,), scale) + hidden
        return torch.autograd.grad(hidden.sin().sum(), (scale, inputs))

    return call, (scale, inputs)


def adam() -> Program:
    weights, inputs = _leaf(300, 300), _draw(64, 300)

    def call() -> Any:
        trained = weights.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([trained], lr=1e-3, foreach=False)
        for _ in range(5):
            optimiser.zero_grad()
            (inputs @ trained).square().mean().backward()
            optimiser.step()
        return trained.detach()

    return call, (weights, inputs)


def unrolled_hypergradient() -> Program:
    weights, rate = [_leaf(32, 64), _leaf(64, 1)], torch.tensor(0.1, requires_grad=True)
    inputs, targets = _draw(128, 32), _draw(128, 1)

    def loss(trained: list[torch.Tensor]) -> torch.Tensor:
        return (torch.tanh(inputs @ trained[0]) @ trained[1] - targets).square().mean()

    def call() -> Any:
        trained = weights
        for _ in range(6):
            gradients = torch.autograd.grad(loss(trained), trained, create_graph=True)
            trained = [weight - rate * slope for weight, slope in zip(trained, gradients, strict=True)]
        return torch.autograd.grad(loss(trained), [rate, *weights])

    return call, (weights, rate, inputs, targets)


def hessian_product() -> Program:
    weights, inputs, targets = (_draw(32, 64), _draw(64, 1)), _draw(128, 32), _draw(128, 1)
    direction = (_draw(32, 64), _draw(64, 1))

    def loss(trained: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (torch.tanh(inputs @ trained[0]) @ trained[1] - targets).square().mean()

    def call() -> Any:
        return torch.func.jvp(torch.func.grad(loss), (weights,), (direction,))

    return call, (weights, inputs, targets, direction)


def gradient_per_example() -> Program:
    weights, inputs, targets = _draw(32, 64), _draw(128, 32), _draw(128, 64)

    def loss(weights: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (torch.tanh(inputs @ weights) - targets).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))
    return lambda: each(weights, inputs, targets).square().sum(0), (weights, inputs, targets)


def recurrent_cell() -> Program:
    width, length = 48, 20
    weights, inputs = _leaf(2 * width, 4 * width), _draw(length, 32, width)

    def call() -> Any:
        hidden, memory = torch.zeros(32, width), torch.zeros(32, width)
        for step in range(length):
            gates = torch.einsum("bi,ij->bj", torch.cat([inputs[step], hidden], 1), weights)
            enter, forget, update, leave = gates.chunk(4, 1)
            memory = torch.sigmoid(forget) * memory + torch.sigmoid(enter) * torch.tanh(update)
            hidden = torch.sigmoid(leave) * torch.tanh(memory)
        return torch.autograd.grad(hidden.square().sum(), weights)

    return call, (weights, inputs)


PROGRAMS: Mapping[str, Callable[[], Program]] = {
    program.__name__: program
    for program in (
        perceptron,
        convolutions,
        attention,
        transformer_block,
        layer_norms,
        adam,
        unrolled_hypergradient,
        hessian_product,
        gradient_per_example,
        recurrent_cell,
    )
}


def measured_peaks() -> dict[str, int]:
    """Return the peak bytes of every program, each measured after one run."""
    peaks = {}
    for name, build in PROGRAMS.items():
        call, arguments = build()
        call()
        peaks[name] = measure_memory(call, arguments, "cpu")[1].peak_bytes
    return peaks


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measured_peaks()))
