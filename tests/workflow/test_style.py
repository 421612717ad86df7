"""The workflow is written as Snakemake's own tools want it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.conftest import SOURCE, Workflow


def test_lint_finds_nothing(fresh: Workflow) -> None:
    assert "Congratulations" in fresh.snakemake("--lint").text


def test_snakefmt_would_change_nothing() -> None:
    snakefmt = shutil.which("snakefmt", path=str(Path(sys.executable).parent)) or shutil.which("snakefmt")
    if snakefmt is None:
        pytest.skip("snakefmt is not installed")
    done = subprocess.run(
        [snakefmt, "--check", "Snakefile", "workflow"], cwd=SOURCE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
