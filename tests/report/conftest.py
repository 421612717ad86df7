"""A suite made of synthetic rows, written and collected as a real one is."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metabench.report.page.page import render_page
from metabench.report.results.entries import Suite
from metabench.report.results.load import load_suite
from metabench.results.store import collect, write_rows


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The generator of synthetic rows."""
    return _load("synthetic_rows")


def write_suite(folder: Path, rows: list[dict[str, Any]], metadata: dict[str, str]) -> Path:
    """Write rows as files of cells, collect them, and return results.parquet."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault(row["cell"], []).append(row)
    paths = []
    for cell, own in cells.items():
        paths.append(folder / "cells" / f"{cell}.parquet")
        write_rows(paths[-1], own)
    return collect(paths, folder / "results.parquet", metadata).parquet


@pytest.fixture(scope="session")
def save() -> Callable[..., Path]:
    """`write_suite`, for the tests of a file."""
    return write_suite


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory, synthetic: ModuleType) -> Path:
    """results.parquet of a suite with every figure, status and number of seeds."""
    return write_suite(tmp_path_factory.mktemp("suite"), synthetic.suite_rows(), synthetic.metadata())


@pytest.fixture(scope="session")
def suite(results: Path) -> Suite:
    """The same, read."""
    return load_suite(results)


@pytest.fixture(scope="session")
def suite_page(suite: Suite) -> str:
    """Its page."""
    return render_page(suite)


@pytest.fixture(scope="session")
def empty_results(tmp_path_factory: pytest.TempPathFactory, synthetic: ModuleType) -> Path:
    """results.parquet of a suite that asks for no cell."""
    return write_suite(tmp_path_factory.mktemp("empty"), [], synthetic.metadata())


@pytest.fixture
def load_rows(tmp_path: Path, synthetic: ModuleType) -> Any:
    """A function from rows to the suite that they make."""

    def load(rows: list[dict[str, Any]], **metadata: str) -> Suite:
        return load_suite(write_suite(tmp_path, rows, {**synthetic.metadata(), **metadata}))

    return load
