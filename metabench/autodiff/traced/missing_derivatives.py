"""Operations that lack a derivative: which one, and in which layer, from torch's error message."""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from metabench.core.lazy import torch

_OPERATION = r"'?(?P<operation>(?:aten::)?[\w.]+)'?"

MISSING = (
    (rf"Trying to use forward AD with {_OPERATION} that does not support it", "'{}' has no forward-mode derivative"),
    (rf"derivative for {_OPERATION} is not implemented", "the derivative of '{}' is not implemented"),
    (rf"Batching rule not implemented for {_OPERATION}", "'{}' has no batching rule"),
    (r"the jvp function for custom autograd\.Function", "a custom autograd.Function has no forward-mode derivative"),
    (r"a function that was marked with @once_differentiable", "a custom autograd.Function has one derivative only"),
    (r"must override the setup_context staticmethod", "a custom autograd.Function does not work under torch.func"),
    (r"attempting to call Tensor\.requires_grad_\(\)", "torch.func does not take requires_grad_() inside a function"),
    (r"don't yet support saved tensor hooks", "torch.func does not work with saved-tensor hooks, as of checkpointing"),
)
"""Torch's messages for operations without a derivative or a batching rule, and what they mean for a method."""

_PACKAGE = Path(__file__).resolve().parents[1]

_INSTEAD = "set mixed_mode: false, or write the operation out in others"


def refusal(error: BaseException) -> tuple[str, str]:
    """Return what a torch operation lacks, in a few words, and its name; both empty for other errors."""
    if isinstance(error, RuntimeError):
        for pattern, words in MISSING:
            if found := re.search(pattern, str(error)):
                return words.format(*found.groups()), found.groupdict().get("operation", "")
    return "", ""


def refused_by_vmap(error: BaseException) -> bool:
    """Tell whether torch.func.vmap refuses a function: its control flow reads values, it writes in place, or an operation has no rule."""
    return bool(re.search(r"vmap|functorch|torch\.func|[Bb]atching rule", str(error)))


def missing_derivative(error: BaseException, run: Any, where: str) -> str:
    """Return one line about an operation that lacks a derivative, with the layer that calls it; empty for other errors.

    Args:
        error: what torch raised during differentiation.
        run: the function without derivatives, called again to locate the operation if the backward pass raised the error.
        where: the segment.
    """
    words, operation = refusal(error)
    if not words:
        return ""
    place = _place(error.__traceback__) or _place_of(operation, run)
    return f"mixed mode cannot take {where}: {words}{f' ({place})' if place else ''}; {_INSTEAD}"


def _place(trace: TracebackType | None) -> str:
    """Return the layer and line in which a traceback ends, outside torch and this package's derivatives."""
    frames = []
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return _described(frames)


def _described(frames: list[tuple[FrameType, int]]) -> str:
    # What lies before the last frame of this package called it; what lies behind is the segment.
    ours = [i for i, (frame, _) in enumerate(frames) if Path(frame.f_code.co_filename).resolve().is_relative_to(_PACKAGE)]
    frames = frames[ours[-1] + 1 if ours else 0 :]
    layers = [frame.f_locals["self"] for frame, _ in frames if isinstance(frame.f_locals.get("self"), torch.nn.Module)]
    layers = [layer for layer in layers if not isinstance(layer, torch.fx.GraphModule)]
    own = [(frame, line) for frame, line in frames if is_users(frame)]
    parts = []
    if layers:
        root, innermost = layers[0], layers[-1]
        name = next((name for name, part in root.named_modules() if part is innermost), "")
        parts.append(f"layer '{name}', a {type(innermost).__name__}" if name else f"a {type(innermost).__name__}")
    if own:
        frame, line = own[-1]
        source = linecache.getline(frame.f_code.co_filename, line).strip()
        parts.append(f"{Path(frame.f_code.co_filename).name}:{line}" + (f": {source}" if source else ""))
    return ", ".join(parts)


def _place_of(operation: str, run: Any) -> str:
    """Return where `run` calls the operation whose backward pass has the name `operation`."""
    import sys

    from torch.utils._python_dispatch import TorchDispatchMode

    wanted = _stem(operation)
    found: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not found and wanted and _stem(func._schema.name) == wanted:
                frame: FrameType | None = sys._getframe(1)
                frames = []
                while frame is not None:
                    frames.append((frame, frame.f_lineno))
                    frame = frame.f_back
                found.append(_described(frames[::-1]))
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():  # type: ignore[no-untyped-call]
        run()
    return found[0] if found else ""


def _stem(operation: str) -> str:
    """Return an operation's name without namespace and what marks a backward pass."""
    return re.sub(r"_backward(_data)?$", "", operation.split("::")[-1].split(".")[0]).strip("_")


def is_users(frame: FrameType) -> bool:
    """Tell whether a frame runs a Python file outside of torch."""
    path = Path(frame.f_code.co_filename)
    return "torch" not in path.parts and path.suffix == ".py" and path.is_file()
