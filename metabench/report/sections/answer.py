"""The answer: a sentence, methods by problems, and what every setting decides."""

from __future__ import annotations

from collections.abc import Sequence

from metabench.report import numbers
from metabench.report.blocks import Block, Note, Sentence
from metabench.report.results.certified import VALID, verdict
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.outcomes import Outcome, estimating, outcomes, telling
from metabench.report.results.provenance import warnings
from metabench.report.results.settings import Task
from metabench.report.section import Part, Section
from metabench.report.tables.by_setting import by_setting_table, cheapest_among, least_memory
from metabench.report.tables.overview import overview_table
from metabench.results.certificate import FAILED
from metabench.results.statistics import MINIMUM_SEEDS

EMPTY = "This suite has no rows: its configuration has no cells, or none has been collected. There is nothing to compare yet."


def _parts(suite: Suite) -> list[Part]:
    if not suite.rows:
        return [Part("answer", "Answer", [Note(EMPTY)])]
    found = outcomes(suite)
    blocks: list[Block] = [Note(text, warns=True) for text in warnings(suite)]
    blocks.append(overview_table(suite, compared(suite)))
    blocks += [Sentence(text) for text in (_idle(suite), _certified(suite), _failures(suite)) if text]
    return [Part("answer", "Answer", [*blocks, by_setting_table(suite, found)])]


def compared(suite: Suite) -> dict[Task, Outcome]:
    """Return the problems that the head of the page compares: all but illustrations, and of these those that run the suite's baseline.

    Illustrations are compared where there is nothing else, and so are problems without the baseline.
    """
    found = {task: one for task, one in telling(outcomes(suite)).items() if task not in suite.illustrations}
    with_baseline = {entry.setting.task for entry in suite.entries if entry.method == suite.baseline}
    return {task: one for task, one in found.items() if task in with_baseline} or found


def answer_headline(suite: Suite) -> str:
    """Return the suite's answer in a sentence of at most 25 words; names in backquotes."""
    if not suite.entries:
        return "" if suite.rows else "There is nothing to compare yet."
    if all(entry.failed for entry in suite.entries):
        return f"No run finished: {_statuses(suite)}."
    methods = list(dict.fromkeys(entry.method for entry in suite.entries))
    if len(methods) == 1:
        return f"`{methods[0]}` is the only method here: there is nothing to compare it with."
    found = compared(suite)
    ranked = sum(one.ranking is not None for one in found.values())
    if not ranked:
        return _cost_headline(suite, list(found.values()))
    trained = {task: one for task, one in found.items() if one.decided}
    if not trained:
        return f"Fewer than {MINIMUM_SEEDS} seeds: the tables give values, and no verdicts."
    where = {1: "its problem", 2: "both problems"}.get(len(trained), f"all {len(trained)} problems")
    where += " with verdicts" * (len(trained) < ranked)
    winners = {_method(one, one.ranking.winner) for one in trained.values() if one.ranking}
    if len(winners) == 1 and (winner := winners.pop()):
        return f"`{winner}` has the best quality on {where}."
    tops = [{entry.method for entry in one.at_the_top()} for one in trained.values()]
    everywhere = [
        entry for entry in next(iter(trained.values())).at_the_top() if all(entry.method in top for top in tops)
    ]
    working = estimating(everywhere)
    if not everywhere:
        bests = {task: _method(one, one.ranking.best) for task, one in trained.items() if one.ranking}
        return f"No method is at the top everywhere: {numbers.some([f'`{best}` on {task.problem}' for task, best in bests.items()], 3)}."
    if not working:
        return f"On {where} no method is told apart from training without a hypergradient."
    how_many = "1 method is" if len(everywhere) == 1 else f"{len(everywhere)} methods are"
    return f"On {where} {how_many} at the top; {_cheapest(suite, working, trained)}."


def _method(outcome: Outcome, label: str | None) -> str:
    """Return the method of a label; empty for none."""
    return next((entry.method for entry in outcome.entries if entry.label == label), "")


