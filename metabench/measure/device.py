"""The devices that can be measured."""

from __future__ import annotations

from metabench.core.errors import MetabenchError, unknown
from metabench.core.lazy import torch

DEVICES = ("cpu", "cuda")


def measured_device(name: str | torch.device) -> torch.device:
    """Return the torch device of that name: 'cpu', 'cuda', 'cuda:1'.

    Raises MetabenchError if it cannot be measured or does not exist.
    """
    kind = str(name).partition(":")[0]
    if kind not in DEVICES:
        raise unknown("device", str(name), DEVICES)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MetabenchError(f"device '{name}' is not a device: expected 'cpu', 'cuda' or 'cuda:N'") from error
    if kind == "cuda":
        if not torch.backends.cuda.is_built():
            raise MetabenchError(f"device '{name}': this torch, {torch.__version__}, is built without CUDA")
        found = torch.cuda.device_count()
        if (device.index or 0) >= found:
            raise MetabenchError(f"device '{name}': torch finds {found} CUDA devices here")
    return device


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all work that was queued on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
