"""The answers of a memory study, in sentences: how much memory, at what time, and when it is not worth it. Names are in backquotes."""

from __future__ import annotations

from metabench.report import numbers
from metabench.report.results.entries import Suite
from metabench.report.sections.memory_study.study import FOURFOLD, Comparison, Study, memory_study, middle, too_large
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
    gains = middle(one.total_gain for one in study.of(study.subject))
    return (
        f"`{study.reference}` takes {_spread(gains)} the memory of `{study.subject}` for the same hypergradient."
        if gains
        else ""
    )


def _memory(study: Study) -> str:
    dynamic = middle(one.dynamic_gain for one in study.of(study.subject))
    total = middle(one.total_gain for one in study.of(study.subject))
    if dynamic is None or total is None:
        return ""
    number = sum(one.total_gain is not None for one in study.of(study.subject))
    where = f"Over {numbers.plural(number, 'configuration')} (median, from least to greatest)"
    text = (
        f"{where} `{study.reference}` takes {_spread(dynamic)} the dynamic memory of `{study.subject}`, and {_spread(total)} its total "
        "memory."
    )
    others = [label for label in study.labels if label != study.subject and label == _method(study, label)]
    for label in others:
        gains = middle(one.dynamic_gain for one in study.of(label))
        totals = middle(one.total_gain for one in study.of(label))
        if gains and totals:
            text += (
                f" It takes {_spread(gains)} the dynamic memory of `{label}`, and {_spread(totals)} its total memory."
            )
    over = middle(one.over_floor for one in study.of(study.subject))
    if over:
        text += f" `{study.subject}` takes {_spread(over)} the analytic floor of mixed mode."
    survived = sum(
        one.run.peak_bytes is not None and "oom" in one.reference.statuses for one in study.of(study.subject)
    )
    if survived:
        text += f" In {numbers.plural(survived, 'configuration')} `{study.reference}` ran out of memory and `{study.subject}` did not."
    return text


def _time(study: Study) -> str:
    slowdown = middle(one.slowdown for one in study.of(study.subject))
    if slowdown is None:
        return ""
    text = f"`{study.subject}` takes {_spread(slowdown)} the time of `{study.reference}`"
    arithmetic = middle(one.arithmetic for one in study.of(study.subject))
    text += f", at {_spread(arithmetic)} its floating-point operations." if arithmetic else "."
    for label in study.labels:
        if label != study.subject and label == _method(study, label):
            other = middle(one.slowdown for one in study.of(label))
            text += f" `{label}` takes {_spread(other)} that time." if other else ""
    return text


def _share(study: Study) -> str:
    parts = []
    for word in ("dynamic", "total"):
        gains = [
            gain
            for one in study.of(study.subject)
            if (gain := one.dynamic_gain if word == "dynamic" else one.total_gain) is not None
        ]
        reached = sum(gain >= FOURFOLD for gain in gains)
        parts.append(f"{reached} of {numbers.plural(len(gains), 'configuration')} ({100 * reached / len(gains):.0f} %)")
    return (
        f"`{study.reference}` takes at least four times the dynamic memory of `{study.subject}` in {parts[0]}, and at least four times its "
        f"total memory in {parts[1]}."
    )


def _not_worth(study: Study) -> str:
    judged = [one for one in study.of(study.subject) if one.total_gain is not None]
    groups: dict[str, list[Comparison]] = {}
    for one in judged:
        if one.why_not_worth_it:
            groups.setdefault(one.why_not_worth_it, []).append(one)
    if not judged:
        return ""
    if not groups:
        where = numbers.plural(len(judged), "configuration")
        return f"In none of {where}: `{study.subject}` saves more memory than it costs in time in each."
    number = sum(map(len, groups.values()))
    parts = [f"In {number} of {numbers.plural(len(judged), 'configuration')}, judged by total memory."]
    for reason, words in _REASONS.items():
        if mine := groups.get(reason):
            places = (
                f"{one.configuration.task.problem} {configuration_words(study, one.configuration)}" for one in mine
            )
            where = numbers.some(places, _NAMED_AT_MOST, separator="; ", last="; and ")
            parts.append(f"In {len(mine)} {words.format(reference=study.reference)}: {where}.")
    small = _smaller(judged)
    return " ".join([*parts, small] if small else parts)


def _smaller(judged: list[Comparison]) -> str:
    """Say how small the models are for which it is not worth it, and those for which it is."""
    bad = [one.run.n_params for one in judged if one.why_not_worth_it and one.run.n_params]
    good = [one.run.n_params for one in judged if not one.why_not_worth_it and one.run.n_params]
    problems = {one.configuration.task.problem for one in judged}
    lost = {one.configuration.task.problem for one in judged if one.why_not_worth_it}
    won = {one.configuration.task.problem for one in judged if not one.why_not_worth_it}
    text = ""
    if lost and won and not lost & won and len(problems) > 1:
        text = f"These are all of {'; '.join(sorted(lost))} and none of {'; '.join(sorted(won))}."
    elif bad and good and max(bad) < min(good):
        text = f"Those have at most {numbers.count(max(bad))} inner parameters, all others {numbers.count(min(good))} or more."
    return text


def _too_large(study: Study) -> str:
    large = [run for runs in study.runs.values() for run in runs.values() if too_large(run)]
    if not large:
        return ""
    predicted = [run.predicted_bytes for run in large if run.predicted_bytes is not None]
    gains = middle(one.predicted_gain for one in study.of(study.subject) if one.total_gain is None)
    text = (
        f"{numbers.plural(len(large), 'cell')} were not run: predicted to need {numbers.memory(min(predicted))} to "
        f"{numbers.memory(max(predicted))}, which takes a GPU."
    )
    if gains:
        text += f" Predicted there: `{study.reference}` takes {_spread(gains)} the total memory of `{study.subject}`."
    return text


def _method(study: Study, label: str) -> str:
    return next(one.run.method for one in study.of(label))


def _spread(found: tuple[float, float, float]) -> str:
    median, low, high = (numbers.ratio(value) for value in found)
    return median if low == high else f"{median} ({low} to {high})"
