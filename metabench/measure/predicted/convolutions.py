"""What convolutions allocate on a CPU beside their results.

float32 goes to oneDNN, which works on channels in blocks of the vector width: images, weights and results are copied into that layout, and
the result is copied back. Everything else writes the columns of all images out and multiplies. The rules were read off the allocator's
record of `aten.convolution` and `aten.convolution_backward` with torch 2.13 on AVX2, for 1 to 32 channels, 1 to 100 images of 12 to 32
pixels, kernels of 3, float32, float64 and bfloat16: exact there for strides of 1, within a tenth for larger ones. oneDNN goes another way
for kernels of 1, for AVX-512 (not by blocks of 16 alone: the rules miss there by up to half) and for SSE4.1; what it allocates there is
not known (`unknown_convolution`).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from metabench.measure.kernels import AVX2

_WIDTH = 8
"""Channels of a block: the float32 numbers of a vector register of AVX2."""

_SCRATCH = 128
"""Bytes that a bias of a part of a block takes beside its padding."""

_SMALL = 20480
"""Scalars in a single image up to which torch does not ask oneDNN."""


def convolution(arguments: tuple[Any, ...], result: Any) -> int:
    """Return the bytes of `aten.convolution` beyond its result, at its peak."""
    images, weight, bias = arguments[:3]
    transposed, groups = arguments[6], arguments[8]
    dense = _dense_copies(images, weight)
    if not _by_onednn(images, weight, groups):
        return _columns(images, weight, result, transposed) + dense
    scores = _blocked(result)
    read = _read(images) + _weights(weight, transposed, flat=_is_flat(images)) + _bias(result, bias is not None)
    return max(read + scores - result.nbytes, scores) + dense


def convolution_backward(arguments: tuple[Any, ...], result: Any) -> int:
    """Return the bytes of `aten.convolution_backward` beyond its results, at its peak."""
    slope, images, weight = arguments[:3]
    transposed, groups, wanted = arguments[7], arguments[9], arguments[10]
    dense = _dense_copies(slope, images, weight)
    if not _by_onednn(images, weight, groups):
        return (_columns(images, weight, slope, transposed) if wanted[0] or wanted[1] else 0) + dense
    results = sum(found.nbytes for found in result if found is not None)
    of_images = images.nbytes if wanted[0] else 0
    peak = 0
    if wanted[0]:
        pulled = _blocked(images)
        peak = max(_blocked(slope) + _weights(weight, transposed, flat=False) + pulled, pulled + of_images)
    if wanted[1] or wanted[2]:
        flat = images.shape[1] == 3
        read = 0 if flat else _blocked(images)
        bias = _bias(slope, wanted[2]) + (slope.shape[1] * slope.itemsize if wanted[2] else 0)
        peak = max(peak, of_images + _blocked(slope) + read + _weights(weight, transposed, flat) + bias)
    return max(peak - results, 0) + dense


def unknown_convolution(images: torch.Tensor, weight: torch.Tensor, groups: int, instructions: str) -> str:
    """Return what a convolution is called that the rules do not hold for with these instructions; empty where they do."""
    if instructions != AVX2 and images.dtype is not torch.float64:
        return "convolutions"
    if _by_onednn(images, weight, groups) and math.prod(weight.shape[2:]) == 1:
        return "convolutions with kernels of 1"
    return ""


def _dense_copies(*tensors: torch.Tensor) -> int:
    """Return the bytes of dense copies of those that are not, as of the expanded slope that a sum hands back."""
    return sum(tensor.nbytes for tensor in tensors if not tensor.is_contiguous())


def _by_onednn(images: torch.Tensor, weight: torch.Tensor, groups: int) -> bool:
    """Return whether oneDNN computes it: `use_mkldnn` in torch's Convolution.cpp."""
    if not torch.backends.mkldnn.is_available() or images.dtype is not torch.float32:
        return False
    large_taps = all(taps > 3 for taps in weight.shape[2:])
    return groups > 1 or large_taps or images.shape[0] > 1 or images.numel() > _SMALL


def _columns(images: torch.Tensor, weight: torch.Tensor, scores: torch.Tensor, transposed: bool) -> int:
    """Return the bytes of the columns of all images; a kernel of one tap reads the images themselves."""
    taps = math.prod(weight.shape[2:])
    if taps == 1 and images.shape[2:] == scores.shape[2:]:
        return 0
    places, channels = (images, scores.shape[1]) if transposed else (scores, images.shape[1])
    return images.shape[0] * channels * taps * math.prod(places.shape[2:]) * images.itemsize


def _block(channels: int) -> int:
    return -(-channels // _WIDTH) * _WIDTH


def _is_flat(images: torch.Tensor) -> bool:
    """Return whether the forward pass reads images as they are: those of fewer channels than a block has."""
    return images.shape[1] < _WIDTH


def _read(images: torch.Tensor) -> int:
    return 0 if _is_flat(images) else _blocked(images)


def _blocked(images: torch.Tensor) -> int:
    """Return the bytes of images or scores in blocks of channels."""
    return images.nbytes // max(images.shape[1], 1) * _block(images.shape[1])


def _weights(weight: torch.Tensor, transposed: bool, flat: bool) -> int:
    to, per = (1, 0) if transposed else (0, 1)
    read = weight.shape[per] if flat else _block(weight.shape[per])
    return _block(weight.shape[to]) * read * math.prod(weight.shape[2:]) * weight.itemsize


def _bias(scores: torch.Tensor, given: bool) -> int:
    """Return the bytes of a bias that is padded to whole blocks; one of whole blocks is read as it is."""
    channels = scores.shape[1]
    return _block(channels) * scores.itemsize + _SCRATCH if given and channels % _WIDTH else 0
