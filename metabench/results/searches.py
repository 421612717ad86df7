"""Names of the numbers and curves that the kind of experiment `search` fills and the report draws."""

SUPERNET, TABLE, TRAIN = FITNESSES = ("supernet", "table", "train")
"""What judges nets."""
META, JOINT, JOINT_META, UNTRAINED = WAYS = ("meta", "joint", "joint_meta", "untrained")
"""To shared weights."""

VALIDATION, TEST, REGRET = "validation of the net chosen (%)", "test of the net chosen (%)", "test regret (points)"
PARAMETERS = "parameters of the net chosen"
ADAPTATIONS, GRADIENTS, FLOPS = "inner runs", "gradients", "FLOPs"
BEST = "validation of the best so far (%)"
RANDOM = "random"
"""Random search, with which every entrant is compared."""
FEWEST_PAIRS = 3
"""Searches of one row, from which on their differences to random search are kept."""
TRAINING = "training of the shared weights"
SHARED = "shared weights"
"""What ranks nets, beside what the table itself can say: see `net_tables`."""
STEPS = "test against steps of adaptation (%)"
OWN, AVERAGE = "test of a net chosen by each task (%)", "test of the net best on average (%)"
NEW_TASKS = "new tasks"
"""Searches of new tasks' own, beside the net that is best on average."""
BY_HAND = "largest net, by hand"
"""The net with the most parameters, for which nothing is searched."""

SHARED_PART, SHARED_FILE = "shared-weights", "weights.pt"
"""The part of a cell that is its shared weights, and their file."""


def round_part(island: int, number: int) -> str:
    """Return the name of the part that is a round of an island."""
    return f"island-{island}-round-{number}"


def island_and_round(part: str) -> tuple[int, int]:
    """Return the island and the round of a part."""
    _, island, _, number = part.split("-")
    return int(island), int(number)


def above(name: str, other: str = RANDOM) -> tuple[str, str, str, str]:
    """Return the names of what is kept of an entrant's differences to another, search by search: mean, half interval, won, lost."""
    start = f"{name} above {other}"
    return f"{start}, mean", f"{start}, 95 % interval", f"{start}, won", f"{start}, lost"


def of(entrant: str, name: str) -> str:
    """Return the name of an entrant's number or curve."""
    return f"{entrant}: {name}"


def entrants(names: object) -> list[str]:
    """Return the entrants whose numbers are among `names`, in their order."""
    assert hasattr(names, "__iter__")
    return list(dict.fromkeys(str(name).removesuffix(f": {TEST}") for name in names if str(name).endswith(f": {TEST}")))
