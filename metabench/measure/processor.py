"""The processor, its vector instructions and the machine's memory. Nothing identifies a machine or a person."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_X86 = ("x86_64", "amd64", "i386", "i686")

_AVX512 = frozenset({"avx512f", "avx512vl", "avx512bw", "avx512dq"})
"""The parts of AVX-512 that torch and oneDNN require before they use it."""


@dataclass(frozen=True)
class Processor:
    """A processor: its name, its generation ('family 25, model 17'), and its instructions as Linux names them.

    The name alone is not enough: virtual machines call several generations 'AMD EPYC'.
    """

    name: str
    generation: str
    flags: frozenset[str]
    architecture: str

    @property
    def is_x86(self) -> bool:
        """Whether torch and oneDNN choose among SSE, AVX2 and AVX-512 here."""
        return self.architecture.lower() in _X86

    @property
    def has_avx512(self) -> bool:
        """Whether torch and oneDNN would use AVX-512."""
        return self.has_avx2 and self.flags >= _AVX512

    @property
    def has_avx2(self) -> bool:
        """Whether torch and oneDNN can use AVX2: torch's own kernels need fused multiply-add, too."""
        return self.is_x86 and self.flags >= {"avx2", "fma"}

    @property
    def vectors(self) -> str:
        """The widest vector instructions of the processor; empty if unknown."""
        if self.has_avx512 or self.has_avx2:
            return "AVX-512" if self.has_avx512 else "AVX2"
        known = (
            ("avx", "AVX"),
            ("sse4_2", "SSE4.2"),
            ("sse4_1", "SSE4.1"),
            ("sve2", "SVE2"),
            ("sve", "SVE"),
            ("asimd", "NEON"),
        )
        return next((name for flag, name in known if flag in self.flags), "")

    @property
    def text(self) -> str:
        """One line for a table, as 'AMD EPYC (family 25, model 17), AVX-512'."""
        named = f"{self.name} ({self.generation})" if self.generation else self.name
        return f"{named}, {self.vectors}" if self.vectors else named


def machine_bytes() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@lru_cache(maxsize=1)
def processor() -> Processor:
    """Return this machine's processor; what the system does not report is empty, and the name falls back to the architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return parse_cpuinfo(text, platform.machine(), platform.processor())


def parse_cpuinfo(text: str, architecture: str, otherwise: str = "") -> Processor:
    """Return the first processor of the text of /proc/cpuinfo; `otherwise` is its name where the text has none."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), " ".join(value.split()))
    named = (fields.get(key, "") for key in ("model name", "Hardware", "cpu model"))
    flags = fields.get("flags") or fields.get("Features") or ""
    return Processor(
        next(filter(None, named), otherwise or architecture),
        _generation(fields),
        frozenset(flags.split()),
        architecture,
    )


def _generation(fields: Mapping[str, str]) -> str:
    x86 = {"family": fields.get("cpu family"), "model": fields.get("model")}
    arm = {"implementer": fields.get("CPU implementer"), "part": fields.get("CPU part")}
    return ", ".join(f"{word} {value}" for word, value in (x86 | arm).items() if value)
