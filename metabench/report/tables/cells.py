"""Cells that several tables share: estimates, bytes, times, statuses, and the setting that a row is about."""

from __future__ import annotations

from metabench.report import numbers
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.settings import Setting, slug
from metabench.report.tables.table import Cell, exact_cell
from metabench.results.statistics import Estimate


def setting_name(suite: Suite, setting: Setting) -> str:
    """Return the file name of a setting's table."""
    return slug("setting", setting.task.problem, setting.task.dataset, suite.titles[setting].replace(" · ", "-"))


def setting_cells(suite: Suite, setting: Setting) -> dict[str, Cell]:
    """Return the two cells that name a setting; the first leads to its table."""
    anchor = f"table-{setting_name(suite, setting)}"
    return {
        "task": Cell(
            f"{setting.task.problem} on {setting.task.dataset}",
            f"{setting.task.problem} {setting.task.dataset}",
            anchor=anchor,
        ),
        "setting": Cell(suite.titles[setting], suite.titles[setting]),
    }


def estimate_cell(found: Estimate | None, signed: bool = False, tone: str = "", decimals: int | None = None) -> Cell:
    """Return a cell for a mean with its interval, the exact numbers on hover."""
    if found is None:
        return Cell(numbers.ABSENT)
    bounds = "no interval" if found.low is None else f"[{found.low!r}, {found.high!r}]"
    return Cell(
        numbers.estimate(found, signed, decimals), found.value, f"{found.value!r}, {bounds}, n = {found.n}", tone=tone
    )


def kendall_cells(value: float | None, low: float | None, high: float | None, best: float | None) -> dict[str, Cell]:
    """Return the cells of two rankings, Kendall's tau-b of all nets with its interval and of the best quarter; None where not defined."""
    ends = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return {
        "kendall": Cell(numbers.ABSENT) if value is None else exact_cell(f"{value:.2f}{ends}", value),
        "best": Cell(numbers.ABSENT) if best is None else exact_cell(f"{best:.2f}", best),
    }


def bytes_cell(value: int | None) -> Cell:
    """Return a cell for bytes, the exact number on hover."""
    return Cell(numbers.memory(value), value, "" if value is None else f"{value:,} bytes")


def time_cell(entry: Entry) -> Cell:
    """Return a cell for the median time of one hypergradient with its quartiles; hardware and first call on hover."""
    if entry.time_median is None:
        return Cell(numbers.ABSENT)
    title = f"{entry.time_median!r} s on {entry.hardware}; first call {numbers.seconds(entry.first_call)}"
    return Cell(
        numbers.seconds_with_quartiles(entry.time_median, entry.time_q1, entry.time_q3), entry.time_median, title
    )


def status_cell(entry: Entry) -> Cell:
    """Return a cell with the count of each status and the message of each failure."""
    message = "; ".join(dict.fromkeys(text for text in entry.messages.values() if text))
    return Cell(message, float(entry.seeds - entry.ok), badges=tuple(entry.statuses.items()))


def failures_cell(failures: dict[str, int]) -> Cell:
    """Return a cell that counts what did not finish."""
    return Cell("" if failures else "0", float(sum(failures.values())), badges=tuple(failures.items()))
