"""Derivatives of bilevel problems: gradients, second-order products, inner runs, and backward sweeps through them."""
