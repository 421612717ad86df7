"""A function becomes a method by its declaration."""

from __future__ import annotations

from typing import Any

import pytest
from bilevel import checkpoint, make_problem

from metabench.core import Cost, Hypergradient, Target, method, tree
from metabench.core.method import NoOptions
from metabench.core.randomness import generator


def test_the_name_is_the_functions() -> None:
    @method(title="zero", target=Target.NONE, exact=True, cost=Cost(gradients="K"), citation="@misc{zero}")
    def zero(problem: Any, state: Any, meta: Any, window: Any, options: Any, generator: Any) -> Hypergradient:
        return Hypergradient(tree.zeros_like(meta), state, 0.0)

    assert (zero.name, zero.module, zero.options, zero.stochastic) == ("zero", __name__, NoOptions, False)
    assert (zero.cost.gradients, zero.cost.hvps) == ("K", "0")
    problem = make_problem("toy_1d")
    found = zero(problem, *checkpoint(problem), NoOptions(), generator(0, "test"))
    assert float(found.meta["l"]) == 0
    assert found.diagnostics == {}


def test_a_declaration_cannot_be_changed() -> None:
    from metabench.methods.unrolled import unrolled

    with pytest.raises(AttributeError):
        unrolled.exact = False  # type: ignore[misc]


def test_targets_are_the_words_of_the_row_schema() -> None:
    words = ["unrolled", "truncated", "one_step", "implicit", "minimum", "smoothed", "persistent", "carried", "none"]
    assert [target.value for target in Target] == words