def _cheapest(suite: Suite, working: Sequence[Entry], trained: dict[Task, Outcome]) -> str:
    """Say which of some methods takes the least memory on every problem, and how much of the baseline's."""
    ratios: dict[str, list[float]] = {}
    for outcome in trained.values():
        for entry in outcome.entries:
            if entry.method in {one.method for one in working} and entry.memory_ratio:
                ratios.setdefault(entry.method, []).append(entry.memory_ratio)
    whole = {method: own for method, own in ratios.items() if len(own) == len(trained)}
    if not whole:
        return f"{numbers.some([f'`{entry.method}`' for entry in working], 3)} among them"
    best = min(whole, key=lambda method: (max(whole[method]), sum(whole[method])))
    if best == suite.baseline:
        return f"of these `{best}`, the baseline, takes least memory"
    low, high = numbers.ratio(min(whole[best])), numbers.ratio(max(whole[best]))
    return (
        f"of these `{best}` takes least memory, {low if low == high else f'{low} to {high}'} that of `{suite.baseline}`"
    )


def _cost_headline(suite: Suite, found: Sequence[Outcome]) -> str:
    least = [least_memory(cheapest_among(outcome)) for outcome in found]
    names = {entry.method for entries in least for entry in entries[:1]}
    if not names:
        return "No run of a method that estimates a hypergradient finished."
    exact = all(entry.exact and entry.target == "unrolled" for entries in least for entry in entries)
    which = "exact methods" if exact else "methods that estimate a hypergradient"
    if len(names) == 1:
        ratios = [entries[0].memory_ratio for entries in least if entries and entries[0].memory_ratio]
        name = names.pop()
        if not ratios or name == suite.baseline:
            return f"`{name}` takes the least memory of all {which}."
        return f"`{name}` takes the least memory of all {which}, {numbers.ratio(max(ratios))} that of `{suite.baseline}` or less."
    listed = numbers.some([f"`{name}`" for name in sorted(names)], 3)
    return f"Which of the {which} takes the least memory depends on the problem: {listed}."


def _idle(suite: Suite) -> str:
    """Name the problems on which training without a hypergradient is at the top; empty where there are none."""
    found = [task.problem for task, one in compared(suite).items() if len(one.at_the_top()) > len(estimating(one.at_the_top()))]
    return f"Training without a hypergradient is not told apart from the best on {numbers.some(found)}." if found else ""


def _certified(suite: Suite) -> str:
    """Say how many methods are what they declare to be, and which are not."""
    found = {
        method: verdict(suite.certificates.get(method), hashes)
        for method, hashes in suite.method_hashes.items()
        if hashes
    }
    held = [method for method, one in found.items() if one in VALID]
    if not held and FAILED not in found.values():
        return "No method is certified: nothing here shows that a hypergradient is what its method declares."
    text = f"{len(held)} of {numbers.plural(len(found), 'method')} {'is' if len(held) == 1 else 'are'} certified to be what they declare."
    failed = [f"`{method}` FAILED{_instead(suite, method)}." for method, one in found.items() if one == FAILED]
    # A library may be as declared, by a formula, and the formula not what it is named after.
    others = {method: _instead(suite, method) for method, one in found.items() if one in VALID}
    other = [f"`{method}` is not its target{words}." for method, words in others.items() if words]
    inexact = [f"`{label}` is {why}." for label, why in suite.inexact.items() if why]
    return " ".join([text, *failed, *other, *inexact])


def _instead(suite: Suite, method: str) -> str:
    """Return what the library that a method asks computes instead of its target, after a colon; empty for a method of no library."""
    certificate = suite.certificates.get(method)
    return f": it computes {certificate.instead}" if certificate is not None and certificate.instead else ""


def _failures(suite: Suite) -> str:
    bad = sum(row["status"] != "ok" for row in suite.rows)
    runs = numbers.plural(len(suite.rows), "run")
    return f"{numbers.count(bad)} of {runs} did not finish: {_statuses(suite)}." if bad else f"All {runs} finished."


def _statuses(suite: Suite) -> str:
    counted: dict[str, int] = {}
    for row in suite.rows:
        if row["status"] != "ok":
            counted[row["status"]] = counted.get(row["status"], 0) + 1
    return ", ".join(f"{status} {number}" for status, number in counted.items())


ANSWER = Section("answer", "Answer", _parts, answer_headline, order=0, module=__name__)
