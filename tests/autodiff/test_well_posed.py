"""A problem whose hypergradient means nothing is refused, and it is said which of its parts is at fault."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from bilevel import make_problem
from small_problems import (
    LearnedSchedule,
    LearnedStart,
    LearnedStartOfBody,
    LearnedUpdate,
    LearningRates,
    OuterOnly,
    OuterPenalty,
    Ridge,
    ScheduledRates,
    SummedOuter,
    Tanh,
    Tasks,
    WeightedExamples,
)

from metabench.autodiff.optimisers import Rate, inner_optimiser, scheduled
from metabench.core import Batch, Diverged, MetabenchError, MetaRole, Problem, Tree, Window, tree
from metabench.core.problem import OuterOptimiser
from metabench.problems import problems
from metabench.stages.well_posed import check_losses, check_rates, check_reach, check_trees


def examine(problem: Problem, windows: int = 3) -> None:
    """Check everything, as a cell does."""
    state, meta = problem.initial_state()
    check_trees(state, meta)
    check_rates(problem, state, meta, outer_steps=windows)
    stream: Iterator[Window] = itertools.chain.from_iterable(itertools.islice(problem.windows(), windows))
    first = next(stream)
    check_losses(problem, state, meta, first)
    check_reach(problem, state, meta, itertools.chain([first], stream))


SOUND: dict[str, Callable[[], Problem]] = {
    kind.__name__: kind
    for kind in (
        LearnedStart,
        LearnedSchedule,
        LearnedStartOfBody,
        LearnedUpdate,
        LearningRates,
        OuterOnly,
        OuterPenalty,
        Ridge,
        ScheduledRates,
        SummedOuter,
        Tanh,
        Tasks,
        WeightedExamples,
    )
} | {name: lambda name=name: make_problem(name) for name in problems()}


@pytest.mark.parametrize("name", list(SOUND))
def test_problems_with_every_role_are_well_posed(name: str) -> None:
    examine(SOUND[name]())


class Vector(Tanh):
    """The inner loss of every example, not their mean."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return self.errors(params, batch) * meta["in"].exp()


class OneElement(Tanh):
    """An outer loss of shape (1,)."""

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().outer_loss(params, meta, batch)[None]


class Number(Tanh):
    """An inner loss that was turned into a number."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().inner_loss(params, meta, batch).item()  # type: ignore[return-value]


class Hits(Tanh):
    """An outer loss that counts."""

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return (self.errors(params, batch) > 1).sum()


class Detached(Tanh):
    """An inner loss of parameters that were detached."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().inner_loss(tree.detach(params), meta, batch)


class Dropout(Tanh):
    """A hidden layer with dropout."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        kept = {**params, "out": torch.nn.functional.dropout(params["out"], 0.5)}
        return super().inner_loss(kept, meta, batch)


class QuietNoise(Tanh):
    """Global random numbers that change next to nothing."""

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().outer_loss(params, meta, batch) + 1e-12 * torch.rand(())


class RunningMean(Tanh):
    """Errors are divided by a running mean of what they were."""

    running = 1.0

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        loss = super().inner_loss(params, meta, batch)
        self.running = 0.9 * self.running + 0.1 * float(loss.detach())
        return loss / self.running


class Additive(Tanh):
    """Meta-parameters in the inner loss that move its value and not its gradient."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return self.errors(params, batch).mean() + torch.stack(list(meta.values())).sum()


class Unused(Tanh):
    """A meta-parameter that no loss reads, beside others that the inner one does."""

    def initial_meta(self, params: Tree) -> Tree:
        return super().initial_meta(params) | {"forgotten": torch.zeros((), dtype=torch.float64)}


class Undeclared(OuterPenalty):
    """The outer loss reads the meta-parameters, too."""

    roles = frozenset({MetaRole.INNER_LOSS})


class DeclaredInner(LearningRates):
    """Learning rates that are declared to enter the inner loss, too."""

    roles = frozenset({MetaRole.UPDATE, MetaRole.INNER_LOSS})


class DeclaredUpdate(Tanh):
    """Penalties that are declared to enter the update."""

    roles = frozenset({MetaRole.INNER_LOSS, MetaRole.UPDATE})


class DeclaredStart(Tanh):
    """Penalties that are declared to be initial parameters."""

    roles = frozenset({MetaRole.INNER_LOSS, MetaRole.START})


