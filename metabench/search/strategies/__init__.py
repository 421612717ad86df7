"""Search strategies, one per file."""

# A listing finds them by file; imported here, they are there for whoever imports the package.
from metabench.search.strategies import (
    evolution,
    local_search,
    random_search,
    regularised_evolution,
    successive_halving,
)

__all__ = ["evolution", "local_search", "random_search", "regularised_evolution", "successive_halving"]
