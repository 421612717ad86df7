"""A run with a method of another library: installed beside the source, certified, and marked where it is not what it is named after."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.workflow.conftest import Workflow

pytestmark = pytest.mark.slow  # it installs a package and certifies a method

INSTALL = ["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "boat-torch==1.1.1", "--target"]


def test_a_run_with_a_peer_says_what_the_library_computes_instead(fresh: Workflow) -> None:
    installed = subprocess.run([sys.executable, *INSTALL, str(fresh.folder)], capture_output=True, text=True, check=False)
    if installed.returncode and not os.environ.get("CI"):
        pytest.skip("boat-torch cannot be installed here: " + installed.stderr.strip().splitlines()[-1])
    assert installed.returncode == 0, installed.stderr
    toy = {"problem": "toy_1d", "inner_steps": [2], "outer_steps": 3, "methods": ["none", "boat_cg"]}
    fresh.write_suite(certify=True, baseline="none", seeds=[0], plugins=[], experiments={"toy": toy})
    said = fresh.snakemake().text
    assert "Certificates: 1 certified, 1 FAILED\nNot what they claim: boat_cg\n" in said
    (row,) = [row for row in fresh.rows() if row["method"] == "boat_cg"]
    assert row["status"] == "ok", row["message"]
    page = (fresh.results() / "report" / "index.html").read_text(encoding="utf-8")
    assert "the last iterate but one" in page and "† FAILED: boat_cg." in page
