"""Whether a scheduler would start the jobs of a suite, asked before the first is submitted: each of thousands would fail by itself."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from metabench.core.errors import MetabenchError
from metabench.suite.cluster import slurm
from metabench.suite.cluster.request import Request, largest
from metabench.suite.cluster.torch_build import cpu_build

LEAST_MB = 500
"""Memory of a job in which Snakemake runs twice."""

LONGEST_PAUSE_S = 190
"""Most seconds between two looks of the SLURM plugin at its jobs."""


@dataclass(frozen=True)
class Finding:
    """What a check found, in one sentence, with what to do if something is wrong. With an error jobs fail, or wait for ever."""

    level: Literal["ok", "warning", "error"]
    words: str


def check_device(device: str) -> Iterator[Finding]:
    """Yield an error where jobs on GPUs would run a torch that knows none."""
    if device == "cuda" and (version := cpu_build()):
        yield Finding(
            "error",
            f"device: cuda: torch {version} in this environment is built for CPUs alone: install a CUDA build (https://pytorch.org) "
            "in the environment that the jobs use",
        )


def check_requests(requests: Collection[Request]) -> Iterator[Finding]:
    """Yield what SLURM says to what jobs ask for, an error first for each kind of job that it would refuse, or never start."""
    try:
        known = slurm.partitions()
    except slurm.Unanswered as error:
        yield Finding("error", f"SLURM does not answer: {error}; is this a login node of the cluster?")
        return
    default = next((name for name, partition in known.items() if partition.default), "")
    said: set[str] = set()
    for request in largest(list(requests)):
        name = request.partition or default
        faults = [_partition_fault(name, known)]
        if not any(faults):
            faults = [_account_fault(request.account, known[name]), *_size_faults(request, known[name], known)]
        words = "" if any(faults) else slurm.refusal(request.options())
        if words and not all(node.up for node in known[name].nodes):
            # It refuses what no node that is up could run; submitted, a job waits until one is.
            yield Finding("warning", f"partition '{name}': some nodes are down or drained, and jobs of {request.rule} may wait: {words}")
        elif words:
            faults = [f"sbatch refuses jobs of {request.rule} ({' '.join(request.options())}): {words}"]
        for words in faults:
            if words and words not in said:
                said.add(words)
                yield Finding("error", words)
        if not any(faults) and name not in said:
            said.add(name)
            yield Finding("ok", f"{_title(known[name])}: takes the largest job of {request.rule} ({request.words})")
            if known[name].preemption == "CANCEL":
                yield Finding(
                    "warning",
                    f"partition '{name}' cancels jobs that it pre-empts, and does not requeue them: Snakemake waits for those for ever; "
                    "choose another partition",
                )


def refuse(requests: Collection[Request], executor: str, device: str) -> None:
    """Raise MetabenchError, with a sentence for each fault, if the jobs of a run would fail, or wait for ever, one after the other."""
    found = [*check_device(device)] if requests else []
    if executor == "slurm" and requests:
        found += check_requests(requests)
    faults = [one.words for one in found if one.level == "error"]
    if faults:
        raise MetabenchError("no job is submitted: " + "\n  ".join(faults))


def check_alone(requests: Iterable[Request], timed: str) -> Iterator[Finding]:
    """Yield a warning where jobs of the rule that times, which are to have a node each, ask for none."""
    if any(request.rule == timed and "--exclusive" not in request.extra for request in requests):
        yield Finding(
            "warning",
            f"`timing: exclusive`, and jobs of {timed} do not ask for a whole node, and others may run beside them. Append --exclusive "
            "to their slurm_extra in the profile (--set-resources on the command line replaces that section), or choose `timing: device`",
        )


def check_settings(keys: Mapping[str, object]) -> Iterator[Finding]:
    """Yield what is wrong with the keys of a profile for SLURM, given how the cluster is set up."""
    try:
        found = slurm.settings()
    except slurm.Unanswered:
        return  # said elsewhere
    age = found.get("MinJobAge", "").split(" ")[0]
    if keys.get("slurm-status-command") != "squeue":
        yield Finding(
            "warning",
            "without `slurm-status-command: squeue` the plugin asks sacct, where there is one, and takes a cancelled job for one that runs",
        )
    elif age.isdigit() and int(age) < LONGEST_PAUSE_S:
        yield Finding(
            "warning",
            f"squeue forgets a job {age} s after its end (MinJobAge), and Snakemake may look only every {LONGEST_PAUSE_S} s: it waits for "
            "ever for a job that it missed; stop it with Ctrl-C and start it again then",
        )
    if not keys.get("slurm-requeue"):
        yield Finding(
            "warning",
            "without `slurm-requeue: true` a job that is pre-empted is lost, and Snakemake waits for it for ever",
        )
    if keys.get("slurm-array-jobs"):
        yield Finding(
            "error",
            "`slurm-array-jobs`: with version 2.8 of the plugin every task waits for the output of the first, and is taken for failed "
            "without it: leave it out",
        )


def _title(partition: slurm.Partition) -> str:
    return f"partition '{partition.name}', {len(partition.nodes)} node{'s' if len(partition.nodes) != 1 else ''}"


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(known)) or 'none'}"


def _partition_fault(name: str, known: Mapping[str, slurm.Partition]) -> str:
    if name not in known:
        return f"partition '{name}' does not exist on this cluster: {_near(name, known)}"
    if known[name].state != "UP":
        return f"partition '{name}' starts no jobs: it is {known[name].state}"
    return ""


def _account_fault(account: str, partition: slurm.Partition) -> str:
    if not account:
        return ""
    try:
        accounts = slurm.accounts()
    except slurm.Unanswered as error:
        return f"account '{account}': this cluster keeps no accounts ({error}), and the plugin refuses jobs that name one: leave it out"
    if accounts and account.lower() not in map(str.lower, accounts):
        return f"account '{account}' is not one of yours: {_near(account, accounts)}"
    if account.lower() in partition.denied or (partition.allowed and account.lower() not in partition.allowed):
        return f"partition '{partition.name}' is closed to account '{account}'"
    return ""


def _size_faults(request: Request, partition: slurm.Partition, known: Mapping[str, slurm.Partition]) -> Iterator[str]:
    """Yield in what respect no node of the partition, or the partition itself, has what a job asks for."""
    asks = f"the largest job of {request.rule} asks for"
    if partition.minutes is not None and request.minutes > partition.minutes:
        yield (
            f"{asks} {request.minutes} minutes, and partition '{partition.name}' allows {partition.minutes}: lower limits.seconds of the "
            "suite, or choose another partition"
        )
    nodes = partition.nodes
    if request.gpus:
        nodes = tuple(node for node in nodes if node.gpus_of(request.gpu_model) >= request.gpus)
        if not nodes:
            where = sorted(one.name for one in known.values() if any(node.gpus_of(request.gpu_model) for node in one.nodes))
            model = f" of model {request.gpu_model}" if request.gpu_model else ""
            there = f"partitions with such GPUs: {', '.join(where)}" if where else "no node of this cluster declares any"
            yield f"jobs of {request.rule} ask for {request.gpus} GPU{model}, and no node of partition '{partition.name}' has it: {there}"
            return
    if request.constraint and request.constraint.replace("_", "").replace("-", "").isalnum():
        nodes = tuple(node for node in nodes if request.constraint in node.features)
        if not nodes:
            features = {feature for node in partition.nodes for feature in node.features}
            yield f"no node of partition '{partition.name}' has the feature '{request.constraint}': {_near(request.constraint, features)}"
            return
    if not nodes:
        yield f"partition '{partition.name}' has no nodes"
        return
    memory = min(max(node.memory_mb for node in nodes), partition.memory_mb or 1 << 60)
    cores = min(max(node.cores for node in nodes), partition.cores or 1 << 30)
    if request.memory_mb > memory:
        yield (
            f"{asks} {request.memory_mb} MiB, and a node of partition '{partition.name}' gives {memory} at most: lower limits.memory of "
            "the suite, or choose another partition"
        )
    if request.cores > cores:
        yield f"{asks} {request.cores} cores, and a node of partition '{partition.name}' gives {cores} at most: lower `threads`"
    if 0 < request.memory_mb < LEAST_MB:
        yield f"{asks} {request.memory_mb} MiB, in which Snakemake itself does not run: {LEAST_MB} or more"
