"""Which build of torch is installed, without importing it: that takes seconds, and more on a cluster's file system."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from metabench.measure.environment import torch_version


def cuda_build() -> str:
    """Return the version of CUDA, or of ROCm, that torch was built for, as '12.8'; empty for a build without, and without torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"^(?:cuda|hip)\b.*?=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else ""


def cpu_build() -> str:
    """Return the version of torch where it is built without CUDA; empty where it has CUDA."""
    return "" if cuda_build() else torch_version() or "(not installed)"
