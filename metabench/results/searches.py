"""Names of the numbers and curves that the kind of experiment `search` fills and the report draws."""

VALIDATION, TEST, REGRET = "validation of the net chosen (%)", "test of the net chosen (%)", "test regret (points)"
PARAMETERS = "parameters of the net chosen"
ADAPTATIONS, GRADIENTS, FLOPS = "inner runs", "gradients", "FLOPs"
COSTS = (ADAPTATIONS, GRADIENTS, FLOPS)
BEST = "validation of the best so far (%)"
OF_ENTRANT = (VALIDATION, TEST, REGRET, PARAMETERS, *COSTS)
"""Numbers of every entrant, means over its searches."""
TRAINING = "training of the shared weights"
RANKING, RANKING_LOW, RANKING_HIGH, RANKING_BEST = (
    "Kendall",
    "Kendall, 2.5 %",
    "Kendall, 97.5 %",
    "Kendall, best quarter",
)
SHARED, BY_PARAMETERS, CEILING = "shared weights", "number of parameters", "another seed of training"
RANKED = (SHARED, BY_PARAMETERS, CEILING)
"""What ranks nets as their test accuracy in the table does, more or less."""
BY_HAND = "largest net, by hand"
"""The net with the most parameters, for which nothing is searched."""


def of(entrant: str, name: str) -> str:
    """Return the name of an entrant's number or curve."""
    return f"{entrant}: {name}"


def entrants(names: object) -> list[str]:
    """Return the entrants whose numbers are among `names`, in their order."""
    assert hasattr(names, "__iter__")
    return list(dict.fromkeys(str(name).removesuffix(f": {TEST}") for name in names if str(name).endswith(f": {TEST}")))
