"""A machine with GPUs, as far as `nvidia-smi` tells: a script on PATH that answers as the driver's does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """#!{python} -SE
import json, sys
said = json.load(open({data!r}))
given = sys.argv[1:]
open({log!r}, "a").write(" ".join(given) + "\\n")
if said.get("fails"):
    print("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.")
    sys.exit(9)
if given == ["-L"]:
    for gpu in said["gpus"]:
        print(f"GPU {{gpu['index']}}: {{gpu['name']}} (UUID: {{gpu['uuid']}})")
        for place, part in enumerate(gpu.get("slices", ())):
            print(f"  MIG {{part['profile']:<12}} Device  {{place}}: (UUID: {{part['uuid']}})")
    sys.exit()
what, fields = given[0].removeprefix("--query-").split("=")
wanted = given[given.index("-i") + 1] if "-i" in given else None
for row in said["gpus"] if what == "gpu" else said["apps"]:
    if wanted in (None, row["uuid"] if what == "gpu" else row["gpu_uuid"]):
        unknown = [field for field in fields.split(",") if field not in row]
        if unknown:
            print(f'Field "{{unknown[0]}}" is not a valid field to query.')
            sys.exit(2)
        print(", ".join(str(row[field]) for field in fields.split(",")))
"""

IDLE = {
    "memory.total": 40960,
    "mig.mode.current": "Disabled",
    "driver_version": "570.86.10",
    "clocks.sm": 1410,
    "clocks.mem": 1215,
    "power.limit": "400.00",
    "clocks_event_reasons.active": "0x0000000000000001",
}


def gpu(index: int, **changes: Any) -> dict[str, Any]:
    """Return what nvidia-smi says of a GPU."""
    uuid = f"GPU-{index:08x}-aaaa-bbbb-cccc-0123456789ab"
    return {"index": index, "uuid": uuid, "name": "NVIDIA A100-SXM4-40GB", "slices": [], **IDLE, **changes}


def cut(index: int, slices: int) -> dict[str, Any]:
    """Return what it says of a GPU that is cut into slices."""
    parts = [{"profile": "3g.20gb", "uuid": f"MIG-{index:08x}-{place:04x}-bbbb-cccc-0123456789ab"} for place in range(slices)]
    return gpu(index, slices=parts) | {"mig.mode.current": "Enabled"}


class Machine:
    """A machine with such GPUs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        self.data, self.log = folder / "said.json", folder / "asked.txt"
        script = folder / "bin" / "nvidia-smi"
        script.write_text(SCRIPT.format(python=sys.executable, data=str(self.data), log=str(self.log)))
        script.chmod(0o755)
        self.environment = {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "METABENCH_GPU_LOCKS": str(folder / "locks"),
        }
        self.has(2)

    def has(self, count: int | Sequence[dict[str, Any]], apps: Sequence[dict[str, Any]] = (), **more: Any) -> None:
        """Let it have so many GPUs, or these."""
        gpus = [gpu(index) for index in range(count)] if isinstance(count, int) else list(count)
        self.data.write_text(json.dumps({"gpus": gpus, "apps": list(apps), **more}))

    def asked(self) -> list[str]:
        """Return what it was asked so far."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with two GPUs, all of them visible."""
    made = Machine(tmp_path / "machine")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made
