"""Hypergradients by the library BOAT, one method for each of its operations: what it computes, as it is.

`metabench.autodiff.boat` makes a fresh problem of BOAT for each call. A `Peer` says where an operation is not what it is named after;
`metabench.certify.libraries` has the formula that it equals instead.

`boat_rad`, `boat_cg`, `boat_ns`, `boat_fd` and `boat_iga` leave the inner run to BOAT, which steps with the library higher: it starts from
the state's slots and keeps none, so where the inner optimiser has slots the steps are repeated for those that are returned. `boat_dm`,
`boat_vso` and `boat_vfo` leave it to BOAT, which steps the optimiser of torch.optim itself. Each step is on its own batch of the window.
`boat_meso` and `boat_pgdo` have no inner run of K steps: they start at w_K. BOAT evaluates both losses again, and writes all losses so
far to a file, at every call of its `run_iter`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.boat import Asked, Boat, Losses, asked, boat
from metabench.autodiff.gradients import outer_value
from metabench.autodiff.inner import begun, run
from metabench.autodiff.optimisers import decay_of
from metabench.core import (
    Cost,
    Curvature,
    Hypergradient,
    InnerState,
    Limit,
    Peer,
    Problem,
    Target,
    Tree,
    Window,
    method,
    option,
    tree,
)
from metabench.core.lazy import torch
from metabench.core.support import refuse_earlier_outer_losses, refuse_start, refuse_update_and_start_alone

LIBRARY = "BOAT 1.1.1"
ALONE = frozenset({"adam", "adamw", "idle parameters", "lstm", "mlp", "rmsprop", "scheduled", "varying rate"})
"""What BOAT's inner run does not have: it is the problem's with SGD or momentum at one rate."""
ALONG = ALONE | {"earlier outer losses", "start", "update"}
"""The same, and what neither BOAT's reverse mode nor its one step sees."""
SEES = "a minimum of the inner loss does not depend on them"


def _along_the_run(at: Asked, operation: str, settings: dict[str, Any]) -> Hypergradient:
    """Return the gradient of an operation after K steps of BOAT's with higher."""
    window, slots = at.window, at.words.counted(at.begun.optimiser, len(at.window.inner))
    losses = at.losses(window.inner)
    chosen = {"gm_op": ["NGD"], "na_op": [operation], "lower_iters": len(window.inner), **settings}
    with boat(losses, at.begun.params, at.meta, at.optimiser, chosen) as asking:
        found, params = asking.run(), asking.params()
    if at.words.slots:
        slots = run(at.problem, at.begun, at.meta, window.inner).optimiser
    return Hypergradient(found, InnerState(params, slots), losses.outer_values[-1])


@method(
    title="unrolled reverse mode by the library BOAT (NGD + RAD)",
    order=240,
    target=Target.UNROLLED,
    exact=True,
    cost=Cost(gradients="K", hvps="K", forwards="2", memory="O(K |activations|)", affine_from=2),
    citation="liu2025boat",
    peer=Peer(LIBRARY, declines=ALONG),
)
def boat_rad(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w_K(l), l)/dl by BOAT's `RAD` after `NGD`. Franceschi et al. 2017, section 3.

    BOAT replaces a hypergradient that is not a number by zeros: after a run that diverged it is zero, and the state says why.

    Raises:
        Unsupported: BOAT is not installed; the learning rate is learned or scheduled, or the meta-parameters are the start; outer losses
            are due before the window's end; the inner optimiser is neither SGD nor momentum.
    """
    del options, generator
    refuse_start(problem, "BOAT's reverse mode stops there")
    return _along_the_run(asked(problem, state, meta, window), "RAD", {})


@dataclass(frozen=True)
class Solver:
    """Options of `boat_cg` and `boat_ns`, at the values of BOAT's examples."""

    k: int = option(10, minimum=1, help="most steps of the solver")
    tolerance: float = option(
        1e-10, minimum=0, help="norm at which it stops, absolute, of a system times the learning rate"
    )


