"""Persistent evolution strategies: perturbed runs continue from window to window and accumulate their perturbations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metabench.autodiff.differences import PairedMean
from metabench.autodiff.inner import leaves_of, trained, with_leaves
from metabench.autodiff.together import HELP, pairs_together, train_particles
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
    MetabenchError,
    Problem,
    Target,
    Tree,
    Window,
    method,
    option,
    tree,
)
from metabench.core.lazy import torch
from metabench.core.randomness import perturbation


@dataclass(frozen=True)
class Options:
    """Options of `pes`.

    The width is that of the paper's experiments with schedules of learning rates. There an inner run ends after a fixed number of windows,
    and its particles with it. Here a run may last as long as the meta-optimisation, and the variance grows in proportion to the number
    of windows that the particles have seen: after twenty, the standard error is 4.5 times that after one.
    """

    pairs: int = option(16, minimum=1, help="N, antithetic pairs of particles")
    sigma: float = option(
        0.1, above=0, help="standard deviation of the perturbation of the meta-parameters, redrawn for each window"
    )
    horizon: int = option(
        20,
        minimum=0,
        help="windows after which the particles restart from the plain run; 0: never, as within a run of the paper",
    )
    together: int = option(0, minimum=0, help=HELP)


@method(
    title="PES: persistent evolution strategies",
    order=200,
    target=Target.PERSISTENT,
    exact=False,
    cost=Cost(
        gradients="(2 N + 1) K", forwards="2 N + 1", memory="O(N (|w| + |l|) + together |activations|)", affine_from=2
    ),
    citation="vicol2021unbiased",
    options=Options,
    stochastic=True,
)
def pes(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return 1/(2 sigma^2 N) sum_i (F_i+ - F_i-) xi_i over N pairs of particles. Vicol et al. 2021, algorithm 2.

    The particles of a pair are separate inner runs: in every window they continue training under l + sigma e_i and l - sigma e_i, and
    xi_i accumulates the perturbations sigma e_i of all windows since they started. F_i are their objectives in this window. The mean
    is the gradient of E[F(l + sigma e_1, ..., l + sigma e_t)], the window's objective as a function of the meta-parameters of all windows
    since then: cutting the run into windows causes no bias. The state and outer loss returned are those of the unperturbed
    run; the particles are in the state's memory, stacked along a first dimension of N.

    Particles start at the given state if its memory is empty: at the first window of an inner run, or at every window if the problem does
    not continue its run; this is then `es`. A problem whose meta-parameters are initial parameters passes every window's state through
    its start, including that of the particles: they carry only what the start leaves unchanged, and the perturbations of earlier windows,
    whose effect has ended, add variance but no bias.

    `spread` is the standard error of the mean over its norm; `windows` counts those that the particles have seen.

    Raises:
        MetabenchError: the memory holds particles of another number of pairs or other shapes.
    """
    before = _particles(state, meta, options)
    after = {key: tree.tree_map(torch.empty_like, leaves) for key, leaves in before.items()}
    mean = PairedMean(meta, options.pairs)
    together, done = pairs_together(options.together, options.pairs, state), 0
    while done < options.pairs:
        pairs = range(done, min(done + together, options.pairs))
        noises = [tree.scale(options.sigma, perturbation(meta, "gaussian", generator)) for _ in pairs]
        particles = [(side, i) for i in pairs for side in SIDES]
        found, vectorised = train_particles(
            problem,
            lambda j, of=particles: _inner_state(before, *of[j], state),
            [tree.add_scaled(meta, sign, noise) for noise in noises for sign in SIDES.values()],
            window,
            together > 1,
            lambda j, particle, of=particles: _put(after, *of[j], particle),
        )
        for i, noise, above, below in zip(pairs, noises, found[::2], found[1::2], strict=True):
            total = {name: leaf[i] + noise[name] for name, leaf in before[PERTURBATION].items()}
            _fill(after[PERTURBATION], i, total)
            mean.add((above - below) / (2 * options.sigma**2), total)
        done, together = pairs.stop, together if vectorised else 1
    after[WINDOWS] = tree.tree_map(lambda count: count + 1, before[WINDOWS])
    final, objective = trained(problem, state, meta, window)
    diagnostics = {**mean.spread(), "windows": float(after[WINDOWS]["count"])}
    return Hypergradient(mean.value, InnerState(final.params, final.optimiser, after), objective, diagnostics)


SIDES = {"plus": 1.0, "minus": -1.0}
PERTURBATION, WINDOWS = "perturbation", "windows"
"""Keys of the memory, besides 'plus.params', 'minus.params', 'plus.optimiser.momentum', ...: sums xi, shape [N, ...], and a count."""


def _particles(state: InnerState, meta: Tree, options: Options) -> Mapping[str, Tree]:
    """Return the particles of the run so far, or new ones at `state`; raise MetabenchError if they belong to another run."""
    begun = _begun(state, meta, options.pairs)
    if not state.memory:
        return begun
    for key, leaves in begun.items():
        expected = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
        found = {name: tuple(leaf.shape) for name, leaf in state.memory.get(key, {}).items()}
        if found != expected:
            raise MetabenchError(
                f"the memory of the inner run does not hold {options.pairs} pairs of particles: '{key}' has shapes {found}, "
                f"expected {expected}; 'pairs' cannot change within an inner run"
            )
    if 0 < options.horizon <= float(state.memory[WINDOWS]["count"]):
        return begun
    return state.memory


def _begun(state: InnerState, meta: Tree, pairs: int) -> dict[str, Tree]:
    def repeated(leaves: Tree) -> Tree:
        return tree.tree_map(lambda leaf: leaf.detach().expand(pairs, *leaf.shape), leaves)

    places = zip(_places(state), leaves_of(state), strict=True)
    begun = {f"{side}.{place}": repeated(leaves) for place, leaves in places for side in SIDES}
    like = next(iter(meta.values()))
    begun[PERTURBATION] = repeated(tree.zeros_like(meta))
    begun[WINDOWS] = {"count": torch.zeros((), dtype=like.dtype, device=like.device)}
    return begun


def _places(state: InnerState) -> list[str]:
    """Return the names of the trees that `leaves_of` lists."""
    return ["params", *(f"optimiser.{slot}" for slot in state.optimiser)]


def _inner_state(particles: Mapping[str, Tree], side: str, i: int, like: InnerState) -> InnerState:
    trees = [tree.tree_map(lambda leaf: leaf[i], particles[f"{side}.{place}"]) for place in _places(like)]
    return with_leaves(like, trees)


def _put(particles: Mapping[str, Tree], side: str, i: int, state: InnerState) -> None:
    for place, leaves in zip(_places(state), leaves_of(state), strict=True):
        _fill(particles[f"{side}.{place}"], i, leaves)


def _fill(stacked: Tree, i: int, leaves: Tree) -> None:
    for name, leaf in leaves.items():
        stacked[name][i].copy_(leaf)
