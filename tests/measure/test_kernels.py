"""Portable kernels are chosen before torch is loaded or not at all, and what ran is said."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_choice import VECTORS

from metabench.core.errors import MetabenchError
from metabench.measure import kernels
from metabench.measure.kernels import NATIVE, PORTABLE, choose_kernels, foreseen, instruction_set, runs, variables
from metabench.measure.processor import Processor, processor

ROOT = Path(__file__).parents[2]
CHOSEN = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
CHOICES = {
    "found": {},
    "AVX2": CHOSEN,
    "torch alone": {"ATEN_CPU_CAPABILITY": "avx2"},
    "oneDNN alone": {"DNNL_MAX_CPU_ISA": "AVX2_VNNI"},
    "SSE4.1": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "MKL": CHOSEN | {"MKL_CBWR": "COMPATIBLE"},
}

needs_avx2 = pytest.mark.skipif(not processor().has_avx2, reason="the processor has no AVX2")
needs_avx512 = pytest.mark.skipif(not processor().has_avx512, reason="the processor has no AVX-512")


def of_process(program: str, given: dict[str, str]) -> Any:
    """Return what a program prints, as JSON, in an environment that names no kernels but those given."""
    named = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
    rest = {name: value for name, value in os.environ.items() if name not in named}
    program = f"import json, os, sys\nfrom metabench.measure.kernels import *\nfrom metabench.measure.kernels import vectors\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", program], env=rest | given, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@functools.cache
def found_with(choice: str) -> tuple[Any, str, str]:
    """Return what is foreseen before torch is loaded and whether that loads it; what ran after; and by what kernels allocate."""
    program = """
before = [foreseen(NATIVE), instruction_set(NATIVE), "torch" in sys.modules]
import torch
print(json.dumps([before, instruction_set(NATIVE), vectors()]))
"""
    before, ran, allocating = of_process(program, CHOICES[choice])
    return before, ran, allocating


@needs_avx2
@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_foreseen_is_what_torch_then_runs(choice: str) -> None:
    (seen, same, loaded), ran, allocating = found_with(choice)
    assert seen == same == ran
    assert not loaded
    assert ran.startswith(allocating)


@needs_avx512
def test_the_words_for_what_ran_on_a_processor_with_avx512() -> None:
    assert {choice: found_with(choice)[1] for choice in CHOICES} == {
        "found": "AVX-512",
        "AVX2": "AVX2",
        "torch alone": "AVX2 (oneDNN: AVX-512)",
        "oneDNN alone": "AVX-512 (oneDNN: AVX2)",
        "SSE4.1": "baseline (oneDNN: SSE4.1)",
        "MKL": "AVX2 (MKL_CBWR=COMPATIBLE)",
    }


@needs_avx2
def test_portable_kernels_run_whatever_the_environment_says() -> None:
    program = """
choose_kernels(PORTABLE)
import torch
print(json.dumps([torch.backends.cpu.get_cpu_capability(), os.environ["ONEDNN_MAX_CPU_ISA"], vectors(), runs(PORTABLE)]))
"""
    assert of_process(program, CHOICES["SSE4.1"]) == ["AVX2", "AVX2", "AVX2", True]


@needs_avx512
def test_torch_that_is_loaded_with_other_kernels_is_refused_in_words() -> None:
    program = """
import torch
try:
    choose_kernels(PORTABLE)
except Exception as error:
    print(json.dumps([type(error).__name__, str(error), "ONEDNN_MAX_CPU_ISA" in os.environ]))
"""
    name, words, changed = of_process(program, {})
    assert name == "MetabenchError"
    assert "torch is loaded in this process with other kernels (AVX-512)" in words
    assert "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2" in words
    assert not changed


@needs_avx2
def test_native_kernels_are_refused_where_portable_ones_were_chosen() -> None:
    program = """
choose_kernels(PORTABLE)
choose_kernels(PORTABLE)
try:
    choose_kernels(NATIVE)
except Exception as error:
    print(json.dumps(str(error)))
"""
    assert "their own process" in of_process(program, {})


def test_native_kernels_leave_the_environment_as_it_is() -> None:
    program = "before = dict(os.environ); choose_kernels(NATIVE); print(json.dumps(before == dict(os.environ)))"
    assert of_process(program, {}) is True


@needs_avx512
def test_a_script_starts_again_once_with_the_kernels_that_it_needs(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\nfrom metabench.measure.kernels import *\nfrom restart import restart_with\n"
        "restart_with(PORTABLE)\nprint(instruction_set(PORTABLE), sys.argv[1:])\n"
    )
    rest = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    command = [sys.executable, str(script), "--quick", "a b"]
    done = subprocess.run(
        command,
        env=rest | {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "AVX2 ['--quick', 'a b']\n"
    assert done.stderr.count("starting again with portable kernels") == 1


@pytest.mark.parametrize("architecture", ["aarch64", "arm64"])
def test_there_is_nothing_to_choose_on_another_architecture(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "processor", lambda: Processor("", "", frozenset({"asimd"}), architecture))
    assert variables(PORTABLE) == variables(NATIVE) == {}
    assert runs(PORTABLE)
    assert "oneDNN" not in instruction_set(PORTABLE)
    choose_kernels(PORTABLE)


def test_a_processor_without_avx2_runs_what_it_has_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Processor("old", "", frozenset({"sse4_1", "sse4_2", "avx"}), "x86_64")
    monkeypatch.setattr(kernels, "processor", lambda: old)
    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)
    # torch would do as it is told, and end with an illegal instruction.
    assert variables(PORTABLE) == {}
    assert foreseen(PORTABLE) == foreseen(NATIVE) == "baseline (oneDNN: AVX)"


def test_an_unknown_choice_names_the_nearest() -> None:
    with pytest.raises(MetabenchError, match="unknown kernels 'nativ': did you mean 'native'"):
        choose_kernels("nativ")


def test_the_tests_themselves_run_what_their_environment_names() -> None:
    assert instruction_set(NATIVE).startswith(VECTORS)
    assert foreseen(NATIVE) == instruction_set(NATIVE)
