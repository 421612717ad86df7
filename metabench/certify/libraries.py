"""What other libraries compute, as `metabench.certify.formulas` has it of metabench's methods: dense, and written from their sources.

A method that is not what it is named after is checked against this, and so is the line in which its `Peer` says what it computes instead.
H0 is d2f/dw2 without the optimiser's weight decay, which no library's Hessian has; a is the inner optimiser's learning rate.
"""

from __future__ import annotations

from typing import Any

from metabench.certify.cases import Case
from metabench.certify.formulas import Formula
from metabench.certify.references import Expansion, expand
from metabench.certify.training import train
from metabench.core import Batch, Tree, Window, tree
from metabench.core.lazy import torch


def krylov_iterate_before_the_last(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - a J x_j of BOAT's CG on a H0 x = v: j = k, or one less than the first iterate whose residual is below `tolerance`.

    x_j is the best in energy of the span of v, H0 v, ..., H0^(j - 1) v. Hestenes & Stiefel 1952, theorem 6.1.
    """
    at, rate = _undecayed(case), _rate(case)
    system, before = rate * at.hessian, torch.zeros_like(at.outer_w)
    columns = [at.outer_w]
    for _ in range(min(options.k, len(system))):
        basis = torch.linalg.qr(torch.stack(columns, dim=1)).Q
        found = basis @ torch.linalg.solve(basis.T @ system @ basis, basis.T @ at.outer_w)
        if (at.outer_w - system @ found).norm() < options.tolerance:
            break
        before = found
        columns.append(system @ columns[-1])
    return at.implicit(rate * before)


def neumann_at_the_rate(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - J a sum_{j <= k} (I - a H0)^j v of BOAT's NS; the first term below `tolerance` is the last."""
    at, rate = _undecayed(case), _rate(case)
    term = total = at.outer_w
    for _ in range(options.k):
        term = term - rate * at.hessian @ term
        total = total + term
        if term.norm() < options.tolerance:
            break
    return at.implicit(rate * total)


def differences_at_the_start(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - a |v| (df/dl(w_0 + r v/|v|) - df/dl(w_0 - r v/|v|)) / 2r of BOAT's FD, v at w_K."""
    at, start = _undecayed(case), tree.flatten(case.state.params)
    length = at.outer_w.norm()
    by = options.r * at.outer_w / length
    difference = _inner(case, start + by)[1] - _inner(case, start - by)[1]
    return at.outer_l - _rate(case) * length * difference / (2 * options.r)


def rank_one(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor | None:
    """Return dF/dl - (v' g / g' g) df/dl, g = df/dw, of BOAT's IGA at w_K; None at a minimum, where g is rounding."""
    at = _undecayed(case)
    slope, direct = _inner(case, tree.flatten(case.end.params))
    if case.minimum is not None and slope.norm() < 1e-10:
        return None
    return at.outer_l - (at.outer_w @ slope) / (slope @ slope) * direct


def multiplier(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - J v of BOAT's DM before the last call's step: v one step towards H0^-1 dF/dw for each inner step before, from zero."""
    window = case.window
    batches = (*window.inner, *(window.inner[-1],) * options.calls)
    states = train(case.problem, case.state, case.meta, Window.ending_in(batches, case.outer_batch)).states
    sizes = [leaf.numel() for leaf in case.state.params.values()]
    v = torch.zeros(sum(sizes), dtype=torch.float64)
    for call, (state, batch) in enumerate(zip(states, batches, strict=False)):
        at = expand(case.problem, state.params, case.meta, batch, case.outer_batch, 0.0)
        found = at.implicit(v)
        residual = at.hessian @ v - at.outer_w
        if options.solver == "rad":
            step = options.eta0 * (call + 1) ** (-0.5 * options.tau) * _rate(case)
        else:  # the square of a sum of norms, for a sum of squares
            square = torch.stack([part.norm() for part in residual.split(sizes)]).sum() ** 2
            step = float(square / (residual @ at.hessian @ residual + 1e-12))
        v = v - step * residual
    return found


def barrier(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl(y) + m (df/dl(y) - df/dl(z)) of BOAT's VSO, z = w_K, m = barrier / f(z), y from z along dF/dw + m df/dw.

    The last gradient is used twice.
    """
    z = y = tree.flatten(case.end.params)
    m = options.barrier / float(case.problem.inner_loss(case.end.params, case.meta, case.window.inner[-1]))
    for _ in range(options.steps):
        slope = _outer(case, y)[0] + m * _inner(case, y)[0]
        y = y - options.learning_rate * slope
    y = y - options.learning_rate * slope
    return _outer(case, y)[1] + m * (_inner(case, y)[1] - _inner(case, z)[1])


def undetached_envelope(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl(y) + c (df/dl(y) - df/dl(theta)) of BOAT's MESO; in y's steps theta depends on y: d theta/dy = eta gamma."""
    c, gamma, eta = options.penalty, options.gamma, options.eta
    theta = y = tree.flatten(case.end.params)
    for _ in range(options.steps):
        theta = theta - eta * (_inner(case, theta)[0] + gamma * (theta - y))
        slope = _outer(case, y)[0] / c + _inner(case, y)[0] - gamma * (1 - eta * gamma) * (y - theta)
        y = y - options.learning_rate * slope
    return _outer(case, y)[1] + c * (_inner(case, y)[1] - _inner(case, theta)[1])


def penalised_gap(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl(y) + gamma (df/dl(y) - df/dl(y')) of BOAT's PGDO, y' one step ahead; with the gradient for a penalty dF/dl(y) alone."""
    ahead = y = tree.flatten(case.end.params)
    gamma, scale = options.gamma, min(1 / (options.gamma + 1e-8), 1.0)
    share = 1.0 if options.penalty == "difference" else 0.0
    for _ in range(options.steps):
        ahead = ahead - options.learning_rate * _inner(case, ahead)[0]
        at = y
        y = y - options.learning_rate * scale * (_outer(case, y)[0] + share * gamma * _inner(case, y)[0])
    return _outer(case, at)[1] + share * gamma * (_inner(case, at)[1] - _inner(case, ahead)[1])


def gap_with_momentum(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl + max((u1 q - <dF, dq>) / (|dq|^2 + 1e-8), 0) dq/dl of BOAT's VFO at w_K, q = f(w_K) - f(y), in float64."""
    y = tree.flatten(case.state.params)
    velocity = torch.zeros_like(y)
    for batch in case.window.inner:
        velocity = 0.5 * velocity + _inner(case, y, batch)[0]
        y = y - options.y_hat_lr * velocity
    end = tree.flatten(case.end.params)
    of_y, of_l = _inner(case, end)
    gap = torch.cat([of_y, of_l - _inner(case, y)[1]])
    outer = torch.cat(_outer(case, end))
    q = _value(case, end) - _value(case, y)
    factor = max(float((options.u1 * q - outer @ gap) / (gap @ gap + 1e-8)), 0.0)
    return (outer + factor * gap)[len(end) :]


def identity_at_the_end(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - J v of hippotrainer's T1T2 at w_K."""
    at = _undecayed(case)
    return at.implicit(at.outer_w)


def scaled_again(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - J p of hippotrainer's Neumann: at each term v <- v - a H0 v, p <- a (p + v)."""
    at, rate = _undecayed(case), _rate(case)
    p = v = at.outer_w
    for _ in range(options.num_terms):
        v = v - rate * at.hessian @ v
        p = rate * (p + v)
    return at.implicit(p)


def absolute_conjugate_gradients(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - J x of hippotrainer's HOAG: the recurrences on H0 x = v with 1e-8 in each quotient, until |r|^2 < epsilon."""
    at = _undecayed(case)
    x, r = torch.zeros_like(at.outer_w), at.outer_w
    p, square = r, r @ r
    for _ in range(options.cg_max_iter if float(square) >= options.epsilon else 0):
        image = at.hessian @ p
        length = square / (p @ image + 1e-8)
        x, r = x + length * p, r - length * image
        before, square = square, r @ r
        if float(square) < options.epsilon:
            break
        p = r + square / (before + 1e-8) * p
    return at.implicit(x)


def _undecayed(case: Case) -> Expansion:
    return expand(case.problem, case.end.params, case.meta, case.window.inner[-1], case.outer_batch, 0.0)


def _rate(case: Case) -> float:
    return float(case.problem.learning_rate())


def _value(case: Case, point: torch.Tensor) -> float:
    return float(case.problem.inner_loss(tree.unflatten(point, case.state.params), case.meta, case.window.inner[-1]))


def _inner(case: Case, point: torch.Tensor, batch: Batch | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return df/dw and df/dl on the window's last batch, or on another."""
    return _slopes(case, case.problem.inner_loss, point, case.window.inner[-1] if batch is None else batch)


def _outer(case: Case, point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return dF/dw and dF/dl."""
    return _slopes(case, case.problem.outer_loss, point, case.outer_batch)


def _slopes(case: Case, loss: Any, point: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    n, like = len(point), case.state.params

    def at(z: torch.Tensor) -> torch.Tensor:
        params: Tree = tree.unflatten(z[:n], like)
        value: torch.Tensor = loss(params, tree.unflatten(z[n:], case.meta), batch)
        return value

    found = torch.autograd.functional.jacobian(at, torch.cat([point, tree.flatten(case.meta)]))
    return found[:n], found[n:]


FORMULAS: dict[str, tuple[Formula, tuple[dict[str, Any], ...]]] = {
    "boat_cg": (krylov_iterate_before_the_last, ({}, {"k": 1}, {"k": 3}, {"tolerance": 0.1})),
    "boat_ns": (neumann_at_the_rate, ({}, {"k": 1}, {"k": 40}, {"tolerance": 0.1})),
    "boat_fd": (differences_at_the_start, ({}, {"r": 0.1})),
    "boat_iga": (rank_one, ({},)),
    "boat_dm": (multiplier, ({}, {"calls": 5}, {"solver": "cg", "calls": 3})),
    "boat_vso": (barrier, ({}, {"barrier": 100.0, "learning_rate": 1e-4, "steps": 3})),
    "boat_meso": (undetached_envelope, ({}, {"steps": 3, "gamma": 0.5, "eta": 0.3})),
    "boat_pgdo": (penalised_gap, ({}, {"steps": 3, "gamma": 5.0}, {"steps": 3, "penalty": "gradient"})),
    "boat_vfo": (gap_with_momentum, ({}, {"u1": 2.0})),
    "hippo_t1t2": (identity_at_the_end, ({},)),
    "hippo_neumann": (scaled_again, ({}, {"num_terms": 2}, {"num_terms": 10})),
    "hippo_hoag": (absolute_conjugate_gradients, ({}, {"cg_max_iter": 2}, {"epsilon": 1e-20})),
}
"""By method: what the library computes, and the options under which it is checked."""
