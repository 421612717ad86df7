"""Every strategy: asks within the space, repeats under a seed, goes on where it was, and leaves the world's random numbers alone."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searching import TINY, Looked, made_table

from metabench.core.errors import MetabenchError
from metabench.search.driver import Search
from metabench.search.predictors import PREDICTORS, Screened
from metabench.search.strategy import Recorded, Strategy, StrategyCard, make_strategy, strategies

NAMES = ("random", "evolution", "regularised_evolution", "local_search", "successive_halving")
SCREENED = (*((name, predictor) for name in NAMES[:4] for predictor in ("", "ridge")), ("successive_halving", ""))
every_strategy = pytest.mark.parametrize(("name", "predictor"), SCREENED)


def made(name: str, predictor: str = "", seed: int = 0, budget: int = 25, **options: Any) -> Strategy:
    found = make_strategy(name, TINY, budget, seed, options)
    return Screened(found, predictor) if predictor else found


def searched(name: str, predictor: str = "", seed: int = 0, budget: int = 25, fitness: Looked | None = None) -> Search:
    search = Search.of(made(name, predictor, seed, budget), fitness or Looked(), budget)
    list(search.run())
    return search


def test_the_strategies_are_those_documented() -> None:
    assert tuple(strategies()) == tuple(sorted(NAMES))


@every_strategy
def test_a_search_spends_its_budget_on_nets_of_the_space_and_repeats_under_a_seed(name: str, predictor: str) -> None:
    fitness = Looked()
    search = searched(name, predictor, fitness=fitness)
    assert search.told == "the budget is spent"
    assert search.spent == pytest.approx(25, abs=1)
    assert {line.encoding for line in search.lines} <= set(TINY.all())
    assert [line.number for line in search.lines] == list(range(1, len(search.lines) + 1))
    # What was paid for is what was looked at, and the costs are theirs.
    assert len(fitness.looks) == len(search.lines)
    assert search.lines[-1].cost.adaptations == pytest.approx(90 * search.spent)
    assert search.lines[-1].cost.flops == 1000 * search.lines[-1].cost.adaptations
    assert [line.encoding for line in searched(name, predictor).lines] == [line.encoding for line in search.lines]
    assert [line.encoding for line in searched(name, predictor, seed=1).lines] != [
        line.encoding for line in search.lines
    ]


@every_strategy
def test_a_search_that_is_interrupted_anywhere_goes_on_as_if_it_had_not_been(name: str, predictor: str) -> None:
    whole = searched(name, predictor)
    for stop in (1, 7, 11, 19):
        search = Search.of(made(name, predictor), Looked(), 25)
        for _ in zip(range(stop), search.run(), strict=False):
            state = json.loads(json.dumps(search.state()))
        again = Search.of(made(name, predictor), Looked(), 25, state)
        list(again.run())
        assert again.lines == whole.lines and again.best == whole.best and again.told == whole.told


@every_strategy
def test_nobody_elses_random_numbers_are_drawn_or_matter(name: str, predictor: str) -> None:
    whole = searched(name, predictor)
    random.seed(3)
    np.random.seed(3)
    before = (random.getstate(), np.random.get_state()[1].tolist())
    search = Search.of(made(name, predictor), Looked(), 25)
    for number, _ in enumerate(search.run()):
        if number == 0:
            assert (random.getstate(), np.random.get_state()[1].tolist()) == before
        random.random()
        np.random.rand()
    assert search.lines == whole.lines


def test_random_search_is_without_replacement_and_finds_every_net() -> None:
    search = searched("random", budget=500)
    assert sorted(line.encoding for line in search.lines) == sorted(TINY.all())
    assert search.told == "all 125 nets of the space were evaluated: the answer is exhaustive"
    assert search.best == max(made_table(), key=made_table().__getitem__)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_budget_beyond_the_space_ends(name: str) -> None:
    search = searched(name, budget=400)
    assert search.told.startswith(("all 125 nets", "the strategy asked 1000 times", "the budget is spent"))
    assert search.best in TINY.all()


def gains(name: str, predictor: str, seeds: int) -> np.ndarray:
    """Return by how many points a search beats random search, pair by pair: another table for each seed."""
    found = []
    for seed in range(seeds):
        table = made_table(seed)
        best = [
            table[searched(one, how, seed, fitness=Looked(values=table)).best]
            for one, how in ((name, predictor), ("random", ""))
        ]
        found.append(best[0] - best[1])
    return np.array(found)


@pytest.mark.parametrize(
    ("name", "predictor", "seeds"),
    [("evolution", "", 200), ("evolution", "ridge", 40), ("regularised_evolution", "", 200), ("local_search", "", 60)],
)
def test_searches_beat_random_search_where_there_is_something_to_find(name: str, predictor: str, seeds: int) -> None:
    found = gains(name, predictor, seeds)
    assert found.mean() - 1.96 * found.std() / len(found) ** 0.5 > 0


def test_a_predictor_adds_to_evolution() -> None:
    found = gains("evolution", "ridge", 40) - gains("evolution", "", 40)
    assert found.mean() - 1.96 * found.std() / len(found) ** 0.5 > 0


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_predictor_reads_nothing_that_was_not_paid_for(predictor: str) -> None:
    fitness = Looked()
    search = searched("random", predictor, fitness=fitness, budget=14)
    assert len(search.lines) == 14 == len(fitness.looks)


def test_a_predictor_that_looks_its_candidates_up_would_be_seen() -> None:
    class Looking(Screened):
        def ask(self, n: int) -> Sequence[str]:
            asked = super().ask(n)
            return sorted(asked, key=lambda net: -fitness(net, fitness.tasks))

    fitness = Looked()
    search = Search.of(Looking(made("random"), "ridge"), fitness, 25)
    with pytest.raises(AssertionError, match="paid for twice"):
        list(search.run())


@every_strategy
def test_equal_fitness_everywhere_breaks_nothing(name: str, predictor: str) -> None:
    search = searched(name, predictor, fitness=Looked(values=dict.fromkeys(TINY.all(), 20.0)))
    assert search.told == "the budget is spent" and search.best


@every_strategy
def test_a_net_that_diverges_is_a_line_and_never_the_answer(name: str, predictor: str) -> None:
    values = dict(made_table())
    top = sorted(values, key=values.__getitem__)[-60:]
    values |= dict.fromkeys(top, float("nan"))
    told: list[float] = []
    tell = Recorded.tell

    def watched(self: Recorded, encodings: Sequence[str], fitness: Sequence[float]) -> None:
        told.extend(fitness)
        tell(self, encodings, fitness)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorded, "tell", watched)
        search = searched(name, predictor, fitness=Looked(values=values))
    lost = [line for line in search.lines if line.fitness is None]
    assert lost and {line.encoding for line in lost} <= set(top)
    assert np.isfinite(told).all()
    assert search.best not in top


class Outside(Strategy):
    card = StrategyCard("asks for what is not there")

    def ask(self, n: int) -> Sequence[str]:
        return ["conv3-conv9-conv3"]

    def tell(self, encodings: Sequence[str], fitness: Sequence[float]) -> None: ...


class Spelling(Outside):
    """Says one net in two ways."""

    def ask(self, n: int) -> Sequence[str]:
        return [("conv3-conv3-conv3", " conv3 - conv3-conv3")[int(self.stream.integers(2))]]


class TooMany(Outside):
    def ask(self, n: int) -> Sequence[str]:
        return list(TINY.all())


class Silent(Outside):
    def ask(self, n: int) -> Sequence[str]:
        return []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Outside, "unknown operation of space 'tiny' in 'conv3-conv9-conv3' 'conv9': did you mean 'conv3'?"),
        (TooMany, "the strategy was asked for 1 nets and returned 125"),
        (Silent, "the strategy asked for no net"),
    ],
)
def test_what_a_strategy_does_wrongly_is_said(kind: type[Strategy], said: str) -> None:
    search = Search.of(kind(TINY, 25, 0, None), Looked(), 25)
    with pytest.raises(MetabenchError) as refused:
        list(search.run())
    assert said in str(refused.value)


def test_two_spellings_of_one_net_are_one_evaluation_and_asking_for_it_for_ever_ends() -> None:
    search = Search.of(Spelling(TINY, 25, 0, None), Looked(), 25)
    assert len(list(search.run())) == 1
    assert search.told == "the strategy asked 1000 times for nothing new"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: made("evolution", budget=5), "a budget of 5 evaluations is smaller than a population of 10"),
        (lambda: made("regularised_evolution", budget=5), "smaller than a population of 10"),
        (lambda: made("successive_halving", budget=2), "smaller than a bracket of 9 nets, which costs 3"),
        (lambda: made("random", "ridge", budget=10), "is fitted to 10 evaluations or more, and the budget pays for 10"),
        (lambda: made("random", "tree"), "unknown predictor 'tree'"),
        (lambda: made("evolutoin"), "unknown strategy 'evolutoin': did you mean 'evolution'?"),
        (lambda: made("evolution", populations=4), "did you mean 'population'?"),
        (lambda: Search.of(made("random"), Looked(), 0), "a budget of 0 evaluations"),
    ],
)
def test_a_search_that_cannot_be_is_refused(make: Any, said: str) -> None:
    with pytest.raises(MetabenchError) as refused:
        make()
    assert said in str(refused.value)


def test_without_pymoo_evolution_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "pymoo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pymoo", None)
    with pytest.raises(MetabenchError, match=r"pip install 'metabench\[search\]'"):
        made("evolution")


def test_more_tasks_of_a_net_cost_the_difference() -> None:
    search = searched("successive_halving")
    by_net: dict[str, list[int]] = {}
    for line in search.lines:
        by_net.setdefault(line.encoding, []).append(line.tasks)
    assert any(tasks == [10, 30, 90] for tasks in by_net.values())
    assert search.lines[-1].cost.adaptations == sum(max(tasks) for tasks in by_net.values())


def test_a_plugin_is_a_strategy_like_the_others(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from metabench.search.strategy import Strategy, StrategyCard\n"
        "class InOrder(Strategy):\n"
        "    card = StrategyCard('in the order of the space', name='in_order')\n"
        "    place = 0\n"
        "    def ask(self, n):\n"
        "        self.place += n\n"
        "        return self.space.all()[self.place - n:self.place]\n"
        "    def tell(self, encodings, fitness): ...\n"
    )
    strategy = make_strategy("in_order", TINY, 3, 0, plugins=[tmp_path / "mine.py"])
    search = Search.of(strategy, Looked(), 3)
    assert [line.encoding for line in search.run()] == list(TINY.all()[:3])
