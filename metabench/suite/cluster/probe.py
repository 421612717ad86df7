"""What a job of a minute finds on the node where it runs: `python -m metabench.suite.cluster.probe FOLDER` writes it there as JSON.

It imports nothing that a broken environment may lack, and reports each part by itself: what cannot be found out is said in its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HELLO, PING, PONG = "hello.json", "ping", "pong"
"""Files in the folder: what the job found; the other side's question; the job's answer to it, with the times of its clock."""

PATIENCE_S = 120.0
"""Seconds for which the job waits to be asked for the time."""


def here() -> dict[str, Any]:
    """Return what is found here: the place, versions, the source, GPUs and the memory that this process may use."""
    import metabench
    from metabench.measure.environment import lock_hash, torch_version
    from metabench.suite.cluster.torch_build import cuda_build

    root = Path(metabench.__file__).parents[1]
    return {
        "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "python": platform.python_version(),
        "executable": sys.executable,
        "torch": torch_version(),
        "cuda": cuda_build(),
        "metabench": metabench.__version__,
        "source": source_hash(root),
        "lock": lock_hash(root),
        "gpus": gpus(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "memory_bytes": memory_limit(),
    }


def source_hash(root: Path) -> str:
    """Return twelve digits over the Python source of the package below `root`."""
    digest = hashlib.sha256()
    for path in sorted((root / "metabench").rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def gpus() -> list[str]:
    """Return a line for each GPU that the driver shows, as 'NVIDIA H200, driver 570.1'; empty where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [f"{name}, driver {driver}" for name, driver in (line for line in lines if len(line) == 2)]


def cuda_devices() -> tuple[int, str]:
    """Return how many devices torch finds, and what it says if it fails. Imports torch."""
    try:
        import torch

        return torch.cuda.device_count(), ""
    except Exception as error:  # a broken installation fails in any way
        return 0, f"{type(error).__name__}: {error}"


def memory_limit() -> int:
    """Return the bytes that this process's cgroups allow, or what SLURM gave its job; 0 where neither bounds it."""
    found = []
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        for root, name in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
            if (controllers == "" and name == "memory.max") or ("memory" in controllers.split(",") and name != "memory.max"):
                place = Path(root) / path.strip("/")
                found += [_text(one / name).strip() for one in (place, *place.parents) if one.is_relative_to(root)]
    given = [int(text) for text in found if text.isdigit() and int(text) < 1 << 60]
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    return min([*given, *([int(slurm) << 20] if slurm.isdigit() else [])], default=0)


def main(folder: Path) -> None:
    """Write what is found here, and answer what the other side asks."""
    found = here()
    if found["gpus"] or found["cuda"]:
        found["devices"], found["fault"] = cuda_devices()
    write(folder / HELLO, found)
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        os.listdir(folder)  # network file systems remember what was not there, until its folder is read anew
        if (folder / PING).exists():
            seen = time.time()
            write(folder / PONG, {"seen": seen, "answered": time.time()})
            return
        time.sleep(0.05)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that no reader finds half of it."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
