"""Which CPU kernels a process runs, and therefore how many bytes they take.

torch and oneDNN choose their kernels at first use, by the processor's instructions. The bytes that a kernel allocates depend on that
choice, and so do the last digits of its results: one hypergradient of `unrolled` on `conv4` takes 8.7 MB with SSE4.1, 11.2 MB with AVX2
and 16.3 MB with AVX-512.

`portable` makes both use AVX2 on every x86 processor that has it, through two environment variables set before torch is loaded.
Machines with and without AVX-512 then agree in every byte, and AMD's also in every quality, to the last bit. It costs no time: on a
processor with AVX-512 (AMD, family 25, model 17) one hypergradient took 0.9 times the processor time with portable kernels on `conv4`, and
1.0 times on `mlp1024`. `native` leaves the choice to the libraries and to the variables that the user has set.

MKL, which multiplies dense float32 matrices, also depends on the vendor. It is left alone: MKL 2024.2 refuses MKL_CBWR=AVX2 on AMD (its
log says CNR:AUTO), and with COMPATIBLE, the one branch that it offers to all vendors, a hypergradient of `mlp64` takes 1.8 times and one of
`mlp1024` 2.0 times as long. Neither changes a byte. So the last digits of qualities may differ between vendors, and rows name the
hardware. Rows also record MKL_CBWR if it is set.

On other architectures there is nothing to choose. A processor without AVX2 runs what it has, and rows record the instruction set.
"""

from __future__ import annotations

import os
import platform
import sys

from metabench.core.errors import MetabenchError, unknown
from metabench.core.lazy import torch
from metabench.measure.processor import processor

PORTABLE, NATIVE = "portable", "native"
KERNELS = (PORTABLE, NATIVE)

AVX2 = "AVX2"
BASELINE = "baseline"
"""torch's name for its kernels without AVX is DEFAULT."""

_PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}

_TORCH = {"default": BASELINE, "avx2": AVX2, "avx512": "AVX-512"}
"""What torch runs, by its name in lower case."""

_ONEDNN_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_ONEDNN_SETS = ("SSE4.1", "AVX", AVX2, "AVX-512")

_MKL_VARIABLES = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")

_set_here: dict[str, str] = {}
"""The variables that `choose_kernels` has set in this process."""


def choose_kernels(kernels: str) -> None:
    """Make this process and its children run these kernels; call it before torch is loaded.

    Raises:
        MetabenchError: unknown kernels; torch is already loaded with others; the process was set to portable kernels and now
            needs native ones.
    """
    wanted = variables(kernels)
    if kernels == NATIVE and _set_here:
        raise MetabenchError(
            "this process was set to portable kernels and is now asked for native ones: measure or predict these in their own process"
        )
    if not runs(kernels):
        assignments = " ".join(f"{name}={value}" for name, value in wanted.items())
        raise MetabenchError(
            f"torch is loaded in this process with other kernels ({instruction_set(NATIVE)}) than the portable ones requested: "
            f"start it with {assignments} in its environment, or ask for 'kernels: native'"
        )
    if "torch" not in sys.modules:
        changed = {name: value for name, value in wanted.items() if os.environ.get(name) != value}
        os.environ.update(changed)
        _set_here.update(changed)


def variables(kernels: str) -> dict[str, str]:
    """Return the environment variables that make a process run these kernels; none for native ones, or if there is no choice.

    torch obeys its variable without checking the processor, so none is set if AVX2 is missing.
    """
    if kernels not in KERNELS:
        raise unknown("kernels", kernels, KERNELS)
    return dict(_PORTABLE) if kernels == PORTABLE and processor().has_avx2 else {}


def runs(kernels: str) -> bool:
    """Tell whether this process runs these kernels, or will once it loads torch."""
    if "torch" not in sys.modules or not variables(kernels):
        return True
    return vectors() == AVX2


def vectors() -> str:
    """Return the instruction set of this process's kernels, which sets their bytes: 'AVX2', or 'AVX2 (oneDNN: AVX-512)' if they differ."""
    return _named(_torch_set(), _onednn_notes(dict(os.environ), _torch_set()))


def instruction_set(kernels: str) -> str:
    """Return the instruction set of these kernels on this machine: what torch runs, if it is loaded with them.

    'AVX2', 'AVX-512' or 'baseline' on x86, and what else distinguishes the kernels: 'baseline (oneDNN: SSE4.1)', 'AVX2
    (MKL_CBWR=COMPATIBLE)'. torch is asked if it is loaded; on other architectures it is loaded first.
    """
    if ("torch" in sys.modules and runs(kernels)) or not processor().is_x86:
        return _named(_torch_set(), _notes(dict(os.environ), _torch_set()))
    return foreseen(kernels)


def foreseen(kernels: str) -> str:
    """Return what `instruction_set` says in a process that is started here with these kernels, without loading torch.

    On architectures other than x86, where there is nothing to choose, the architecture's name.
    """
    if not processor().is_x86:
        return platform.machine()
    environment = {**os.environ, **variables(kernels)}
    found = "avx512" if processor().has_avx512 else "avx2" if processor().has_avx2 else "default"
    asked = environment.get("ATEN_CPU_CAPABILITY", found)
    torch_set = _TORCH.get(asked, _TORCH[found])
    return _named(torch_set, _notes(environment, torch_set))


def _named(torch_set: str, notes: list[str]) -> str:
    return f"{torch_set} ({', '.join(notes)})" if notes else torch_set


def _notes(environment: dict[str, str], torch_set: str) -> list[str]:
    """Return how the other libraries' kernels differ from torch's."""
    mkl = [f"{name}={environment[name]}" for name in _MKL_VARIABLES if environment.get(name)]
    return _onednn_notes(environment, torch_set) + mkl


def _onednn_notes(environment: dict[str, str], torch_set: str) -> list[str]:
    onednn = _onednn_set(environment)
    return [f"oneDNN: {onednn}"] if processor().is_x86 and onednn != torch_set else []


def _torch_set() -> str:
    found = torch.backends.cpu.get_cpu_capability()
    return _TORCH.get(found.lower(), found)


def _onednn_set(environment: dict[str, str]) -> str:
    """Return the instructions that oneDNN uses: the processor's, up to those that its variable allows."""
    vectors = processor().vectors
    widest = _ONEDNN_SETS.index(vectors) if vectors in _ONEDNN_SETS else 0
    given = next((environment[name].upper() for name in _ONEDNN_VARIABLES if environment.get(name)), "")
    for place, prefix in reversed(list(enumerate(("SSE41", "AVX", "AVX2", "AVX512")))):
        # The longest prefix counts: AVX2_VNNI is AVX2, AVX512_CORE_BF16 is AVX512.
        if given.startswith(prefix):
            return _ONEDNN_SETS[min(place, widest)]
    return _ONEDNN_SETS[widest]
