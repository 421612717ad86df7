"""What all tests share: one thread a process, since they run side by side, and the problems and differences in `bilevel`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before torch is imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `bilevel` and `small_problems` lie beside this file; tests in every folder import them.
sys.path.insert(0, str(Path(__file__).parent))
