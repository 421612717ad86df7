"""Random streams: one per seed and purpose, so that drawing more of one thing never changes another."""

from __future__ import annotations

import hashlib

from metabench.core.lazy import torch


def stream_seed(seed: int, purpose: str) -> int:
    """Return the seed of the stream of `purpose`, a 63-bit integer."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the random stream of `purpose` under `seed`."""
    stream = torch.Generator(device=device)
    stream.manual_seed(stream_seed(seed, purpose))
    return stream