@method(
    title="implicit differentiation with conjugate gradients by the library BOAT (NGD + CG)",
    order=241,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(
        gradients="K + 2", hvps="k + 1 mixed product", forwards="2", memory="O(|w| + |activations|)", affine_from=2
    ),
    citation="liu2025boat",
    options=Solver,
    peer=Peer(
        LIBRARY,
        "the last iterate but one where the residual meets the tolerance, which after a single step is zero; and for H without the inner "
        "optimiser's weight decay",
        declines=ALONE,
    ),
    limit=Limit(
        lambda curvature: {"k": 3 * curvature.dimension, "tolerance": 1e-12},
        tolerance=1e-8,
        budget="k",
        values=(1, 2, 3, 4, 6, 8),
    ),
)
def boat_cg(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Solver, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - a (d2f/dl dw) x at w_K by BOAT's `CG`, (a H) x = dF/dw, a the learning rate. Rajeswaran et al. 2019, section 3.

    Raises:
        Unsupported: BOAT is not installed; a minimum of f does not depend on the meta-parameters; outer losses are due before the
            window's end; the inner optimiser is neither SGD nor momentum, or its rate is learned or scheduled; or a loss does not use a
            parameter.
    """
    del generator
    refuse_update_and_start_alone(problem, SEES)
    return _along_the_run(
        asked(problem, state, meta, window), "CG", {"CG": {"k": options.k, "tolerance": options.tolerance}}
    )


@method(
    title="implicit differentiation with a Neumann series by the library BOAT (NGD + NS)",
    order=242,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(
        gradients="K + 2", hvps="k + 1 mixed product", forwards="2", memory="O(|w| + |activations|)", affine_from=2
    ),
    citation="liu2025boat",
    options=Solver,
    peer=Peer(LIBRARY, "the series for H without the inner optimiser's weight decay", declines=ALONE),
    # The terms fall as the inner steps do, at a rate that the curvature alone does not tell.
    limit=Limit(
        lambda curvature: {"k": 2000, "tolerance": 1e-14},
        tolerance=1e-6,
        budget="k",
        values=(1, 2, 5, 10, 20, 50, 100),
    ),
)
def boat_ns(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Solver, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - a (d2f/dl dw) sum_{j <= k} (I - a H)^j dF/dw at w_K by BOAT's `NS`, a the learning rate. Lorraine et al. 2020.

    Raises:
        Unsupported: as `boat_cg`.
    """
    del generator
    refuse_update_and_start_alone(problem, SEES)
    return _along_the_run(
        asked(problem, state, meta, window), "NS", {"CG": {"k": options.k, "tolerance": options.tolerance}}
    )


@dataclass(frozen=True)
class Radius:
    """Options of `boat_fd`."""

    r: float = option(0.01, above=0, help="distance in the parameters from w to each end of the difference")


@method(
    title="DARTS by the library BOAT (NGD + FD)",
    order=243,
    target=Target.ONE_STEP,
    exact=False,
    cost=Cost(gradients="K + 3", forwards="2", memory="O(|w| + |activations|)", affine_from=2),
    citation="liu2025boat",
    options=Radius,
    peer=Peer(
        LIBRARY,
        "the mixed product at w_0 with the outer gradient at w_K and the learning rate as it is: one step where K = 1 and the inner "
        "optimiser is SGD or momentum",
        declines=ALONG,
    ),
    limit=Limit(lambda curvature: {"r": 1e-4}, tolerance=1e-6, budget="r", values=(1.0, 0.3, 0.1, 0.03, 0.01, 0.003)),
)
def boat_fd(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Radius, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - a |v|/(2 r) [df/dl(w_0 + r v/|v|) - df/dl(w_0 - r v/|v|)], v = dF/dw at w_K, by BOAT's `FD`. Liu et al. 2019.

    a is the learning rate; f is on the window's last batch.

    Raises:
        Unsupported: as `boat_rad`, or the inner loss does not use a meta-parameter.
    """
    del generator
    refuse_start(problem, "one step does not reach them")
    return _along_the_run(asked(problem, state, meta, window), "FD", {"FD": {"r": options.r}})


@method(
    title="implicit gradient approximation by the library BOAT (NGD + IGA)",
    order=244,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 3", forwards="3", memory="O(|w| + |activations|)", affine_from=2),
    citation="liu2025boat",
    peer=Peer(
        LIBRARY,
        "(df/dw df/dw') for the Hessian, and df/dl for its mixed derivative: that is divided by |df/dw|^2, and has no value at a minimum",
        declines=ALONE,
    ),
)
def boat_iga(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (<dF/dw, df/dw> / |df/dw|^2) df/dl at w_K by BOAT's `IGA`.

    Raises:
        Unsupported: as `boat_cg`.
    """
    del options, generator
    refuse_update_and_start_alone(problem, SEES)
    return _along_the_run(asked(problem, state, meta, window), "IGA", {})


@dataclass(frozen=True)
class Multiplier:
    """Options of `boat_dm`, at the values of BOAT's examples."""

    solver: str = option(
        "rad", choices=("rad", "cg"), help="the multiplier's steps: gradient descent, or steepest descent"
    )
    eta0: float = option(
        0.5, above=0, help="with rad: of the multiplier's step, which is eta0 (call + 1)^(-tau/2) learning rate"
    )
    tau: float = option(0.01, minimum=0, help="with rad: see eta0")
    calls: int = option(0, minimum=0, help="more calls after the window's K, on its last batch")


@method(
    title="dual multipliers by the library BOAT (DM + RAD, DM + CG)",
    order=245,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="3 (K + calls)", hvps="2 (K + calls), 3 with cg", forwards="2 (K + calls)", affine_from=2),
    citation="liu2025boat",
    options=Multiplier,
    peer=Peer(
        LIBRARY,
        "one step of v towards H^-1 dF/dw for each inner step, from zero in every window: dF/dl alone at the first; with cg too long a "
        "step where there are several parameter tensors; and all for H without the inner optimiser's weight decay",
        declines=ALONE,
    ),
    limit=Limit(
        lambda curvature: {"solver": "cg", "calls": 300},
        tolerance=1e-4,
        budget="calls",
        values=(10, 30, 100),
        at_minimum=True,
    ),
)
def boat_dm(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Multiplier, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) v by BOAT's `DM`: a call for each inner step, in which v takes one, too, after it was used.

    BOAT keeps v in its problem, which is fresh in each window. `calls` goes on after the K steps of the window: w moves on, too, and the
    state that is returned is that after K.

    Raises:
        Unsupported: BOAT is not installed; a minimum of f does not depend on the meta-parameters; outer losses are due before the
            window's end; the inner optimiser is neither SGD nor momentum, or its rate is learned or scheduled.
    """
    del generator
    refuse_update_and_start_alone(problem, SEES)
    at = asked(problem, state, meta, window)
    steps = len(window.inner)
    # Each call evaluates the inner loss for its step, and once more for its log.
    losses = at.losses(batch for batch in window.inner for _ in range(2))
    words = {"auxiliary_v_lr": 0.1, "tau": options.tau, "p": 100, "mu0": 0.9, "eta0": options.eta0, "strategy": "s1"}
    chosen = {"gm_op": ["DM"], "na_op": [options.solver.upper()], "lower_iters": 1, "DM": words}
    with boat(losses, at.begun.params, at.meta, at.optimiser, chosen) as asking:
        for call in range(steps):
            found = asking.run(call)
        after, value = at.moved(asking.params(), asking.optimiser, asking.lower), losses.outer_values[-1]
        for call in range(steps, steps + options.calls):
            found = asking.run(call)
    return Hypergradient(found, after, value)


@dataclass(frozen=True)
class Barrier:
    """Options of `boat_vso`: those of BOAT's examples, without their penalties on the size of w."""

    steps: int = option(
        10, minimum=1, help="gradient steps of the second point, and one more that BOAT takes with the last gradient"
    )
    barrier: float = option(10.0, above=0, help="ul_ln_reg: the multiplier of the gap is this over f(w_K)")
    learning_rate: float = option(0.01, above=0, help="z_lr: of the second point's steps on F + multiplier f")


@method(
    title="a value-function barrier by the library BOAT (VSO)",
    order=246,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 2 steps + 3", forwards="3", memory="O(|w| + |activations|)", affine_from=2),
    citation="liu2025boat",
    options=Barrier,
    peer=Peer(
        LIBRARY,
        "no number where f(y) is so far above f(w_K) that f(y) + f(w_K) - f(y) is zero, as where y's steps are too long; and f without the "
        "inner optimiser's weight decay",
        declines=ALONE,
    ),
)
def boat_vso(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Barrier, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl(y) + m (df/dl(y) - df/dl(w_K)) by BOAT's `VSO`, m = barrier / f(w_K). Liu et al. 2021.

    y descends on F + m f from w_K. That is `f2sa` at a penalty m: as m grows, and y converges, it tends to the implicit hypergradient. BOAT
    names the two points the other way round. The inner optimiser's weight decay moves w_K and not y.

    Raises:
        Unsupported: as `boat_dm`, or a loss does not use a parameter.
    """
    del generator
    refuse_update_and_start_alone(problem, SEES)
    at = asked(problem, state, meta, window)
    losses = at.losses(window.inner)
    words = {"z_loop": len(window.inner), "z_lr": options.learning_rate, "ul_ln_reg": options.barrier}
    still = {"ll_l2_reg": 0.0, "ul_l2_reg": 0.0, "reg_decay": 0.0}
    chosen = {"fo_op": "VSO", "lower_iters": options.steps, "VSO": words | still}
    with boat(losses, at.begun.params, at.meta, at.optimiser, chosen) as asking:
        found = asking.run()
        after = at.moved(asking.params(), asking.optimiser, asking.lower)
    return Hypergradient(found, after, losses.outer_values[-1])


def _from_the_end(
    problem: Problem,
    state: InnerState,
    meta: Tree,
    window: Window,
    rate: float,
    settings: dict[str, Any],
    ask: Callable[[Boat], Tree],
) -> Hypergradient:
    """Return what BOAT computes from w_K on, its lower point moved by SGD.

    Raises:
        Unsupported: a minimum of f does not depend on the meta-parameters, outer losses are due before the window's end, or the inner
            optimiser's weight decay is decoupled.
    """
    refuse_update_and_start_alone(problem, SEES)
    due = refuse_earlier_outer_losses(window, "BOAT has one, at the end")
    decay_of(problem.optimiser)
    final = run(problem, begun(problem, state, meta), meta, window.inner)
    value = outer_value(problem, final.params, meta, due)
    losses = Losses(problem, iter(()), window.inner[-1], due)

    def optimiser(module: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), lr=rate)

    with boat(losses, final.params, tree.detach(meta), optimiser, {"lower_iters": 1, **settings}) as asking:
        return Hypergradient(ask(asking), final, value)


def _condition(curvature: Curvature) -> float:
    return max(curvature.largest / curvature.smallest, 1.0)


@dataclass(frozen=True)
class Envelope:
    """Options of `boat_meso`."""

    penalty: float = option(100.0, above=0, help="multiplier of the gap, c: BOAT's c0 is such that it has this value")
    gamma: float = option(1.0, above=0, help="gamma_1: of the proximal term")
    eta: float = option(0.1, above=0, help="of the proximal point's steps")
    learning_rate: float = option(0.05, above=0, help="of y's steps, by SGD")
    steps: int = option(10, minimum=1, help="calls: in each the proximal point and y take a step")


@method(
    title="a Moreau envelope by the library BOAT (MESO)",
    order=247,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 5 steps", forwards="2 steps", memory="O(|w| + |activations|)", affine_from=2),
    citation="liu2025boat",
    options=Envelope,
    peer=Peer(
        LIBRARY,
        "the limit for H with a damping of eta gamma^2, because the proximal point is not detached, and without the inner "
        "optimiser's weight decay",
    ),
    limit=Limit(
        lambda curvature: {
            "penalty": 1e5,
            "steps": 300,
            "eta": 0.7 / (curvature.largest + 1),
            "learning_rate": 0.7 / curvature.largest,
        },
        tolerance=1e-2,
        budget="steps",
        values=(10, 30, 100),
        at_minimum=True,
    ),
)
def boat_meso(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Envelope, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl(y) + c (df/dl(y) - df/dl(theta)) by BOAT's `MESO`, theta the proximal point of y. Liu et al. 2024, algorithm 1.

    y and theta begin at w_K. BOAT returns this divided by c. In its first iteration c is always 0.2; it is called with the
    number of its second each time, so that c does not grow.

    Raises:
        Unsupported: BOAT is not installed; a minimum of f does not depend on the meta-parameters, outer losses are due before the
            window's end, or the inner optimiser's weight decay is decoupled.
    """
    del generator
    words = {"eta": options.eta, "gamma_1": options.gamma, "c0": options.penalty / 2**0.25, "y_hat_lr": 0.1}

    def ask(asking: Boat) -> Tree:
        for _ in range(options.steps):
            found = asking.run(1)
        return tree.scale(options.penalty, found)

    settings = {"fo_op": "MESO", "MESO": words}
    return _from_the_end(problem, state, meta, window, options.learning_rate, settings, ask)


@dataclass(frozen=True)
class Gap:
    """Options of `boat_pgdo`."""

    penalty: str = option(
        "difference", choices=("difference", "gradient"), help="of the inner losses, or the inner gradient's square"
    )
    gamma: float = option(100.0, minimum=1, help="multiplier of the penalty: gamma_init and gamma_max")
    learning_rate: float = option(0.05, above=0, help="of both points' steps")
    steps: int = option(10, minimum=1, help="calls: in each the two points take a step")


@method(
    title="penalised gradient descent by the library BOAT (PGDO)",
    order=248,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 4 steps", forwards="3 steps", memory="O(|w| + |activations|)", affine_from=2),
    citation="liu2025boat",
    options=Gap,
    peer=Peer(
        LIBRARY,
        "dF/dl alone with the penalty `gradient`, which is detached; and the limit for H without the inner optimiser's weight decay",
    ),
    limit=Limit(
        lambda curvature: {
            "gamma": 1e5,
            "steps": min(400, round(_condition(curvature) / 0.7 * 9) + 1),
            "learning_rate": 0.7 / curvature.largest,
        },
        tolerance=1e-3,
        budget="gamma",
        values=(10, 100, 1000, 10000),
        at_minimum=True,
    ),
)
def boat_pgdo(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Gap, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl(y) + gamma (df/dl(y) - df/dl(y')) by BOAT's `PGDO`: y descends on f + F / gamma, y' on f. Shen & Chen 2023.

    Both begin at w_K, and y' is a step ahead of y. BOAT returns this divided by gamma.

    Raises:
        Unsupported: as `boat_meso`.
    """
    del generator
    gamma = options.gamma
    words = {"y_hat_lr": options.learning_rate, "gamma_init": gamma, "gamma_max": gamma, "gamma_argmax_step": 1}

    def ask(asking: Boat) -> Tree:
        for call in range(options.steps):
            found = asking.run(call)
        return tree.scale(1 / min(1 / (gamma + 1e-8), 1.0), found)

    settings = {"fo_op": "PGDO", "PGDO": words | {"update_y_ahead": False, "penalty": options.penalty}}
    return _from_the_end(problem, state, meta, window, options.learning_rate, settings, ask)


@dataclass(frozen=True)
class Barred:
    """Options of `boat_vfo`, at the values of BOAT's examples."""

    u1: float = option(0.1, minimum=0, help="share of the gap by which it has to fall")
    y_hat_lr: float = option(0.1, above=0, help="of the second point's K steps, with momentum 0.5")


@method(
    title="BOME by the library BOAT (VFO)",
    order=249,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="2K + 4", forwards="2", memory="O(|w| + |activations|)", affine_from=2),
    citation="liu2025boat ye2022bome",
    options=Barred,
    peer=Peer(LIBRARY, "BOME's formula in float32, whatever the dtype of the problem", declines=ALONE),
)
def boat_vfo(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Barred, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl + max((u1 q - <dF, dq>) / |dq|^2, 0) dq/dl at w_K by BOAT's `VFO`, q = f(w_K) - f(y). Ye et al. 2022, equations 3 to 6.

    The gradients are over (w, l). y takes K steps on the window's batches from where the run does, with momentum 0.5. BOAT adds 1e-8 to
    |dq|^2.

    Raises:
        Unsupported: as `boat_dm`.
    """
    del generator
    refuse_update_and_start_alone(problem, SEES)
    at = asked(problem, state, meta, window)
    losses, reached = at.losses(window.inner * 2), []
    words = {"eta": 0.5, "u1": options.u1, "y_hat_lr": options.y_hat_lr}
    chosen = {"fo_op": "VFO", "lower_iters": len(window.inner), "VFO": words}
    with boat(losses, at.begun.params, at.meta, at.optimiser, chosen) as asking:
        # BOAT moves w on after the K steps: w_K is where it evaluates F.
        losses.at_first_outer = lambda: reached.append(at.moved(asking.params(), asking.optimiser, asking.lower))
        found = asking.run()
    return Hypergradient(found, reached[0], losses.outer_values[0])
