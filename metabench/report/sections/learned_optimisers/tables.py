"""The tables of optimisers: how each does on the tasks trained on, on others, and what cutting an episode into windows does to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metabench.learned.names import AREA, DIVERGED, FINAL, MEDIAN, on_trial
from metabench.papers.read import papers
from metabench.report import numbers
from metabench.report.results.frame import estimate_columns
from metabench.report.results.settings import slug
from metabench.report.results.tuned import chosen_words
from metabench.report.sections.learned_optimisers.entrants import Bench, Entrant
from metabench.report.tables.cells import estimate_cell
from metabench.report.tables.table import Cell, Column, Table, exact_cell
from metabench.report.verdicts import Verdict, Word, compare

TUNED_FOR = ", tuned for it"
"""Behind the name of a metric of a tuned baseline: of the values that did best on the validation tasks of that trial."""


def bench_name(bench: Bench, what: str) -> str:
    """Return the name of a file about a bench."""
    return slug(
        what,
        bench.task.problem,
        bench.task.dataset,
        bench.size,
        *(str(value) for _, value in bench.conditions if value),
    )


def results_table(bench: Bench) -> Table:
    """Return a row for each entrant: area, final losses, diverged tasks, and what training it took."""
    table = Table(
        bench_name(bench, "optimisers"),
        f"Optimisers on {bench.task.problem}, {bench.size}",
        f"On test tasks, {bench.horizon} steps each; means over seeds with intervals, lower is better. A loss counts as at most ten times "
        "the task's first one; a task that ends there has diverged. Tuned: the values that did best on validation tasks.",
        [
            Column("name", "optimiser", numeric=False),
            Column("area", "area", description="mean loss after each step: the area under the curve, per step"),
            Column(
                "verdict", "against the least", numeric=False, description="paired over seeds, Holm over all entrants"
            ),
            Column("final", "final, log10 of the mean"),
            Column("median", "final, log10 of the median"),
            Column("diverged", "diverged tasks (%)"),
            Column("chosen", "chosen", numeric=False, description="values that validation chose from a grid"),
            Column("seconds", "training time", description="meta-training of one seed"),
            Column("memory", "peak memory", description="of one hypergradient"),
        ],
    )
    ranking = bench.ranking()
    for one in sorted(bench.entrants, key=lambda one: _value(one, AREA)):
        verdict = ranking.verdicts.get(one.name)
        words = "the least" if one.name == ranking.best else str(verdict.text) if verdict else numbers.ABSENT
        area, diverged = one.estimate(AREA), one.estimate(DIVERGED)
        seconds, peak = one.combined("train_s"), one.combined("peak_bytes")
        table.rows.append(
            {
                "name": Cell(one.name, one.name),
                "area": estimate_cell(area, tone="best" if one.name == ranking.best else ""),
                "verdict": Cell(words, words),
                **{key: estimate_cell(one.estimate(metric)) for key, metric in _FIGURES.items()},
                "diverged": exact_cell(numbers.plain(diverged.value), diverged.value)
                if diverged
                else Cell(numbers.ABSENT),
                "chosen": Cell(_chosen(one)),
                "seconds": exact_cell(
                    numbers.seconds(seconds) if seconds and not one.tuned else numbers.ABSENT, seconds
                ),
                "memory": exact_cell(numbers.memory(peak) if not one.tuned else numbers.ABSENT, peak),
            }
        )
        failed = [row["status"] for row in one.rows if row["status"] != "ok"]
        if failed:
            table.rows[-1]["chosen"] = Cell(
                "", badges=tuple((status, failed.count(status)) for status in dict.fromkeys(failed))
            )
        record: dict[str, Any] = {
            "optimiser": one.optimiser,
            "method": one.method,
            "name": one.name,
            "chosen": _chosen(one),
        }
        for metric in (AREA, FINAL, MEDIAN, DIVERGED):
            record |= estimate_columns(metric, one.estimate(metric))
        table.records.append(record | {"verdict": words, "train_s": seconds, "peak_bytes": peak})
    table.drop_absent(("chosen", "seconds", "memory"))
    return table


_FIGURES = {"final": FINAL, "median": MEDIAN}


def _value(one: Entrant, metric: str) -> float:
    found = one.estimate(metric)
    return found.value if found else float("inf")


def _chosen(one: Entrant) -> str:
    """Return the values that validation chose, and whether they are at the edge of the grid, of all seeds."""
    if not one.tuned:
        return numbers.ABSENT
    texts = dict.fromkeys(chosen_words(row) for row in one.finished)
    return "; ".join(texts) or numbers.ABSENT


def transfer_table(bench: Bench) -> Table | None:
    """Return areas on other tasks, over that of the best baseline tuned for each; None where nothing else is tested."""
    if len(bench.trials) < 2:
        return None
    references = {trial: _reference(bench, trial) for trial in bench.trials}
    units = {trial: f"{found[0].name}, {found[1]:.3g}" for trial, found in references.items() if found}
    table = Table(
        bench_name(bench, "transfer"),
        f"Trained on {bench.size}, tested elsewhere",
        "Area under the loss curve over that of the best baseline tuned for the same tasks: below 1 is ahead of it. Nothing is trained "
        "again. Baselines stand here with the values chosen on the tasks trained on, as learned optimisers have it. † One task in a "
        "hundred or more diverged." + "".join(f" {trial or 'trained on'}: {words}." for trial, words in units.items()),
        [
            Column("name", "optimiser", numeric=False),
            *(Column(f"t{place}", trial or "trained on") for place, trial in enumerate(bench.trials)),
        ],
    )
    for one in bench.entrants:
        row: dict[str, Cell] = {"name": Cell(one.name, one.name)}
        record: dict[str, Any] = {"name": one.name}
        for place, trial in enumerate(bench.trials):
            found, reference = one.estimate(on_trial(trial, AREA)), references[trial]
            diverged = one.estimate(on_trial(trial, DIVERGED))
            ratio = found.value / reference[1] if found and reference and reference[1] else None
            mark = "†" if ratio and diverged and diverged.value >= 1 else ""
            tone = "best" if ratio is not None and ratio < 1 else ""
            row[f"t{place}"] = Cell(
                f"{numbers.significant(ratio)}{mark}" if ratio else numbers.ABSENT, ratio, tone=tone
            )
            name = trial or "trained on"
            record |= {name: found.value if found else None, f"{name}, over the best tuned": ratio}
        table.rows.append(row)
        table.records.append(record)
    return table


def _reference(bench: Bench, trial: str) -> tuple[Entrant, float] | None:
    """Return the best baseline tuned for the tasks of a trial, and its area there; the best of all where nothing is tuned."""
    metric = on_trial(trial, AREA)
    for_it = bench.best(bench.tuned, f"{metric}{TUNED_FOR}")
    return for_it or bench.best(bench.tuned or bench.entrants, metric)


def cutting_table(bench: Bench) -> Table | None:
    """Return how well the sum of an episode's windows points along the exact hypergradient of the episode, and where that led."""
    rows = [one for one in bench.learned if one.combined("episode_cosine") is not None]
    if not rows:
        return None
    table = Table(
        bench_name(bench, "cutting"),
        f"What cutting an episode into windows does, {bench.task.problem}, {bench.size}",
        "Cosine and ratio of norms of the sum of an episode's hypergradients, window by window, with the exact hypergradient of the whole "
        "episode, in float64: at the initial meta-parameters and at those that training led to.",
        [
            Column("name", "optimiser", numeric=False),
            Column("inner_steps", "K", description="inner steps per window"),
            Column("cosine", "cosine", "at first"),
            Column("ratio", "norm", "at first"),
            Column("trained", "cosine", "when trained"),
            Column("area", "area"),
        ],
    )
    for one in sorted(rows, key=lambda one: (one.optimiser, one.rows[0]["inner_steps"])):
        steps = one.rows[0]["inner_steps"]
        figures = {key: one.combined(column) for key, column in _CUTTING.items()}
        table.rows.append(
            {
                "name": Cell(one.name, one.name),
                "inner_steps": Cell(numbers.count(steps), steps),
                **{key: exact_cell(numbers.cosine(value), value) for key, value in figures.items()},
                "area": estimate_cell(one.estimate(AREA)),
            }
        )
        table.records.append({"name": one.name, "inner_steps": steps, **figures, AREA: _value(one, AREA)})
    table.drop_absent(("trained",))
    return table


