"""The command line: a thin layer over the suite, the results and the report. A command imports what it needs when it runs."""

from __future__ import annotations

from metabench.cli.app import main

__all__ = ["main"]
