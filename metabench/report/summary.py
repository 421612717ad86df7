"""The answer in sentences. Names stand in backquotes."""

from __future__ import annotations

import statistics

from metabench.report import numbers
from metabench.report.answers import NO_HYPERGRADIENT, Answer, Glance
from metabench.report.entries import Entry, Suite

_NAMED_AT_MOST = 4
EXACT_WITHIN = 1e-6


def sentences(suite: Suite, found: list[Answer], overview: list[Glance]) -> list[tuple[str, str]]:
    """Return (what it is about, sentence) pairs, the answer first; empty for a suite without rows."""
    if not suite.rows:
        return []
    pairs = [
        ("Quality", _quality(found, overview)),
        ("Memory", _cost(suite, "memory_ratio", "needs the least memory", "memory")),
        ("Time", _cost(suite, "time_ratio", "is the fastest", "time")),
        ("Hypergradients", _certified(suite)),
        ("Failures", _failures(suite)),
    ]
    return [(about, text) for about, text in pairs if text]


def _quality(found: list[Answer], overview: list[Glance]) -> str:
    trained = [answer for answer in found if answer.best is not None]
    if not trained:
        return "No setting was trained to the end, so this suite says nothing about quality."
    clear = [
        answer
        for answer in trained
        if len(answer.tied) == 1 and answer.best is not None and answer.best.quality is not None
    ]
    most = max(glance.best_or_tied for glance in overview)
    leaders = [glance.label for glance in overview if glance.best_or_tied == most]
    settings = numbers.plural(len(trained), "setting")
    verb = "has" if len(leaders) == 1 else "have"
    text = f"{_names(leaders)} {verb} the best test quality, or an interval that overlaps the best one's, in {most} of {settings}."
    decided = [
        answer
        for answer in clear
        if answer.best is not None and answer.best.quality is not None and answer.best.quality.low is not None
    ]
    if decided:
        text += f" {numbers.plural(len(decided), 'setting has', 'settings have')} a best method whose interval no other overlaps."
    few = sum(
        1
        for answer in trained
        if answer.best is not None and answer.best.quality is not None and answer.best.quality.low is None
    )
    if few:
        text += f" {numbers.plural(few, 'setting has', 'settings have')} too few seeds for intervals."
    idle = sum(1 for answer in trained if answer.idle_ties)
    if idle:
        text += f" In {idle} of them training without a hypergradient ties with the best."
    return text


def _cost(suite: Suite, name: str, what: str, word: str) -> str:
    """Say which label is cheapest against the baseline among those exact for the unrolled hypergradient, and among all."""
    ratios: dict[str, list[float]] = {}
    first: dict[str, Entry] = {}
    for entry in suite.entries:
        value = getattr(entry, name)
        if value is not None and entry.target != NO_HYPERGRADIENT:
            ratios.setdefault(entry.label, []).append(value)
            first.setdefault(entry.label, entry)
    parts = []
    exact = [label for label in ratios if first[label].exact and first[label].target == "unrolled"]
    for labels, among in (
        (exact, "Of the methods that are exact for the unrolled hypergradient"),
        (list(ratios), "Of all"),
    ):
        if len(labels) < 2:
            continue
        # Compared over as many settings as possible: a label that ran in one cheap corner only is no winner.
        widest = max(len(ratios[label]) for label in labels)
        fair = [label for label in labels if len(ratios[label]) >= widest / 2]
        best = min(fair, key=lambda label: statistics.median(ratios[label]))
        values = ratios[best]
        spread = f" (from {numbers.ratio(min(values))} to {numbers.ratio(max(values))})" if len(values) > 1 else ""
        parts.append(
            f"{among}, `{best}` {what}: {numbers.ratio(statistics.median(values))} the {word} of `{suite.baseline}`{spread}."
        )
    return " ".join(parts)


def _certified(suite: Suite) -> str:
    checked = [
        entry
        for entry in suite.entries
        if entry.gradient["target_error"] is not None and entry.target != NO_HYPERGRADIENT
    ]
    if not checked:
        return "No hypergradient was compared with the exact one."
    exact = [entry for entry in checked if entry.exact]
    text = ""
    if exact:
        worst = max(exact, key=lambda entry: entry.gradient["target_error"] or 0.0)
        error = worst.gradient["target_error"] or 0.0
        kept = sum(1 for entry in exact if (entry.gradient["target_error"] or 0.0) <= EXACT_WITHIN)
        text = (
            f"{kept} of {len(exact)} measurements of methods that claim to be exact agree with their target within 10⁻⁶; the largest "
            f"relative error is {numbers.significant(error, 2)} (`{worst.label}`)."
        )
    cosines: dict[str, float] = {}
    for entry in checked:
        value = entry.gradient["hypergradient_cosine"]
        if value is not None and not (entry.exact and entry.target == "unrolled"):
            cosines[entry.label] = min(value, cosines.get(entry.label, 1.0))
    if cosines:
        far = min(cosines, key=lambda label: cosines[label])
        text += (
            f" Farthest from the unrolled hypergradient in direction: `{far}`, cosine {numbers.cosine(cosines[far])}."
        )
    return text.strip()


def _failures(suite: Suite) -> str:
    counted: dict[str, int] = {}
    for row in suite.rows:
        counted[row["status"]] = counted.get(row["status"], 0) + 1
    bad = {status: number for status, number in counted.items() if status != "ok"}
    if not bad:
        return f"All {numbers.plural(len(suite.rows), 'run')} finished."
    listed = ", ".join(f"{status} {number}" for status, number in bad.items())
    runs = numbers.plural(len(suite.rows), "run")
    return (
        f"{numbers.count(sum(bad.values()))} of {runs} did not finish: {listed}. They stand in every table and figure."
    )


def _names(labels: list[str]) -> str:
    shown = [f"`{label}`" for label in labels[:_NAMED_AT_MOST]]
    if len(labels) > _NAMED_AT_MOST:
        return ", ".join(shown) + f" and {len(labels) - _NAMED_AT_MOST} more"
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + f" and {shown[-1]}"
