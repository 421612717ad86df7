"""What all tests share: one thread per process, since they run side by side, the CPU kernels, and problems and differences in `bilevel`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metabench.core import registry
from metabench.measure.kernels import PORTABLE, variables

# Before torch is imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Portable kernels, so that bytes are the same wherever the tests run. Where the environment names others, the tests are of those:
# ATEN_CPU_CAPABILITY=avx512 for AVX-512; ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 for SSE4.1.
if not {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"} & os.environ.keys():
    os.environ.update(variables(PORTABLE))

# `bilevel`, `few_cases`, `kernel_choice` and others lie beside this file; tests in every folder import them.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure() -> None:
    """Look for no garbage while tests are collected: there is none, and the search takes half of the time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Spare the garbage collector the objects of torch and of all tests."""
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="certify every method and plant every bug on all cases, not on a few")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of slow tests, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def frozen_objects() -> None:
    """Spare the garbage collector, which every measurement of memory calls, the million objects of torch and pytest."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def own_plugins() -> Iterator[None]:
    """Keep the plugins that a file of tests writes from the next: a process knows those of all suites that it ever read."""
    before = list(registry._LOADED)
    yield
    # Those that lie here are imported once in a process, and stay.
    here = Path(__file__).parent
    registry._LOADED[:] = [path for path in registry._LOADED if path in before or path.is_relative_to(here)]


@pytest.fixture
def few_cases(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make certificates on a few cases that tell bugs apart, unless all tests are asked for in full."""
    from few_cases import make_few

    if not request.config.getoption("--full"):
        make_few(monkeypatch)


@pytest.fixture
def fewest_cases(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for bugs that are planted, with fewer option sets and calls."""
    from few_cases import make_fewest

    if not request.config.getoption("--full"):
        make_fewest(monkeypatch)
