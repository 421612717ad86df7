"""PES: particles that go on from window to window make the mean of cut runs that of whole ones, which ES does not.

Means are judged by a z-test: five standard errors, which a correct estimator misses with probability 6e-7. Streams are seeded.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bilevel import OPTIMISERS, call, checkpoint, make_problem, relative_error
from small_problems import LearnedStart, SummedOuter, Tanh

from metabench.autodiff import together
from metabench.autodiff.inner import begin, detached, run, trained
from metabench.core import Batch, InnerState, MetabenchError, Problem, Tree, Window, tree
from metabench.core.randomness import generator, perturbation
from metabench.methods import method

STANDARD_ERRORS = 5
SIGMA, RATE, STEPS = 0.3, 0.05, 1


def smoothed_sum(x: float, penalty: float, windows: int) -> float:
    """Return d/dl E[sum_t L_t(l + sigma e_1, ..., l + sigma e_t)] on the toy problem, the noise drawn anew for each window."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    grids = np.meshgrid(*[nodes] * windows, indexing="ij")
    shares = np.prod(np.meshgrid(*[weights / weights.sum()] * windows, indexing="ij"), axis=0)
    at, total = np.full(grids[0].shape, x, dtype=complex), np.zeros(grids[0].shape, dtype=complex)
    for noise in grids:
        moved = penalty + SIGMA * noise + 1e-30j
        for _ in range(STEPS):
            at = at - RATE * (2 * (at - 1) + 2 * moved * at)
        total = total + (at - 0.5) ** 2
    return float((shares * total).sum().imag / 1e-30)


def summed(
    name: str, problem: Problem, at: tuple[InnerState, dict, Window], windows: int, seed: int, **options: float
) -> float:
    """Return the sum of the estimates of windows that carry the inner run on, the meta-parameters unchanged."""
    chosen, stream = method(name), generator(seed, "means")
    state, meta, window = at
    total = 0.0
    for _ in range(windows):
        found = chosen(problem, state, meta, window, chosen.options(sigma=SIGMA, **options), stream)
        state, total = found.state, total + float(found.meta["l"])
    return total


@pytest.mark.parametrize("windows", [2, 3])
def test_over_carried_windows_its_mean_is_that_of_the_whole_run_and_es_is_biased(windows: int) -> None:
    problem = make_problem("toy_1d", inner_steps=STEPS, learning_rate=RATE)
    _, meta, window = checkpoint(problem, windows_before=0)
    # Far from the minimum every window moves x the same way, so that what ES does not see is of the size of what it sees.
    at = (InnerState({"x": torch.tensor(2.0, dtype=torch.float64)}, {}), meta, window)
    expected = smoothed_sum(float(at[0].params["x"]), float(at[1]["l"]), windows)
    draws = 400
    persistent = torch.tensor([summed("pes", problem, at, windows, seed, pairs=2, horizon=0) for seed in range(draws)])
    error = float(persistent.std()) / draws**0.5
    assert abs(float(persistent.mean()) - expected) <= STANDARD_ERRORS * error
    assert abs(expected) > STANDARD_ERRORS * error
    cut = torch.tensor([summed("es", problem, at, windows, seed, pairs=2) for seed in range(draws)])
    assert abs(float(cut.mean()) - expected) > STANDARD_ERRORS * float(cut.std()) / draws**0.5


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_particles_are_inner_runs_under_their_own_perturbations(optimiser: str) -> None:
    problem = Tanh(optimiser, inner_steps=2)
    state, meta, first = checkpoint(problem)
    second = next(problem.windows())[0]
    stream, pairs, sigma = generator(3, "test"), 3, 0.2
    chosen = method("pes")
    options = chosen.options(pairs=pairs, sigma=sigma)
    one = chosen(problem, state, meta, first, options, stream)
    two = chosen(problem, one.state, meta, second, options, stream)
    replay = generator(3, "test")
    noises = [[perturbation(meta, "gaussian", replay) for _ in range(pairs)] for _ in (first, second)]
    for i in range(pairs):
        for side, sign in (("plus", sigma), ("minus", -sigma)):
            particle = state
            for window, noise in zip((first, second), noises, strict=True):
                particle = run(
                    problem,
                    detached(begin(problem, particle, meta)),
                    tree.add_scaled(meta, sign, noise[i]),
                    window.inner,
                )
            for name, leaf in particle.params.items():
                torch.testing.assert_close(two.state.memory[f"{side}.params"][name][i], leaf, rtol=1e-12, atol=1e-14)
            for slot, leaves in particle.optimiser.items():
                for name, leaf in leaves.items():
                    kept = two.state.memory[f"{side}.optimiser.{slot}"][name][i]
                    torch.testing.assert_close(kept, leaf, rtol=1e-12, atol=1e-14)
        for name in meta:
            total = sigma * (noises[0][i][name] + noises[1][i][name])
            torch.testing.assert_close(two.state.memory["perturbation"][name][i], total, rtol=1e-13, atol=1e-15)
    assert two.diagnostics["windows"] == 2


