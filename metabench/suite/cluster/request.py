"""What a job asks a scheduler for, and what the jobs of a suite ask for with a profile."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metabench.suite.cluster.profile import Profile
from metabench.suite.cluster.scheduler_requests import Requests
from metabench.suite.plan.jobs import Jobs
from metabench.suite.plan.plan import Plan

CERTIFY_MB, CERTIFY_MINUTES = 4096, 30
"""What workflow/rules/certify.smk asks for."""


@dataclass(frozen=True)
class Request:
    """What a job asks for. Texts are empty where nothing is asked.

    Attributes:
        rule: of the workflow.
        memory_mb: MiB, or 0.
        minutes: of run time, or 0.
        cores: at least 1.
        gpus: how many.
        gpu_model: that they must be of, as in `gpu:a100:1`.
        extra: further options of sbatch.
    """

    rule: str
    partition: str = ""
    account: str = ""
    memory_mb: int = 0
    minutes: int = 0
    cores: int = 1
    gpus: int = 0
    gpu_model: str = ""
    constraint: str = ""
    qos: str = ""
    extra: str = ""

    @classmethod
    def of(cls, rule: str, resources: Mapping[str, Any], threads: int) -> Request:
        """Return what a job of a rule asks for, given Snakemake's resources as the SLURM plugin reads them."""
        gpus, model = _number(resources.get("gpu")), str(resources.get("gpu_model") or "")
        name, *parts = str(resources.get("gres") or "").split(":")
        if name == "gpu":
            gpus = int(parts[-1]) if parts and parts[-1].isdigit() else 1
            model = parts[0] if parts and not parts[0].isdigit() else ""
        return cls(
            rule,
            partition=str(resources.get("slurm_partition") or resources.get("partition") or ""),
            account=str(resources.get("slurm_account") or ""),
            memory_mb=_number(resources.get("mem_mb")),
            minutes=_number(resources.get("runtime")),
            cores=max(1, _number(resources.get("cpus_per_task")) or threads),
            gpus=max(gpus, 1) if model else gpus,
            gpu_model=model,
            constraint=str(resources.get("constraint") or ""),
            qos=str(resources.get("qos") or ""),
            extra=str(resources.get("slurm_extra") or resources.get("extra") or ""),
        )

    @property
    def kind(self) -> tuple[Any, ...]:
        """What makes jobs go to the same place: all but how large they are."""
        return self.partition, self.account, self.gpus, self.gpu_model, self.constraint, self.qos, self.extra

    def options(self) -> list[str]:
        """Return the options of sbatch that ask for this."""
        model = f"{self.gpu_model}:" if self.gpu_model else ""
        given = {
            "--partition": self.partition,
            "--account": self.account,
            "--mem": self.memory_mb and f"{self.memory_mb}M",
            "--time": self.minutes,
            "--cpus-per-task": self.cores,
            "--gpus": self.gpus and f"{model}{self.gpus}",
            "--constraint": self.constraint,
            "--qos": self.qos,
        }
        return [f"{name}={value}" for name, value in given.items() if value] + shlex.split(self.extra)

    @property
    def words(self) -> str:
        """The request in words."""
        model = f" {self.gpu_model}" if self.gpu_model else ""
        parts = [f"{self.memory_mb} MiB" if self.memory_mb else "", f"{self.minutes} minutes" if self.minutes else ""]
        parts += [f"{self.cores} core{'s' if self.cores > 1 else ''}"]
        parts += [f"{self.gpus}{model} GPU{'s' if self.gpus > 1 else ''}"] if self.gpus else []
        return ", ".join(part for part in parts if part)


def largest(requests: Iterator[Request] | list[Request]) -> list[Request]:
    """Return, of the requests of each kind, those with the most memory, minutes and cores: if these fit, all do."""
    kinds: dict[tuple[Any, ...], list[Request]] = {}
    for request in requests:
        kinds.setdefault(request.kind, []).append(request)
    found: dict[Request, None] = {}
    for group in kinds.values():
        for size in ("memory_mb", "minutes", "cores"):
            found.setdefault(max(group, key=lambda one, size=size: getattr(one, size)))
    return list(found)


def planned_requests(plan: Plan, profile: Profile) -> Iterator[Request]:
    """Yield what the first attempts of a plan's jobs ask for with a profile; predictions that are not made yet are not made."""
    ask, jobs = Requests(plan, lambda: False, 1), Jobs(plan, None)
    gpu = {"gpu": jobs.gpus} if jobs.gpus else {}

    def request(rule: str, threads: int, **own: Any) -> Request:
        return Request.of(rule, profile.resources(rule, own), threads)

    for cell in plan.cells:
        own = {"mem_mb": ask.memory_mb(cell, 1), "runtime": ask.runtime_minutes(cell, 1), **gpu}
        yield request("run_cell", jobs.cell_cores(cell), **own)
    for one in plan.preparations.values():
        own = {"mem_mb": ask.memory_mb(one.cell, 1), "runtime": ask.runtime_minutes(one.cell, 1), **gpu}
        yield request("prepare", jobs.share(one.cell.threads), **own)
    for group in plan.groups:
        own = {"mem_mb": ask.group_memory_mb(group, 1), "runtime": ask.group_minutes(group, 1), **gpu}
        yield request("time_setting", jobs.group_cores(plan.suite.threads), **own)
    if plan.suite.certify:
        yield request("certify_method", 1, mem_mb=CERTIFY_MB, runtime=CERTIFY_MINUTES)


def _number(value: Any) -> int:
    """Return a resource as a number; 0 where nothing is asked, or where only Snakemake can tell."""
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        return 0
