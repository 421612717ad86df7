"""Publish a run of the default suite: copy its rows to results/reference/, render them, and bring the README in step.

python scripts/publish.py results/default    # after `snakemake --cores all`
python scripts/publish.py                    # render the README anew from the published rows
python scripts/publish.py --check            # exit 1 if the README is not what results/reference/ and the source give

The README's parts between `<!-- published: NAME -->` and `<!-- published: end -->` are made here, and so is the time that a run takes.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pandas as pd
import yaml

from metabench.papers import beside, papers
from metabench.report.build import build_figures, build_page, build_tables
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.load import load_suite
from metabench.report.results.outcomes import outcomes
from metabench.report.results.settings import Setting
from metabench.report.section import headline
from metabench.report.tables.setting import setting_table
from metabench.report.tables.table import DAGGER, DOUBLE_DAGGER, Cell, Table
from metabench.report.verdicts import Word, compare
from metabench.results.metadata import Metadata
from metabench.results.store import read_metadata, read_rows, rows_of
from metabench.suite.config.load import load_suite as load_config
from metabench.suite.plan.code_hash import code_hash
from metabench.suite.plan.plan import plan

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
README = ROOT / "README.md"
PART = re.compile(r"(<!-- published: (\w+) -->\n)(.*?)(<!-- published: end -->\n)", re.DOTALL)
TIME = re.compile(r"(?<=default suite \()\d+ minutes on \d+ cores(?=\))")
PROBLEM, FIGURES = (
    "label_noise",
    ("quality_cost-label_noise-fashion_mnist_10k", "scaling_size-label_noise-fashion_mnist_10k"),
)
COLUMNS = ("label", "quality", "best", "peak", "memory_ratio", "time", "time_ratio", "cosine")

HEADERS = {
    "peak": "peak memory",
    "memory_ratio": "memory / unrolled",
    "time": "time [quartiles]",
    "time_ratio": "time / unrolled",
    "cosine": "cosine with exact",
}
"""Headers that belong to groups on the page and appear without them here."""


def main() -> None:
    """Copy and render, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished run of the default suite")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the README is out of step")
    arguments = parser.parse_args()
    if arguments.check and arguments.run:
        parser.error("give either the folder of a run or --check")
    if arguments.run:
        copy(arguments.run)
    text = README.read_text(encoding="utf-8")
    wanted = rendered(text, REFERENCE / "results.parquet")
    if arguments.check:
        sys.exit(
            0
            if text == wanted
            else "README.md is out of step with the published rows or the source: run scripts/publish.py"
        )
    README.write_text(wanted, encoding="utf-8")


def copy(run: Path) -> None:
    """Copy the rows of a run and render them anew."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name in ("results.parquet", "results.csv", "curves.parquet", "times.parquet"):
        shutil.copyfile(run / name, REFERENCE / name)
    report = REFERENCE / "report"
    shutil.rmtree(report, ignore_errors=True)
    rows = REFERENCE / "results.parquet"
    build_tables(rows, report / "tables")
    build_figures(rows, report / "figures")
    build_page(rows, report)


def rendered(text: str, results: Path) -> str:
    """Return the README with every part that is published made from results.parquet."""
    rows, metadata = pd.DataFrame(rows_of(read_rows(results))), read_metadata(results)
    made = {
        "sentences": f"{sentences(rows, load_suite(results))}\n",
        "figures": "".join(f"![{name}](results/reference/report/figures/{name}.png)\n" for name in FIGURES),
        "table": table_with_caption(results) + changed_source(rows, current_hashes(metadata)),
    }
    if [part[2] for part in PART.finditer(text)] != list(made):
        sys.exit(f"README.md must have the published parts {', '.join(made)}, once each and in this order")
    text = PART.sub(lambda part: part[1] + made[part[2]] + part[4], text)
    return TIME.sub(time_taken(rows, metadata), text)


def sentences(rows: pd.DataFrame, suite: Suite) -> str:
    """Return the answer of the suite, then findings on the problem with networks: quality, memory, and the noise of times."""
    rows = rows[(rows.problem == PROBLEM) & (rows.status == "ok") & (rows.replicate == 0)]
    convolutional = rows[rows["size"].str.startswith("conv")]
    (evograd,) = (
        beside([papers()["evograd"]], rows)
        .query("what == 'memory' and data.str.startswith('CIFAR-10,') and settings > 0")
        .itertuples()
    )
    mixed = ratios(convolutional, "mixflow", "unrolled", "peak_bytes")
    small = rows[rows["size"].str.startswith("mlp")]
    others = sorted(set(small.method) - {"unrolled"})
    least = min(float(ratios(small, method, "unrolled", "peak_bytes").min()) for method in others)
    floors = [math.exp(one.floor.threshold) for one in outcomes(suite) if one.floor]
    return "\n".join(
        (
            headline(suite),
            gain(suite),
            f"On MLPs, where parameters outweigh activations, no method takes less than {math.floor(least * 100) / 100:.2f} times the "
            "memory of `unrolled`.",
            f"On convolutional networks EvoGrad takes {evograd.ours_low:.2f} to {evograd.ours_high:.2f} times the memory of `t1t2` "
            f"(its paper: {evograd.printed} with a {evograd.model}),",
            f"and mixed mode {mixed.min():.2f} to {mixed.max():.2f} times that of `unrolled`.",
            f"Times are noisy: the baseline runs twice, and ratios below {max(floors):.2f} are ties.",
        )
    )


def gain(suite: Suite) -> str:
    """Say which methods are better than no meta-learning on the problem with networks, and by how many points."""
    (outcome,) = (one for one in outcomes(suite) if one.setting.task.problem == PROBLEM and one.ranking)
    samples = {entry.label: entry.quality_by_seed for entry in outcome.entries}
    found = compare(samples, "none", higher_is_better=True)
    better = {label: one.difference.value for label, one in found.items() if one.word == Word.BETTER and one.difference}
    if not better:
        return "No method is told apart from training without a hypergradient."
    who = "Every method learns" if len(better) == len(found) else f"{named(better)} learn{'s' * (len(better) == 1)}"
    points = f"{min(better.values()):.1f} to {max(better.values()):.1f} points of accuracy"
    return f"{who} to discount the noise: {points} better than training without a hypergradient."


def ratios(rows: pd.DataFrame, method: str, against: str, column: str) -> pd.Series:
    """Return the ratio of two methods' medians over seeds, per experiment and size."""
    middle = rows.pivot_table(index=["experiment", "size"], columns="method", values=column, aggfunc="median")
    return (middle[method] / middle[against]).dropna()


