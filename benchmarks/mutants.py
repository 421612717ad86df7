"""How good the certificates are: mistakes are planted in the methods and their derivatives, and the share that is caught is counted.

    python benchmarks/mutants.py                                    # 25 mutants of every method, about twenty minutes on two cores
    python benchmarks/mutants.py --method ift_cg --per-method 100   # one method, closely
    python benchmarks/mutants.py --out mutants.json --out docs/mutants.md
    python benchmarks/mutants.py --survivors-only mutants.json      # after a new case of the certificate: what it let through alone

Half of a method's mutants are of its own file, half of the lines elsewhere that its certificate makes it run, as far as there are so many.
They are drawn evenly over the operators. benchmarks/mutants_equivalent.yaml names those that change no hypergradient, with the reason.
What certificates of the unchanged source run and take is measured once and kept in build/mutants.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mutation.report import by_method, markdown, score
from mutation.sample import Unit, all_mutants, sample, survivors_of, unreached
from mutation.scope import Equivalent, read_equivalents, stale
from mutation.server import LEAST_SECONDS, TIMES, Baseline, Outcome, Task, import_what_is_heavy, judge, measure, run_all
from rich.console import Console
from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENTS = ROOT / "benchmarks/mutants_equivalent.yaml"
CACHE = ROOT / "build/mutants"
BASELINE_SECONDS = 1200.0


def baselines(names: Sequence[str], jobs: int, progress: Progress) -> dict[str, Baseline]:
    """Return what the certificates of the unchanged source take and run, measured unless it is known already."""
    text = b"".join(path.read_bytes() for path in sorted((ROOT / "metabench").rglob("*.py")))
    kept = CACHE / f"baselines-{hashlib.sha256(text).hexdigest()[:16]}.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [name for name in names if name not in known]
    bar = progress.add_task("unchanged source", total=2 * len(missing), visible=bool(missing))
    tasks = [
        Task((name, lines), functools.partial(measure, name, ROOT, lines), BASELINE_SECONDS)
        for name in missing
        for lines in (False, True)
    ]
    half: dict[str, Baseline] = {}
    for (name, lines), found in run_all(tasks, jobs):
        progress.advance(bar)
        if isinstance(found, Outcome):
            raise SystemExit(f"the certificate of {name} came to no end: {found.message}")
        other = half.setdefault(name, found)
        if other is found:
            continue
        timed, traced = (other, found) if lines else (found, other)
        known[name] = dataclasses.asdict(dataclasses.replace(timed, lines=traced.lines))
        CACHE.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(known))
    found = {name: Baseline(**known[name]) for name in names}
    for name, baseline in found.items():
        if baseline.failures:
            raise SystemExit(f"the certificate of {name} fails on the source as it is: {baseline.failures[0]}")
    return found


def judged(
    units: Sequence[Unit], of: Mapping[str, Baseline], jobs: int, progress: Progress
) -> Iterator[tuple[Unit, Outcome]]:
    """Yield what came of each mutant; those of one method profit from what the ones before them were caught by."""
    kills: dict[str, Counter[str]] = {name: Counter() for name in of}

    def tasks() -> Iterator[Task]:
        for name, mutant in units:
            source = mutant.applied((ROOT / mutant.file).read_text())
            seconds = max(LEAST_SECONDS, TIMES * of[name].seconds)
            yield Task((name, mutant), functools.partial(judge, name, ROOT, mutant.file, source, kills[name]), seconds)

    bar = progress.add_task("mutants", total=len(units))
    for (name, mutant), outcome in run_all(tasks(), jobs):
        if outcome.where:
            kills[name][outcome.where] += 1
        progress.update(bar, advance=1, description=f"mutants of {name}")
        yield (name, mutant), outcome


def row_of(unit: Unit, outcome: Outcome) -> dict[str, Any]:
    """Return what a report says of a mutant."""
    name, mutant = unit
    said = {key: value for key, value in dataclasses.asdict(mutant).items() if key not in ("begin", "end", "text")}
    return {"method": name, **said, **dataclasses.asdict(outcome)}


def judged_again(report: dict[str, Any], equivalents: Sequence[Equivalent]) -> dict[str, Any]:
    """Return a report with those of its survivors marked that are equivalent."""
    rows = [
        {**row, "outcome": "equivalent"} if row["outcome"] == "survived" and any(one.is_row(row) for one in equivalents) else row
        for row in report["mutants"]
    ]
    return {**report, "mutants": rows, "equivalents": [dataclasses.asdict(one) for one in equivalents]}


def written(report: dict[str, Any], outputs: Iterable[Path]) -> None:
    """Write a report as the endings of the files ask."""
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(markdown(report) if path.suffix == ".md" else json.dumps(report, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--per-method", type=int, default=25, metavar="N", help="mutants per method (default: %(default)s)"
    )
    parser.add_argument("--method", action="append", metavar="NAME", help="this method alone; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time (default: one per core)"
    )
    parser.add_argument(
        "--out", type=Path, action="append", default=[], metavar="FILE", help="a report, .json or .md; may be repeated"
    )
    parser.add_argument(
        "--survivors-only", type=Path, metavar="REPORT.json", help="only the survivors of an earlier report"
    )
    parser.add_argument(
        "--judged", type=Path, metavar="REPORT.json", help="run nothing: an earlier report, with the equivalents that are named by now"
    )
    given = parser.parse_args(arguments)
    if given.judged:
        written(judged_again(json.loads(given.judged.read_text()), read_equivalents(EQUIVALENTS)), given.out)
        return 0
    console, begun = Console(stderr=True), time.monotonic()

    mutants = all_mutants(ROOT)
    equivalents = read_equivalents(EQUIVALENTS)
    every = [mutant for of in mutants.values() for mutant in of]
    for entry in stale(equivalents, every):
        console.print(
            f"{EQUIVALENTS.name}: no such mutant any more: {entry.file}, {entry.function}: {entry.mutated}",
            markup=False,
        )

    modules = import_what_is_heavy()
    names = given.method or list(modules)
    if unknown := set(names) - set(modules):
        parser.error(f"no such method: {', '.join(sorted(unknown))}; there are {', '.join(modules)}")
    earlier = survivors_of(given.survivors_only, mutants, equivalents) if given.survivors_only else []
    if given.survivors_only:
        names = [name for name in names if any(name == other for other, _ in earlier)]
        console.print(f"{len(earlier)} survivors that are neither equivalent nor gone from the source")
    rows = []
    with Progress(console=console) as progress:
        of = baselines(names, given.jobs, progress)
        import_what_is_heavy(module for baseline in of.values() for module in baseline.modules)
        if given.survivors_only:
            units = [unit for unit in earlier if unit[0] in names]
        else:
            own = {name: modules[name].replace(".", "/") + ".py" for name in names}
            units = [
                unit
                for name in names
                for unit in sample(name, own[name], of[name], mutants, equivalents, given.per_method, given.seed)
            ]
        try:
            for unit, outcome in judged(units, of, given.jobs, progress):
                rows.append(row_of(unit, outcome))
        except KeyboardInterrupt:
            console.print(f"stopped: the report is of the {len(rows)} mutants judged until then")
    rows.sort(key=lambda row: (names.index(row["method"]), row["file"], row["line"]))
    report = {
        "command": shlex.join(["python", "benchmarks/mutants.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "seed": given.seed,
        "seconds": time.monotonic() - begun,
        "mutants": rows,
        "unreached": unreached(mutants, of) if set(names) == set(modules) else [],
        "equivalents": [dataclasses.asdict(one) for one in _met(equivalents, of)],
    }
    written(report, given.out)
    for name, found in by_method(rows).items():
        print(
            f"{name:20} {sum(row['outcome'] != 'survived' for row in found):4} of {len(found):4}  {score(found):6.1%}"
        )
    print(f"{'all':20} {sum(row['outcome'] != 'survived' for row in rows):4} of {len(rows):4}  {score(rows):6.1%}")
    return 0


def _met(equivalents: Iterable[Equivalent], of: Mapping[str, Baseline]) -> list[Equivalent]:
    """Return the equivalents in files that the methods of this run execute."""
    ran = {file for baseline in of.values() for file in baseline.lines}
    return [one for one in equivalents if one.file in ran]


def _commit() -> str:
    def said(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=False
        ).stdout.strip()

    return said("rev-parse", "--short", "HEAD") + (
        " with changes" if said("status", "--porcelain", "metabench") else ""
    )


if __name__ == "__main__":
    sys.exit(main())
