"""The CUDA devices of this machine, as the driver's `nvidia-smi` lists them: without torch, and without a CUDA context.

A GPU that is cut into slices (MIG) is its slices: each is a device. Where there is no `nvidia-smi`, or it does not answer, none is known.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"

_ASKED_SECONDS = 30.0
"""Seconds that the driver may take to answer: without its persistence daemon it wakes every GPU first."""

_GPU = re.compile(r"GPU (\d+): (.*) \(UUID: (\S+)\)")
_SLICE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (\S+)\)")


@dataclass(frozen=True)
class Gpu:
    """A device that a CUDA process can have to itself.

    Attributes:
        uuid: by which CUDA_VISIBLE_DEVICES names it.
        index: of nvidia-smi: '0', and '0:1' for the second slice of the first GPU.
        name: of the GPU, with the profile of a slice: 'NVIDIA A100-SXM4-40GB MIG 1g.5gb'.
        memory_bytes: of the device; 0 where it is not known.
        card: the UUID of the GPU itself, which a slice is a part of.
    """

    uuid: str
    index: str
    name: str
    memory_bytes: int
    card: str

    @property
    def is_slice(self) -> bool:
        """Whether it is a part of a GPU."""
        return self.uuid != self.card


def gpus() -> list[Gpu]:
    """Return all devices of this machine that the driver shows to this process, whatever the environment allows."""
    listed = ask("-L")
    if not listed:
        return []
    about = {row["uuid"]: row for row in query("gpu", ("uuid", "memory.total", "mig.mode.current"))}
    found: list[Gpu] = []
    slices: list[Gpu] = []

    def close(card: Gpu | None) -> None:
        """Take a GPU into the list, or what it is cut into: one in MIG mode runs nothing itself."""
        if card is not None:
            cut = about.get(card.uuid, {}).get("mig.mode.current") == "Enabled" or slices
            found.extend(slices if cut else [card])
        slices.clear()

    card: Gpu | None = None
    for line in listed.splitlines():
        if whole := _GPU.match(line):
            close(card)
            index, name, uuid = whole.groups()
            card = Gpu(uuid, index, name, _mebibytes(about.get(uuid, {}).get("memory.total", "")), uuid)
        elif card and (part := _SLICE.match(line)):
            profile, place, uuid = part.groups()
            slices.append(Gpu(uuid, f"{card.index}:{place}", f"{card.name} MIG {profile}", _gigabytes(profile), card.uuid))
    close(card)
    return found


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """Return the devices that this process may use: all, or those that CUDA_VISIBLE_DEVICES names, as schedulers set it."""
    return chosen(gpus(), environment.get(VISIBLE))


def chosen(known: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Return the devices of a value of CUDA_VISIBLE_DEVICES, which names indices, UUIDs or their beginnings; None for all.

    As CUDA does, it ends at the first name that means nothing. The name of a GPU that is cut into slices means all of them.
    """
    if visible is None:
        return list(known)
    found: dict[str, Gpu] = {}
    for name in filter(None, (part.strip() for part in visible.split(","))):
        if name.isdigit():
            named = [one for one in known if one.index.split(":")[0] == name]
        else:
            named = [one for one in known if one.uuid == name] or [
                one for one in known if name.startswith(("GPU-", "MIG-")) and (one.uuid.startswith(name) or one.card.startswith(name))
            ]
        if not named:
            break
        found |= {one.uuid: one for one in named}
    return list(found.values())


def device_total() -> int:
    """Return how many cells can have a device of their own at once: the visible devices; 1 where none is known."""
    return len(visible_gpus()) or 1


def query(what: str, fields: Sequence[str], device: str = "") -> list[dict[str, str]]:
    """Return what `nvidia-smi --query-WHAT` says, a dictionary per line; nothing where it does not answer or knows a field not."""
    told = ask(f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits", *(["-i", device] if device else []))
    rows = ([part.strip() for part in line.split(",")] for line in told.splitlines())
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def ask(*arguments: str) -> str:
    """Return what `nvidia-smi` says; empty where it is missing, fails or does not answer."""
    if shutil.which("nvidia-smi") is None:
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError, UnicodeDecodeError):
        done = subprocess.run(("nvidia-smi", *arguments), capture_output=True, text=True, timeout=_ASKED_SECONDS, check=False)
        return done.stdout if done.returncode == 0 else ""
    return ""


def _mebibytes(text: str) -> int:
    return int(text) << 20 if text.isdigit() else 0


def _gigabytes(profile: str) -> int:
    """Return the memory that the profile of a slice names, as '1g.5gb'."""
    found = re.search(r"(\d+)gb", profile)
    return int(found[1]) << 30 if found else 0