NOT_A_FUNCTION = "is not a function of its arguments"
UNSOUND: list[tuple[type[Problem], str]] = [
    (Vector, r"the inner loss has the shape \(12,\), expected a scalar, shape \(\): take its mean or sum"),
    (OneElement, r"the outer loss has the shape \(1,\), expected a scalar"),
    (Number, "the inner loss is a float, expected a tensor"),
    (Hits, r"the outer loss is of torch\.int64"),
    (Detached, "the inner loss does not depend on the parameters"),
    (Dropout, rf"the inner loss {NOT_A_FUNCTION}: .* instead of dropout and other noise draw it into the batch"),
    (QuietNoise, rf"the outer loss {NOT_A_FUNCTION}: it draws from torch's global random numbers"),
    (RunningMean, rf"the inner loss {NOT_A_FUNCTION}: .* instead of running statistics use LayerNorm"),
    (Additive, "does not depend on the meta-parameter 'in', declared to enter the inner loss: .* the first 3 windows"),
    (Unused, "does not depend on the meta-parameter 'forgotten', declared to enter the inner loss"),
    (Undeclared, r"the outer loss reads meta-parameters, and .* roles do not say so: add MetaRole\.OUTER_LOSS"),
    (DeclaredInner, r"roles say MetaRole\.INNER_LOSS, and the inner loss does not depend on any meta-parameter"),
    (DeclaredUpdate, r"roles say MetaRole\.UPDATE, and the inner update does not depend on any meta-parameter"),
    (DeclaredStart, r"roles say MetaRole\.START, and the start of the inner run does not depend"),
]


@pytest.mark.parametrize(("kind", "words"), UNSOUND, ids=[kind.__name__ for kind, _ in UNSOUND])
def test_what_is_at_fault_is_named(kind: type[Problem], words: str) -> None:
    with pytest.raises(MetabenchError, match=words):
        examine(kind())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("of", ["parameter", "meta-parameter"])
def test_a_leaf_in_which_there_is_no_derivative_is_named_with_its_type(of: str, dtype: torch.dtype) -> None:
    state, meta = Tanh("adam").initial_state()
    target = state.params if of == "parameter" else meta
    target["table"] = torch.zeros(3, dtype=dtype)
    with pytest.raises(MetabenchError, match=rf"{of} 'table' is of {dtype}, .* into the batch"):
        check_trees(state, meta)
    target["table"] = None  # type: ignore[assignment]
    with pytest.raises(MetabenchError, match=rf"{of} 'table' is a NoneType, expected a tensor"):
        check_trees(state, meta)


def test_an_optimisers_count_is_of_real_numbers_too_and_there_is_something_to_learn() -> None:
    state, meta = Tanh("adam").initial_state()
    check_trees(state, meta)
    with pytest.raises(MetabenchError, match="meta-parameters: expected a dict of tensors by name, with one or more"):
        check_trees(state, {})
    state.optimiser["step"]["count"] = torch.tensor(0)
    with pytest.raises(MetabenchError, match=r"the inner optimiser's 'step' 'count' is of torch\.int64"):
        check_trees(state, meta)


def test_a_loss_or_a_parameter_that_is_not_finite_is_no_users_mistake_but_divergence() -> None:
    class Infinite(Tanh):
        def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
            return super().outer_loss(params, meta, batch) / 0

    with pytest.raises(Diverged, match="the outer loss is inf at the start"):
        examine(Infinite())
    problem = Tanh()
    state, meta = problem.initial_state()
    state.params["out"][0] = torch.nan
    with pytest.raises(Diverged, match="parameter 'out' is not finite"):
        check_losses(problem, state, meta, problem.window())


class StepSizes(Tanh):
    """One learning rate a step, each a meta-parameter of its own: the first step reads the first."""

    roles = frozenset({MetaRole.UPDATE})

    def __init__(self, steps: int, rates: int) -> None:
        self._rates = rates
        super().__init__("sgd", steps)
        self.optimiser = Schedule()  # type: ignore[assignment]

    def initial_meta(self, params: Tree) -> Tree:
        return {f"rate{k}": torch.tensor(-2.0, dtype=torch.float64) for k in range(self._rates)}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return self.errors(params, batch).mean()


