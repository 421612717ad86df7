"""Names of the curves that the kind of experiment `slice` fills and the report draws."""

HYPERGRADIENT = "hypergradient"
MEAN = "hypergradient, mean"
DEVIATION = "hypergradient, standard deviation"
CLOSED_FORM = "closed form"
