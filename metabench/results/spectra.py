"""Names of what rows of the kind 'spectrum' hold."""

EIGENVALUES = "eigenvalues"
LEAST, LARGEST, ASYMMETRY = "least real part", "largest modulus", "asymmetry"
