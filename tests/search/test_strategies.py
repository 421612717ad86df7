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
from metabench.search.driver import Cost, Search
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
    assert search.spent == pytest.approx(25)
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
    assert search.told == "all 125 nets of the space were evaluated: the answer is exhaustive"
    assert search.best == max(made_table(), key=made_table().__getitem__)
    assert search.spent == pytest.approx(125)


def test_a_space_that_is_emptied_in_order_is_emptied_in_the_same_order_after_an_interruption() -> None:
    whole = searched("regularised_evolution", budget=400)
    assert whole.emptying
    for stop in (100, len(whole.lines) - 2, len(whole.lines) - 1):
        search = Search.of(made("regularised_evolution", budget=400), Looked(), 400)
        list(zip(range(stop), search.run(), strict=False))
        again = Search.of(
            made("regularised_evolution", budget=400), Looked(), 400, json.loads(json.dumps(search.state()))
        )
        list(again.run())
        assert again.lines == whole.lines and again.told == whole.told


@pytest.mark.parametrize("tasks", [100, 50, 7])
@pytest.mark.parametrize("budget", [3, 10, 25])
def test_nothing_is_begun_that_the_budget_does_not_pay_for(tasks: int, budget: int) -> None:
    search = searched("successive_halving", budget=budget, fitness=Looked(tasks))
    assert search.told == "the budget is spent" and search.best
    assert budget - 1 < search.spent <= budget + 1e-9


class Trained(Looked):
    """A fitness for which a net is trained first, at the price of three times all tasks."""

    def cost(self, encoding: str, tasks: int) -> Cost:
        return super().cost(encoding, tasks) + Cost(flops=3 * super().cost(encoding, self.tasks).flops)


def test_where_a_net_is_trained_first_a_look_at_a_few_tasks_pays_for_the_training() -> None:
    search = searched("successive_halving", fitness=Trained())
    nets, each = {line.encoding for line in search.lines}, Trained().cost("conv3-conv3-conv3", Trained().tasks).flops
    assert 24 < search.spent <= 25 + 1e-9
    assert search.lines[-1].cost.flops == pytest.approx(search.spent * each)
    # Three quarters of a full evaluation are training.
    assert len(nets) <= 25 / 0.75


@every_strategy
def test_a_search_that_is_killed_while_a_net_is_judged_judges_it_again(name: str, predictor: str) -> None:
    class Killed(Looked):
        stop = 0

        def __call__(self, encoding: str, tasks: int) -> float:
            if len(self.looks) == self.stop:
                raise KeyboardInterrupt
            return super().__call__(encoding, tasks)

    whole = searched(name, predictor)
    for stop in (0, 3, 12, 20):
        fitness = Killed()
        fitness.stop = stop
        search = Search.of(made(name, predictor), fitness, 25)
        with pytest.raises(KeyboardInterrupt):
            list(search.run())
        again = Search.of(made(name, predictor), Looked(), 25, json.loads(json.dumps(search.state())))
        list(again.run())
        assert again.state() == whole.state()


def test_a_state_of_another_search_or_a_damaged_one_is_refused() -> None:
    state = searched("evolution").state()
    for strategy in (made("evolution", seed=1), made("local_search"), made("evolution", mutation=0.9)):
        with pytest.raises(MetabenchError, match="the state is of another search: there the strategy asked for"):
            Search.of(strategy, Looked(), 25, state)
    for damaged in ({}, {**state, "calls": [["ask", 1]]}, {**state, "lines": [{}]}, {**state, "paid": [1]}):
        with pytest.raises(MetabenchError, match="the state of a search is damaged"):
            Search.of(made("evolution"), Looked(), 25, damaged)


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


class Guarded(Search):
    """A search whose table raises where a net is looked at that is not being paid for."""

    def _judged(self, net: str) -> float:
        self.fitness.due = net  # type: ignore[attr-defined]
        try:
            return super()._judged(net)
        finally:
            self.fitness.due = ""  # type: ignore[attr-defined]


class PaidTable(Looked):
    due = ""

    def __call__(self, encoding: str, tasks: int) -> float:
        assert encoding == self.due, "looked at and not paid for"
        return super().__call__(encoding, tasks)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_candidates_are_predicted_and_never_looked_up(predictor: str) -> None:
    search = Guarded.of(made("evolution", predictor, budget=14), PaidTable(), 14)
    assert len(list(search.run())) == 14

    fitness = PaidTable()

    class LookingUp(Screened):
        def ask(self, n: int) -> Sequence[str]:
            fitness(self.drawn(), fitness.tasks)
            return super().ask(n)

    search = Guarded.of(LookingUp(made("evolution", budget=14), predictor), fitness, 14)
    with pytest.raises(AssertionError, match="looked at and not paid for"):
        list(search.run())


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


