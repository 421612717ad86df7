"""Publish a run of the default suite: copy its rows to results/reference/, render them, and bring the README's figures in step.

python scripts/publish.py results/default    # after `snakemake --cores all`
python scripts/publish.py --check            # exit 1 if the README is not what results/reference/ gives
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from metabench.report import numbers
from metabench.report.build import build_figures, build_page, build_tables
from metabench.report.results.entries import Entry, Setting
from metabench.report.results.load import load_suite
from metabench.report.tables.setting import setting_table
from metabench.report.tables.table import Cell, Table

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
README = ROOT / "README.md"
BEGIN, END = "<!-- reference: begin -->\n", "<!-- reference: end -->\n"
PROBLEM, FIGURES = (
    "label_noise",
    ("quality_memory-label_noise-fashion_mnist_10k", "scaling_size-label_noise-fashion_mnist_10k"),
)
COLUMNS = ("label", "quality", "peak", "memory_ratio", "time", "time_ratio", "hypergradient_cosine")

HEADERS = {
    "peak": "peak memory",
    "memory_ratio": "memory / unrolled",
    "time": "time [quartiles]",
    "time_ratio": "time / unrolled",
    "hypergradient_cosine": "cosine with exact",
}
"""Headers that belong to groups on the page and appear without them here."""


def main() -> None:
    """Copy and render, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished run of the default suite")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the README is out of step")
    arguments = parser.parse_args()
    if arguments.check == bool(arguments.run):
        parser.error("give either the folder of a run or --check")
    if arguments.run:
        copy(arguments.run)
    text = README.read_text(encoding="utf-8")
    wanted = with_section(text, section(REFERENCE / "results.parquet"))
    if arguments.check:
        sys.exit(0 if text == wanted else "README.md is out of step: run scripts/publish.py on the run again")
    README.write_text(wanted, encoding="utf-8")


def copy(run: Path) -> None:
    """Copy the rows of a run and render them anew."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name in ("results.parquet", "results.csv", "curves.parquet"):
        shutil.copyfile(run / name, REFERENCE / name)
    report = REFERENCE / "report"
    shutil.rmtree(report, ignore_errors=True)
    rows = REFERENCE / "results.parquet"
    build_tables(rows, report / "tables")
    build_figures(rows, report / "figures")
    build_page(rows, report)


def section(rows: Path) -> str:
    """Return the README's section: the figures, and the table of the problem with networks."""
    suite = load_suite(rows)
    found = [
        (setting, entries)
        for setting, entries in suite.settings.items()
        if setting.task.problem == PROBLEM and any(entry.quality for entry in entries)
    ]
    ((setting, entries),) = found
    table = setting_table(suite, setting, entries)
    figures = "\n".join(f"![{name}](results/reference/report/figures/{name}.png)" for name in FIGURES)
    notes = "".join(f"\n{note}\n" for note in table.notes)
    return f"{figures}\n\n{markdown(table)}\n\n{caption(setting, entries, table)}\n{notes}"


def caption(setting: Setting, entries: list[Entry], table: Table) -> str:
    """Return the words under the table, shorter than those on the page."""
    counts = sorted({entry.quality.n for entry in entries if entry.quality})
    seeds = " or ".join(map(str, counts))
    steps = " or ".join(map(str, sorted({entry.inner_steps for entry in entries})))
    sampled = [
        f"`{entry.method}`: one draw ± standard deviation over {entry.samples} samples per seed. "
        for entry in entries
        if entry.draws
    ]
    return (
        f"Accuracy: mean and {numbers.INTERVAL_WORDS}, n = {seeds}; "
        f"bold: the best, and methods whose interval overlaps it. Memory and time: one hypergradient, K = {steps}, "
        f"{setting.place.dtype} on {setting.place.caption}. {''.join(dict.fromkeys(sampled))}"
        f"Certificates: {table.certificates} [Every column, with the full caption](results/reference/report/index.html)."
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
    return text + cell.marks


def with_section(text: str, section: str) -> str:
    """Return the README with `section` between its two marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + section + END + rest.split(END)[1]


if __name__ == "__main__":
    main()
