"""Names of the curves that the kind of experiment `bound` fills and the report draws: a value for each family of tasks."""

FAMILY = "family of tasks"
BOUND, COMPLEXITY, TEST_ERROR = "bound", "complexity", "test error"
RANKS = "rank correlation of complexity and test error"


def with_tasks(name: str, tasks: int) -> str:
    """Return the name of a curve or number with N training tasks."""
    return f"{name}, {tasks} tasks"
