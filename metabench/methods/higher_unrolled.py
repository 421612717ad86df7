"""The unrolled hypergradient by the library higher, with its patched module and differentiable optimisers."""

from __future__ import annotations

from typing import Any

from metabench.autodiff.gradients import gradients
from metabench.autodiff.inner import begin
from metabench.autodiff.peers import Recipe, library, recipe, torch_optimiser, tree_module
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
    MetaRole,
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


@method(
    title="unrolled reverse mode by the library higher (0.2.1 or later)",
    order=210,
    target=Target.UNROLLED,
    exact=True,
    cost=Cost(gradients="K", hvps="K", memory="O(K |activations|)", affine_from=2),
    citation="grefenstette2019generalized",
    peer=Peer("higher 0.2.1 or later", declines=frozenset({"adamw", "lstm", "mlp", "scheduled"})),
)
def higher_unrolled(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w_K(l), l)/dl as `higher.innerloop_ctx` gives it. Grefenstette et al. 2019, section 3.

    The inner run continues from `state`: its slots are put into a torch.optim optimiser, from which higher starts. Learning rates go
    through higher's `override`, at every step. A parameter that the inner loss does not reach gets a gradient of
    zero from `grad_callback`: higher alone would skip it, along with its momentum and decay. higher's Adam adds eps before correcting the
    bias of the second moment: eps is overridden, for each step, by eps sqrt(1 - beta2^t), which gives torch's update.

    Differences from metabench: Adam and RMSprop have no eps within the root, a relative change of eps^2 / (2 v) in a step; where a second
    moment v is zero, higher masks the infinite slope of its root. Neither matters for gradients well above eps. For gradients near eps
    the two RMSprops have different hypergradients, and higher itself warns of its RMSprop.

    Raises:
        Unsupported: higher is not installed; the inner optimiser is AdamW with weight decay, of which higher has no differentiable
            version, or none of torch.optim.
    """
    del options, generator
    higher = library("higher")
    meta = tree.leaves_for_grad(meta)
    with torch.enable_grad():
        started = begin(problem, state, meta).params
        objective, final, variables = _run(higher, problem, InnerState(started, state.optimiser), meta, window)
        # The patched module, which holds the parameters of all steps, is gone by now: the graph alone keeps what the way back needs.
        value = float(objective.detach())
        hypergradient, slopes = gradients(objective, [meta, variables])
        del objective
        moved = [name for name, leaf in started.items() if leaf.requires_grad]
        if MetaRole.START in problem.roles and moved:
            (share,) = gradients([started[name] for name in moved], [meta], [slopes[name] for name in moved])
            hypergradient = tree.add(hypergradient, share)
    return Hypergradient(hypergradient, final, value)


def _run(
    higher: Any, problem: Problem, state: InnerState, meta: Tree, window: Window
) -> tuple[torch.Tensor, InnerState, Tree]:
    """Return the window's objective with its graph, the last inner state, and the initial parameters as variables of the objective."""
    module = tree_module(state.params)
    words = recipe(problem.optimiser, state.optimiser, meta, "higher")
    optimiser = _optimiser(words, module, state)
    objective = next(iter(meta.values())).new_zeros(())
    with higher.innerloop_ctx(module, optimiser, copy_initial_weights=False) as (fast, differentiable):

        def filled(found: list[torch.Tensor | None]) -> list[torch.Tensor]:
            return [torch.zeros_like(p) if g is None else g for g, p in zip(found, fast.parameters(), strict=True)]

        for done, (inner, outer) in enumerate(zip(window.inner, window.outer, strict=True)):
            settings = _rates(words, state, done) | _corrected_eps(words, differentiable)
            differentiable.step(problem.inner_loss(fast(), meta, inner), override=settings, grad_callback=filled)
            if outer is not None:
                objective = objective + problem.outer_loss(fast(), meta, outer)
        return objective, _state(words, fast(), differentiable, state, len(window.inner)), module()


def _optimiser(words: Recipe, module: torch.nn.Module, state: InnerState) -> torch.optim.Optimizer:
    """Return the torch.optim optimiser with the state's slots, its learning rate to be overridden: the constructor checks numbers."""
    if words.name == "AdamW":
        raise Unsupported("higher has no differentiable AdamW (weight decay that is decoupled from the gradient)")
    optimiser = torch_optimiser(words, module, state)
    for slots in optimiser.state.values():
        if "step" in slots:  # higher takes powers of it
            slots["step"] = float(slots["step"])
    return optimiser


def _rates(words: Recipe, state: InnerState, done: int) -> dict[str, list[Any]]:
    """Return the override of the learning rates, one per parameter group, after `done` updates."""
    return {"lr": [words.rate(part[0], done) for part in words.parts(state.params)]}


def _corrected_eps(words: Recipe, differentiable: Any) -> dict[str, list[Any]]:
    """Return the override of eps that makes higher's next step of Adam torch's: see the method."""
    if words.name != "Adam":
        return {}
    step = differentiable.state[0][0]["step"] + 1
    return {"eps": [words.settings["eps"] * (1 - words.settings["betas"][1] ** step) ** 0.5]}


def _state(words: Recipe, params: Tree, differentiable: Any, before: InnerState, updates: int) -> InnerState:
    """Return the state of the run, without a graph, in metabench's terms."""
    places = [found for group in differentiable.state for _, found in sorted(group.items())]
    slots: dict[str, Tree] = {}
    for ours, theirs in words.slots.items():
        if ours == "step":
            count = before.optimiser["step"]["count"]
            slots[ours] = {"count": torch.full_like(count, places[0][theirs])}
        else:
            slots[ours] = {name: found[theirs].detach() for name, found in zip(params, places, strict=True)}
    return InnerState(tree.detach(params), slots | words.counted(before.optimiser, updates))
