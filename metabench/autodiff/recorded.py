"""Whether the derivative that autograd records of a loss is its true derivative.

A loss is a function, and its derivative is that of its values. `detach()`, `torch.no_grad()`, numbers taken out of tensors and
straight-through estimators make autograd record another: what is stopped counts as a constant, at every order, forward and backward. All
methods that use autograd then agree on a hypergradient that is not that of training, and difference methods agree on another.
A problem that intends this declares `stops_gradients = True`.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from metabench.autodiff.gradients import gradients
from metabench.autodiff.traced.missing_derivatives import is_users, refusal
from metabench.core import tree
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.randomness import generator, perturbation
from metabench.core.types import Batch, Tree

VALUE_WIDTH, GRADIENT_WIDTH = 1e-5, 1e-7
"""Of the differences of values and of gradients, over the norm of the point. A kink between two points leaves a slope of values nearly
as it is, and makes one of gradients meaningless: hence the narrower width."""

NEARER = (16, 256, 4096)
"""By what the width of values is divided where they disagree with the slope, as long as rounding allows."""

TOLERANCE = 1e-4
"""Relative disagreement of a slope with differences: rounding and curvature leave 1e-6 in float64."""

Loss: TypeAlias = "Callable[[Tree, Tree, Batch], torch.Tensor]"


def check_recorded(what: str, loss: Loss, params: Tree, meta: Tree, batch: Batch) -> None:
    """Raise MetabenchError if the recorded derivative of a loss, or of its gradient, is not that of its values; name what stops it.

    Along a direction of (params, meta) inclined towards the gradient, and of each alone, values are compared with a slope; then gradients
    with a Hessian product. Only in float64: in other dtypes rounding would hide a stop, and nothing is checked. The product is skipped if
    an operation has no second derivative; methods that need it report that.
    """
    if any(leaf.dtype is not torch.float64 for leaf in (*params.values(), *meta.values()) if leaf.is_floating_point()):
        return
    names = (list(params), list(meta))
    point = {f"w {name}": leaf for name, leaf in params.items()} | {f"l {name}": leaf for name, leaf in meta.items()}

    def value(at: Tree) -> torch.Tensor:
        return loss({name: at[f"w {name}"] for name in names[0]}, {name: at[f"l {name}"] for name in names[1]}, batch)

    def slope(at: Tree) -> Tree:
        leaves = tree.leaves_for_grad(at)
        with torch.enable_grad():
            return gradients(value(leaves), [leaves])[0]

    recorded = slope(point)
    noise = perturbation(point, "gaussian", generator(0, "recorded derivative"))
    size = max(1.0, float(tree.norm(point)))
    # Each block by itself, too: beside a million parameters a few meta-parameters weigh nothing.
    for block in ("", "w ", "l "):
        direction = _sum_of_units(_only(recorded, block), _only(noise, block))
        found = float(tree.dot(recorded, direction))

        def along(by: float, direction: Tree = direction) -> float:
            with torch.no_grad():
                return float(value(tree.add_scaled(point, by, direction)))

        expected = _difference(along, size * VALUE_WIDTH, found)
        if expected is not None and _apart(found, expected):
            # Across the many kinks of a wide ReLU network two widths may agree by chance. What is stopped is so at every width.
            widths = (size * VALUE_WIDTH / factor for factor in NEARER)
            nearer = (_difference(along, width, found) for width in widths)
            if any(one is not None and not _apart(found, one) for one in nearer):
                continue
            raise MetabenchError(
                _words(f"{what} changes by {expected:.6g} and its recorded derivative is {found:.6g}", value, point)
            )

    direction = _sum_of_units(recorded, noise)
    leaves = tree.leaves_for_grad(point)
    try:
        with torch.enable_grad():
            (graph,) = gradients(value(leaves), [leaves], create_graph=True)
            (product,) = gradients(list(graph.values()), [leaves], list(direction.values()))
    except RuntimeError as error:
        if refusal(error)[0]:
            return
        raise
    leaning = _sum_of_units(product, noise)
    found = float(tree.dot(product, leaning))

    def slope_along(by: float) -> float:
        return float(tree.dot(slope(tree.add_scaled(point, by, direction)), leaning))

    expected = _difference(slope_along, size * GRADIENT_WIDTH, found)
    if expected is not None and _apart(found, expected):
        said = f"the gradient of {what} changes by {expected:.6g} and its recorded derivative is {found:.6g}"
        raise MetabenchError(_words(said, value, point))


def _difference(function: Callable[[float], float], width: float, found: float) -> float | None:
    """Return the derivative of `function` at 0 by central differences, to compare `found` with; None if they are inconclusive.

    They are if two widths disagree, as with rounding or across a kink; if the point itself is a kink, whose two sides differ by the same
    amount at every width; or if the loss refuses neighbouring points.
    """
    widths = (width, width / 4)
    try:
        middle, values = function(0.0), [(function(by), function(-by)) for by in widths]
    except Exception:  # somebody else's loss, and nothing asks it to be defined there
        return None
    wide, narrow = ((high - low) / (2 * by) for (high, low), by in zip(values, widths, strict=True))
    scale = max(abs(found), abs(narrow))
    largest = max(abs(middle), *(abs(side) for pair in values for side in pair))
    rounding = torch.finfo(torch.float64).eps * largest / widths[1]
    bend_wide, bend_narrow = (
        abs(high - 2 * middle + low) / by for (high, low), by in zip(values, widths, strict=True)
    )
    is_kink = bend_narrow > TOLERANCE * scale and bend_wide < 2 * bend_narrow
    if rounding > TOLERANCE / 4 * scale or is_kink or abs(wide - narrow) > TOLERANCE / 4 * abs(narrow):
        return None
    return narrow


def _only(leaves: Tree, block: str) -> Tree:
    """Return the leaves whose names begin with `block`, and zeros for the others."""
    return {name: leaf if name.startswith(block) else torch.zeros_like(leaf) for name, leaf in leaves.items()}


def _sum_of_units(one: Tree, other: Tree) -> Tree:
    """Return the sum of two trees, each scaled to norm 1; a zero stays zero."""
    scaled = [tree.scale(1 / size if (size := float(tree.norm(leaves))) else 0.0, leaves) for leaves in (one, other)]
    return tree.add(*scaled)


def _apart(found: float, expected: float) -> bool:
    """Tell whether a slope and a difference, accurate to a quarter of the tolerance, disagree."""
    return abs(found - expected) > TOLERANCE * max(abs(found), abs(expected))


def _words(said: str, value: Callable[[Tree], torch.Tensor], point: Tree) -> str:
    stop = stopped_at(lambda: value(tree.leaves_for_grad(point)))
    named = f": {stop} stops it" if stop else ": an operation of its own has a backward pass that is not its derivative"
    return (
        f"along one direction {said}{named}. Methods would not estimate the hypergradient of training. Let the derivative through, or, if "
        "the problem means what is stopped to count as a constant, declare stops_gradients = True"
    )


_STOPS = {
    "detach": "detach()",
    "detach_": "detach_()",
    "item": "item()",
    "tolist": "tolist()",
    "numpy": "numpy()",
    "__float__": "float()",
    "__array__": "numpy()",
    "round": "round()",
    "sign": "sign()",
    "floor": "floor()",
    "ceil": "ceil()",
    "argmax": "argmax()",
}
"""Calls that lose or zero a derivative, and how they are written."""


def stopped_at(run: Callable[[], Any]) -> str:
    """Return what in `run` prevents a derivative from being recorded, with its place: 'detach() (mine.py:12: ...)'; empty if unseen."""
    from torch.overrides import TorchFunctionMode

    found: list[tuple[int, str]] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            if func is torch._C._set_grad_enabled and not args[0]:
                found.append((0, f"torch.no_grad(){_place()}"))
            elif args and isinstance(args[0], torch.Tensor) and args[0].requires_grad:
                if name in ("detach", "detach_") or func == torch.Tensor.data.__get__:
                    found.append((0, f"{_STOPS.get(name, '.data')}{_place()}"))
                elif name in _STOPS:
                    found.append((1, f"{_STOPS[name]}{_place()}"))
            return func(*args, **(kwargs or {}))

    with torch.enable_grad(), Watch():
        run()
    return min(found, key=lambda one: one[0])[1] if found else ""


def _place() -> str:
    """Return the user's current line, in parentheses."""
    frame: FrameType | None = sys._getframe(2)
    own = Path(__file__).resolve()
    while frame is not None:
        if is_users(frame) and Path(frame.f_code.co_filename).resolve() != own:
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            return f" ({Path(frame.f_code.co_filename).name}:{frame.f_lineno}: {line})"
        frame = frame.f_back
    return ""
