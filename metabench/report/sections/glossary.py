"""The words of the report, its statistics once, and the columns of its files."""

from __future__ import annotations

from metabench.report import numbers
from metabench.report.blocks import Facts
from metabench.report.palette import STATUS_WORDS
from metabench.report.results.entries import Suite
from metabench.report.section import Part, Section
from metabench.results.curves import CURVE_COLUMNS
from metabench.results.schema import COLUMNS
from metabench.results.typed import WORDS

WORDS_OF_THE_REPORT = (
    ("K", "inner steps per hypergradient"),
    (
        "[a, b]",
        "after a quality: its interval over seeds; after a time: the quartiles over repeats, as medians over seeds; "
        "after a ratio: smallest and largest",
    ),
    ("interval", numbers.INTERVAL_CAUTION),
    (
        "tie",
        "two intervals overlap, so these seeds do not show which is better; disjoint intervals are not proof either",
    ),
    (
        "mean draw",
        "the mean of a random method's hypergradients over its draws; a single draw's cosine may be mostly noise",
    ),
    (
        "exact",
        "the method is declared to compute its target exactly, up to rounding; the target itself may be an approximation. "
        "‡: its measured error exceeds rounding",
    ),
    ("Pareto front", "the methods that no other method beats on both quality and cost"),
)


def _parts(suite: Suite) -> list[Part]:
    blocks = [Facts(WORDS_OF_THE_REPORT, anchor="exact"), Facts(tuple(STATUS_WORDS.items()), "Statuses")]
    for name, columns in (
        ("results.parquet and results.csv", COLUMNS),
        ("curves.parquet and curves.csv", CURVE_COLUMNS),
    ):
        listed = [
            (column.name, f"{column.description} ({WORDS.get(column.type, str(column.type))})") for column in columns
        ]
        blocks.append(Facts(listed, f"Columns of {name}"))
    return [Part("glossary", "Glossary", blocks, folded=True)]


GLOSSARY = Section("glossary", "Glossary", _parts, order=90, module=__name__)
