"""Kernels of infinitely wide MLPs: of their outputs as drawn (NNGP), and of their training (neural tangent kernel, NTK).

Lee et al. 2018 and Jacot et al. 2018; the parametrisations and their names are those of Novak et al. 2020 (neural-tangents).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.kernels.activations import Activation, Leaky, activation
from metabench.kernels.covariances import of_inputs


@dataclass(frozen=True)
class Kernels:
    """Kernels of one output g, shape [..., n, m] each.

    Attributes:
        nngp: E[g(x) g(y)] over draws of the network.
        ntk: <dg(x)/dw, dg(y)/dw>, the same for almost every draw.
    """

    nngp: torch.Tensor
    ntk: torch.Tensor


@dataclass(frozen=True)
class MLP:
    """An infinitely wide MLP with one output.

    A dense layer is x -> W_std / sqrt(fan-in) W x + b_std b with all weights from N(0, 1) ('ntk'), or x -> W x + b with weights from
    N(0, W_std^2 / fan-in) and N(0, b_std^2) ('standard'). Both are the same at the start, and train differently.

    Attributes:
        depth: hidden layers.
        activation: a name of `ACTIVATIONS`.
        W_std: standard deviation of weights, times the root of the fan-in.
        b_std: standard deviation of biases; 0: there are none.
        parametrisation: 'ntk' or 'standard'.
        widths: of the hidden layers, by which the standard parametrisation scales its tangent kernel; empty for 'ntk'.
    """

    depth: int = 1
    activation: str = "relu"
    W_std: float = 2**0.5
    b_std: float = 0.0
    parametrisation: Literal["ntk", "standard"] = "ntk"
    widths: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Raise MetabenchError where the options make no network."""
        if self.depth < 0 or self.W_std <= 0 or self.b_std < 0:
            raise MetabenchError(
                f"an MLP with depth {self.depth}, W_std {self.W_std:g} and b_std {self.b_std:g}: expected 0 or more layers, a "
                "W_std above 0 and a b_std of 0 or more"
            )
        if self.parametrisation not in ("ntk", "standard"):
            raise MetabenchError(f"parametrisation '{self.parametrisation}': expected 'ntk' or 'standard'")
        if (self.parametrisation == "standard") != (len(self.widths) == self.depth > 0):
            raise MetabenchError(
                f"parametrisation '{self.parametrisation}' with {len(self.widths)} widths for {self.depth} hidden layers: the standard one "
                "needs one for each, and 'ntk' none"
            )
        activation(self.activation)

    def kernels(self, rows: torch.Tensor, columns: torch.Tensor | None = None) -> Kernels:
        """Return the kernels of all pairs of inputs, shapes [..., n, dimensions] and [..., m, dimensions]; without columns, of rows.

        Activations other than of the ReLU family are computed in float64 for any dtype.

        Raises:
            MetabenchError: inputs are not finite or do not match; one is zero and there are no biases, so that its outputs vanish.
        """
        columns = rows if columns is None else columns
        between: Activation = activation(self.activation)
        wanted = rows.dtype
        if wanted.is_floating_point and not isinstance(between, Leaky):
            rows, columns = rows.double(), columns.double()
        values = of_inputs(rows, columns)
        if self.b_std == 0:
            for name, variances in (("first", values.rows), ("second", values.columns)):
                if bool((variances == 0).any()):
                    place = int((variances == 0).flatten().nonzero()[0, 0])
                    raise MetabenchError(
                        f"input {place} of the {name} ones is zero, and the network has no biases (b_std 0): its outputs vanish"
                    )
        tangents = torch.zeros_like(values.deficit)
        for layer, width in enumerate((rows.shape[-1], *(self.widths or [0] * self.depth))):
            if layer:
                values, slopes = between.after(values)
                tangents = tangents * slopes
            own = self._own(values.covariance, width)
            values = values.affine(self.W_std, self.b_std)
            tangents = self.W_std**2 * tangents + (values.covariance if own is None else own)
        return Kernels(values.covariance.to(wanted), tangents.to(wanted))

    def _own(self, covariance: torch.Tensor, width: int) -> torch.Tensor | None:
        """Return what a layer's own parameters contribute to the tangent kernel; None where it is the covariance after the layer."""
        if self.parametrisation == "ntk":
            return None
        return width * covariance + (1.0 if self.b_std else 0.0)
