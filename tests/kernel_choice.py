"""The kernels that the tests run with: portable ones, unless the environment names others (see conftest)."""

from __future__ import annotations

import pytest

from metabench.measure.kernels import AVX2, NATIVE, PORTABLE, runs, vectors

KERNELS = PORTABLE if runs(PORTABLE) else NATIVE
"""The value of a suite's key `kernels` for cells that are measured or predicted in a test's own process."""

VECTORS = vectors()

only_avx2 = pytest.mark.skipif(
    VECTORS != AVX2, reason=f"what oneDNN allocates is known for AVX2 kernels, these are {VECTORS}"
)
not_avx512 = pytest.mark.skipif(
    VECTORS == "AVX-512", reason="oneDNN multiplies bfloat16 with AVX-512, and what it allocates is not known"
)
