"""What depends on the CPU's kernels holds with each instruction set that this processor has: those tests, run again with the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from metabench.measure.processor import processor

ROOT = Path(__file__).parents[2]

SETS = {
    "SSE4.1": ({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}, processor().is_x86),
    "AVX2": ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}, processor().has_avx2),
    "AVX-512": ({"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "DEFAULT"}, processor().has_avx512),
}
OTHERS = [name for name, (chosen, _) in SETS.items() if not chosen.items() <= os.environ.items()]
"""All but the one that these tests run with."""

AT_LEAST = 30
"""Tests that no instruction set skips."""

FILES = (
    "tests/measure/test_kernel_memory.py",
    "tests/suite/test_predict.py",
    "tests/certify/test_small_certificate.py",
)


@pytest.mark.slow  # twice torch and a small certificate
@pytest.mark.parametrize("name", OTHERS)
def test_what_depends_on_kernels_holds_with_every_other_instruction_set(name: str) -> None:
    chosen, there = SETS[name]
    if not there:
        pytest.skip(f"the processor has no {name}")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "kernels", "-p", "no:cacheprovider", *FILES]
    done = subprocess.run(
        command, env=os.environ | chosen, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= AT_LEAST, done.stdout
