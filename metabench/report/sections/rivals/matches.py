"""One method beside another wherever a suite runs both, and what both are judged between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metabench.core.method import Target
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.settings import Group, Place, Setting, Task

BASELINE, ORACLE = "baseline", "oracle"


@dataclass(frozen=True)
class Match:
    """Entries that are comparable, the study's two methods among them.

    Attributes:
        setting: what they share.
        entries: by label, in the suite's order; of both methods, and of all others.
        references: by name the entries between which they are judged, as the problem declares them; those that the suite ran.
    """

    setting: Setting
    entries: Mapping[str, Entry]
    references: Mapping[str, Entry]

    def of(self, method: str) -> list[Entry]:
        """Return the entries of a method that finished."""
        return [entry for entry in self.entries.values() if entry.method == method and not entry.failed]

    def closed(self, entry: Entry) -> float | None:
        """Return the share of the gap between baseline and oracle that an entry closes, of mean qualities; None without a gap to close."""
        ends = [one.quality for name in (BASELINE, ORACLE) if (one := self.references.get(name)) is not None]
        if len(ends) < 2 or any(end is None for end in ends) or entry.quality is None:
            return None
        low, high = (end.value for end in ends if end is not None)
        sign = 1 if entry.higher_is_better else -1
        return (entry.quality.value - low) / (high - low) if sign * (high - low) > 0 else None


def declared(suite: Suite) -> tuple[str, str] | None:
    """Return subject and rival of the study that the suite declares; None if it declares none."""
    study = (suite.config.get("studies") or {}).get("rival") or {}
    subject, rival = study.get("subject"), study.get("rival")
    return (subject, rival) if subject and rival else None


def matches(suite: Suite) -> list[Match]:
    """Return the groups of comparable entries in which both methods of the study finished, in the suite's order; illustrations left out."""
    pair = declared(suite)
    if pair is None:
        return []
    groups: dict[Group, dict[str, Entry]] = {}
    for entries in suite.settings.values():
        for entry in entries:
            groups.setdefault(entry.group, {})[entry.label] = entry
    found = [
        Match(group[0], entries, _references(suite, entries))
        for group, entries in groups.items()
        if group[0].task not in suite.illustrations
    ]
    return [match for match in found if all(match.of(method) for method in pair)]


def _references(suite: Suite, entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return what the problem's card declares for these entries, of all that the suite ran without meta-learning."""
    any_entry = next(iter(entries.values()))
    wanted: Mapping[str, Mapping[str, Any]] = suite.card("problems", any_entry.setting.task.problem).get(
        "references", {}
    )
    plain = [
        one
        for one in suite.entries
        if one.target == Target.NONE.value and _run_of(one) == _run_of(any_entry) and one.quality is not None
    ]
    found = {}
    for name, options in wanted.items():
        for one in plain:
            if one.problem_options == {**any_entry.problem_options, **options}:
                found[name] = one
                break
    return found


def _run_of(entry: Entry) -> tuple[Task, str, Place, int, int]:
    """Return what a run shares with its references besides the problem's options."""
    setting = entry.setting
    return (setting.task, setting.size, setting.place, entry.inner_steps, entry.outer_steps)
