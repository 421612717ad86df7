"""What searches say, in sentences: who beats random search, whether shared weights pay, and whether a task wants a net of its own."""

from __future__ import annotations

from collections.abc import Sequence

from metabench.report import numbers
from metabench.report.results.entries import Suite
from metabench.report.sections.searches.groups import Bench, Group
from metabench.results import net_tables
from metabench.results import searches as names
from metabench.results.statistics import Estimate, paired_differences


def against_random(groups: Sequence[Group]) -> list[str]:
    """Return who beats random search on test tasks, by what nets are judged by."""
    said, all_level = [], []
    for group in groups:
        better, worse, level = [], [], 0
        for entrant in group.entrants:
            found = group.above(entrant, names.TEST)
            if entrant == names.BY_HAND or found is None or found.low is None or found.high is None:
                continue
            if found.low > 0:
                better.append(entrant)
            elif found.high < 0:
                worse.append(entrant)
            else:
                level += 1
        if level and not better and not worse:
            all_level.append(group.words)
            continue
        words = [f"above random search: {numbers.some(better, 6)}"] * bool(better)
        words += [f"below it: {numbers.some(worse, 6)}"] * bool(worse)
        words += [f"not told apart from it: {numbers.plural(level, 'strategy', 'strategies')}"] * bool(level)
        if words:
            said.append(f"On test tasks, nets {group.words}: {'; '.join(words)}.")
    if all_level:
        said.append(f"On test tasks no strategy is told apart from random search: nets {'; '.join(all_level)}.")
    return said


def by_hand(bench: Bench) -> list[str]:
    """Return whether any entrant beats the largest net, which costs no search."""
    above, compared = [], 0
    for group in bench.groups:
        for entrant in group.entrants:
            found = group.above(entrant, names.TEST, names.BY_HAND)
            compared += found is not None and found.low is not None
            if found is not None and found.low is not None and found.low > 0:
                above.append(f"{entrant} ({group.words})")
    if not compared:
        return []
    if above:
        return [f"Above the largest net, for which nothing is searched: {numbers.some(above, 4)}."]
    return ["No search is above the largest net, for which nothing is searched, by more than the interval."]


def sharing(suite: Suite, bench: Bench) -> list[str]:
    """Return how jointly trained weights stand to meta-trained ones, and whether shared weights rank better than a ridge does."""
    said = []
    joint = bench.where(lambda group: group.way == "joint")
    for group in bench.where(lambda group: group.way in ("meta", "joint_meta")):
        for other in joint:
            found = _after_adapting(suite, group, other)
            if found is not None and found.low is not None:
                where = _where(found, "above", "below", "not told apart from")
                paid = _ratio(group, other)
                said.append(
                    f"After as many steps as in training, nets {group.words} are {where} those {other.words}"
                    f" ({_text(found)} points{paid})."
                )
    ranked: dict[str, list[str]] = {}
    for group in bench.where(lambda group: group.shared and names.SHARED in group.ranked):
        fitted = next((name for name in group.ranked if name.startswith(net_tables.FITTED.split("{")[0])), "")
        pairs = (group.by_seed(names.SHARED, net_tables.KENDALL), group.by_seed(fitted, net_tables.KENDALL))
        found = paired_differences([pairs])[0] if all(pairs) else None
        if found is not None and found.low is not None:
            where = _where(found, "better than", "worse than", "no better than")
            ranked.setdefault(f"{where} a {fitted}", []).append(f"{group.words} ({_text(found, 2)})")
    said += [f"Shared weights rank nets {where}, by Kendall's tau: {'; '.join(them)}." for where, them in ranked.items()]
    return said


def own_searches(bench: Bench) -> list[str]:
    """Return whether a net chosen by each new task beats the one that is best on average."""
    said = []
    for group in bench.groups:
        pairs = (group.by_seed(names.NEW_TASKS, names.OWN), group.by_seed(names.NEW_TASKS, names.AVERAGE))
        found = paired_differences([pairs])[0] if all(pairs) else None
        if found is None or found.low is None:
            continue
        where = _where(found, "pays", "costs accuracy", "is not told apart from the net that is best on average")
        said.append(
            f"A net of each task's own, chosen on its support, {where}: {_text(found)} points (nets {group.words})."
        )
    return said


def _after_adapting(suite: Suite, group: Group, other: Group) -> Estimate | None:
    ends = []
    for one in (group, other):
        steps = one.rows[0]["inner_steps"]
        ends.append(
            {
                seed: dict(zip(curve.x, curve.values, strict=True))[steps]
                for seed, curve in one.curves(suite, names.STEPS).items()
                if steps in curve.x
            }
        )
    return paired_differences([(ends[0], ends[1])])[0] if all(ends) else None


def _ratio(group: Group, other: Group) -> str:
    ours, theirs = (one.mean(names.TRAINING, names.FLOPS) for one in (group, other))
    return f", at {numbers.ratio(ours / theirs)} the FLOPs of training" if ours and theirs else ""


def _where(found: Estimate, above: str, below: str, level: str) -> str:
    if found.low is not None and found.low > 0:
        return above
    if found.high is not None and found.high < 0:
        return below
    return level


def _text(found: Estimate, decimals: int = 1) -> str:
    half = "" if found.high is None else f" ± {found.high - found.value:.{decimals}f}"
    return f"{found.value:+.{decimals}f}{half}".replace("-", "−")
