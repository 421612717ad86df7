"""What all tests share: one thread per process, since they run side by side, the CPU kernels, and problems and differences in `bilevel`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from metabench.measure.kernels import PORTABLE, variables

# Before torch is imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Portable kernels, so that bytes are the same wherever the tests run. Where the environment names others, the tests are of those:
# ATEN_CPU_CAPABILITY=avx512 for AVX-512; ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 for SSE4.1.
if not {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"} & os.environ.keys():
    os.environ.update(variables(PORTABLE))

# `bilevel`, `small_problems` and `kernel_choice` lie beside this file; tests in every folder import them.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="plant every bug on all cases of the certificates, not on a few that tell it")
