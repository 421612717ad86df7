"""`benchmarks/memory.py` on few examples: the meter holds beside torch's profiler, and a meter that is off is found out."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from metabench.measure.memory.meter import measure_memory

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory_benchmark", BENCHMARKS / "memory.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = _load()
FEW = benchmark.Place(torch.device("cpu"), 4)
SMALL = ("updates_in_place", "convolution_of_volumes")


@pytest.fixture(autouse=True)
def little_to_collect() -> Iterator[None]:
    """Every measurement collects garbage first; looking through all that is imported would take most of a test's time."""
    gc.freeze()
    yield
    gc.unfreeze()


def found(name: str) -> Any:
    return benchmark.measure(benchmark.PROGRAMS[name](FEW), FEW.device, 2)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["memory.py", *arguments])
    # A test of the CPU's figures, also where there is a GPU.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return benchmark.main()


@pytest.mark.parametrize("name", benchmark.PROGRAMS)
def test_the_meter_is_within_one_percent_of_the_profiler_and_changes_nothing(name: str) -> None:
    one = found(name)
    assert one.reference_bytes > 0
    assert max(one.meter_bytes) == pytest.approx(one.reference_bytes, rel=0.01)
    assert one.steady and one.agrees
    assert one.repeatable and one.unchanged
    assert one.storages_within


def test_there_are_convolutions_whose_kernels_take_memory_that_no_storage_shows() -> None:
    one = found("convolution_of_volumes")
    assert one.storage_bytes < 0.9 * one.reference_bytes


def test_it_ends_with_one_line_of_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--batch", "4", "--repeats", "2", "--only", SMALL[0], "--only", SMALL[1]) == 0
    *tables, last = capsys.readouterr().out.strip().splitlines()
    line = json.loads(last)
    kinds = ("static_bytes", "meter_bytes", "reference_bytes", "storage_bytes", "watched_bytes", "ratio")
    assert set(line) == {f"cpu {name} {kind}" for name in SMALL for kind in kinds} | {
        "cpu programs",
        "cpu largest deviation",
        "check cpu within 1 %",
        "check cpu same bytes at every run",
        "check cpu result unchanged",
        "check cpu storages within the allocator's bytes",
    }
    assert line["cpu programs"] == 2
    assert all(holds is True for name, holds in line.items() if name.startswith("check "))
    assert any("skip  cuda" in row for row in tables)


def test_a_meter_that_is_two_percent_off_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def off(*arguments: Any) -> Any:
        result, memory = measure_memory(*arguments)
        return result, dataclasses.replace(memory, dynamic_bytes=memory.dynamic_bytes * 102 // 100)

    monkeypatch.setattr(benchmark, "measure_memory", off)
    assert run(monkeypatch, "--batch", "4", "--only", SMALL[0]) == 1
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert line["check cpu within 1 %"] is False
    assert line["cpu largest deviation"] == pytest.approx(0.02, abs=1e-3)
    assert line["check cpu same bytes at every run"] is True


def test_bytes_that_vary_and_a_result_that_is_changed_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = 0

    def wavering(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        (trained, record), memory = measure_memory(*arguments)
        return (trained + 1, record), dataclasses.replace(memory, dynamic_bytes=memory.dynamic_bytes + 4 * (runs % 2))

    monkeypatch.setattr(benchmark, "measure_memory", wavering)
    one = found(SMALL[0])
    assert one.agrees
    assert not one.steady and not one.unchanged and not one.harmless


def test_an_unknown_program_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--only", "transformer_blok")
    assert ended.value.code == 2
    assert "unknown program 'transformer_blok': did you mean 'transformer_block'?" in capsys.readouterr().err


def test_results_are_compared_by_their_bits() -> None:
    nan, zero = torch.tensor([float("nan"), 1.0]), torch.tensor(0.0)
    assert benchmark.same_bits((nan, {"zero": zero}), (nan.clone(), {"zero": zero.clone()}))
    assert not benchmark.same_bits(zero, -zero)
    assert not benchmark.same_bits(nan, nan.double())
    assert not benchmark.same_bits((nan,), (nan, zero))


def test_a_call_without_tensors_takes_nothing() -> None:
    one = benchmark.measure((lambda: (), ()), FEW.device, 2)
    assert one.meter_bytes == (0, 0) and one.reference_bytes == 0
    assert one.agrees and one.ratio == 1
