"""Derivatives of bilevel problems: gradients, second-order products, inner runs, and sweeps back through them."""
