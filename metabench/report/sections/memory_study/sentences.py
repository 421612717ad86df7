"""The answers of a memory study, in sentences: how much memory, at what time, and when it is not worth it. Names are in backquotes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from metabench.report import numbers
from metabench.report.results.entries import Suite
from metabench.report.sections.memory_study.study import FOURFOLD, Comparison, Study, memory_study, too_large
from metabench.report.sections.memory_study.sweeps import configuration_words

_NAMED_AT_MOST = 6
_REASONS = {
    "more memory": "it takes at least as much memory as `{reference}`",
    "less gain than cost": "it saves less memory than it costs in time",
    "recomputation does as well": "`unrolled_remat` takes no more memory and no more time",
}


def study_sentences(study: Study) -> list[tuple[str, str]]:
    """Return (subject, sentence) pairs."""
    pairs = [
        ("How much memory", _memory(study)),
        ("At what time", _time(study)),
        ("At least four times", _share(study)),
        ("Not worth it", _not_worth(study)),
        ("Too large here", _too_large(study)),
    ]
    return [(about, text) for about, text in pairs if text]


def study_headline(suite: Suite) -> str:
    """Return the answer in a sentence if the study is the suite's main question: more than half of its rows belong to it."""
    study = memory_study(suite)
    if study is None or 2 * sum(entry.seeds for entry in study.entries) <= len(suite.rows):
        return ""
    gains = _spread(one.total_gain for one in study.of(study.subject))
    return (
        f"`{study.reference}` takes {gains} the memory of `{study.subject}` for the same hypergradient."
        if gains
        else ""
    )


def _spread(values: Iterable[float | None]) -> str:
    """Write median, least and greatest of the ratios that are there; empty where none is."""
    found = [value for value in values if value is not None]
    if not found:
        return ""
    median, low, high = (numbers.ratio(value) for value in (statistics.median(found), min(found), max(found)))
    return median if low == high else f"{median} ({low} to {high})"


def _memory(study: Study) -> str:
    own = study.of(study.subject)
    taken = []
    for label in (study.subject, *study.others):
        gains, totals = (
            _spread(getattr(one, name) for one in study.of(label)) for name in ("dynamic_gain", "total_gain")
        )
        if gains and totals:
            taken.append(f"takes {gains} the dynamic memory of `{label}`, and {totals} its total memory.")
    if not taken:
        return ""
    where = numbers.plural(sum(one.total_gain is not None for one in own), "configuration")
    text = f"Over {where} (median, from least to greatest) `{study.reference}` {' It '.join(taken)}"
    if over := _spread(one.over_floor for one in own):
        text += f" `{study.subject}` takes {over} the analytic floor of mixed mode."
    if survived := sum(one.run.peak_bytes is not None and "oom" in one.reference.statuses for one in own):
        text += f" In {numbers.plural(survived, 'configuration')} `{study.reference}` ran out of memory and `{study.subject}` did not."
    return text


def _time(study: Study) -> str:
    own = study.of(study.subject)
    slowdown = _spread(one.slowdown for one in own)
    if not slowdown:
        return ""
    arithmetic = _spread(one.arithmetic for one in own)
    text = f"`{study.subject}` takes {slowdown} the time of `{study.reference}`"
    text += f", at {arithmetic} its floating-point operations." if arithmetic else "."
    for label in study.others:
        if other := _spread(one.slowdown for one in study.of(label)):
            text += f" `{label}` takes {other} that time."
    return text


def _share(study: Study) -> str:
    parts = []
    for name in ("dynamic_gain", "total_gain"):
        gains = [gain for one in study.of(study.subject) if (gain := getattr(one, name)) is not None]
        reached = sum(gain >= FOURFOLD for gain in gains)
        parts.append(f"{reached} of {numbers.plural(len(gains), 'configuration')} ({100 * reached / len(gains):.0f} %)")
    return (
        f"`{study.reference}` takes at least four times the dynamic memory of `{study.subject}` in {parts[0]}, and at least four times its "
        f"total memory in {parts[1]}."
    )


def _not_worth(study: Study) -> str:
    judged = [one for one in study.of(study.subject) if one.total_gain is not None]
    bad = [one for one in judged if one.why_not_worth_it]
    where = numbers.plural(len(judged), "configuration")
    if not judged:
        return ""
    if not bad:
        return f"In none of {where}: `{study.subject}` saves more memory than it costs in time in each."
    parts = [f"In {len(bad)} of {where}, judged by total memory."]
    for reason, words in _REASONS.items():
        if mine := [one for one in bad if one.why_not_worth_it == reason]:
            places = (
                f"{one.configuration.task.problem} {configuration_words(study, one.configuration)}" for one in mine
            )
            listed = numbers.some(places, _NAMED_AT_MOST, separator="; ", last="; and ")
            parts.append(f"In {len(mine)} {words.format(reference=study.reference)}: {listed}.")
    return " ".join([*parts, _smaller(bad, [one for one in judged if not one.why_not_worth_it])]).rstrip()


def _smaller(bad: list[Comparison], good: list[Comparison]) -> str:
    """Say of which problems those are for which it is not worth it, or how small their models are."""
    lost, won = ({one.configuration.task.problem for one in each} for each in (bad, good))
    if won and not lost & won:
        return f"These are all of {'; '.join(sorted(lost))} and none of {'; '.join(sorted(won))}."
    small, large = ([one.run.n_params for one in each if one.run.n_params] for each in (bad, good))
    if small and large and max(small) < min(large):
        return f"Those have at most {numbers.count(max(small))} inner parameters, all others {numbers.count(min(large))} or more."
    return ""


def _too_large(study: Study) -> str:
    large = [run.predicted_bytes for run in study.entries if too_large(run) and run.predicted_bytes]
    if not large:
        return ""
    text = (
        f"{numbers.plural(len(large), 'cell')} were not run: predicted to need {numbers.memory(min(large))} to "
        f"{numbers.memory(max(large))}, which takes a GPU."
    )
    if gains := _spread(one.predicted_gain for one in study.of(study.subject) if one.total_gain is None):
        text += f" Predicted there: `{study.reference}` takes {gains} the total memory of `{study.subject}`."
    return text
