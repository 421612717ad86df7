"""Kernels of finite networks: products of the derivatives of their outputs by their parameters, as the parameters are.

Theta(x, y) = J(x) J(y)' with J(x) = df(x)/dw (Jacot et al. 2018). There are two ways to it, both exact. *Jacobians* computes J of every
input and multiplies them, which needs inputs x outputs x parameters numbers at once. *Products* never has a Jacobian: J' e for a unit
vector e is a backward pass and J v a forward one, so Theta is computed column by column (Novak, Sohl-Dickstein & Schoenholz 2022 compare
these and others). The first is faster; the second needs one copy of the parameters per column in work. The bytes of either are
predicted before it starts, from the shapes and from what one forward pass of one input makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from metabench.core.errors import MetabenchError, unknown
from metabench.core.lazy import torch
from metabench.core.types import Tree
from metabench.kernels.dense import Kernels

Network: TypeAlias = "Callable[[Tree, torch.Tensor], torch.Tensor]"
"""From parameters and inputs [n, ...] to outputs, shape [n] or [n, outputs]."""
Way: TypeAlias = Literal["jacobians", "products"]
Outputs: TypeAlias = Literal["mean", "sum", "full"]

BUDGET = 2**30
"""Bytes that a kernel may take, unless others are given."""
ROUNDED = 1e-4
"""By as much of the largest output, two that ought to agree may differ, rounded in float32."""


@dataclass(frozen=True)
class Empirical:
    """The kernels of a network at given parameters.

    Attributes:
        network: as above; an output depends on its own input alone.
        params: where derivatives are taken.
        head: names of the last layer's parameters, in which outputs are affine; the NNGP is of them.
        outputs: 'mean' or 'sum' over k of <df_k(x)/dw, df_k(y)/dw>, or 'full': <df_k(x)/dw, df_l(y)/dw> for all k, l.
        way: 'jacobians', 'products', or None: the former where its predicted bytes fit the budget, else the latter.
        budget: bytes that a kernel may take beyond parameters and inputs.
    """

    network: Network
    params: Tree
    head: Sequence[str] = ()
    outputs: Outputs = "mean"
    way: Way | None = None
    budget: int = BUDGET

    def __post_init__(self) -> None:
        """Raise MetabenchError where a name is unknown or there are no parameters."""
        if not self.params:
            raise MetabenchError("an empirical kernel of a network without parameters: expected a tensor or more")
        for name in self.head:
            if name not in self.params:
                raise unknown("parameter of the head", name, self.params)
        for kind, given, known in (
            ("sum over outputs", self.outputs, Outputs),
            ("way to an empirical kernel", self.way, Way),
        ):
            if given is not None and given not in get_args(known):
                raise unknown(kind, given, get_args(known))

    def kernels(self, rows: torch.Tensor, columns: torch.Tensor | None = None) -> Kernels:
        """Return both kernels of all pairs of inputs, as a meta kernel wants them; without a head, the tangent kernel as both.

        Raises:
            MetabenchError: as `ntk` and `nngp`.
        """
        tangent = self.ntk(rows, columns)
        return Kernels(self.nngp(rows, columns) if self.head else tangent, tangent)

    def ntk(self, rows: torch.Tensor, columns: torch.Tensor | None = None) -> torch.Tensor:
        """Return the tangent kernel of inputs [n, ...] and [m, ...], by default rows: [n, m], or [n, m, outputs, outputs] where full.

        Raises:
            MetabenchError: outputs have other shapes than [n] or [n, outputs], or depend on the inputs beside their own; the budget is
                too small.
        """
        return self._of(tuple(self.params), rows, columns)

    def nngp(self, rows: torch.Tensor, columns: torch.Tensor | None = None) -> torch.Tensor:
        """Return the part of the tangent kernel that is of the head, in the shape of `ntk`.

        For outputs W_std / sqrt(width) W h(x) + b_std b it is W_std^2 / width h(x)'h(y) + b_std^2, which tends to the NNGP.

        Raises:
            MetabenchError: the head is not named, outputs are not affine in it, or as `ntk`.
        """
        if not self.head:
            raise MetabenchError(
                "the NNGP of a finite network is of its last layer: name that layer's parameters in `head`"
            )
        with torch.no_grad():
            scaled = ({name: factor * self.params[name] for name in self.head} for factor in (0, 1, 2))
            none, once, twice = (self.network({**self.params, **head}, rows) for head in scaled)
        if bool((none + twice - 2 * once).abs().max() > ROUNDED * twice.abs().max()):
            raise MetabenchError(
                f"outputs are not affine in {', '.join(self.head)}: `head` names the last layer, which nothing follows"
            )
        return self._of(tuple(self.head), rows, columns)

    def predicted_bytes(self, way: Way, rows: torch.Tensor, columns: torch.Tensor | None = None) -> int:
        """Return the most bytes that the tangent kernel takes one way, beyond parameters and inputs; by products, the least it can do with.

        Raises:
            MetabenchError: as `ntk`, and the way is unknown.
        """
        if way not in get_args(Way):
            raise unknown("way to an empirical kernel", way, get_args(Way))
        made = self._made(tuple(self.params), rows, columns)
        return made.bytes_of_jacobians if way == "jacobians" else made.bytes_of_products(1)

    def _of(self, names: Sequence[str], rows: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
        made = self._made(names, rows, columns)
        needed = {"jacobians": made.bytes_of_jacobians, "products": made.bytes_of_products(1)}
        way = self.way or ("jacobians" if needed["jacobians"] <= self.budget else "products")
        if needed[way] > self.budget:
            raise MetabenchError(
                f"an empirical kernel of {made.rows_count} x {made.columns_count} inputs needs {needed[way]:,} bytes by {way}, and the "
                f"budget is {self.budget:,}: raise it, or compute fewer inputs at once"
            )
        return made.by_jacobians() if way == "jacobians" else made.by_products(self.budget)

    def _made(self, names: Sequence[str], rows: torch.Tensor, columns: torch.Tensor | None) -> _Derivatives:
        with torch.no_grad():
            whole, one = self.network(self.params, rows), self.network(self.params, rows[:1])
        if whole.dim() not in (1, 2) or len(whole) != len(rows):
            raise MetabenchError(
                f"a network with outputs of shape {tuple(whole.shape)} for {len(rows)} inputs has no kernel: expected [n] or [n, outputs]"
            )
        if bool((whole[:1] - one).abs().max() > ROUNDED * whole.abs().max()):
            raise MetabenchError(
                "the outputs of an input depend on the others in its batch, as with batch normalisation: a pair of inputs has no kernel; "
                "use another normalisation"
            )
        detached = {name: leaf.detach() for name, leaf in self.params.items()}
        return _Derivatives(
            self.network,
            {name: detached[name] for name in names},
            detached,
            self.outputs,
            rows,
            None if columns is rows else columns,
            whole[:1].numel(),
            _bytes_made(lambda: self.network(detached, rows[:1])),
        )


@dataclass(frozen=True)
class _Derivatives:
    """What a kernel is made of: `varied` parameters are differentiated by, `params` has all; `forward_bytes` is of one input."""

    network: Network
    varied: Tree
    params: Tree
    outputs: Outputs
    rows: torch.Tensor
    columns: torch.Tensor | None
    count: int
    forward_bytes: int

    @property
    def rows_count(self) -> int:
        return len(self.rows)

    @property
    def columns_count(self) -> int:
        return len(self.rows if self.columns is None else self.columns)

    @property
    def _kernel_bytes(self) -> int:
        each = next(iter(self.varied.values())).element_size()
        return self.rows_count * self.columns_count * each * (self.count**2 if self.outputs == "full" else 1)

    @property
    def bytes_of_jacobians(self) -> int:
        """The Jacobians, the values of a forward pass of one side, and per output those of a backward pass, as many at most."""
        sizes = [leaf.numel() * leaf.element_size() for leaf in self.varied.values()]
        sides = [self.rows_count] + ([] if self.columns is None else [self.columns_count])
        inputs = sum(sides)
        # A product of parts is as large as the kernel, and is added to it.
        passes = (self.count + 1) * max(sides) * self.forward_bytes
        # torch permutes the derivative by the kernel of a convolution, into a copy.
        copied = max(
            (size for size, leaf in zip(sizes, self.varied.values(), strict=True) if leaf.dim() > 2), default=0
        )
        return self.count * (inputs * sum(sizes) + max(sides) * copied) + passes + 2 * self._kernel_bytes

    def bytes_of_products(self, at_once: int) -> int:
        """Return those of a number of columns at once: of each a gradient, values and tangents of all rows, and those of its own input."""
        sizes = sum(leaf.numel() * leaf.element_size() for leaf in self.varied.values())
        return self._kernel_bytes + at_once * (sizes + 2 * (self.rows_count + 1) * self.forward_bytes)

    def by_jacobians(self) -> torch.Tensor:
        """Return the kernel as a sum over parameters of products of Jacobians."""
        left = self._jacobian(self.rows)
        right = left if self.columns is None else self._jacobian(self.columns)
        found: torch.Tensor | None = None
        for name in self.varied:
            a, b = left[name], right[name]
            if self.outputs == "full":
                part = (
                    (a.flatten(0, 1) @ b.flatten(0, 1).mT)
                    .unflatten(0, a.shape[:2])
                    .unflatten(2, b.shape[:2])
                    .transpose(1, 2)
                )
            else:
                part = a.flatten(1) @ b.flatten(1).mT
            found = part if found is None else found.add_(part)
        assert found is not None
        return found.div_(self.count) if self.outputs == "mean" else found

    def _jacobian(self, inputs: torch.Tensor) -> Tree:
        """Return df/dw by name, shape [n, outputs, size of w] each."""

        def one(varied: Tree, alone: torch.Tensor) -> torch.Tensor:
            return self._call(varied, alone.unsqueeze(0))[0]

        found = torch.func.vmap(torch.func.jacrev(one), (None, 0))(self.varied, inputs)
        return {name: found.pop(name).reshape(len(inputs), self.count, -1) for name in self.varied}

    def by_products(self, budget: int) -> torch.Tensor:
        """Return the kernel by columns, with as many at once as fit the budget."""
        each = self.bytes_of_products(2) - self.bytes_of_products(1)
        at_once = max(1, 1 + (budget - self.bytes_of_products(1)) // each)
        columns = self.rows if self.columns is None else self.columns
        shape = (self.rows_count, len(columns)) + ((self.count, self.count) if self.outputs == "full" else ())
        leaf = next(iter(self.varied.values()))
        found = torch.zeros(shape, dtype=leaf.dtype, device=leaf.device)
        for unit in torch.eye(self.count, dtype=leaf.dtype, device=leaf.device).unbind():
            k = int(unit.argmax())
            for place, part in self._columns(unit, columns, at_once):
                if self.outputs == "full":
                    found[:, place, :, k] = part.transpose(0, 1)
                else:
                    found[:, place] += part[:, :, k].mT
        return found.div_(self.count) if self.outputs == "mean" else found

    def _columns(self, unit: torch.Tensor, columns: torch.Tensor, at_once: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield places of columns, and J(rows) J(column)' e for each, shape [columns, n, outputs]."""

        def product(alone: torch.Tensor) -> torch.Tensor:
            _, backward = torch.func.vjp(lambda varied: self._call(varied, alone.unsqueeze(0))[0], self.varied)
            (gradient,) = backward(unit)
            return torch.func.jvp(lambda varied: self._call(varied, self.rows), (self.varied,), (gradient,))[1]

        for first in range(0, len(columns), at_once):
            place = slice(first, first + at_once)
            yield place, torch.func.vmap(product)(columns[place])

    def _call(self, varied: Tree, inputs: torch.Tensor) -> torch.Tensor:
        return self.network({**self.params, **varied}, inputs).reshape(len(inputs), -1)


def _bytes_made(call: Callable[[], torch.Tensor]) -> int:
    """Return the bytes of every tensor that a call makes; views count nothing."""
    from torch.utils._python_dispatch import TorchDispatchMode

    total = 0

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
            nonlocal total
            result = operation(*arguments, **(named or {}))
            given = {one.untyped_storage()._cdata for one in arguments if isinstance(one, torch.Tensor)}
            for one in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(one, torch.Tensor) and one.untyped_storage()._cdata not in given:
                    total += one.numel() * one.element_size()
            return result

    with torch.no_grad(), Counting():
        call()
    return total
