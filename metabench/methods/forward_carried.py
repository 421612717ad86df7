"""Forward mode whose tangents go on from window to window: real-time hyperparameter optimisation."""

from __future__ import annotations

from metabench.autodiff.inner import leaves_of, with_leaves
from metabench.autodiff.unrolled.forward_mode import forward_hypergradient
from metabench.core import Cost, Hypergradient, InnerState, MetaRole, Problem, Target, Tree, Window, method, tree
from metabench.core.lazy import torch
from metabench.core.memory import remembered
from metabench.methods.forward import Options


@method(
    title="forward mode, tangents carried from window to window",
    order=65,
    target=Target.CARRIED,
    exact=True,
    cost=Cost(jvps="K |l| (of the step map)", memory="O(|l| |w| + together |activations|), kept", affine_from=2),
    citation="franceschi2017forward",
    options=Options,
    variants=({"together": 1}, {"together": 2}),
)
def forward_carried(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w_K, l)/dl through all steps of the inner run so far. Franceschi et al. 2017, section 3.3.

    Tangents of the parameters and the optimiser's slots are kept in the memory, |l| times the bytes of the inner state, until another inner
    run begins. Each step was taken at the meta-parameters of its time and is differentiated there: while l moves slowly, this is the
    hypergradient of the whole run. In the first window of a run it is `forward`'s. Meta-parameters that are only initial parameters,
    which every other method forgets in the middle of a run, keep their share here.

    Raises:
        Unsupported: there are more than `most` meta-parameters, or an operation of the inner step has no forward-mode derivative.
        MetabenchError: the memory is of another method or model.
    """
    del generator
    found, tangents = forward_hypergradient(
        problem, state, meta, window, most=options.most, together=options.together, carried=_carried(problem, state, meta)
    )
    after = found.state
    kept = dict(zip(_names(after), leaves_of(tangents), strict=True))
    return Hypergradient(found.meta, InnerState(after.params, after.optimiser, kept), found.outer_loss, found.diagnostics)


def _carried(problem: Problem, state: InnerState, meta: Tree) -> InnerState | None:
    """Return the tangents of the inner state that were kept; None where a run begins, or where the state passes through a start."""
    if MetaRole.START in problem.roles:
        return None
    size = tree.count(meta)
    found = []
    for name, leaves in zip(_names(state), leaves_of(state), strict=True):
        stacked = remembered(state, name, tree.tree_map(lambda leaf: leaf.expand(size, *leaf.shape), leaves))
        if stacked is None:
            return None
        found.append(stacked)
    return with_leaves(state, found)


def _names(state: InnerState) -> list[str]:
    """Return the names, in the memory, of the tangents of each of a state's trees."""
    return [f"tangents of {place}" for place in ("params", *state.optimiser)]
