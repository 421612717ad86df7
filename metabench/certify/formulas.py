"""What approximate methods equal, implemented independently from their papers: dense, plain, at any cost.

Each takes a case, options and the stream from which the method draws, and returns the hypergradient as a vector, or None where it would be
zero by its nature: the method then has to refuse. w_K is what plain training reaches. H is d2f/dw2
(with the optimiser's weight decay), J is d2f/dl dw, v is dF/dw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from metabench.certify.cases import Case
from metabench.certify.references import Expansion, expand, objective, with_constant_gradients
from metabench.certify.training import slope, train
from metabench.core import InnerState, MetaRole, OptimiserState, Tree, tree
from metabench.core.lazy import torch
from metabench.core.randomness import perturbation

Formula: TypeAlias = "Callable[[Case, Any, torch.Generator], torch.Tensor | None]"
"""What a method declares as `Limit.formula`, too: see there."""


def truncated_neumann(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - J a sum_{j <= steps} (I - a H)^j v. Lorraine et al. 2020, equation 8."""
    at = case.expansion
    contraction = torch.eye(len(at.hessian), dtype=torch.float64) - options.scale * _damped(at, options)
    powers = sum(torch.linalg.matrix_power(contraction, j) for j in range(options.steps + 1))
    return at.implicit(options.scale * (powers @ at.outer_w))


