"""Kernels of infinitely wide networks, and what gradient-based meta-learning becomes there."""
