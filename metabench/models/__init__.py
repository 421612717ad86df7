"""Networks as pairs of pure functions, each with its table of named sizes."""