def best_of_krylov_space(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - J q with q the best in energy of the span of v, Hv, ..., H^(steps - 1) v. Hestenes & Stiefel 1952, theorem 6.1.

    The first power that leaves a residual |v - Hq| of at most `tolerance` |v| is the last.
    """
    at = case.expansion
    hessian, found, columns = _damped(at, options), torch.zeros_like(at.outer_w), [at.outer_w]
    for _ in range(min(options.steps, len(hessian))):
        if (at.outer_w - hessian @ found).norm() <= options.tolerance * at.outer_w.norm():
            break
        basis = torch.linalg.qr(torch.stack(columns, dim=1)).Q
        found = basis @ torch.linalg.solve(basis.T @ hessian @ basis, basis.T @ at.outer_w)
        columns.append(hessian @ columns[-1])
    return at.implicit(found)


def nystrom(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - J (H_k + rho I)^-1 v, H_k = H[:, S] H[S, S]^+ H[S, :], S drawn without replacement.

    Hataya & Yamada 2023, equation 5.
    """
    at = case.expansion
    chosen = torch.randperm(len(at.hessian), generator=stream)[: options.rank]
    hessian = _damped(at, options)
    columns = hessian[:, chosen]
    approximation = columns @ torch.linalg.pinv(columns[chosen], hermitian=True) @ columns.T
    regular = approximation + options.rho * torch.eye(len(hessian), dtype=torch.float64)
    return at.implicit(torch.linalg.solve(regular, at.outer_w))


def iterated_adjoint(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl + (dPhi/dl)' a with a = sum_{j <= steps} (dPhi/ds')^j (v, 0), s the whole inner state.

    Grazzi et al. 2020, equation 7.

    The step count of Adam is no part of s: it never comes to rest.
    """
    end, at = case.end, case.expansion
    slots = [name for name in end.optimiser if name != "step"]
    pieces = [end.params, *(end.optimiser[name] for name in slots)]
    like = {f"{place}/{name}": leaf for place, piece in enumerate(pieces) for name, leaf in piece.items()}
    count, batch = tree.count(like), case.window.inner[-1]

    def phi(z: torch.Tensor) -> torch.Tensor:
        """The step map from (s, l) to s."""
        flat, meta = tree.unflatten(z[:count], like), tree.unflatten(z[count:], case.meta)
        parts = [{name: flat[f"{place}/{name}"] for name in piece} for place, piece in enumerate(pieces)]
        loss = case.problem.inner_loss(parts[0], meta, batch)
        for name, leaf in parts[0].items():  # damping: a term without value or slope here, and with this curvature
            loss = loss + options.damping / 2 * (leaf - end.params[name]).square().sum()
        leaves = torch.autograd.grad(loss, list(parts[0].values()), create_graph=True)
        gradient = dict(zip(parts[0], leaves, strict=True))
        before: OptimiserState = {**end.optimiser, **dict(zip(slots, parts[1:], strict=True))}
        params, after = case.problem.optimiser.update(gradient, parts[0], before, meta)
        return torch.cat([tree.flatten(piece) for piece in (params, *(after[name] for name in slots))])

    jacobian = torch.autograd.functional.jacobian(phi, torch.cat([tree.flatten(like), tree.flatten(case.meta)]))
    padded = torch.cat([at.outer_w, torch.zeros(count - len(at.outer_w), dtype=torch.float64)])
    adjoint = total = padded
    for _ in range(options.steps):
        adjoint = jacobian[:, :count].T @ adjoint
        total = total + adjoint
    return at.outer_l + jacobian[:, count:].T @ total


def differences_before_the_last_step(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return the one-step hypergradient, its mixed product by differences of df/dl at w +- e c/|c|. Liu et al. 2019, equations 7 and 8.

    c = (du/dg)' v, u(g) being the last update; for SGD it is the step size times v.
    """
    before, batch = case.before, case.window.inner[-1]
    update, direct = _last_update(case, before)
    after = case.end
    outer = case.outer_batch
    at = expand(case.problem, after.params, case.meta, batch, outer, 0.0)
    cotangent = update.T @ at.outer_w
    return at.outer_l - direct.T @ at.outer_w - _difference(case, before.params, cotangent, options.epsilon)


def differences_after_the_last_step(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - J c by differences at w_K, c = (du/dg)' v of the last update u: the identity for the inverse of H.

    Choe et al. 2023, equation 5.
    """
    before, after = case.before, case.end
    update, _ = _last_update(case, before)
    at = expand(case.problem, after.params, case.meta, case.window.inner[-1], case.outer_batch, 0.0)
    return at.outer_l - _difference(case, after.params, update.T @ at.outer_w, options.epsilon)


def constant_gradients(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor | None:
    """Return the derivative of a run whose inner gradients do not depend on l; for MAML with SGD this is dF/dw at w_K. Finn et al. 2017."""
    if case.problem.roles == {MetaRole.INNER_LOSS}:
        return None
    return tree.flatten(with_constant_gradients(case.problem, case.state, case.meta, case.window))


def way_travelled(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor | None:
    """Return w_0 - w_K, pulled back to what the start is learned from. Nichol et al. 2018, algorithm 1."""
    if MetaRole.START not in case.problem.roles:
        return None
    end = tree.flatten(case.end.params)

    def start(z: torch.Tensor) -> torch.Tensor:
        return tree.flatten(case.problem.start(case.state.params, tree.unflatten(z, case.meta)))

    at = tree.flatten(case.meta)
    return torch.autograd.functional.jacobian(start, at).T @ (start(at) - end)


def weighted_copies(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor | None:
    """Return dF(w*)/dl, w* = sum_k softmax(-f(w_k, l) / tau)_k w_k, w_k = w + sigma e_k. Bohdal et al. 2021, equations 4 to 7."""
    if case.problem.roles & {MetaRole.UPDATE, MetaRole.START}:
        return None
    before, batch = case.before, case.window.inner[-1]
    copies = [
        tree.add_scaled(before.params, options.sigma, perturbation(before.params, options.noise, stream))
        for _ in range(options.copies)
    ]
    meta = tree.leaves_for_grad(case.meta)
    losses = torch.stack([case.problem.inner_loss(copy, meta, batch) for copy in copies])
    weights = (-losses / options.tau).softmax(0)
    mixture = {name: sum(w * copy[name] for w, copy in zip(weights, copies, strict=True)) for name in before.params}
    objective = case.problem.outer_loss(mixture, meta, case.outer_batch)
    if not objective.requires_grad:
        return None
    found = torch.autograd.grad(objective, list(meta.values()))
    return tree.flatten(dict(zip(meta, found, strict=True)))


def mean_of_pairs(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return 1/(2 sigma N) sum_i (F(l + sigma e_i) - F(l - sigma e_i)) e_i in the first window of a run. Salimans et al. 2017, section 2.

    With particles that have seen no window before, Vicol et al. 2021, algorithm 2, is the same.
    """
    at, total = tree.flatten(case.meta), torch.zeros(tree.count(case.meta), dtype=torch.float64)
    value = objective(case.problem, case.state, case.window)
    for _ in range(options.pairs):
        noise = tree.flatten(perturbation(case.meta, "gaussian", stream))
        above, below = (value(tree.unflatten(at + sign * options.sigma * noise, case.meta)) for sign in (1, -1))
        total = total + (above - below) / (2 * options.sigma * options.pairs) * noise
    return total


def fully_first_order(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return c times the difference, of some order, of df/dl + s/c dF/dl at y_s, some gradient steps on f + s F/c from z = w_K = y_0.

    Kwon et al. 2023, algorithm 1; Chen et al. 2025.
    """
    z, c = tree.flatten(case.end.params), options.penalty

    def slope_of_envelope(s: int) -> torch.Tensor:
        y = z
        for _ in range(options.steps if s else 0):
            y = y - options.learning_rate * (_decayed_slope(case, y) + s / c * _outer_slopes(case, y)[0])
        return _slope_in_l(case, y) + s / c * _outer_slopes(case, y)[1]

    if options.order == 1:
        return c * (slope_of_envelope(1) - slope_of_envelope(0))
    near = slope_of_envelope(1) - slope_of_envelope(-1)
    if options.order == 2:
        return c / 2 * near
    return c / 12 * (8 * near - (slope_of_envelope(2) - slope_of_envelope(-2)))


def falling_gap(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl(y) + c dq/dl(y), q(y) = f(y) - f(w_K), y some steps along dF/dy + c dq/dy from w_K. Ye et al. 2022, equations 3 to 6.

    c = max(eta - <grad F, grad q> / |grad q|^2, 0), the gradients over (y, l), or over y alone where not `joint`; 0 where q has none.
    """
    z = y = tree.flatten(case.end.params)

    def slopes(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float]:
        f_w, f_l = _outer_slopes(case, at)
        q_w, q_l = _decayed_slope(case, at), _slope_in_l(case, at) - _slope_in_l(case, z)
        inner, square = f_w @ q_w, q_w @ q_w
        if options.joint:
            inner, square = inner + f_l @ q_l, square + q_l @ q_l
        still = float(square) <= (1e-13 * float(f_w.norm())) ** 2
        return f_w, f_l, q_w, q_l, 0.0 if still else max(options.eta - float(inner / square), 0.0)

    for _ in range(options.steps):
        f_w, _, q_w, _, c = slopes(y)
        y = y - options.learning_rate * (f_w + c * q_w)
    _, f_l, _, q_l, c = slopes(y)
    return f_l + c * q_l


def slopes_along_draws(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return the mean of (g . v) v over the draws, g by finite differences of plain training. Baydin et al. 2022, definition 1."""
    g = tree.flatten(case.through_last_steps(case.inner_steps))
    drawn = [tree.flatten(perturbation(case.meta, options.noise, stream)) for _ in range(options.draws)]
    return torch.stack([(g @ v) * v for v in drawn]).mean(0)


def differences_of_runs(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl + mean u <(w(l + mu u) - w(l)) / mu, dF/dw> over all outer losses due. Sow et al. 2022, algorithm 1."""
    plain, at = case.trained.states[1:], tree.flatten(case.meta)
    due = [k for k, batch in enumerate(case.window.outer) if batch is not None]
    slopes = {k: _slopes_of_outer(case, plain[k], k) for k in due}
    total = torch.stack([slopes[k][1] for k in due]).sum(0)
    for _ in range(options.draws):
        u = tree.flatten(perturbation(case.meta, options.noise, stream))
        moved = train(case.problem, case.state, tree.unflatten(at + options.mu * u, case.meta), case.window).states[1:]
        away = {k: tree.flatten(tree.subtract(moved[k].params, plain[k].params)) for k in due}
        total = total + u * sum(away[k] @ slopes[k][0] for k in due) / options.mu / options.draws
    return total


def along_the_line(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return the reverse sweep whose step k is linearised at (1 - k/K) s_0 + (k/K) s_K, dense. Fu et al. 2016, algorithm 2."""
    states, meta = case.trained.states, tree.flatten(case.meta)
    first, last, steps = states[0], states[-1], case.inner_steps
    pieces = {"params": first.params, **first.optimiser}
    like = {f"{place}/{name}": leaf for place, piece in pieces.items() for name, leaf in piece.items()}
    count, ends = tree.count(like), [_flat_state(one) for one in (first, last)]
    n = tree.count(first.params)
    cotangent, total = torch.zeros(count, dtype=torch.float64), torch.zeros(len(meta), dtype=torch.float64)
    for k in reversed(range(steps)):
        if case.window.outer[k] is not None:
            of_w, of_l = _slopes_of_outer(case, states[k + 1], k)
            cotangent, total = cotangent + torch.cat([of_w, torch.zeros(count - n, dtype=torch.float64)]), total + of_l

        def phi(z: torch.Tensor, k: int = k) -> torch.Tensor:
            flat, values = tree.unflatten(z[:count], like), tree.unflatten(z[count:], case.meta)
            parts = {place: {name: flat[f"{place}/{name}"] for name in piece} for place, piece in pieces.items()}
            params = parts.pop("params")
            loss = case.problem.inner_loss(params, values, case.window.inner[k])
            leaves = torch.autograd.grad(
                loss, list(params.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            after, slots = case.problem.optimiser.update(dict(zip(params, leaves, strict=True)), params, parts, values)
            return torch.cat([tree.flatten(piece) for piece in (after, *(slots[name] for name in parts))])

        at = ends[0] + (ends[1] - ends[0]) * k / steps
        jacobian = torch.autograd.functional.jacobian(phi, torch.cat([at, meta]))
        cotangent, total = jacobian[:, :count].T @ cotangent, total + jacobian[:, count:].T @ cotangent
    if MetaRole.START in case.problem.roles:
        start = torch.autograd.functional.jacobian(
            lambda z: tree.flatten(case.problem.start(case.state.params, tree.unflatten(z, case.meta))), meta
        )
        total = total + start.T @ cotangent[:n]
    return total


def _flat_state(state: InnerState) -> torch.Tensor:
    return torch.cat([tree.flatten(piece) for piece in (state.params, *state.optimiser.values())])


def _slopes_of_outer(case: Case, state: InnerState, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return dF/dw and dF/dl of the outer loss due after step k."""
    like, n, batch = state.params, tree.count(state.params), case.window.outer[k]
    assert batch is not None
    both = torch.autograd.functional.jacobian(
        lambda z: case.problem.outer_loss(tree.unflatten(z[:n], like), tree.unflatten(z[n:], case.meta), batch),
        torch.cat([tree.flatten(state.params), tree.flatten(case.meta)]),
    )
    return both[:n], both[n:]


def newton_step(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return the implicit formula at z = w_K - H^-1 df/dw, both systems solved to the best in energy of a Krylov space.

    Dong et al. 2025. Where a space shows negative curvature the step is left out, as the method declares.
    """
    point, batch, decay = tree.flatten(case.end.params), case.window.inner[-1], case.problem.weight_decay
    at = case.expansion
    step, positive = _best_in_energy(_damped(at, options), _decayed_slope(case, point), options)
    moved = tree.unflatten(point - step, case.end.params) if positive else case.end.params
    there = expand(case.problem, moved, case.meta, batch, case.outer_batch, decay)
    system, right = (at, at.outer_w) if options.shared else (there, there.outer_w)
    solution, _ = _best_in_energy(_damped(system, options), right, options)
    return there.implicit(solution)


def _best_in_energy(hessian: torch.Tensor, right: torch.Tensor, options: Any) -> tuple[torch.Tensor, bool]:
    """Return what conjugate gradients reach: by Krylov spaces, up to the first whose new direction has no positive curvature."""
    found, columns = torch.zeros_like(right), [right]
    for _ in range(min(options.steps, len(hessian))):
        if (right - hessian @ found).norm() <= max(options.tolerance, 2.2e-16) * right.norm():
            break
        basis = torch.linalg.qr(torch.stack(columns, dim=1)).Q
        reduced = basis.T @ hessian @ basis
        if float(torch.linalg.eigvalsh(reduced)[0]) <= 0:
            return found, False
        found = basis @ torch.linalg.solve(reduced, basis.T @ right)
        columns.append(hessian @ basis[:, -1])
    return found, True


def least_residual(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - J q with q of least |v - H q| in the span of v, Hv, ..., H^(steps - 1) v. Paige & Saunders 1975."""
    at = case.expansion
    hessian, right = _damped(at, options), at.outer_w
    found, basis = torch.zeros_like(right), (right / right.norm())[:, None]
    for _ in range(min(options.steps, len(hessian))):
        if (right - hessian @ found).norm() <= max(options.tolerance, 1e-14) * right.norm():
            break
        found = basis @ torch.linalg.lstsq(hessian @ basis, right[:, None], driver="gelsd").solution[:, 0]
        new = hessian @ basis[:, -1]
        for _ in range(2):
            new = new - basis @ (basis.T @ new)
        if float(new.norm()) <= 1e-13 * float(torch.linalg.matrix_norm(hessian, 2)):
            break
        basis = torch.cat([basis, (new / new.norm())[:, None]], dim=1)
    return at.implicit(found)


def products_on_batches(case: Case, options: Any, stream: torch.Generator | None) -> torch.Tensor:
    """Return dF/dl - J q, q = alpha N prod_{j <= p} (I - alpha H_j) v with p drawn; without a stream, its mean over p: the sum.

    Ghadimi & Wang 2018. H_j is of the window's batch before the last, the one before that, ..., and around.
    """
    at, batches, count = case.expansion, case.window.inner, case.inner_steps
    drawn = options.truncation == "random" and stream is not None
    last = int(torch.randint(options.steps, (), generator=stream)) if drawn else options.steps - 1
    terms = [at.outer_w]
    for j in range(last):
        batch = batches[(count - 2 - j) % count]
        hessian = expand(case.problem, case.end.params, case.meta, batch, case.outer_batch, case.problem.weight_decay).hessian
        terms.append(terms[-1] - options.scale * (hessian @ terms[-1]))
    total = options.steps * terms[-1] if drawn else torch.stack(terms).sum(0)
    return at.implicit(options.scale * total)


def fisher(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - J (G G'/K + rho I)^-1 v, G the gradients of the window's run at its own points, dense. Kong et al. 2026."""
    at, problem = case.expansion, case.problem
    passed = zip(case.trained.states[:-1], case.window.inner, strict=True)
    slopes = torch.stack([tree.flatten(slope(problem.inner_loss, one.params, case.meta, batch)) for one, batch in passed])
    ridge = (options.damping + problem.weight_decay) * torch.eye(len(at.outer_w), dtype=torch.float64)
    return at.implicit(torch.linalg.solve(slopes.T @ slopes / len(slopes) + ridge, at.outer_w))


def one_step_of_the_system(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl - rho J v in the first window of a run, where v = 0 moves to rho dF/dw. Dagréou et al. 2022."""
    at = case.expansion
    if options.batches != "own" or case.inner_steps == 1:
        return at.implicit(options.rate * at.outer_w)
    apart = expand(case.problem, case.end.params, case.meta, case.window.inner[-2], case.outer_batch, 0.0)
    return at.outer_l - apart.mixed @ (options.rate * at.outer_w)


def moreau_gap(case: Case, options: Any, stream: torch.Generator) -> torch.Tensor:
    """Return dF/dl(y) + c (df/dl(y) - df/dl(theta)), both points some steps from w_K. Liu et al. 2024, algorithm 1."""
    y = theta = tree.flatten(case.end.params)
    for _ in range(options.steps):
        theta = theta - options.proximal_rate * (_decayed_slope(case, theta) + (theta - y) / options.proximal)
        slope = _outer_slopes(case, y)[0] / options.penalty + _decayed_slope(case, y) - (y - theta) / options.proximal
        y = y - options.learning_rate * slope
    return _outer_slopes(case, y)[1] + options.penalty * (_slope_in_l(case, y) - _slope_in_l(case, theta))


def _damped(at: Expansion, options: Any) -> torch.Tensor:
    return at.hessian + getattr(options, "damping", 0.0) * torch.eye(len(at.hessian), dtype=torch.float64)


def _last_update(case: Case, before: InnerState) -> tuple[torch.Tensor, torch.Tensor]:
    """Return du/dg [n, n] and the direct du/dl [n, m] of the last update, w_K = w - u(g, l), dense."""
    g = _inner_slope(case, tree.flatten(before.params))
    n = len(g)

    def moved(z: torch.Tensor) -> torch.Tensor:
        gradient, meta = tree.unflatten(z[:n], before.params), tree.unflatten(z[n:], case.meta)
        after, _ = case.problem.optimiser.update(gradient, before.params, before.optimiser, meta)
        return tree.flatten(before.params) - tree.flatten(after)

    jacobian = torch.autograd.functional.jacobian(moved, torch.cat([g, tree.flatten(case.meta)]))
    return jacobian[:, :n], jacobian[:, n:]


def _inner_slope(case: Case, point: torch.Tensor) -> torch.Tensor:
    like, batch = case.state.params, case.window.inner[-1]
    return torch.autograd.functional.jacobian(
        lambda z: case.problem.inner_loss(tree.unflatten(z, like), case.meta, batch), point
    )


def _slope_in_l(case: Case, point: torch.Tensor) -> torch.Tensor:
    params: Tree = tree.unflatten(point, case.state.params)
    return torch.autograd.functional.jacobian(
        lambda z: case.problem.inner_loss(params, tree.unflatten(z, case.meta), case.window.inner[-1]),
        tree.flatten(case.meta),
    )


def _decayed_slope(case: Case, point: torch.Tensor) -> torch.Tensor:
    """Return the slope in w of what training minimises."""
    return _inner_slope(case, point) + case.problem.weight_decay * point


def _outer_slopes(case: Case, point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return dF/dw and dF/dl."""
    n, like = len(point), case.state.params
    both = torch.autograd.functional.jacobian(
        lambda z: case.problem.outer_loss(tree.unflatten(z[:n], like), tree.unflatten(z[n:], case.meta), case.outer_batch),
        torch.cat([point, tree.flatten(case.meta)]),
    )
    return both[:n], both[n:]


def _difference(case: Case, params: Tree, direction: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return (df/dl(w + e d/|d|) - df/dl(w - e d/|d|)) |d| / (2 e)."""
    point, length = tree.flatten(params), direction.norm()
    by = epsilon * direction / length
    return (_slope_in_l(case, point + by) - _slope_in_l(case, point - by)) * length / (2 * epsilon)


FORMULAS: dict[str, tuple[Formula, tuple[dict[str, Any], ...]]] = {
    "es": (mean_of_pairs, ({}, {"pairs": 2, "sigma": 0.5})),
    "pes": (mean_of_pairs, ({}, {"pairs": 3, "sigma": 0.5})),
    "darts": (differences_before_the_last_step, ({}, {"epsilon": 0.1})),
    "sama": (differences_after_the_last_step, ({}, {"epsilon": 0.1})),
    "forward_gradient": (
        slopes_along_draws,
        ({}, {"draws": 5, "noise": "gaussian"}, {"draws": 3, "together": 2}),
    ),
    "es_jacobian": (differences_of_runs, ({}, {"draws": 3, "noise": "sign", "mu": 0.1})),
    "drmad": (along_the_line, ({},)),
    "first_order": (constant_gradients, ({},)),
    "reptile": (way_travelled, ({},)),
    "ift_cg": (best_of_krylov_space, ({}, {"steps": 1}, {"steps": 3}, {"tolerance": 0.3}, {"steps": 2, "damping": 0.3})),
    "torchopt_ift_cg": (best_of_krylov_space, ({}, {"steps": 1}, {"steps": 3}, {"tolerance": 0.3})),
    "ift_neumann": (truncated_neumann, ({}, {"steps": 0}, {"steps": 3, "scale": 0.7}, {"steps": 5, "damping": 0.3})),
    "ift_newton": (newton_step, ({}, {"steps": 2}, {"shared": True}, {"steps": 3, "damping": 0.3})),
    "ift_minres": (
        least_residual,
        ({}, {"steps": 1}, {"steps": 3}, {"tolerance": 0.3}, {"steps": 2, "damping": 0.3}, {"steps": 3, "carried": 5}),
    ),
    "ift_stochastic": (
        products_on_batches,
        ({}, {"steps": 4, "scale": 0.3, "truncation": "sum"}, {"steps": 3, "scale": 0.2}),
    ),
    "ift_fisher": (fisher, ({}, {"damping": 1.0}, {"damping": 0.01})),
    "ift_nystrom": (
        nystrom,
        (
            {},
            {"rank": 2},
            {"rank": 3, "block": 2},
            {"rank": 3, "rho": 0.5, "storage": "blocked"},
            {"rank": 3, "storage": "blocked", "block": 2},
        ),
    ),
    "ift_fixed_point": (
        iterated_adjoint,
        (
            {"tolerance": 0.0},
            {"steps": 1, "tolerance": 0.0},
            {"steps": 7, "tolerance": 0.0},
            {"steps": 3, "tolerance": 0.0, "damping": 0.3},
        ),
    ),
    "f2sa": (
        fully_first_order,
        ({}, {"penalty": 5.0, "steps": 3}, {"order": 2, "steps": 3}, {"order": 4, "penalty": 20.0, "steps": 3}),
    ),
    "single_loop": (one_step_of_the_system, ({}, {"rate": 0.3, "batches": "own"}, {"momentum": 0.5})),
    "meha": (moreau_gap, ({}, {"steps": 3, "penalty": 5.0}, {"steps": 2, "proximal": 0.5, "proximal_rate": 0.2})),
    "bome": (falling_gap, ({}, {"steps": 3}, {"joint": False, "steps": 3}, {"eta": 2.0})),
    "evograd": (
        weighted_copies,
        ({}, {"copies": 5, "noise": "gaussian", "sigma": 0.3, "tau": 0.5}, {"copies": 3, "together": True}),
    ),
}
"""By method: its formula, and the options under which it is checked. A method not listed here is checked only against what it declares."""
