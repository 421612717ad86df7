"""metabench: hypergradient methods, certified, measured and compared."""

__version__ = "0.1.0"