_CUTTING = {"cosine": "episode_cosine", "ratio": "episode_norm_ratio", "trained": "episode_cosine_trained"}


def statements_table(found: Sequence[Bench]) -> Table | None:
    """Return what papers state of learned optimisers beside what is measured here; None where no statement is about these problems."""
    table = Table(
        "published-orderings",
        "Published orderings beside these",
        "A paper says whether its learned optimiser is ahead of the best baseline. Here: the learned optimiser and the tuned baseline with "
        "the least area, compared in pairs over seeds, adjusted for all learned ones; baselines are tuned for the same test.",
        [
            Column("paper", "paper", numeric=False),
            Column("what", "statement", numeric=False),
            Column("bench", "here, on", numeric=False),
            Column("ours", "here", numeric=False),
            Column("agrees", "agrees", numeric=False),
            Column("differs", "how the protocols differ", numeric=False),
        ],
    )
    for paper in papers().values():
        for one in paper.statements:
            for bench in found:
                if (
                    bench.task.problem != one.problem
                    or one.trial not in bench.trials
                    or not (sentence := ahead(bench, one.trial))
                ):
                    continue
                word = standing(bench, one.trial)
                agrees = "not decided"
                if word in (Word.BETTER, Word.WORSE):
                    agrees = "yes" if (word == Word.BETTER) == one.ahead else "no"
                where = f"{bench.size} on {bench.task.dataset}"
                table.rows.append(
                    {
                        "paper": Cell(paper.name, paper.name),
                        "what": Cell(one.what, one.what, title=one.source),
                        "bench": Cell(where, where),
                        "ours": Cell(sentence.replace("`", ""), tone="prose"),
                        "agrees": Cell(agrees, agrees),
                        "differs": Cell(one.differs, tone="prose"),
                    }
                )
                table.records.append(
                    {"paper": paper.name, **vars(one), "bench": where, "ours": sentence, "agrees": agrees}
                )
    return table if table.rows else None


