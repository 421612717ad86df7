"""Whether a table of nets says something of a problem: it does where both have the same nets and tasks."""

from __future__ import annotations

from metabench.core.options import build
from metabench.data import datasets, load
from metabench.data.formats.net_table import NetTable
from metabench.problems.few_shot import FewShot, Options
from metabench.results.net_tables import SHIPPED_TABLE

_TASKS = ("space", "ways", "shots", "queries", "norm")
_ADAPTATION = ("adaptation", "learning_rate")


def shipped() -> NetTable | None:
    """Return the table that ships; None where it is left out."""
    if SHIPPED_TABLE not in datasets():
        return None
    found: NetTable = load(SHIPPED_TABLE)
    return found


def unlike(table: NetTable, problem: FewShot, dataset: str, *, adapting: bool) -> str:
    """Return in what the nets and tasks of a table are not those of a problem, as 'shots 1, not 4'; empty: in nothing.

    Args:
        table: of the nets.
        problem: of any net.
        dataset: of the problem's tasks, by name.
        adapting: whether nets must also adapt alike. A table is the truth about nets whatever a search does with them; what is
            looked up instead of computed must be what would be computed.
    """
    about, setting = table.about, problem.setting
    stored = build(Options, {**about["options"], "space": about["space"]}, "problem 'few_shot'")
    pairs = {"data set": (about["dataset"], dataset), "inner steps": (about["inner_steps"], setting.inner_steps)}
    for name in _TASKS + _ADAPTATION * adapting:
        pairs[name.replace("_", " ")] = getattr(stored, name), getattr(setting.options, name)
    return ", ".join(f"{name} {one}, not {other}" for name, (one, other) in pairs.items() if one != other)
