"""The report: what the certificates catch, method by method, and what they let through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mutation.scope import EXCLUDED, Equivalent
from mutation.server import LEAST_SECONDS, TIMES

KINDS = {
    "value": "wrong value",
    "exception": "exception",
    "time-out": "time-out",
    "crash": "process ended",
    "equivalent": "equivalent",
    "survived": "survived",
}
Row = dict[str, Any]


def score(rows: Sequence[Row]) -> float:
    """Return the share of mutants that were caught, those judged equivalent left out; 1 of none."""
    telling = [row for row in rows if row["outcome"] != "equivalent"]
    return sum(map(caught, telling)) / len(telling) if telling else 1.0


def caught(row: Row) -> bool:
    """Tell whether a certificate failed."""
    return row["outcome"] not in ("survived", "equivalent")


def by_method(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each method, in the order in which the methods come first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    return found


def markdown(report: dict[str, Any]) -> str:
    """Return a report as Markdown, all of it from what its JSON holds."""
    rows = report["mutants"]
    survivors = [row for row in rows if row["outcome"] == "survived"]
    equivalent = [row for row in rows if row["outcome"] == "equivalent"]
    lines = [
        "# Mutation testing of the certificates",
        "",
        f"The certificates catch {sum(map(caught, rows))} of {len(rows)} mutants over {len(by_method(rows))} methods. "
        f"{len(equivalent)} of the others were read after the run and judged to change no hypergradient, for the reasons below. "
        f"Of those that do, **{score(rows):.1%}** are caught; {len(survivors)} survive.",
        "",
        f"`{report['command']}`, {report['date']}, commit {report['commit']}, seed {report['seed']}, {report['seconds']:.0f} s.",
        "",
        "A mutant is one mistake in the source that a method runs: a sign, a term, a state before a step for the one after it.",
        "It is caught if a claim of the method's certificate fails, which ends the certificate there: by a wrong value, by an exception,",
        f"or by a time-out ({LEAST_SECONDS:.0f} s, or {TIMES:.0f} times the certificate of the right source if that is longer).",
        "",
        "| method | mutants | caught | score | "
        + " | ".join(KINDS[kind] for kind in list(KINDS)[:-1])
        + " | survived |",
        "|---|---:|---:|---:|" + "---:|" * len(KINDS),
        *(_line(name, found) for name, found in by_method(rows).items()),
        _line("**all**", rows),
        "",
        "| operator | mutants | caught | score |",
        "|---|---:|---:|---:|",
        *_operators(rows),
        "",
        "## Survivors",
        "",
    ]
    elsewhere = _caught(rows)
    for name, found in by_method(survivors).items():
        lines += [f"### {name}", ""]
        for row in found:
            others = sorted(elsewhere.get(_key(row), set()))
            also = f"; the certificate of {', '.join(others)} catches it" if others else ""
            lines += [
                f"- {row['file']}:{row['line']}, `{row['function']}`, {row['operator']}{also}",
                "  ```diff",
                f"  - {_one_line(row['original'])}",
                f"  + {_one_line(row['mutated'])}",
                "  ```",
            ]
        lines.append("")
    if report["unreached"]:
        lines += [
            "## What no certificate runs",
            "",
            "Functions with mutants that could not be drawn from any method's lines:",
            "",
        ]
        lines += [f"- {file}, `{function}` ({count})" for file, function, count in report["unreached"]]
        lines.append("")
    lines += ["## Equivalent mutants, never drawn or left out of the score", ""]
    lines += [_equivalent(Equivalent(**one)) for one in report["equivalents"]] or ["None."]
    lines += ["", "## Source that is not mutated", ""]
    lines += [
        f"- {file}{f', `{function}`' if function else ''}: {reason}" for (file, function), reason in EXCLUDED.items()
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, rows: Sequence[Row]) -> str:
    kinds = Counter(row["outcome"] for row in rows)
    counts = " | ".join(str(kinds[kind]) for kind in KINDS)
    return f"| {name} | {len(rows)} | {sum(map(caught, rows))} | {score(rows):.0%} | {counts} |"


def _operators(rows: Sequence[Row]) -> list[str]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["operator"], []).append(row)
    ordered = sorted(found.items(), key=lambda item: score(item[1]))
    return [
        f"| {name} | {len(of)} | {sum(map(caught, of))} | {score(of):.0%} |"
        for name, of in ordered
    ]


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("file", "function", "original", "mutated", "occurrence"))


def _caught(rows: Sequence[Row]) -> dict[tuple[Any, ...], set[str]]:
    """Return, by mutant, the methods whose certificates catch it."""
    found: dict[tuple[Any, ...], set[str]] = {}
    for row in rows:
        if caught(row):
            found.setdefault(_key(row), set()).add(row["method"])
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))


def _equivalent(one: Equivalent) -> str:
    of = f" (of {', '.join(one.methods)})" if one.methods else ""
    return f"- {one.file}, `{one.function}`{of}: `{_one_line(one.original)}` → `{_one_line(one.mutated)}`: {one.reason}"
