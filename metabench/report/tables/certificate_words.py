"""How tables mark methods, in labels, captions and notes: whether they are certified, and whether those declared exact are exact."""

from __future__ import annotations

from collections.abc import Iterable

from metabench.report import numbers
from metabench.report.results.certified import GRAVITY, VALID, doubt, worst
from metabench.report.results.entries import Entry
from metabench.report.tables.table import DAGGER, DOUBLE_DAGGER, Cell, Table, signs

_NAMED_AT_MOST = 12


def label_cell(entry: Entry, text: str = "", title: str = "") -> Cell:
    """Return the cell of an entry's label, marked where its method is not certified or not exact; `text` appears below the label."""
    return Cell(
        text or entry.label,
        entry.label,
        title,
        label=entry.label,
        doubt=doubt(entry.verdict),
        inexact=entry.inexact,
    )


def marked(entry: Entry) -> str:
    """Return an entry's label as text, marked as its cell is."""
    return entry.label + signs(doubt(entry.verdict), entry.inexact)


def state_marks(table: Table, entries: Iterable[Entry]) -> None:
    """Say in the caption of `table` how many methods of `entries` are certified, and explain its marks below it."""
    listed = list(entries)
    methods = dict.fromkeys(entry.method for entry in listed)
    verdicts = {method: worst(entry.verdict for entry in listed if entry.method == method) for method in methods}
    doubtful = {method: verdict for method, verdict in verdicts.items() if verdict not in VALID}
    if len(doubtful) < len(verdicts):
        held = len(verdicts) - len(doubtful)
        which = (
            f"all {held} methods here are what they declare to be."
            if held > 1
            else "the method here is what it declares to be."
        )
        if doubtful:
            which = f"{held} of {len(verdicts)} methods here are what they declare to be; {DAGGER} marks the others."
        table.certificates = which
    elif doubtful:
        table.certificates = f"no method here is certified ({DAGGER})."
    if doubtful:
        table.notes.append(f"{DAGGER} {doubtful_words(doubtful)}.")
    state_exactness(table, listed)


def state_exactness(table: Table, entries: Iterable[Entry]) -> None:
    """Name below `table` the labels of `entries` that are declared exact and are not."""
    found = {entry.label: entry.inexact for entry in entries if entry.inexact}
    if found:
        listed = "; ".join(f"{label}: {why}" for label, why in found.items())
        table.notes.append(f"{DOUBLE_DAGGER} {listed}.")


def doubtful_words(verdicts: dict[str, str]) -> str:
    """Return methods that are not certified, by verdict, the worst first: 'FAILED: a; not certified: never run: b and 3 more'."""
    groups = []
    for verdict in GRAVITY:
        names = [method for method, own in verdicts.items() if own == verdict]
        if names and verdict not in VALID:
            shown = ", ".join(names[:_NAMED_AT_MOST])
            more = f" and {numbers.count(len(names) - _NAMED_AT_MOST)} more" if len(names) > _NAMED_AT_MOST else ""
            groups.append(f"{verdict.replace(': ', ' (') + ')' if ': ' in verdict else verdict}: {shown}{more}")
    return "; ".join(groups)
