"""Wrong methods that a certificate passes if it holds something still: each is right wherever that does not vary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from metabench.autodiff.exact import exact_truncated
from metabench.certify import certificate_rows, failures
from metabench.core import Hypergradient, InnerState, Limit, Mean, MetaRole, Problem, Tree, Unsupported, Window, tree
from metabench.core.method import Method
from metabench.core.options import build
from metabench.core.randomness import perturbation
from metabench.methods import method

pytestmark = pytest.mark.usefixtures("fewest_cases")

Wrong = Callable[..., Hypergradient]


def right(name: str, *arguments: Any) -> Hypergradient:
    return method(name)(*arguments)


def truncated_one_step_early(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    """Right where K does not exceed the default of five steps."""
    return right("truncated", p, s, m, w, dataclasses.replace(o, steps=o.steps - (o.steps == 5)), g)


def never_beyond_four_steps(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    found = right("unrolled", p, s, m, w, o, g)
    if len(w.inner) <= 4 or MetaRole.START in p.roles:
        return found
    return dataclasses.replace(found, meta=exact_truncated(p, s, m, w, 4))


def on_the_first_batch(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    """Right at a minimum, where all batches are one; the run and the outer loss are those of the window."""
    found = right("ift_cg", p, s, m, w, o, g)
    last = dataclasses.replace(w, inner=(*w.inner[:-1], w.inner[0]))
    return dataclasses.replace(found, meta=right("ift_cg", p, s, m, last, o, g).meta)


def at_the_start(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    """The Hessian and both slopes at w_0: right where training stands still."""
    found = right("ift_cg", p, s, m, w, o, g)

    class Still:
        def __getattr__(self, name: str) -> Any:
            return getattr(p.optimiser, name)

        def update(self, gradient: Tree, params: Tree, state: Any, meta: Tree) -> Any:
            return params, state

    still = Wrapped(p, optimiser=Still())
    return dataclasses.replace(found, meta=right("ift_cg", still, s, m, w, o, g).meta)


class Wrapped:
    """A problem with some attributes replaced."""

    def __init__(self, problem: Problem, **replaced: Any) -> None:
        self.__dict__.update(replaced)
        self._problem = problem

    def __getattr__(self, name: str) -> Any:
        return getattr(self._problem, name)


def where_roles_meet(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    found = right("unrolled", p, s, m, w, o, g)
    met = {MetaRole.START, MetaRole.INNER_LOSS} <= p.roles
    return dataclasses.replace(found, meta=tree.scale(0.97, found.meta)) if met else found


def with_stale_slots(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    found = right("unrolled", p, s, m, w, o, g)
    return dataclasses.replace(found, state=InnerState(found.state.params, s.optimiser))


class Caching:
    """Keeps the first answer for each problem."""

    def __init__(self) -> None:
        self._kept: dict[int, Tree] = {}

    def __call__(self, p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
        found = right("unrolled", p, s, m, w, o, g)
        return dataclasses.replace(found, meta=self._kept.setdefault(id(p), found.meta))


class Warming:
    """Adds a little of its last answer: a warm start outside of the inner run's memory."""

    def __init__(self) -> None:
        self._last: dict[int, Tree] = {}

    def __call__(self, p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
        found = right("unrolled", p, s, m, w, o, g)
        last = self._last.get(id(p), tree.zeros_like(m))
        self._last[id(p)] = found.meta
        return dataclasses.replace(found, meta=tree.add_scaled(found.meta, 1e-10, last))


def seeding(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    torch.manual_seed(0)
    return right("unrolled", p, s, m, w, o, g)


def drawing(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    perturbation(m, "gaussian", g)
    return right("unrolled", p, s, m, w, o, g)


def switching(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    found = right("unrolled", p, s, m, w, o, g)
    torch.set_grad_enabled(False)
    return found


def single(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    found = right("unrolled", p, s, m, w, o, g)
    return dataclasses.replace(found, meta=tree.cast(found.meta, torch.float32))


def rounded(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    """Passes through float32, and comes back in the right dtype."""
    found = right("unrolled", p, s, m, w, o, g)
    return dataclasses.replace(found, meta=tree.tree_map(lambda leaf: leaf.float().to(leaf.dtype), found.meta))


def wrong_in_single(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    found = right("unrolled", p, s, m, w, o, g)
    is_single = next(iter(m.values())).dtype is torch.float32
    return dataclasses.replace(found, meta=tree.scale(1.1, found.meta)) if is_single else found


def a_view(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    found = right("reptile", p, s, m, w, o, g)
    for name, leaf in m.items():
        found.meta[name] = leaf.copy_(found.meta[name]) if leaf.is_contiguous() else found.meta[name]
    return found


def beyond_seven_steps(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    if len(w.inner) > 7:
        raise IndexError("list index out of range")
    return right("unrolled", p, s, m, w, o, g)


def past_a_chunk(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    """The meta-parameters past the first 32 are left out."""
    found = right("unrolled", p, s, m, w, o, g)
    flat = tree.flatten(found.meta).clone()
    flat[32:] = 0
    return dataclasses.replace(found, meta=tree.unflatten(flat, found.meta))


def accumulating(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    """Leaves its gradient in the caller's meta-parameters, and adds it up there."""
    found = right("unrolled", p, s, m, w, o, g)
    for name, leaf in m.items():
        leaf.grad = found.meta[name] if leaf.grad is None else leaf.grad + found.meta[name]
    return found


def flagging(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    found = right("unrolled", p, s, m, w, o, g)
    for leaf in s.params.values():
        leaf.requires_grad_()
    return found


class Buffered:
    """Returns one tensor for each shape, and writes the next answer into it."""

    def __init__(self) -> None:
        self._buffers: dict[Any, torch.Tensor] = {}

    def __call__(self, p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
        found = right("unrolled", p, s, m, w, o, g)
        kept = {name: self._buffers.setdefault((name, leaf.shape, leaf.dtype), leaf) for name, leaf in found.meta.items()}
        return dataclasses.replace(found, meta={name: kept[name].copy_(leaf.clone()) for name, leaf in found.meta.items()})


class CachingByMeta:
    """Keeps an answer for each problem and meta-parameters: right for a run, wrong for the second task of a meta-update."""

    def __init__(self) -> None:
        self._kept: dict[Any, Tree] = {}

    def __call__(self, p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
        found = right("unrolled", p, s, m, w, o, g)
        key = (id(p), tuple(tree.flatten(m).tolist()))
        return dataclasses.replace(found, meta=self._kept.setdefault(key, found.meta))


def recorded_only(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    if not torch.is_grad_enabled():
        return dataclasses.replace(right("unrolled", p, s, m, w, o, g), meta=tree.zeros_like(m))
    return right("unrolled", p, s, m, w, o, g)


def with_a_lost_slot(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    """NaN, which compares with nothing."""
    found = right("unrolled", p, s, m, w, o, g)
    slots = {slot: tree.scale(float("nan"), leaves) for slot, leaves in found.state.optimiser.items()}
    return dataclasses.replace(found, state=InnerState(found.state.params, slots))


def tiny_is_zero(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    found = right("unrolled", p, s, m, w, o, g)
    return dataclasses.replace(found, meta=tree.zeros_like(m)) if float(tree.norm(found.meta)) < 1e-5 else found


def in_half(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    """float32 by way of float16."""
    found = right("unrolled", p, s, m, w, o, g)
    is_single = next(iter(m.values())).dtype is torch.float32
    return dataclasses.replace(found, meta=tree.tree_map(lambda leaf: leaf.half().float(), found.meta)) if is_single else found


def stacking(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    """Takes batches of one size for granted."""
    for name in w.inner[0]:
        torch.stack([batch[name] for batch in w.inner])
    return right("unrolled", p, s, m, w, o, g)


def as_floats(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    """Turns labels into numbers."""
    inner = tuple({name: leaf.double() for name, leaf in batch.items()} for batch in w.inner)
    return right("unrolled", p, s, m, Window(inner, w.outer), o, g)


def shy(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
    raise Unsupported("not today")


WRONG: dict[str, tuple[str, Callable[[], Wrong], str]] = {
    "truncated one step early at its default": ("truncated", lambda: truncated_one_step_early, "through the last 4 of"),
    "never goes back more than four steps": ("unrolled", lambda: never_beyond_four_steps, "through the last 4 of"),
    "conjugate gradients on the first inner batch": ("ift_cg", lambda: on_the_first_batch, "relative error"),
    "conjugate gradients at w_0": ("ift_cg", lambda: at_the_start, "relative error"),
    "wrong where START and INNER_LOSS meet": ("unrolled", lambda: where_roles_meet, "0.97 times as long"),
    "stale slots": ("unrolled", lambda: with_stale_slots, "slot 'momentum' returned is not that of plain training"),
    "caches across calls": ("unrolled", Caching, "in window 2 of"),
    "warms itself across calls": ("unrolled", Warming, "it keeps something between calls?) it gives another answer"),
    "reseeds torch": ("unrolled", lambda: seeding, "changes torch's global random numbers: draw from the generator"),
    "draws and does not say so": ("unrolled", lambda: drawing, "say stochastic=True"),
    "leaves recording off": ("unrolled", lambda: switching, "it changes whether torch records gradients"),
    "returns float32": ("unrolled", lambda: single, "in torch.float32, expected torch.float64"),
    "passes through float32": ("unrolled", lambda: rounded, "relative error"),
    "wrong in float32": ("unrolled", lambda: wrong_in_single, "right with dtype float64, wrong with dtype float32"),
    "writes into what it is given": ("reptile", lambda: a_view, "writes into its arguments"),
    "raises beyond seven steps": ("unrolled", lambda: beyond_seven_steps, "wrong with inner steps"),
    "adds up in .grad": ("unrolled", lambda: accumulating, "one has a .grad after the call"),
    "leaves flags in its arguments": ("unrolled", lambda: flagging, "requires a gradient"),
    "goes on writing to what it returned": ("unrolled", Buffered, "it returns a tensor that it goes on writing to"),
    "caches by meta-parameters": ("unrolled", CachingByMeta, "called with another"),
    "zero without recording": ("unrolled", lambda: recorded_only, "called within torch.no_grad() it gives another"),
    "loses its slots": ("unrolled", lambda: with_a_lost_slot, "slot 'momentum' returned is not finite"),
    "takes little for nothing": ("unrolled", lambda: tiny_is_zero, "it is zero"),
    "half precision": ("unrolled", lambda: in_half, "relative error"),
    "stacks batches": ("unrolled", lambda: stacking, "stack expects each tensor to be equal size"),
    "turns labels into numbers": ("unrolled", lambda: as_floats, "raised"),
    "declines everything": ("unrolled", lambda: shy, "declines a hypergradient that exists: not today"),
    "leaves out meta-parameters past the first 32": ("unrolled", lambda: past_a_chunk, "relative error"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_varies_is_seen(name: str) -> None:
    base, make, words = WRONG[name]
    failed = failures(certificate_rows(dataclasses.replace(method(base), function=make())))
    assert failed
    assert any(words in row["message"] for row in failed), "\n".join(sorted({row["message"] for row in failed}))
    assert torch.is_grad_enabled()


def test_a_returned_view_of_an_argument_is_named() -> None:
    def aliasing(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
        found = right("none", p, s, m, w, o, g)
        empty = {name: leaf[:0].reshape(leaf.shape) if not leaf.numel() else leaf for name, leaf in found.meta.items()}
        given = next(iter(s.params.values())).flatten()
        views = {name: given.as_strided(leaf.shape, (0,) * leaf.dim()) for name, leaf in empty.items()}
        return dataclasses.replace(found, meta=views)

    failed = failures(certificate_rows(dataclasses.replace(method("unrolled"), function=aliasing)))
    assert any("shares the memory of" in row["message"] for row in failed)


def test_a_method_that_says_that_it_draws_must_draw() -> None:
    still = dataclasses.replace(method("t1t2"), name="still", exact=False, stochastic=True)
    assert any("three seeds of its generator give one and the same answer" in row["message"] for row in failures(certificate_rows(still)))


def scaled(factor: float) -> Wrong:
    """Return a Neumann series that is right in the limit, and not at the options that users run."""

    def wrong(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
        at_the_default = o.scale == method("ift_neumann").options().scale
        found = right("ift_neumann", p, s, m, w, o, g)
        return dataclasses.replace(found, meta=tree.scale(factor, found.meta)) if at_the_default else found

    return wrong


def neumann(case: Any, options: Any, stream: Any) -> torch.Tensor:
    at = case.expansion
    identity = torch.eye(len(at.hessian), dtype=torch.float64)
    powers = [torch.linalg.matrix_power(identity - options.scale * at.hessian, j) for j in range(options.steps + 1)]
    return at.implicit(options.scale * torch.stack(powers).sum(0) @ at.outer_w)


def of_somebody_else(function: Wrong, **declared: Any) -> Method:
    right_one = method("ift_neumann")
    return dataclasses.replace(right_one, name="theirs", function=function, **declared)


@pytest.mark.parametrize("factor", [1.0, 1.02])
def test_a_formula_that_is_declared_is_checked_at_the_defaults(factor: float) -> None:
    limit = method("ift_neumann").limit
    assert limit is not None
    alone = of_somebody_else(scaled(factor), limit=dataclasses.replace(limit, budget="", values=()))
    with_formula = of_somebody_else(scaled(factor), limit=Limit(formula=neumann, budget="steps", values=(0, 2, 5)))
    if factor != 1.0:
        assert not failures(certificate_rows(alone)), "a limit alone does not see it"
    failed = failures(certificate_rows(with_formula))
    assert bool(failed) == (factor != 1.0)
    assert all(row["claim"] in ("formula", "again") for row in failed)


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_a_mean_that_is_declared_is_checked(factor: float) -> None:
    """A one-point estimate along one random direction: its mean is the one-step hypergradient."""

    def along(p: Problem, s: InnerState, m: Tree, w: Window, o: Any, g: Any) -> Hypergradient:
        found = right("t1t2", p, s, m, w, build(method("t1t2").options, {}, ""), g)
        noise = perturbation(m, "gaussian", g)
        return dataclasses.replace(found, meta=tree.scale(factor * tree.dot(found.meta, noise), noise))

    def value(case: Any, options: Any) -> torch.Tensor:
        return tree.flatten(case.through_last_steps(1))

    made = dataclasses.replace(method("t1t2"), name="theirs", function=along, exact=False, stochastic=True, mean=Mean(value))
    rows = certificate_rows(made)
    assert {row["claim"] for row in rows if row["kind"] == "claim"} == {"again", "mean"}
    assert bool(failures(rows)) == (factor != 1.0)


def test_a_formula_that_raises_is_the_authors_mistake_and_is_named() -> None:
    def broken(case: Any, options: Any, stream: Any) -> torch.Tensor:
        raise ZeroDivisionError("oh")

    rows = certificate_rows(of_somebody_else(scaled(1.0), limit=Limit(formula=broken)))
    assert any("cannot be worked out: ZeroDivisionError: oh" in row["message"] for row in failures(rows))