@pytest.mark.parametrize("predictor", PREDICTORS[1:])
@pytest.mark.parametrize("value", [20.0, float("nan")])
def test_a_predictor_bears_equal_fitness_and_nets_that_all_diverge(predictor: str, value: float) -> None:
    search = searched("evolution", predictor, budget=13, fitness=Looked(values=dict.fromkeys(TINY.all(), value)))
    assert search.told == "the budget is spent" and bool(search.best) == (value == 20)


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


class OneText(Outside):
    def ask(self, n: int) -> Sequence[str]:
        return "conv3-conv3-conv3"


class Nothing(Outside):
    def ask(self, n: int) -> Sequence[str]:
        return None  # type: ignore[return-value]


class Genes(Outside):
    def ask(self, n: int) -> Sequence[str]:
        return [(0, 1, 2)]  # type: ignore[list-item]


class WordyPart(Outside):
    def ask(self, n: int) -> Sequence[str]:
        return ["conv3-conv3-conv3"]

    def part(self, encoding: str) -> float:
        return "half"  # type: ignore[return-value]


class Falling(WordyPart):
    """Wants fewer tasks of a net of which all were paid for."""

    asked = 0

    def ask(self, n: int) -> Sequence[str]:
        self.asked += 1
        return super().ask(n)

    def part(self, encoding: str) -> float:
        return 1 / self.asked


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Outside, "unknown operation of space 'tiny' in 'conv3-conv9-conv3' 'conv9': did you mean 'conv3'?"),
        (TooMany, "the strategy was asked for 1 nets and returned 125"),
        (Silent, "the strategy asked for no net"),
        (OneText, "'ask' returned 'conv3-conv3-conv3', expected a list of encodings"),
        (Nothing, "'ask' returned None, expected a list of encodings"),
        (Genes, "'ask' returned (0, 1, 2) among its nets, expected encodings"),
        (WordyPart, "wants 'conv3-conv3-conv3' judged on 'half' of the tasks: expected more than 0, at most 1"),
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


def test_fewer_tasks_of_a_net_that_was_paid_for_cost_nothing() -> None:
    search = Search.of(Falling(TINY, 25, 0, None), Looked(), 25)
    assert [line.tasks for line in search.run()] == [90]
    assert search.told == "the strategy asked 1000 times for nothing new"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Screened(made("random"), "ridge", candidates=0), "is to rank 0 candidates: expected 1 or more"),
        (lambda: made("evolution", budget=5), "a budget of 5 evaluations: Evolution needs 10 or more"),
        (lambda: made("regularised_evolution", budget=5), "a budget of 5 evaluations: RegularisedEvolution needs 10 or more"),
        (lambda: made("successive_halving", budget=2), "a budget of 2 evaluations: SuccessiveHalving needs 3 or more"),
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


_ASK, _TELL = "    def ask(self, n): return []\n", "    def tell(self, encodings, fitness): ...\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (_ASK + _TELL, "strategy 'mine': Mine.card is missing, expected a metabench.search.strategy.StrategyCard"),
        ("    card = 'mine'\n" + _ASK + _TELL, "strategy 'mine': Mine.card is 'mine', expected"),
        ("    card = StrategyCard('mine')\n" + _ASK, "strategy 'mine': Mine lacks tell"),
        ("    card = StrategyCard(3)\n" + _ASK + _TELL, "strategy 'mine': title is 3, expected str"),
        ("    card = StrategyCard('mine', citation='nobody')\n" + _ASK + _TELL, "unknown citation 'nobody'"),
        (
            "    card = StrategyCard('mine', options=list)\n" + _ASK + _TELL,
            "options is list, expected a dataclass with frozen=True",
        ),
        (
            "    card = StrategyCard('mine', name='random')\n" + _ASK + _TELL,
            "declares the strategy 'random', a name that",
        ),
    ],
)
def test_a_plugin_that_cannot_be_used_is_refused(tmp_path: Path, body: str, said: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"from metabench.search.strategy import Strategy, StrategyCard\nclass Mine(Strategy):\n{body}")
    with pytest.raises(MetabenchError) as refused:
        strategies([path])
    assert said in str(refused.value)
