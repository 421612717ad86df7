"""The unrolled hypergradient by the library TorchOpt, with its functional optimisers."""

from __future__ import annotations

from typing import Any

from metabench.autodiff.gradients import gradients
from metabench.autodiff.inner import begin, variables_of
from metabench.autodiff.peers import Recipe, library, recipe
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
    Peer,
    Problem,
    Target,
    Tree,
    Unsupported,
    Window,
    method,
    tree,
)
from metabench.core.lazy import torch

SLOTS = {"momentum_buffer": "trace", "exp_avg": "mu", "exp_avg_sq": "nu", "square_avg": "nu", "step": "count"}
"""From torch.optim's names of slots to TorchOpt's."""


@method(
    title="unrolled reverse mode by the library TorchOpt (0.7.3 or later)",
    order=220,
    target=Target.UNROLLED,
    exact=True,
    cost=Cost(gradients="K", hvps="K", memory="O(K |activations|)", affine_from=2),
    citation="ren2023torchopt",
    peer=Peer("TorchOpt 0.7.3 or later", declines=frozenset({"lstm", "mlp", "rmsprop", "scheduled"})),
)
def torchopt_unrolled(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w_K(l), l)/dl through TorchOpt's functional optimisers, `inplace=False`. Ren et al. 2023, section 2.

    The inner run continues from `state`. TorchOpt's momentum omits the decay of its buffer at the first step of an optimiser, so the
    buffer is passed decayed. Its step counts are integers, whose powers torch computes in single precision, so they are passed in the
    dtype of the problem. `eps_root` of its Adam is eps^2, as in metabench. Learned and scheduled rates are passed as schedules.
    RMSprop has no eps within the root, a relative change of eps^2 / (2 v) in a step: negligible for gradients well above eps.

    Raises:
        Unsupported: TorchOpt is not installed; the inner optimiser is none of torch.optim; or RMSprop, which has no `eps_root` there, has a
            second moment of zero, and TorchOpt's hypergradient is not a number.
    """
    del options, generator
    torchopt = library("torchopt")
    meta = tree.leaves_for_grad(meta)
    with torch.enable_grad():
        objective, final, words = _run(torchopt, problem, begin(problem, state, meta), meta, window)
        value = float(objective.detach())
        (hypergradient,) = gradients(objective, [meta])
    if words.name == "RMSprop" and not tree.all_finite(hypergradient) and tree.all_finite(final.params):
        raise Unsupported(
            "TorchOpt's RMSprop takes the derivative of a square root where a second moment is zero: its hypergradient is not a number"
        )
    return Hypergradient(hypergradient, final, value)


def _run(
    torchopt: Any, problem: Problem, state: InnerState, meta: Tree, window: Window
) -> tuple[torch.Tensor, InnerState, Recipe]:
    """Return the window's objective with its graph, the last inner state, and the optimiser in torch.optim's terms."""
    params = variables_of(state.params)
    words = recipe(problem.optimiser, state.optimiser, meta, "TorchOpt")
    # One optimiser for all tensors, or one for each where each has a learning rate.
    parts = words.parts(params)
    optimisers = [_optimiser(torchopt, words, part[0]) for part in parts]
    slots = [
        _loaded(o.init([params[name] for name in p]), _slots(words, state, p))
        for o, p in zip(optimisers, parts, strict=True)
    ]
    objective = next(iter(meta.values())).new_zeros(())
    for inner, outer in zip(window.inner, window.outer, strict=True):
        (gradient,) = gradients(problem.inner_loss(params, meta, inner), [params], create_graph=True)
        moved: Tree = {}
        for i, (optimiser, part) in enumerate(zip(optimisers, parts, strict=True)):
            before = [params[name] for name in part]
            updates, slots[i] = optimiser.update(
                [gradient[name] for name in part], slots[i], params=before, inplace=False
            )
            moved |= zip(part, torchopt.apply_updates(before, updates, inplace=False), strict=True)
        del gradient, updates, before
        params = moved
        if outer is not None:
            objective = objective + problem.outer_loss(params, meta, outer)
    found = _unloaded(words, slots, parts, state) | words.counted(state.optimiser, len(window.inner))
    return objective, InnerState(tree.detach(params), found), words


def _optimiser(torchopt: Any, words: Recipe, name: str) -> Any:
    """Return TorchOpt's optimiser of the tensor `name`. A learned rate must be a schedule, because TorchOpt checks numbers.

    TorchOpt's schedules count the updates of a window; metabench's count on from those before it.
    """
    settings = dict(words.settings)
    if words.name in ("Adam", "AdamW"):
        settings["eps_root"] = settings["eps"] ** 2
    rate = words.rate(name)
    lr = rate if isinstance(rate, float | int) and not words.varies else lambda done: words.rate(name, done)
    return getattr(torchopt, words.name.lower())(lr=lr, **settings)


def _slots(words: Recipe, state: InnerState, part: list[str]) -> dict[str, list[torch.Tensor]]:
    """Return the state's slots for the tensors named in `part`, under TorchOpt's names."""
    found = {}
    for ours, theirs in words.slots.items():
        if ours == "step":
            found["count"] = [state.optimiser["step"]["count"]] * len(part)
        else:
            decay = words.settings["momentum"] if ours == "momentum" else 1.0
            found[SLOTS[theirs]] = [decay * state.optimiser[ours][name] for name in part]
    return found


def _loaded(fresh: Any, slots: dict[str, list[torch.Tensor]]) -> Any:
    """Return TorchOpt's fresh state, tuples of named tuples, with `slots` in their places."""
    fields = getattr(fresh, "_fields", None)
    if fields is None:
        return type(fresh)(_loaded(part, slots) for part in fresh) if isinstance(fresh, tuple) else fresh
    # A schedule counts too, from zero, and its count is not Adam's.
    if fields == ("count",):
        return fresh
    return fresh._replace(**{name: slots[name] for name in fields if name in slots})


def _unloaded(words: Recipe, states: list[Any], parts: list[list[str]], before: InnerState) -> dict[str, Tree]:
    """Return TorchOpt's states, one per part, as metabench's slots, without a graph."""
    found: dict[str, dict[str, torch.Tensor]] = {SLOTS[theirs]: {} for theirs in words.slots.values()}
    for one, part in zip(states, parts, strict=True):
        for inner in one if isinstance(one, tuple) and not hasattr(one, "_fields") else (one,):
            for name in getattr(inner, "_fields", ()):
                if name in found and inner._fields != ("count",):
                    found[name] |= zip(part, getattr(inner, name), strict=True)
    slots = {}
    for ours, theirs in words.slots.items():
        values = found[SLOTS[theirs]]
        slots[ours] = (
            {"count": next(iter(values.values()))} if ours == "step" else {k: values[k] for k in before.params}
        )
    return {ours: tree.detach(leaves) for ours, leaves in slots.items()}
