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
        "after a quality: its interval over seeds; after a time: the quartiles over rounds, as medians over seeds; "
        "after anything else: smallest and largest",
    ),
    ("interval", numbers.INTERVAL_CAUTION),
    (
        "better, worse",
        "a paired t test at 5 % over shared seeds, adjusted by Holm for the methods of the setting, tells the difference apart from 0",
    ),
    (
        "not told apart by n seeds",
        "it is not: more seeds may tell them apart; fewer than three seeds give values and no verdict",
    ),
    ("the same to the digit", "equal on every shared seed"),
    ("=", "the same computation: equal bytes, and a hypergradient equal to the bit, on every seed; shown as one"),
    (
        "faster, slower, a tie",
        "the baseline runs twice, in two processes, in every setting. A ratio of times is a tie unless it is larger than what these pairs "
        "differ by, with a margin for the number of comparisons, and than 15 %; it is written with the digits that this leaves",
    ),
    (
        "tried",
        "of several options of a method, those with the least outer loss late in training stand for it; test data choose nothing",
    ),
    (
        "mean draw",
        "the mean of a random method's hypergradients over its draws; the error of single draws includes noise and scale",
    ),
    (
        "exact",
        "the method is declared to compute its target exactly, up to rounding; the target itself may be an approximation. "
        "‡: its measured error exceeds rounding",
    ),
    ("Pareto front", "the methods that no other method beats on both mean quality and cost; other seeds may change it"),
    (
        "training time",
        "the seconds of a run, beside which others may have run on the other cores: it tells apart methods that differ by much",
    ),
    ("band", "from the least to the greatest seed; of a single seed, its quartiles over tasks"),
    (
        "b, per step",
        "the exponent of y = a xᵇ, and the slope of a line, by least squares, ± standard error; not fitted below four places",
    ),
    ("strip", "runs without a result, or values that are zero up to rounding"),
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
