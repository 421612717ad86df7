"""Search strategies, one per file."""

# Rows of searches depend on every strategy: their code hash follows imports.
from metabench.search.strategies import (
    evolution,
    local_search,
    random_search,
    regularised_evolution,
    successive_halving,
)

__all__ = ["evolution", "local_search", "random_search", "regularised_evolution", "successive_halving"]
