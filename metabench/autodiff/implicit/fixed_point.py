"""The hypergradient at a fixed point of the step map (w, s) = Phi(w, s, l), s being the inner optimiser's slots."""

from __future__ import annotations

from metabench.autodiff.gradients import gradients, outer_gradient
from metabench.autodiff.implicit.hypergradient import ADJOINT
from metabench.autodiff.implicit.linear_solvers import affine_iteration
from metabench.autodiff.inner import begun, run
from metabench.autodiff.optimisers import STEP_COUNT
from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.memory import remembered
from metabench.core.method import Hypergradient
from metabench.core.problem import Problem
from metabench.core.support import refuse_earlier_outer_losses, refuse_update_and_start_alone
from metabench.core.types import Batch, InnerState, Tree, Window


class StepMap:
    """Phi at a state, linearised: the graph of one inner step, recorded once and used for every VJP.

    A state is one flat tree here: parameters under 'params/NAME', slots under 'SLOT/NAME'. A step count never settles and would prevent a
    fixed point, so it is a constant of the map: a scheduled learning rate has its value at that count, of the step that would come next.
    """

    def __init__(self, problem: Problem, state: InnerState, meta: Tree, batch: Batch, damping: float = 0.0) -> None:
        before = {"params": state.params} | {k: v for k, v in state.optimiser.items() if k != STEP_COUNT}
        recorded = {slot: tree.leaves_for_grad(leaves) for slot, leaves in before.items()}
        self._state, self._meta = _flat(recorded), tree.leaves_for_grad(meta)
        with torch.enable_grad():
            params = recorded.pop("params")
            (slope,) = gradients(problem.inner_loss(params, self._meta, batch), [params], create_graph=True)
            if damping:
                # A term whose value is zero and whose derivative is damping I: the map at this state, of a loss more curved.
                slope = {name: leaf + damping * (params[name] - state.params[name]) for name, leaf in slope.items()}
            moved, slots = problem.optimiser.update(slope, params, {**state.optimiser, **recorded}, self._meta)
        self._outputs = list(_flat({"params": moved} | {slot: slots[slot] for slot in recorded}).values())

    def outer_slope(self, of_params: Tree) -> Tree:
        """Return the cotangent of a state in which only the parameters have one."""
        return tree.zeros_like(tree.detach(self._state)) | _flat({"params": of_params})

    def pull(self, cotangent: Tree) -> Tree:
        """Return (dPhi/d(w, s))^T cotangent."""
        (pulled,) = gradients(self._outputs, [self._state], list(cotangent.values()), retain_graph=True)
        return pulled

    def pull_meta(self, cotangent: Tree) -> Tree:
        """Return (dPhi/dl)^T cotangent."""
        (share,) = gradients(self._outputs, [self._meta], list(cotangent.values()), retain_graph=True)
        return share


def fixed_point_hypergradient(
    problem: Problem,
    state: InnerState,
    meta: Tree,
    window: Window,
    *,
    steps: int,
    tolerance: float,
    damping: float = 0.0,
    warm_start: bool = False,
) -> Hypergradient:
    """Run the window's K steps, then return dF/dl + (dPhi/dl)^T a, where a <- (dPhi/d(w, s))^T a + (dF/dw, 0) is iterated from (dF/dw, 0).

    Phi is the step on the window's last batch, linearised at the state after it. Grazzi et al. 2020, equation 7.

    Raises:
        Unsupported: the meta-parameters enter the inner update or the start alone, or outer losses are due before its end.
        Diverged: an iterate is not finite.
    """
    refuse_update_and_start_alone(problem, "the fixed point of the inner run does not depend on them")
    outer = refuse_earlier_outer_losses(window, "the fixed point has no steps before it")
    before = state
    state = run(problem, begun(problem, state, meta), meta, window.inner)
    due = outer_gradient(problem, state.params, meta, outer)
    phi = StepMap(problem, state, meta, window.inner[-1], damping)
    slope = phi.outer_slope(due.params)
    start = remembered(before, ADJOINT, slope) if warm_start else None
    solution = affine_iteration(phi.pull, slope, steps, tolerance, start)
    share = phi.pull_meta(solution.value)
    if warm_start:
        state = InnerState(state.params, state.optimiser, {ADJOINT: solution.value})
    return Hypergradient(tree.add(due.meta, share), state, due.loss, solution.diagnostics)


def _flat(pieces: dict[str, Tree]) -> Tree:
    return {f"{slot}/{name}": leaf for slot, leaves in pieces.items() for name, leaf in leaves.items()}
