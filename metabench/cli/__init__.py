"""The command line: a thin face over the suite, the results and the report. What a command needs is imported when it runs."""

from __future__ import annotations

from metabench.cli.app import main

__all__ = ["main"]
