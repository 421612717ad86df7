"""Scripts that load torch before they know which kernels they need."""

from __future__ import annotations

import os
import sys

from metabench.measure.kernels import choose_kernels, runs, variables


def restart_with(kernels: str) -> None:
    """Replace this process, a script that has loaded torch, with one that runs the same command with these kernels.

    Returns if the process runs them already. Raises MetabenchError if it still does not after it was replaced.
    """
    wanted = variables(kernels)
    if runs(kernels) or all(os.environ.get(name) == value for name, value in wanted.items()):
        choose_kernels(kernels)
        return
    sys.stdout.flush()
    assignments = " ".join(f"{name}={value}" for name, value in wanted.items())
    print(f"starting again with {kernels} kernels: {assignments}", file=sys.stderr, flush=True)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **wanted})
