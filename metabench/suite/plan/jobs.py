"""The jobs of a plan: whose a job is, how many cores it takes, and what must hold before any of them starts."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from metabench.core.errors import MetabenchError
from metabench.data import card
from metabench.suite.config.keys import Device, Timing
from metabench.suite.plan.batches import Batch
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.groups import measures_time
from metabench.suite.plan.plan import Plan


class Jobs:
    """The jobs of `plan` on a machine with `cores` cores and `devices` GPUs; None on a cluster, where each job asks for its own."""

    def __init__(self, plan: Plan, cores: int | None, devices: int | None = None) -> None:
        self._plan, self._cores, self._devices = plan, cores, max(1, devices or 1)
        self._exclusive = plan.suite.timing is Timing.exclusive
        self._in_rounds = {cell.hash for group in plan.groups for cell in group.cells}
        self.gpus = int(plan.suite.device is Device.cuda)
        self.cells = {cell.name: cell for cell in plan.cells}
        self.groups = {group.name: group for group in plan.groups}
        self.batches = {batch.name: batch for batch in plan.batches}

    def cell(self, problem: str, dataset: str, size: str, method: str, hash: str) -> Cell:
        """Return the cell whose row file has these wildcards; raise MetabenchError if the suite has no such cell."""
        key = f"{problem}/{dataset}/{size}/{method}-{hash}"
        if key not in self.cells:
            raise MetabenchError(
                f"the suite '{self._plan.suite.name}' has no cell {key}: `metabench plan` lists its cells"
            )
        return self.cells[key]

    def cores_alone(self, threads: int) -> int:
        """Return the cores of a job that must have the machine to itself: all. On a cluster its profile asks for a whole node."""
        return max(threads, self._cores or 1)

    def share(self, threads: int) -> int:
        """Return the cores of a job with a device of its own: its threads, and on a GPU its part of the machine's cores."""
        return max(threads, (self._cores or 1) // self._devices) if self.gpus else threads

    def cell_cores(self, cell: Cell) -> int:
        """Return the cores of a cell's job: its share, or all where a job beside it would disturb the times that it measures itself."""
        times_itself = measures_time(cell) and cell.hash not in self._in_rounds
        return self.cores_alone(cell.threads) if self._exclusive and times_itself else self.share(cell.threads)

    @property
    def alone(self) -> str:
        """The rule whose jobs are to have a machine each; empty where none is."""
        return ("time_setting" if self.groups else "run_cell") if self._exclusive else ""

    def preparation_cores(self, preparation: str) -> int:
        """Return the cores of the job of what is prepared, by its hash."""
        return self.share(self._plan.preparations[preparation].cell.threads)

    def group_cores(self, threads: int) -> int:
        """Return the cores of a job that times a group: all, or its share where it is to have a device to itself and no machine."""
        return self.cores_alone(threads) if self._exclusive else self.share(threads)

    def batch_cores(self, batch: Batch) -> int:
        """Return the cores of a batch's job: those of the cell that needs most."""
        return max(map(self.cell_cores, batch.cells))

    def data_mark(self, cell: Cell) -> Path | None:
        """Return the mark of the cell's data set where it has to be fetched, None where it ships or is the user's own."""
        fetched = card(cell.dataset, cell.plugin_files).fetched
        return self._plan.folder / "data" / f"{cell.dataset}.fetched" if fetched else None

    def check(self, totals: Collection[str], most_threads: int | None) -> None:
        """Raise MetabenchError if jobs that must be alone would not be, given the resources with a total and the bound on threads."""
        if self._cores and self.gpus and "gpu" not in totals:
            raise MetabenchError(
                "without a total of the resource gpu, more cells would start than there are GPUs, and wait: add gpu=1 to --resources, or "
                "as many as there are"
            )
        if self._exclusive and most_threads is not None and most_threads < self.cores_alone(1):
            raise MetabenchError(
                f"with --max-threads {most_threads} of {self._cores} cores, jobs would run beside those that are timed: "
                "leave it out, or choose `timing: shared`"
            )
