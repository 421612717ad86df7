"""The answer in sentences. Names are in backquotes."""

from __future__ import annotations

import statistics

from metabench.report import numbers
from metabench.report.results.answers import NO_HYPERGRADIENT, Answer, Glance, by_setting
from metabench.report.results.certified import VALID, verdict
from metabench.report.results.entries import Entry, Suite, comparable
from metabench.report.tables.certificate_words import doubtful_words
from metabench.results.certificate import AS_DECLARED, FAILED

_NAMED_AT_MOST = 4


def sentences(suite: Suite, found: list[Answer], overview: list[Glance]) -> list[tuple[str, str]]:
    """Return (subject, sentence) pairs, the answer first; empty for a suite without rows."""
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
        return "No setting was trained, so this suite says nothing about quality."
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
    """Say which method is cheapest against the baseline among those exact for the unrolled hypergradient, and among all."""
    estimating = [entry for entry in suite.entries if entry.target != NO_HYPERGRADIENT]
    exact = [entry for entry in estimating if entry.exact and entry.target == "unrolled"]
    among = (
        (exact, "that are exact for the unrolled hypergradient"),
        (estimating, "that estimate a hypergradient"),
    )
    return " ".join(
        text for entries, which in among if (text := _cheapest(suite.baseline, entries, which, name, what, word))
    )


def _cheapest(baseline: str, entries: list[Entry], which: str, name: str, what: str, word: str) -> str:
    """Compare methods over the settings and inner steps that all of them share, one value per method and setting.

    Empty for fewer than two methods, or if they share none: medians over different settings are not comparable.
    """
    measured = [entry for entry in entries if getattr(entry, name) is not None]
    methods = list(dict.fromkeys(entry.method for entry in measured))
    if len(methods) < 2:
        return ""
    conditions = {method: {comparable(entry) for entry in measured if entry.method == method} for method in methods}
    shared = set.intersection(*conditions.values())
    if not shared:
        return ""
    values = {
        method: by_setting(
            [entry for entry in measured if entry.method == method and comparable(entry) in shared], name
        )
        for method in methods
    }
    best = min(methods, key=lambda method: statistics.median(values[method].values()))
    ratios = list(values[best].values())
    low, high = numbers.ratio(min(ratios)), numbers.ratio(max(ratios))
    spread = f" (median; a sweep counts once per setting; from {low} to {high})" if len(ratios) > 1 else ""
    where = "In the one setting" if len(ratios) == 1 else f"Over the {numbers.count(len(ratios))} settings"
    if all(ratio == 1.0 for ratio in ratios) and best == next(
        (entry.method for entry in measured if entry.label == baseline), ""
    ):
        return f"{where} shared by all {len(methods)} methods {which}, `{best}`, the baseline, {what}."
    middle = numbers.ratio(statistics.median(ratios))
    return f"{where} shared by all {len(methods)} methods {which}, `{best}` {what}: {middle} the {word} of `{baseline}`{spread}."


def _certified(suite: Suite) -> str:
    """Say how many methods are what they declare to be, which are not, and which are unknown; then which is farthest from exact."""
    verdicts = {
        method: verdict(suite.certificates.get(method), hashes)
        for method, hashes in suite.method_hashes.items()
        if hashes
    }
    held = [method for method, found in verdicts.items() if found in VALID]
    own = [method for method in held if verdicts[method] == AS_DECLARED]
    failed = [method for method, found in verdicts.items() if found == FAILED]
    other = {method: found for method, found in verdicts.items() if found not in (*VALID, FAILED)}
    if not held and not failed:
        parts = ["No method is certified: nothing here shows that a hypergradient is what its method declares."]
    else:
        verb = "is" if len(held) == 1 else "are"
        parts = [f"{len(held)} of {numbers.plural(len(verdicts), 'method')} {verb} certified to be what they declare"]
        parts[0] += f", {len(own)} of them to equal their own formula and not their target." if own else "."
    for method in failed:
        failures = suite.certificates[method].failures
        parts.append(f"`{method}` FAILED" + (f": {failures[0].rstrip('.')}." if failures else "."))
    if other and (held or failed):
        parts.append(f"Others: {doubtful_words(other)}.")
    parts += _exactness(suite)
    checked = [
        entry
        for entry in suite.entries
        if entry.gradient["target_error"] is not None and entry.target != NO_HYPERGRADIENT
    ]
    far = min(
        (
            entry
            for entry in checked
            if entry.direction_cosine is not None and not (entry.exact and entry.target == "unrolled")
        ),
        key=lambda entry: entry.direction_cosine or 0.0,
        default=None,
    )
    if far is not None:
        drawn = f" (of the mean draw, n = {far.samples} samples per seed)" if far.draws else ""
        parts.append(
            f"Farthest from the unrolled hypergradient in direction: `{far.label}` on {far.setting.task.problem}, cosine "
            f"{numbers.cosine(far.direction_cosine)}{drawn}."
        )
    return " ".join(parts)


def _exactness(suite: Suite) -> list[str]:
    """Say which methods are declared exact and are not, and how far the exact hypergradient is from plain training."""
    parts = [f"`{label}` is {why}." for label, why in suite.inexact.items() if why]
    compared = [row["yardstick_error"] for row in suite.rows if row["yardstick_error"] is not None]
    if compared:
        parts.append(
            f"In {numbers.plural(len(compared), 'run')} the exact hypergradient was compared with finite differences of plain training: "
            f"they differ by at most {numbers.significant(max(compared), 2)}."
        )
    return parts


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
        f"{numbers.count(sum(bad.values()))} of {runs} did not finish: {listed}. They appear in every table and figure."
    )


def _names(labels: list[str]) -> str:
    shown = [f"`{label}`" for label in labels[:_NAMED_AT_MOST]]
    if len(labels) > _NAMED_AT_MOST:
        return ", ".join(shown) + f" and {len(labels) - _NAMED_AT_MOST} more"
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + f" and {shown[-1]}"
