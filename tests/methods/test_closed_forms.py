"""Hypergradients worked out by hand, where methods had been wrong in silence, and losses in the forms that users write them in.

Every method that answers has to give the same; the others say why they do not.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from bilevel import EVERY_METHOD, call, difference, objective, relative_error

from metabench.certify.problem import CertificationProblem
from metabench.certify.training import train
from metabench.core import Batch, Hypergradient, MetaRole, Target, Tree, Unsupported, Window, tree
from metabench.core.checks import check_hypergradient
from metabench.core.randomness import generator
from metabench.methods import method

THROUGH_ALL_STEPS = [
    ("unrolled", {}),
    ("truncated", {"steps": 9}),
    ("unrolled_remat", {}),
    ("mixflow", {}),
    ("mixflow", {"mixed_mode": False}),
    ("mixflow", {"block_remat": False, "trajectory": "recompute"}),
    ("forward", {}),
    ("forward", {"together": 1}),
    ("higher_unrolled", {}),
    ("torchopt_unrolled", {}),
]
every_exact = pytest.mark.parametrize(("name", "options"), THROUGH_ALL_STEPS, ids=lambda part: str(part))
pytestmark = pytest.mark.filterwarnings("ignore:.*not traced.*", "ignore::UserWarning:higher")


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


class Stated(CertificationProblem):
    """A problem without data."""

    name = "stated"
    roles = frozenset({MetaRole.INNER_LOSS})

    def learning_rate(self) -> float:
        return 0.1

    def draw(self, stream: torch.Generator) -> Batch:
        return {}


class StartAndSine(Stated):
    """f = w^2/2 + w sin l, w_0 = l itself, F = w^2/2."""

    roles = frozenset({MetaRole.INNER_LOSS, MetaRole.START})

    def beginning(self) -> tuple[Tree, Tree]:
        return {"w": scalar(5.0)}, {"l": scalar(1.0)}

    def start(self, params: Tree, meta: Tree) -> Tree:
        return {"w": meta["l"]}

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return params["w"] ** 2 / 2 + params["w"] * meta["l"].sin()

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return params["w"] ** 2 / 2


class TwiceTheSame(Stated):
    """f = a^2/2 + 3 b^2/2, w_0 = (l, l), F = (a + b)^2/2."""

    roles = frozenset({MetaRole.START})

    def beginning(self) -> tuple[Tree, Tree]:
        return {"a": scalar(5.0), "b": scalar(5.0)}, {"l": scalar(1.0)}

    def start(self, params: Tree, meta: Tree) -> Tree:
        return {"a": meta["l"], "b": meta["l"]}

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return params["a"] ** 2 / 2 + 3 * params["b"] ** 2 / 2

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return (params["a"] + params["b"]) ** 2 / 2


def asked(problem: Stated, name: str, **options: Any) -> Hypergradient:
    state, meta = problem.initial_state()
    return call(name, problem, state, meta, next(problem.windows())[0], **options)


def exactly(problem: Stated) -> float:
    """Return dF/dl for a scalar l, by differences of plain training."""
    state, meta = problem.initial_state()
    window = next(problem.windows())[0]
    return difference(objective(problem, state, window), meta, tree.tree_map(torch.ones_like, meta))


@every_exact
def test_a_meta_parameter_that_is_the_start_and_enters_the_loss_has_two_shares(
    name: str, options: dict[str, Any]
) -> None:
    found = asked(StartAndSine(inner_steps=1), name, **options)
    w_1 = 0.9 - 0.1 * math.sin(1.0)
    assert float(found.state.params["w"]) == pytest.approx(w_1, rel=1e-14)
    assert w_1 == pytest.approx(0.815853, abs=1e-6)
    assert float(found.meta["l"]) == pytest.approx(w_1 * (0.9 - 0.1 * math.cos(1.0)), rel=1e-12)
    assert float(found.meta["l"]) == pytest.approx(0.690187, abs=1e-6)


@every_exact
def test_a_meta_parameter_under_two_names_has_the_shares_of_both(name: str, options: dict[str, Any]) -> None:
    found = asked(TwiceTheSame(inner_steps=1), name, **options)
    assert float(found.meta["l"]) == pytest.approx((0.9 + 0.7) ** 2, rel=1e-12)
    found = asked(TwiceTheSame(inner_steps=3), name, **options)
    assert float(found.meta["l"]) == pytest.approx((0.9**3 + 0.7**3) ** 2, rel=1e-12)


class Masked(Stated):
    """A loss with a mask drawn from a generator that the loss seeds itself: a pure function."""

    def __init__(self, draw_mask: Callable[[torch.Tensor], torch.Tensor], **settings: Any) -> None:
        self._mask = draw_mask
        super().__init__(**settings)

    def beginning(self) -> tuple[Tree, Tree]:
        return {"w": torch.randn(6, generator=generator(0, "masked"), dtype=torch.float64)}, {"l": scalar(0.3)}

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        kept = (self._mask(params["w"]) * params["w"].sin()).sum() ** 2
        return (kept + params["w"].square().sum() / 4) * meta["l"].exp()

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return params["w"].square().sum() / 2


def by_generator(like: torch.Tensor) -> torch.Tensor:
    return torch.bernoulli(torch.full_like(like, 0.5), generator=generator(7, "mask"))


def by_seed(like: torch.Tensor) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return torch.rand_like(like)


def by_dropout(like: torch.Tensor) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return torch.nn.functional.dropout(torch.ones_like(like), 0.4)


every_mask = pytest.mark.parametrize("mask", [by_generator, by_seed, by_dropout])


@every_mask
@every_exact
def test_a_loss_that_seeds_its_own_noise_is_a_function_at_every_call(
    mask: Callable[[torch.Tensor], torch.Tensor], name: str, options: dict[str, Any]
) -> None:
    problem = Masked(mask, inner_steps=3)
    expected = exactly(problem)
    for _ in range(3):
        assert float(asked(problem, name, **options).meta["l"]) == pytest.approx(expected, rel=1e-8)


@every_mask
def test_so_it_is_for_one_step_and_for_solvers(mask: Callable[[torch.Tensor], torch.Tensor]) -> None:
    problem = Masked(mask, inner_steps=1)
    assert float(asked(problem, "t1t2").meta["l"]) == pytest.approx(exactly(problem), rel=1e-8)
    found = [float(asked(problem, "ift_cg", steps=6).meta["l"]) for _ in range(3)]
    assert found[0] == found[1] == found[2]


def test_a_loss_that_draws_is_not_traced_and_says_so() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = asked(Masked(by_generator, inner_steps=2), "mixflow")
    assert found.diagnostics["untraced_segments"] == 1
    assert any("draws random numbers (bernoulli" in str(one.message) for one in told)


class Stopped(Stated):
    """A loss with a part that is not recorded, in one of three ways of writing it."""

    def __init__(self, how: str, **settings: Any) -> None:
        self._how = how
        super().__init__(**settings)

    def beginning(self) -> tuple[Tree, Tree]:
        return {"w": torch.randn(4, generator=generator(0, "stopped"), dtype=torch.float64)}, {"l": scalar(0.3)}

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        w = params["w"]
        if self._how == "no_grad":
            with torch.no_grad():
                length = w.norm() * meta["l"].cos()
        else:
            length = (w.norm() * meta["l"].cos()).detach()
        if self._how == "straight_through":
            length = length + w.sum() - w.sum().detach()
        return self.with_length(length, w, meta["l"])

    def with_length(self, length: torch.Tensor, w: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (length * w.sin()).sum() * scale.exp() + w.square().sum() / 4

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return params["w"].square().sum() / 2


class WithConstants(Stopped):
    """The same loss with what is stopped handed in as data: what methods take it for."""

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        w, length = params["w"], batch["length"]
        if self._how == "straight_through":
            length = length + w.sum() - batch["sum"]
        return self.with_length(length, w, meta["l"])


def constants_along(problem: Stopped) -> Window:
    """Return the window of `WithConstants`: what `problem` stops at each step of plain training."""
    state, meta = problem.initial_state()
    window = next(problem.windows())[0]
    states = train(problem, state, meta, window).states[:-1]
    points = [one.params["w"] for one in states]
    inner = tuple({"length": w.norm() * meta["l"].cos(), "sum": w.sum()} for w in points)
    return Window(inner, window.outer)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("how", ["no_grad", "detach", "straight_through"])
def test_all_methods_take_what_is_not_recorded_for_constant(how: str, optimiser: str) -> None:
    problem = Stopped(how, optimiser=optimiser, inner_steps=3)
    found = {str(one): float(asked(problem, one[0], **one[1]).meta["l"]) for one in THROUGH_ALL_STEPS}
    twin = WithConstants(how, optimiser=optimiser, inner_steps=3)
    state, meta = twin.initial_state()
    expected = difference(objective(twin, state, constants_along(problem)), meta, tree.tree_map(torch.ones_like, meta))
    assert found == pytest.approx(dict.fromkeys(found, expected), rel=1e-8)
    assert expected != pytest.approx(exactly(problem), rel=1e-3)


class Formed(Stated):
    """Parameters and meta-parameters in an awkward form, or of two dtypes."""

    def __init__(self, form: str, **settings: Any) -> None:
        self._form = form
        super().__init__(**settings)

    def beginning(self) -> tuple[Tree, Tree]:
        stream = generator(0, "formed")

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=stream, dtype=torch.float64)

        w = drawn(4)
        params, meta = {"w": w}, {"l": scalar(0.3), "v": 0.3 * drawn(4)}
        forms: dict[str, Callable[[], Any]] = {
            "no elements": lambda: params.update(e=drawn(0)),
            "expanded": lambda: params.update(x=drawn(1).expand(3)),
            "transposed": lambda: params.update(m=drawn(2, 3).T),
            "no dimensions": lambda: params.update(z=drawn()),
            "one tensor under two names": lambda: params.update(t=w),
            "meta without elements": lambda: meta.update(e=drawn(0)),
            "meta strided": lambda: meta.update(v=drawn(4, 2)[:, 0]),
            "meta expanded": lambda: meta.update(v=drawn(1).expand(4)),
            "meta of two dtypes": lambda: meta.update(l=meta["l"].float()),
            "parameters of two dtypes": lambda: params.update(y=drawn(3).float()),
        }
        forms[self._form]()
        return params, meta

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        leaves = [leaf.double() for leaf in params.values()]
        sums = [(leaf - 0.3).square().sum() + leaf.sin().sum() for leaf in leaves]
        pulled = (meta["v"] * params["w"]).sum() + (meta["v"].exp() * params["w"].square()).sum()
        return torch.stack(sums).sum() * meta["l"].double().exp() + pulled

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return torch.stack([leaf.double().square().sum() for leaf in params.values()]).sum() / 2


FORMS = (
    "no elements",
    "expanded",
    "transposed",
    "no dimensions",
    "one tensor under two names",
    "meta without elements",
    "meta strided",
    "meta expanded",
    "meta of two dtypes",
    "parameters of two dtypes",
)


def every_option_set(name: str) -> Iterator[dict[str, Any]]:
    yield {}
    yield from {
        "forward": ({"together": 1},),
        "ift_nystrom": ({"storage": "blocked", "block": 2}, {"block": 3}),
        "evograd": ({"together": True, "noise": "gaussian"},),
        "mixflow": ({"trajectory": "host", "save_inner_grads": False},),
    }.get(name, ())


@pytest.mark.parametrize(("form", "optimiser"), zip(FORMS, ("sgd", "adam") * 5, strict=True))
def test_every_method_takes_tensors_in_any_form_or_says_why_not(form: str, optimiser: str) -> None:
    problem = Formed(form, optimiser=optimiser, inner_steps=2)
    state, meta = problem.initial_state()
    expected = asked(problem, "unrolled_remat").meta
    single = form.endswith("two dtypes")
    for name, options in itertools.chain.from_iterable(((n, o) for o in every_option_set(n)) for n in EVERY_METHOD):
        try:
            found = asked(problem, name, **options)
        except Unsupported as reason:
            assert str(reason)
            assert name in ("first_order", "reptile"), (name, str(reason))
            continue
        check_hypergradient(found, state, meta)
        if method(name).exact and method(name).target is Target.UNROLLED:
            error = relative_error(tree.cast(found.meta, torch.float64), tree.cast(expected, torch.float64))
            assert error <= (1e-5 if single else 1e-9), (name, options)


class Grouped(Formed):
    """A loss with an operation that has no forward-mode derivative outside of vmap."""

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        grouped = torch.nn.functional.group_norm(params["w"][None], 2).square().sum()
        return super().f(params, meta, batch) + grouped * meta["l"]


def test_an_operation_without_forward_mode_is_unsupported_and_named() -> None:
    with pytest.raises(Unsupported, match=r"forward mode cannot take the inner step: .*group_norm"):
        asked(Grouped("no dimensions", inner_steps=2), "forward", together=1)


class Squared(torch.autograd.Function):
    """A function of its own, in the form that torch.func does not take."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * slope

    @staticmethod
    def jvp(ctx: Any, along: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * along


class WithItsOwnFunction(Formed):
    """A loss that calls it."""

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().f(params, meta, batch) + Squared.apply(params["w"]).sum() * meta["l"]


class Flat(torch.autograd.Function):
    """A function that returns a view, and has no forward mode."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.view(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return slope.view(ctx.shape)


class WithAView(Formed):
    """A loss that calls it."""

    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().f(params, meta, batch) + Flat.apply(params["w"]).sum() * meta["l"]


@pytest.mark.parametrize("name", ["mixflow", "forward"])
def test_a_function_of_its_own_without_forward_mode_is_unsupported(name: str) -> None:
    problem = WithAView("no dimensions", inner_steps=2)
    with pytest.raises(Unsupported, match=r"a custom autograd\.Function has no forward-mode derivative"):
        asked(problem, name)
    found = asked(problem, "mixflow", mixed_mode=False)
    assert relative_error(found.meta, asked(problem, "unrolled").meta) <= 1e-10


def test_what_vmap_refuses_is_carried_one_direction_at_a_time() -> None:
    problem = WithItsOwnFunction("no dimensions", inner_steps=2)
    found = asked(problem, "forward")
    assert found.diagnostics["together"] == 1
    assert relative_error(found.meta, asked(problem, "unrolled").meta) <= 1e-10
