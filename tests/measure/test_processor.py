"""A processor is named by what tells its generations apart, and no machine by its own name."""

from __future__ import annotations

import platform

import pytest

from metabench.measure.processor import Processor, parse_cpuinfo, processor

AMD = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD   EPYC
flags\t\t: sse4_1 avx fma avx2 avx512f avx512dq avx512bw avx512vl

processor\t: 1
model name\t: another
"""
INTEL = """model name : Intel(R) Xeon(R) CPU E5-2690 0 @ 2.90GHz
cpu family : 6
model : 45
flags : sse4_1 sse4_2 avx
"""
ARM = """processor : 0
Features : fp asimd sve
CPU implementer : 0x41
CPU part : 0xd40
"""


@pytest.mark.parametrize(
    ("text", "architecture", "line", "avx2", "avx512"),
    [
        (AMD, "x86_64", "AMD EPYC (family 25, model 17), AVX-512", True, True),
        (AMD.replace(" avx512vl", ""), "x86_64", "AMD EPYC (family 25, model 17), AVX2", True, False),
        # torch's AVX2 kernels need fused multiply-add.
        (AMD.replace(" fma", ""), "x86_64", "AMD EPYC (family 25, model 17), AVX", False, False),
        (INTEL, "x86_64", "Intel(R) Xeon(R) CPU E5-2690 0 @ 2.90GHz (family 6, model 45), AVX", False, False),
        (ARM, "aarch64", "aarch64 (implementer 0x41, part 0xd40), SVE", False, False),
        ("", "arm64", "arm64", False, False),
    ],
)
def test_name_generation_and_vectors(text: str, architecture: str, line: str, avx2: bool, avx512: bool) -> None:
    found = parse_cpuinfo(text, architecture)
    assert found.text == line
    assert (found.has_avx2, found.has_avx512) == (avx2, avx512)
    assert found.is_x86 == (architecture == "x86_64")


def test_only_x86_has_avx2_whatever_the_flags_say() -> None:
    assert not Processor("", "", frozenset({"avx2", "fma"}), "arm64").has_avx2


def test_this_machine_is_not_named() -> None:
    assert platform.node() not in processor().text
