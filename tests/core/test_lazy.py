"""Reading declarations never imports torch; the first use of it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_listing_methods_problems_and_models_does_not_import_torch() -> None:
    program = """
import sys
from metabench.core.options import describe
from metabench.methods import methods
from metabench.suite.plan.catalogue import size_cards
from metabench.problems import problems
import metabench.autodiff.unrolled.sweep, metabench.autodiff.exact, metabench.autodiff.implicit.hypergradient
for one in methods().values():
    describe(one.options)
for kind in problems().values():
    describe(kind.card.options), kind.card.sizes, kind.roles
size_cards()
print("torch" in sys.modules)
"""
    assert run(program) == "False"


def test_the_first_attribute_imports_torch_and_is_torchs_own() -> None:
    program = """
import sys
from metabench.core.lazy import torch as lazy
before = "torch" in sys.modules
made = lazy.zeros(2)
import torch
print(before, isinstance(made, torch.Tensor), lazy.nn is torch.nn, lazy.zeros is torch.zeros, sys.modules["torch"] is torch)
"""
    assert run(program) == "False True True True True"


def test_what_torch_lacks_the_stand_in_lacks() -> None:
    from metabench.core.lazy import torch

    with pytest.raises(AttributeError, match="no_such_function"):
        torch.no_such_function  # noqa: B018