@pytest.mark.parametrize("kind", [Tanh, SummedOuter, LearnedStart])
def test_without_a_memory_it_is_es(kind: type[Problem]) -> None:
    problem = kind()
    at = checkpoint(problem)
    options = {"seed": 2, "pairs": 4, "sigma": 0.1}
    assert relative_error(call("pes", problem, *at, **options).meta, call("es", problem, *at, **options).meta) <= 1e-12


def test_after_the_horizon_the_particles_begin_again_where_the_plain_run_stands() -> None:
    problem = Tanh("momentum", inner_steps=2)
    state, meta, window = checkpoint(problem)
    for expected in (1.0, 2.0, 1.0):
        plain = InnerState(state.params, state.optimiser)
        found = call("pes", problem, state, meta, window, seed=4, pairs=2, horizon=2)
        anew = call("es", problem, plain, meta, window, seed=4, pairs=2)
        assert found.diagnostics["windows"] == expected
        assert (relative_error(found.meta, anew.meta) <= 1e-12) == (expected == 1.0)
        state = found.state


def test_a_memory_of_other_particles_is_an_error_that_names_them() -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    after = call("pes", problem, state, meta, window, pairs=2).state
    with pytest.raises(MetabenchError, match=r"3 pairs of particles.*'pairs' cannot change"):
        call("pes", problem, after, meta, window, pairs=3)
    with pytest.raises(MetabenchError, match="2 pairs of particles"):
        call("pes", problem, InnerState(after.params, after.optimiser, {"other": meta}), meta, window, pairs=2)


def test_the_memory_it_is_given_is_not_changed() -> None:
    problem = Tanh("adam")
    state, meta, window = checkpoint(problem)
    after = call("pes", problem, state, meta, window, pairs=2).state
    copied = {key: tree.tree_map(torch.clone, leaves) for key, leaves in after.memory.items()}
    later = call("pes", problem, after, meta, window, pairs=2, seed=1).state
    for key, leaves in copied.items():
        assert all(torch.equal(leaf, after.memory[key][name]) for name, leaf in leaves.items())
        assert not any(leaf.requires_grad for leaf in later.memory[key].values())


class Branching(Tanh):
    """A loss with a branch that reads a number out of a tensor: torch.func.vmap does not take it."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        loss = super().inner_loss(params, meta, batch)
        return 2 * loss if loss.item() > 0 else loss


@pytest.mark.parametrize("name", ["es", "pes"])
@pytest.mark.parametrize("kind", [Branching, Tanh, LearnedStart, SummedOuter])
def test_pairs_in_one_pass_are_those_of_one_by_one(
    name: str, kind: type[Tanh], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[int] = []
    monkeypatch.setattr(together, "trained", lambda *given: alone.append(1) or trained(*given))
    problem = kind("adam")
    state, meta, window = checkpoint(problem)
    found = []
    for pairs_together in (1, 3, 0):
        alone.clear()
        after = call(name, problem, state, meta, window, seed=3, pairs=4, together=pairs_together)
        found.append(call(name, problem, after.state, meta, window, seed=4, pairs=4, together=pairs_together))
        assert len(alone) == (16 if pairs_together == 1 or kind is Branching else 0)
    for other in found[1:]:
        assert relative_error(other.meta, found[0].meta) <= 1e-10
        for key, leaves in found[0].state.memory.items():
            for leaf, kept in leaves.items():
                torch.testing.assert_close(other.state.memory[key][leaf], kept, rtol=1e-11, atol=1e-13)
