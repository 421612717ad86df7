"""Functions drawn at random: compositions of what users write, with views, multi-output operations and writes to fresh tensors."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

Matrix = torch.Tensor
Step = Callable[[Matrix, Matrix], Matrix]

ROWS, COLUMNS = 6, 4


def _overwritten(a: Matrix, b: Matrix) -> Matrix:
    made = a.clone()
    made.add_(b).mul_(0.5)
    made.relu_()
    return made + a


def _unbound(a: Matrix, b: Matrix) -> Matrix:
    first, second, *rest = a.unbind(1)
    return torch.stack([second, first * b[:, 0], *rest], 1)


def _chunked(a: Matrix, b: Matrix) -> Matrix:
    left, right = a.chunk(2, 1)
    return torch.cat([right.sin(), left * b[:, :2]], 1)


def _split(a: Matrix, b: Matrix) -> Matrix:
    top, _, bottom = b.split([1, 3, 2])
    return a * torch.cat([bottom, top.expand(4, COLUMNS)])


def _normed(a: Matrix, b: Matrix) -> Matrix:
    variance, mean = torch.var_mean(a, 1, keepdim=True)
    return (a - mean) * (variance + 0.5).rsqrt() + b


def _batched(a: Matrix, b: Matrix) -> Matrix:
    return (a.view(2, 3, COLUMNS) @ b[:COLUMNS]).reshape(ROWS, COLUMNS) / 2


def _flat_product(a: Matrix, b: Matrix) -> Matrix:
    return a @ b[:COLUMNS] / 2


def _replaced(a: Matrix, b: Matrix) -> Matrix:
    return torch.index_put(a, (torch.tensor([0, 3, 3]),), b[:3], accumulate=True)


STEPS: dict[str, Step] = {
    "sum": lambda a, b: a + b,
    "product": lambda a, b: a * b.tanh(),
    "difference of sines": lambda a, b: a.sin() - 0.5 * b.cos(),
    "gaussian": lambda a, b: (-(a.square())).exp() * b,
    "transposed": lambda a, b: (a.t() @ b).t()[:, [3, 0, 2, 1]].repeat(2, 1)[:ROWS] / 3,
    "expanded": lambda a, b: a + b.mean(0).expand(ROWS, COLUMNS),
    "expanded twice": lambda a, b: a.sum(1, keepdim=True).expand(-1, COLUMNS).tanh() * b[0],
    "sorted": lambda a, b: a.sort(0).values + b,
    "largest": lambda a, b: a.max(1, keepdim=True).values - b,
    "top two": lambda a, b: torch.cat([a.topk(2, 1)[0], b[:, 1:3]], 1),
    "softmax": lambda a, b: a.softmax(1) @ b[:COLUMNS].tanh(),
    "layer norm": lambda a, b: torch.nn.functional.layer_norm(a, (COLUMNS,), b[0], b[1]),
    "gelu": lambda a, b: torch.nn.functional.gelu(a) + b,
    "flipped": lambda a, b: a.flip(0).view(-1).view(ROWS, COLUMNS) - b,
    "where": lambda a, b: torch.where(a > b, a.sigmoid(), b.cumsum(1) / 3),
    "masked": lambda a, b: a.masked_fill(b > 0.3, 0.25),
    "overwritten": _overwritten,
    "unbound": _unbound,
    "chunked": _chunked,
    "split": _split,
    "normed": _normed,
    "batched product": _batched,
    "flat product": _flat_product,
    "accumulated": _replaced,
}


def random_function(seed: int, length: int = 9, kinds: dict[str, Step] | None = None) -> Callable[..., list[Matrix]]:
    """Return (matrices) -> three matrices, all of shape [6, 4], by `length` steps drawn with the seed."""
    draw = random.Random(seed)
    names = list(kinds or STEPS)
    plan = [(draw.choice(names), draw.random(), draw.random()) for _ in range(length)]
    picks = [draw.random() for _ in range(3)]

    def function(*matrices: Matrix) -> list[Matrix]:
        known = list(matrices)
        for name, one, other in plan:
            # Mostly of what was made last, so that compositions are deep.
            left, right = known[-1 - int(one * min(3, len(known)))], known[int(other * len(known))]
            known.append((kinds or STEPS)[name](left, right))
        return [known[-1], *(known[int(pick * len(known))] * 1.5 for pick in picks[:2])]

    return function
