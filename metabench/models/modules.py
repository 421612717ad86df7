"""A `torch.nn.Module` as a pure function of its parameters, for reusing existing networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.types import Tree


def as_function(
    module: torch.nn.Module, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[Tree, Callable[..., Any]]:
    """Return (params, function): function(params, *inputs) is the module's output for inputs, with these parameters in place of its own.

    The tree holds the parameters that require gradients, detached, by their names in the module; one used in several places
    (tied weights) appears once, under its first name. Frozen parameters and buffers are constants. The function keeps the module's
    mode, training or evaluation. Scaled dot-product attention is computed by its formula, because the fused kernels have only one
    derivative.

    device, dtype: of the parameters and of buffers of real numbers; by default those of the module, which stays as it is. Give them here:
    the module's own `to` fails where memory is predicted, on tensors without memory.

    A module draws its own initial parameters from torch's global random numbers. In a problem, build it with these set by the seed:

        with torch.random.fork_rng():
            torch.manual_seed(stream_seed(setting.seed, "initial params"))
            params, network = as_function(Network(), setting.device, setting.dtype)

    Raises:
        MetabenchError: a part of the module is not a function of parameters and inputs (active dropout, running statistics), has
            no second derivative, or has no parameters yet; the message names the part and an alternative. The function raises it
            if a call changes a buffer.
    """
    for name, part in module.named_modules():
        if reason := _refusal(part, device):
            where = f"'{name}' ({type(part).__name__})" if name else f"a {type(part).__name__}"
            raise MetabenchError(f"the module cannot be a function of its parameters: {where} {reason}")
    parameters = dict(module.named_parameters())
    params = {name: _placed(leaf, device, dtype) for name, leaf in parameters.items() if leaf.requires_grad}
    if not params:
        raise MetabenchError(f"the module, a {type(module).__name__}, has no parameter that requires a gradient")
    constants = {name: _placed(leaf, device, dtype) for name, leaf in parameters.items() if not leaf.requires_grad}
    constants |= {name: _placed(leaf, device, dtype) for name, leaf in module.named_buffers()}

    def function(params: Tree, *inputs: Any) -> Any:
        values = {**params, **constants}
        versions = {name: constant._version for name, constant in constants.items()}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            output = torch.func.functional_call(module, values, inputs)
        for name, version in versions.items():
            # Written to, or put in another's place: functional_call hands back what the module then holds.
            if values[name] is not constants[name] or constants[name]._version != version:
                raise MetabenchError(
                    f"the module is not a function of its parameters: a call changes '{name}'; keep what changes among the parameters, "
                    "or compute it from the batch"
                )
        return output

    return params, function


def _placed(leaf: torch.Tensor, device: torch.device | None, dtype: torch.dtype | None) -> torch.Tensor:
    return leaf.detach().to(device=device, dtype=dtype if leaf.is_floating_point() else None)


def _refusal(part: torch.nn.Module, device: torch.device | None) -> str:
    """Return why a part is not allowed and what to use instead, as a clause that follows its name; empty if it is allowed."""
    nn = torch.nn
    on_cuda = device is not None and torch.device(device).type == "cuda"
    own = list(part.parameters(recurse=False)) + list(part.buffers(recurse=False))
    if any(nn.parameter.is_lazy(leaf) for leaf in own):
        return "has no parameters before its first call: call the module once on an input of the right shape"
    dropout = part.p if isinstance(part, nn.modules.dropout._DropoutNd) else getattr(part, "dropout", 0.0)
    if part.training and isinstance(dropout, float | int) and dropout > 0:
        return f"draws from global random numbers (p = {dropout:g}): set it to 0, or draw the noise into the batch"
    if part.training and isinstance(part, nn.RReLU | nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
        return "draws from global random numbers: use LeakyReLU or average pooling"
    if isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is not None:
        return "keeps running statistics: use track_running_stats=False (the statistics of the batch), LayerNorm or GroupNorm"
    if isinstance(part, nn.LSTM):
        return "has no forward-mode derivative, and on CUDA no second one: use LSTMCell in a loop"
    if isinstance(part, nn.RNNBase) and (on_cuda or any(leaf.is_cuda for leaf in own)):
        return f"has no second derivative on CUDA (cuDNN): use {type(part).__name__}Cell in a loop"
    return ""
