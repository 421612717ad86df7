"""`metabench plan --budget`: the largest size and number of inner steps that fit, per method."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from metabench.cli.output import human_bytes, print_json
from metabench.suite.predict.largest_that_fits import PREDICTED_AT_MOST, Answer


def print_budget(budget: int, found: Iterable[tuple[Answer, str]], as_json: bool) -> None:
    """Print a table per problem, each row as soon as it is known: methods down, sizes across, in each cell the largest T that fits.

    With `as_json` the same as JSON, at the end.
    """
    shown: list[Answer] = []
    for answer, name in found:
        if not shown or shown[-1] is not answer:
            if shown and not as_json:
                _print_notes(shown[-1])
            shown.append(answer)
            if not as_json:
                where = ", ".join(filter(None, (answer.dataset, answer.problem_options, answer.dtype, answer.device)))
                print(f"{answer.problem} ({where}): largest number of inner steps T within {human_bytes(budget)}")
                _print_row("method", answer.sizes, "largest that fits", answer)
        if not as_json:
            texts = [answer.methods[name][size].text for size in answer.sizes]
            _print_row(name, texts, largest_fit(answer, name), answer)
    if as_json:
        print_json({"budget_bytes": budget, "problems": [_plain(answer) for answer in shown]})
    elif shown:
        _print_notes(shown[-1])


def _print_row(name: str, texts: Sequence[str], largest: str, answer: Answer) -> None:
    cells = (text.rjust(max(8, len(size))) for text, size in zip(texts, answer.sizes, strict=True))
    print(f" {name:28} {' '.join(cells)}  {largest}", flush=True)


def largest_fit(answer: Answer, method: str) -> str:
    """Return the largest size for which at least one step fits, with its T."""
    fitting = [size for size, found in answer.methods[method].items() if found.any or found.steps is not None]
    last = next((size for size in reversed(answer.sizes) if size in fitting), None)
    if last is not None:
        return f"{last}, T = {answer.methods[method][last].text}"
    return "?" if any(found.message for found in answer.methods[method].values()) else "none"


def _print_notes(answer: Answer) -> None:
    shown = [found for by_size in answer.methods.values() for found in by_size.values()]
    if any(found.steps is None and not found.any and not found.message for found in shown):
        print("none: not even T = 1 fits")
    if any(found.any for found in shown):
        print("any: memory does not depend on T")
    if any(found.extrapolated for found in shown):
        print("*: extrapolated: each further step adds the same number of bytes between the T that were predicted")
    if any(found.more and not found.extrapolated for found in shown):
        print(
            f"+: larger T were not considered: memory is not linear in T, and T above {PREDICTED_AT_MOST} is not predicted"
        )
    for note in dict.fromkeys(found.note for found in shown if found.note):
        print(f"note: T may be too large: {note}")
    for name, by_size in answer.methods.items():
        reasons = dict.fromkeys(found.message for found in by_size.values() if found.message)
        for reason in reasons:
            print(f"?: {name}: {reason}")


def _plain(answer: Answer) -> dict[str, Any]:
    return dataclasses.asdict(answer) | {
        "methods": {
            name: {size: dataclasses.asdict(found) for size, found in by_size.items()}
            for name, by_size in answer.methods.items()
        }
    }
