"""metabench: hypergradient methods, certified, measured and compared."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Return a name that `metabench.library` exports, or `metabench.learned`.

    `import metabench` alone loads none of it, and the command line never does.
    """
    import importlib

    # Only words of the library: `from metabench import data` first asks here, and then for the module.
    # By name, not as a statement: what the package imports would count as source of every cell.
    if name in _EXPORTED:
        return getattr(importlib.import_module("metabench.library"), name)
    if name == "learned":
        return importlib.import_module("metabench.learned")
    raise AttributeError(f"module 'metabench' has no attribute '{name}'")


_EXPORTED = (
    "SGD",
    "Adam",
    "Cosine",
    "MetabenchError",
    "Momentum",
    "PerParameter",
    "Piecewise",
    "RMSprop",
    "Result",
    "WarmUp",
    "compare",
    "hypergradient",
    "scheduled",
)
