"""The standard words about intervals: nominal 95 %, and how much less they cover with few seeds."""

from __future__ import annotations

from metabench.results.statistics import APART_BY_CHANCE, CONFIDENCE, COVERAGE, MINIMUM_SEEDS

NOMINAL = f"nominal {CONFIDENCE * 100:.0f} %"
_COVERED = [f"{share * 100:.0f} % with {seeds}" for seeds, share in COVERAGE.items()]

# In captions: files of figures and tables are read without the page.
INTERVAL_WORDS = (
    f"{NOMINAL} bootstrap interval over seeds (percentile; on normal data it covers {', '.join(_COVERED)} seeds; "
    f"none below {MINIMUM_SEEDS})"
)

# In the glossary.
INTERVAL_CAUTION = (
    f"{NOMINAL} percentile bootstrap over seeds. With few seeds it is too short: on normal data it covers the mean in "
    f"{', '.join(_COVERED[:-1])} and {_COVERED[-1]} seeds, not in {CONFIDENCE * 100:.0f} % of cases. So intervals of three seeds "
    f"are disjoint by chance in about one of {1 / APART_BY_CHANCE:.0f} pairs of equal methods, and large tables contain some of them."
)
