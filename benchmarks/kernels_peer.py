"""Tangent kernels by neural-tangents, for `kernels.py`: reads a case from standard input as JSON, and prints seconds and numbers.

Runs in an environment of its own, without metabench: see `tests/kernels/make_neural_tangents.py`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import numpy as np
from neural_tangents import stax


def main() -> None:
    """Time the compiled kernel, after a call that compiles it."""
    given = json.load(sys.stdin)
    jax.config.update("jax_enable_x64", given["dtype"] == "float64")
    layers = []
    for _ in range(given["depth"]):
        layers += [stax.Conv(1, (3, 3), padding="SAME", W_std=given["W_std"], b_std=None), stax.Relu()]
    layers.append({"gap": stax.GlobalAvgPool, "flatten": stax.Flatten}[given["readout"]]())
    *_, kernel = stax.serial(*layers, stax.Dense(1, W_std=given["W_std"], b_std=None))
    compiled = jax.jit(lambda x, y: kernel(x, y, ("nngp", "ntk")))
    rows, columns = (np.moveaxis(np.asarray(given[side], given["dtype"]), 1, -1) for side in ("rows", "columns"))
    found = compiled(rows, columns)
    found.ntk.block_until_ready()
    taken = []
    for _ in range(given["rounds"]):
        begun = time.process_time()
        found = compiled(rows, columns)
        found.ntk.block_until_ready()
        taken.append(time.process_time() - begun)
    print(json.dumps({"seconds": statistics.median(taken), "ntk": np.asarray(found.ntk, np.float64).tolist()}))


if __name__ == "__main__":
    main()
