"""Figures that papers published, one YAML file per paper, and this suite's own figures beside them."""

from metabench.papers.beside import beside
from metabench.papers.read import Comparable, Figure, Paper, Setting, Value, papers, read_paper

__all__ = ["Comparable", "Figure", "Paper", "Setting", "Value", "beside", "papers", "read_paper"]