def current_hashes(metadata: Metadata) -> dict[str, str]:
    """Return the code hash that the source gives each cell of the published suite now."""
    return {cell.hash: code_hash(cell) for cell in plan(load_config(yaml.safe_load(metadata.suite))).cells}


def changed_source(rows: pd.DataFrame, current: dict[str, str]) -> str:
    """Return a sentence that names the methods with rows older than the source that they depend on; empty if there are none."""
    changed = rows[rows.cell.map(current) != rows.code_hash]
    if changed.empty:
        return ""
    methods = list(dict.fromkeys(changed.method))
    every = rows.method.nunique()
    whose = (
        "every method"
        if len(methods) == every
        else named(methods)
        if len(methods) <= 3
        else f"{len(methods)} of {every} methods"
    )
    commits = ", ".join(sorted({commit[:7] for commit in changed.git_commit}))
    return f"\nRows of {whose} are older than their source (commit {commits}).\n"


def named(methods: Iterable[str]) -> str:
    """Write '`a`, `b` and `c`'."""
    *first, last = (f"`{method}`" for method in methods)
    return f"{', '.join(first)} and {last}" if first else last


def time_taken(rows: pd.DataFrame, metadata: Metadata) -> str:
    """Write '13 minutes on 2 cores': from the first cell's start to the collection of the rows."""
    seconds = (
        datetime.fromisoformat(metadata.created_at) - datetime.fromisoformat(rows.started_at.min())
    ).total_seconds()
    (hardware,) = set(rows.hardware)
    return f"{math.ceil(seconds / 60)} minutes on {hardware.rpartition(', ')[2]}"


def table_with_caption(results: Path) -> str:
    """Return the table of the problem with networks, with its caption and notes."""
    suite = load_suite(results)
    found = [
        (setting, entries)
        for setting, entries in suite.settings.items()
        if setting.task.problem == PROBLEM and any(entry.quality for entry in entries)
    ]
    ((setting, entries),) = found
    table = setting_table(suite, setting, entries)
    notes = "".join(f"\n{note}\n" for note in table.notes if note.startswith((DAGGER, DOUBLE_DAGGER)))
    return f"{markdown(table)}\n\n{caption(setting, entries, table)}\n{notes}"


def caption(setting: Setting, entries: list[Entry], table: Table) -> str:
    """Return the words under the table, shorter than those on the page."""
    seeds = " or ".join(map(str, sorted({entry.quality.n for entry in entries if entry.quality})))
    steps = " or ".join(map(str, sorted({entry.inner_steps for entry in entries})))
    return (
        f"Accuracy: mean and 95 % interval, n = {seeds} seeds; bold: not told apart from the best; =: the same computation. "
        f"One hypergradient, K = {steps}, {setting.place.dtype} on {setting.place.caption}. "
        f"Certificates: {table.certificates} [Every column](results/reference/report/index.html)."
    )


def markdown(table: Table) -> str:
    """Return the columns of COLUMNS as a Markdown table."""
    columns = [column for column in table.columns if column.key in COLUMNS]
    lines = [
        "| " + " | ".join(HEADERS.get(column.key, column.header) for column in columns) + " |",
        "|" + "|".join("---:" if column.numeric else "---" for column in columns) + "|",
    ]
    lines += ["| " + " | ".join(_text(row[column.key]) for column in columns) + " |" for row in table.rows]
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.tone == "best" else cell.text
    # A label may have words of its own below it.
    name = f"{cell.label}{cell.marks}"
    return " ".join(dict.fromkeys((name, text))) if cell.label else text


if __name__ == "__main__":
    main()
