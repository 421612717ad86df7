"""Batches of labelled examples, drawn epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator

from metabench.core.lazy import torch
from metabench.core.types import Batch


def epochs(part: Batch, size: int, stream: torch.Generator) -> Iterator[Batch]:
    """Yield batches of `size` examples, or of all if there are fewer, endlessly; each epoch has its order from `stream`.

    A last batch of an epoch that is smaller is left out, so that every batch has one shape.
    """
    first = next(iter(part.values()))
    total, device = len(first), first.device
    size = min(size, total)
    while True:
        order = torch.randperm(total, generator=stream).to(device)
        for chosen in order[: total - total % size].split(size):
            yield {name: values[chosen] for name, values in part.items()}


_MARGIN = 4


def augmented(images: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
    """Return images, shape [n, channels, height, width], each moved by up to 4 pixels each way, half of them mirrored. He et al. 2016.

    What a shift uncovers is filled with the image's reflection.
    """
    n, _, height, width = images.shape
    wide = torch.nn.functional.pad(images, (_MARGIN,) * 4, mode="reflect")
    down, right = torch.randint(2 * _MARGIN + 1, (2, n, 1), generator=stream).to(images.device)
    mirrored = (torch.rand(n, 1, generator=stream) < 0.5).to(images.device)
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    columns = torch.where(mirrored, columns.flip(1), columns)
    which = torch.arange(n, device=images.device)[:, None, None]
    return wide[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
