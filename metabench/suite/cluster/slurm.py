"""What SLURM says of itself: partitions, nodes, accounts, and whether it would take a job."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_SECONDS = 60.0
"""In which a command of SLURM has to answer; busy controllers take their time."""

_FIELD = re.compile(r"(\S+?)=(.*?)(?=\s+[A-Z][A-Za-z:]*=|\s*$)")
_GPU = re.compile(r"gpu(?::([A-Za-z][\w.-]*))?(?::(\d+))?(?:\(.*?\))?$")


class Unanswered(Exception):
    """A command of SLURM is missing, or failed; the message is what it said."""


@dataclass(frozen=True)
class Node:
    """A node: MiB of memory, GPUs by model ('' where SLURM was told none), features that a constraint names, and whether it is up now."""

    name: str
    cores: int
    memory_mb: int
    gpus: dict[str, int]
    features: frozenset[str]
    up: bool = True

    def gpus_of(self, model: str) -> int:
        """Return how many GPUs of a model there are; of any model where it is empty."""
        return sum(number for name, number in self.gpus.items() if model in ("", name))


@dataclass(frozen=True)
class Partition:
    """A partition.

    Attributes:
        state: 'UP' if it starts jobs.
        minutes: the longest job; None for any.
        memory_mb: the most memory of a job on a node; None for all that the node has.
        cores: the most cores of a job on a node; None for any.
        preemption: what happens to a job that is pre-empted: 'OFF', 'REQUEUE', 'CANCEL', 'SUSPEND'.
        allowed, denied: accounts; `allowed` is None for all.
        nodes: that belong to it.
    """

    name: str
    default: bool
    state: str
    minutes: int | None
    memory_mb: int | None
    cores: int | None
    preemption: str
    allowed: frozenset[str] | None
    denied: frozenset[str]
    nodes: tuple[Node, ...]


def ask(*command: str) -> str:
    """Return what a command says; raise Unanswered where it is missing, fails or takes too long."""
    if shutil.which(command[0]) is None:
        raise Unanswered(f"there is no {command[0]} here")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(f"{command[0]}: {error}") from error
    if done.returncode:
        raise Unanswered(" ".join((done.stderr or done.stdout).split()) or f"{command[0]} exited with status {done.returncode}")
    return done.stdout


def partitions() -> dict[str, Partition]:
    """Return all partitions by name. Raises Unanswered."""
    nodes: dict[str, list[Node]] = {}
    for line in ask("scontrol", "--oneliner", "show", "node").splitlines():
        fields = _fields(line)
        if "NodeName" in fields:
            for name in fields.get("Partitions", "").split(","):
                nodes.setdefault(name, []).append(_node(fields))
    found = {}
    for line in ask("scontrol", "--oneliner", "show", "partition").splitlines():
        fields = _fields(line)
        if "PartitionName" in fields:
            name = fields["PartitionName"]
            found[name] = _partition(name, fields, tuple(nodes.get(name, ())))
    return found


def settings() -> dict[str, str]:
    """Return the configuration of SLURM, by key. Raises Unanswered."""
    lines = ask("scontrol", "show", "config").splitlines()
    return {key.strip(): value.strip() for key, mark, value in (line.partition("=") for line in lines) if mark}


def accounts() -> list[str]:
    """Return the accounts of this user, as Snakemake's plugin finds them; none where the cluster says of none. Raises Unanswered."""
    user = getpass.getuser()
    try:
        found = ask("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=account")
    except Unanswered:
        found = ""
    found = found if found.strip() else ask("sshare", "--users", user, "--noheader", "--parsable2", "--format=Account")
    return list(dict.fromkeys(line.strip() for line in found.splitlines() if line.strip()))


def refusal(options: Sequence[str]) -> str:
    """Return why sbatch would refuse a job with these options, in its own words; empty where it would take it. Nothing is submitted."""
    try:
        ask("sbatch", "--test-only", *options, "--wrap=true")
    except Unanswered as error:
        return re.sub(r"^(sbatch: error: |allocation failure: )+", "", str(error))
    return ""


def _fields(line: str) -> dict[str, str]:
    return dict(_FIELD.findall(line))


def _node(fields: dict[str, str]) -> Node:
    gpus: dict[str, int] = {}
    for part in re.split(r",(?![^(]*\))", fields.get("Gres", "")):
        if found := _GPU.match(part):
            model = found[1] or ""
            gpus[model] = gpus.get(model, 0) + int(found[2] or 1)
    features = frozenset(fields.get("AvailableFeatures", "").split(",")) - {"", "(null)"}
    up = not re.search("DOWN|DRAIN|FAIL|MAINT|NOT_RESPONDING", fields.get("State", ""))
    return Node(fields["NodeName"], int(fields.get("CPUTot", 1)), int(fields.get("RealMemory", 0)), gpus, features, up)


def _partition(name: str, fields: dict[str, str], nodes: tuple[Node, ...]) -> Partition:
    def names(key: str) -> frozenset[str]:
        return frozenset(fields.get(key, "").lower().split(",")) - {"", "all", "(null)"}

    def bound(key: str) -> int | None:
        value = fields.get(key, "")
        return int(value) if value.isdigit() and int(value) else None

    return Partition(
        name,
        default=fields.get("Default") == "YES",
        state=fields.get("State", "UP"),
        minutes=_minutes(fields.get("MaxTime", "")),
        memory_mb=bound("MaxMemPerNode"),
        cores=bound("MaxCPUsPerNode"),
        preemption=fields.get("PreemptMode", "OFF").split(",")[-1],
        allowed=names("AllowAccounts") or None,
        denied=names("DenyAccounts"),
        nodes=nodes,
    )


def _minutes(text: str) -> int | None:
    """Return the minutes of '1-00:00:00' or '01:30:00'; None for UNLIMITED."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((24 * days + hours) * 60) + minutes + (seconds > 0)
