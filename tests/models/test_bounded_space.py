"""Spaces within a bound on FLOPs: every strategy stays within, and regret is that of the best net there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.models.bounded_space import BoundedSpace, bounded
from metabench.models.spaces import space
from metabench.search.driver import Cost, Search
from metabench.search.predictors import Screened
from metabench.search.strategy import make_strategy

IMAGE, WAYS, MOST = (1, 16, 16), 5, 250_000
TINY = space("tiny")
WITHIN = bounded(TINY, MOST, IMAGE, WAYS)


def test_it_has_the_nets_that_are_within_and_no_others() -> None:
    expected = [net for net in TINY.all() if TINY.flops(net, IMAGE, WAYS) <= MOST]
    assert list(WITHIN.all()) == expected and WITHIN.size == len(expected) == len(set(expected))
    assert 10 < WITHIN.size < TINY.size and TINY.largest() not in expected
    assert sorted(WITHIN.drawn(0, "test")) == sorted(expected)
    assert WITHIN.largest() in expected and all(net in expected for net in WITHIN.neighbours(expected[3]))
    assert max(expected, key=lambda net: TINY.parameters(net, IMAGE, WAYS)) == WITHIN.largest()


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_any_genes_give_a_net_within_and_those_of_one_within_itself(name: str) -> None:
    whole = space(name)
    costs = [whole.flops(net, IMAGE, WAYS) for net in whole.all()]
    for quantile in (0.02, 0.3, 0.9):
        within = bounded(whole, float(np.quantile(costs, quantile)), IMAGE, WAYS)
        for genes in itertools.islice(itertools.product(*(range(count) for count in whole.choices)), 0, None, 7):
            found = within.text(genes)
            assert within.within(found)
            if within.within(whole.text(genes)):
                assert found == whole.text(genes)
        for net in within.all()[::5]:
            assert within.text(within.genes(net)) == net == within.read(net)
        # The genes of nets beyond the bound are known: what they cost is asked.
        assert within.flops(whole.largest(), IMAGE, WAYS) == whole.flops(whole.largest(), IMAGE, WAYS)


def test_what_is_beyond_is_refused_with_a_net_that_is_not() -> None:
    with pytest.raises(
        MetabenchError,
        match="'conv3-conv3-conv3' takes 461,440 FLOPs, above the bound of 250,000: for example 'sep3-conv3-conv3'",
    ):
        WITHIN.read("conv3-conv3-conv3")
    with pytest.raises(MetabenchError, match="no net of space 'tiny' takes 1,000 FLOPs or fewer: 'pool3-pool3-pool3'"):
        bounded(TINY, 1000, IMAGE, WAYS)
    with pytest.raises(MetabenchError, match="space 'darts' has no bound on FLOPs"):
        bounded(space("darts"), 1e6, IMAGE, WAYS)


@pytest.mark.parametrize("screened", [False, True])
@pytest.mark.parametrize("name", ["random", "evolution", "regularised_evolution", "local_search", "successive_halving"])
def test_strategies_stay_within(name: str, screened: bool) -> None:
    class Parameters:
        tasks = 4

        def __call__(self, encoding: str, tasks: int) -> float:
            return float(WITHIN.parameters(encoding, IMAGE, WAYS))

        def cost(self, encoding: str, tasks: int) -> Cost:
            return Cost(tasks)

    strategy = make_strategy(name, WITHIN, 15, 0)
    search = Search.of(Screened(strategy, "ridge") if screened else strategy, Parameters(), 15)
    lines = list(search.run())
    assert lines and all(isinstance(WITHIN, BoundedSpace) and WITHIN.within(line.encoding) for line in lines)