def standing(bench: Bench, trial: str = "") -> Word:
    """Return the verdict on the best learned optimiser against the best baseline tuned for the trial; no verdict without one of the two."""
    pair = _pair(bench, trial)
    return pair[2].word if pair else Word.NONE


def ahead(bench: Bench, trial: str = "") -> str:
    """Return the sentence that says how the best learned optimiser stands against the best tuned baseline; empty without one of the two."""
    pair = _pair(bench, trial)
    if pair is None:
        return ""
    (learned, ours), (tuned, theirs), verdict = pair
    share = ours / theirs
    by = f"{100 * abs(1 - share):.0f} % {'less' if share < 1 else 'more'} area under the loss curve"
    how = {Word.BETTER: "is ahead of", Word.WORSE: "is behind"}.get(verdict.word, "")
    against = f"`{learned.name}` {how} `{tuned.name}`" if how else f"`{learned.name}` against `{tuned.name}`"
    return f"{against}: {by}" + ("" if how else f", {verdict.text}")


def _pair(bench: Bench, trial: str) -> tuple[tuple[Entrant, float], tuple[Entrant, float], Verdict] | None:
    """Return the best learned optimiser, the best tuned baseline, each with its area, and the verdict on the first against the second.

    Test data choose the best of the learned ones, so the verdict is adjusted for all of them: each had a chance to win.
    """
    metric = on_trial(trial, AREA)
    learned, tuned = bench.best(bench.learned, metric), _reference(bench, trial) if bench.tuned else None
    if learned is None or tuned is None or not tuned[1]:
        return None
    own = tuned[0].by_seed(f"{metric}{TUNED_FOR}") or tuned[0].by_seed(metric)
    samples = {one.name: sample for one in bench.learned if (sample := one.by_seed(metric))} | {tuned[0].name: own}
    return learned, tuned, compare(samples, tuned[0].name, higher_is_better=False)[learned[0].name]
