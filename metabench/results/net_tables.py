"""Names of the numbers and curves that the kind of experiment `net_table` fills and the report draws."""

TABLE_PART, TABLE_FILE = "table", "table.xz"
"""The part of a cell that is its table, and the file."""
NETS, BYTES = "nets", "bytes of the file"
MEAN, SPREAD, BEST, CHOSEN = (
    "test, mean over nets (%)",
    "test, sd over nets (points)",
    "test of the best net (%)",
    "test of the net that is best on validation (%)",
)
PIXELS, QUARTER = "test of the nearest pixels (%)", "best quarter above pixels (points)"
SECONDS = "seconds to train a net"
ADDITIVE = "R2 of a ridge on one-hot operations"
KENDALL, KENDALL_LOW, KENDALL_HIGH, KENDALL_BEST = (
    "Kendall",
    "Kendall, 2.5 %",
    "Kendall, 97.5 %",
    "Kendall, best quarter",
)
STEPS = "test accuracy against steps of adaptation"


def shards_part(number: int) -> str:
    """Return the name of the part that is one of the jobs that train nets."""
    return f"shards-{number}"


def of(ranking: str, name: str) -> str:
    """Return the name of a number that tells how two rankings agree."""
    return f"{ranking}: {name}"


def rankings(names: object) -> list[str]:
    """Return the rankings whose numbers are among `names`, in their order."""
    assert hasattr(names, "__iter__")
    ending = f": {KENDALL}"
    return list(dict.fromkeys(str(name).removesuffix(ending) for name in names if str(name).endswith(ending)))
