"""Show the map that a method's hypergradient is near the initial meta-parameters: whether descent along it converges, and how fast."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.core import option
from metabench.core.kind import Kind
from metabench.results.spectra import EIGENVALUES
from metabench.stages.spectrum import spectrum
from metabench.stages.well_posed import SIZES, well_posed


@dataclass(frozen=True)
class Options:
    """Options of the kind `spectrum`."""

    most: int = option(500, minimum=1, help="most meta-parameters: each takes two hypergradients for each task")


SPECTRUM = Kind(
    name="spectrum",
    title="eigenvalues of the derivative of a method's hypergradient by the meta-parameters, at the initial ones",
    stages=(well_posed, spectrum),
    columns=(*SIZES, "curves", "meta_summary"),
    curves={EIGENVALUES: "imaginary against real parts"},
    options=Options,
    module=__name__,
    order=5,
)