class Schedule:
    """Steps of gradient descent that read one meta-parameter after the other."""

    def init(self, params: Tree) -> dict[str, Tree]:
        return {"step": {"count": torch.zeros((), dtype=torch.float64)}}

    def update(self, gradient: Tree, params: Tree, state: dict[str, Tree], meta: Tree) -> tuple[Tree, dict[str, Tree]]:
        count = state["step"]["count"]
        rate = meta[f"rate{int(count) % len(meta)}"].exp()
        return tree.add_scaled(params, -rate, gradient), {"step": {"count": count + 1}}


def test_a_meta_parameter_that_a_later_step_reads_is_reached() -> None:
    examine(StepSizes(steps=3, rates=3))
    with pytest.raises(MetabenchError, match="the meta-parameter 'rate3', declared to enter the inner update"):
        examine(StepSizes(steps=3, rates=4))


def test_reach_needs_no_second_derivative() -> None:
    class OnceDifferentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
            ctx.save_for_backward(value)
            return value.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, weight: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
            return 2 * ctx.saved_tensors[0] * weight

    class Fused(Tanh):
        def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
            return OnceDifferentiable.apply(super().inner_loss(params, meta, batch))

    examine(Fused())


def test_nothing_is_changed_and_no_random_number_is_drawn() -> None:
    problem = Tanh("adam")
    state, meta = problem.initial_state()
    window = problem.window()
    before = {name: leaf.clone() for name, leaf in (state.params | meta).items()}
    stream = torch.get_rng_state()
    check_trees(state, meta)
    check_losses(problem, state, meta, window)
    check_reach(problem, state, meta, [window])
    assert torch.equal(torch.get_rng_state(), stream)
    for name, leaf in (state.params | meta).items():
        assert torch.equal(leaf, before[name])
        assert not leaf.requires_grad
        assert leaf.grad is None


def scheduled_tanh(rate: Rate, restarts: bool = False) -> Problem:
    problem = Tanh("sgd", inner_steps=4)
    problem.optimiser, problem.restarts = inner_optimiser("sgd", rate), restarts
    return problem


def falling(step: torch.Tensor) -> torch.Tensor:
    return 1 - step / 10


def test_a_rate_that_becomes_negative_in_the_run_is_refused_with_its_step_and_value() -> None:
    problem = scheduled_tanh(scheduled(0.1, falling))
    state, meta = problem.initial_state()
    check_rates(problem, state, meta, outer_steps=2)
    words = r"the inner optimiser's schedule 'falling' gives a learning rate of -0.01 at step 11 of 12: expected a finite number of at"
    with pytest.raises(MetabenchError, match=words):
        check_rates(problem, state, meta, outer_steps=3)


def test_a_schedule_of_runs_that_begin_anew_is_looked_at_as_far_as_they_go() -> None:
    problem = scheduled_tanh(scheduled(0.1, falling), restarts=True)
    state, meta = problem.initial_state()
    check_rates(problem, state, meta, outer_steps=100)


def test_a_learned_rate_is_looked_at_by_tensor_and_at_two_hundred_steps_at_most() -> None:
    seen = []

    def rate(meta: Tree, step: torch.Tensor) -> Tree:
        seen.append(float(step))
        return {name: torch.full_like(leaf, 0.1 if step < 9999 else float("nan")) for name, leaf in meta.items()}

    problem = scheduled_tanh(rate)
    state, meta = problem.initial_state()
    check_rates(problem, state, meta, outer_steps=2499)
    assert len(seen) == 200
    assert (seen[0], seen[-1]) == (0, 9995)
    with pytest.raises(MetabenchError, match=r"schedule '.*rate' gives a learning rate of nan at step 9999 of 10000"):
        check_rates(problem, state, meta, outer_steps=2500)


def test_the_outer_schedule_is_looked_at_over_the_meta_updates() -> None:
    problem = Tanh("sgd")
    problem.outer_optimiser = OuterOptimiser("Adam", 0.1, schedule=falling)
    state, meta = problem.initial_state()
    check_rates(problem, state, meta, outer_steps=11)
    with pytest.raises(MetabenchError, match=r"the outer optimiser's schedule 'falling' gives a learning rate of -0\.01 at step 11 of 12"):
        check_rates(problem, state, meta, outer_steps=12)
