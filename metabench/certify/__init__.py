"""Certification: what each method's hypergradient is, checked in float64 on small problems with known answers."""

from metabench.certify.cases import Case
from metabench.certify.run import certificate_rows, certify, failures

__all__ = ["Case", "certificate_rows", "certify", "failures"]
