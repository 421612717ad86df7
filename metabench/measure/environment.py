"""Where a result was measured: hardware, versions, source. Nothing identifies a machine or a person."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import metabench
from metabench.core.lazy import torch
from metabench.measure.processor import processor

PROJECT = Path(__file__).resolve().parents[2]


def environment(device: str = "cpu") -> dict[str, str | float]:
    """Return the columns that describe the environment of a row. Imports torch only for a CUDA device.

    hardware: processor, with its generation, vector instructions and the cores that this process may use, or GPU, with its
    memory. load_at_start: one-minute load average. git_commit: with '+' where tracked files differ from it, empty outside
    a checkout. lock_hash: of requirements.lock, empty without one.
    """
    if device.startswith("cuda"):
        hardware = _gpu(device)
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        hardware = f"{processor().text}, {cores} core{'s' if cores > 1 else ''}"
    return {
        "hardware": hardware,
        "load_at_start": os.getloadavg()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "python_version": platform.python_version(),
        "torch_version": torch_version(),
        "metabench_version": metabench.__version__,
        "git_commit": git_commit(PROJECT),
        "lock_hash": lock_hash(PROJECT),
    }


def _gpu(device: str) -> str:
    """Return the name and memory of a GPU. Rows are written where there is none, too, and where it was lost in mid-run."""
    try:
        if torch.cuda.is_available():
            card = torch.cuda.get_device_properties(torch.device(device))
            return f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
    except (RuntimeError, AssertionError):  # of the driver, or of a device that is not there
        pass
    return "no CUDA device"


@lru_cache(maxsize=8)
def git_commit(root: Path) -> str:
    """Return the commit checked out at `root`, with '+' if tracked files differ from it.

    Empty if `root` is not a checkout, has no commit, or git is missing.
    """
    # Only a checkout of the project itself counts: an installed copy may lie in the virtual environment of someone
    # else's repository.
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@lru_cache(maxsize=8)
def lock_hash(root: Path) -> str:
    """Return the SHA-256 of `root`'s requirements.lock, empty where there is none."""
    try:
        return hashlib.sha256((root / "requirements.lock").read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


@lru_cache(maxsize=1)
def torch_version() -> str:
    """Return torch's version, local label included ('2.13.0+cpu'), from its metadata."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""
