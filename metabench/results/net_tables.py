"""Names of the numbers and curves that the kind of experiment `net_table` fills and the report draws."""

SHIPPED, SHIPPED_TABLE = "shipped", "few_shot_table"
"""The way of the table that ships, which is made no more, and its data set."""
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
OF_RANKING = (KENDALL, KENDALL_LOW, KENDALL_HIGH, KENDALL_BEST)
BY_PARAMETERS, BY_FLOPS = "number of parameters", "FLOPs"
FITTED = "ridge on {count} nets trained from nothing"
OTHER_SEEDS, ANOTHER_SEED = "one seed of training, the others", "one seed of training, another"
VALIDATION_TASKS, HALVES = "validation tasks, test tasks", "one half of the test tasks, the other"
OF_ITSELF = (OTHER_SEEDS, ANOTHER_SEED, VALIDATION_TASKS, HALVES)
"""Two rankings by the table itself, each with its noise."""
GAIN, GAIN_HALF, TASKS = "above the net chosen for all (points)", "95 % interval (points)", "tasks"
SEEDS, VALIDATION_COUNT, TEST_COUNT = "seeds of training", "validation tasks", "test tasks"
_OF_DOMAIN = "best for "
STEPS = "test accuracy against steps of adaptation"


def shards_part(number: int) -> str:
    """Return the name of the part that is one of the jobs that train nets."""
    return f"shards-{number}"


def of(ranking: str, name: str) -> str:
    """Return the name of a number that tells how two rankings agree."""
    return f"{ranking}: {name}"


def of_domain(domain: str, net: str, name: str) -> str:
    """Return the name of a number of a domain and the net that is best there."""
    return f"{_OF_DOMAIN}{domain}, {net}: {name}"


def domains(names: object) -> list[tuple[str, str]]:
    """Return the domains and their best nets whose numbers are among `names`, in their order."""
    assert hasattr(names, "__iter__")
    ending = f": {GAIN}"
    told = [str(name).removesuffix(ending).removeprefix(_OF_DOMAIN) for name in names if str(name).endswith(ending)]
    return [(domain, net) for domain, _, net in (one.rpartition(", ") for one in told)]


def rankings(names: object) -> list[str]:
    """Return the rankings whose numbers are among `names`, in their order."""
    assert hasattr(names, "__iter__")
    ending = f": {KENDALL}"
    return list(dict.fromkeys(str(name).removesuffix(ending) for name in names if str(name).endswith(ending)))
