"""A search: a strategy asks, a fitness is paid for, until the budget is spent.

The driver keeps what was paid for. A net that comes up again is answered from there, for nothing; more tasks of a net cost the
difference, and fewer nothing. What a part of the tasks takes of the budget is its part of the FLOPs of a full evaluation: where a
net is trained before its first task, a look at a few tasks costs nearly as much as a full evaluation. Nothing is begun that the rest of the
budget does not pay for. A net that diverges has the worst fitness, and its line says so: a strategy is never told NaN.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

from metabench.core.errors import MetabenchError
from metabench.search.strategy import Recorded, Strategy

_PATIENCE = 1000
"""Asks in a row without a net that is new, after which a strategy has nothing more to say."""


@dataclass(frozen=True)
class Cost:
    """What is paid, where the money goes.

    Attributes:
        adaptations: inner runs.
        gradients: gradients on a batch.
        flops: of all of them, as torch counts.
    """

    adaptations: float = 0
    gradients: float = 0
    flops: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            *(one + another for one, another in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            *(one - another for one, another in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))
        )


class Fitness(Protocol):
    """What nets are judged by.

    Attributes:
        tasks: of a full evaluation.
    """

    tasks: int

    def __call__(self, encoding: str, tasks: int) -> float:
        """Return the fitness on the first `tasks` tasks; NaN, or a Diverged, where the net diverges."""

    def cost(self, encoding: str, tasks: int) -> Cost:
        """Return what that costs."""


@dataclass(frozen=True)
class Line:
    """One evaluation.

    Attributes:
        number: from 1 on.
        encoding: of the net.
        tasks: that it was judged on.
        fitness: what was found; None where the net diverged.
        spent: full evaluations paid for, this one included.
        cost: of all of them.
        best: the net with the highest fitness on all tasks so far; empty before there is one.
    """

    number: int
    encoding: str
    tasks: int
    fitness: float | None
    spent: float
    cost: Cost
    best: str


@dataclass
class Search:
    """A search under way.

    Attributes:
        strategy: with its calls.
        fitness: what nets are judged by.
        budget: full evaluations that may be paid for.
        paid: by net, what was found by the number of tasks; None where it diverged.
        lines: one for each evaluation.
        told: why it ended; empty while it goes on.
        foreign: nets whose fitness another island paid for.
        waiting: the net that was asked for and not told; empty: none.
        emptying: whether the strategy has nothing new to say, and the rest of a space that the budget pays for is looked at in order.
    """

    strategy: Recorded
    fitness: Fitness
    budget: int
    paid: dict[str, dict[int, float | None]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    told: str = ""
    foreign: set[str] = field(default_factory=set)
    waiting: str = ""
    emptying: bool = False
    _costs: dict[tuple[str, int], Cost] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, strategy: Strategy, fitness: Fitness, budget: int, state: Mapping[str, Any] | None = None) -> Search:
        """Return a search, or the one that a state was taken of.

        Raises:
            MetabenchError: the budget is not positive; the state is damaged, or of another strategy, seed, space or options.
        """
        if budget < 1:
            raise MetabenchError(f"a budget of {budget} evaluations: expected 1 or more")
        if state is None:
            return cls(Recorded(strategy), fitness, budget)
        try:
            paid = {net: {int(tasks): value for tasks, value in found.items()} for net, found in state["paid"].items()}
            lines = [Line(**{**line, "cost": Cost(**line["cost"])}) for line in state["lines"]]
            calls = [(call, given, answer) for call, given, answer in state["calls"]]
            rest = (state["told"], set(state["foreign"]), state["waiting"], state["emptying"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MetabenchError(f"the state of a search is damaged: {type(error).__name__}: {error}") from error
        return cls(Recorded(strategy, calls), fitness, budget, paid, lines, *rest)

    def state(self) -> dict[str, Any]:
        """Return the search as JSON: another process goes on from it as this one would."""
        return {
            "calls": self.strategy.calls,
            "paid": {net: {str(tasks): value for tasks, value in found.items()} for net, found in self.paid.items()},
            "lines": [dataclasses.asdict(line) for line in self.lines],
            "told": self.told,
            "foreign": sorted(self.foreign),
            "waiting": self.waiting,
            "emptying": self.emptying,
        }

    @property
    def spent(self) -> float:
        """Full evaluations paid for."""
        return self.lines[-1].spent if self.lines else 0.0

    @property
    def best(self) -> str:
        """The net with the highest fitness on all tasks; empty before there is one. Of equal ones the first."""
        full = {net: value for net, found in self.paid.items() if (value := found.get(self.fitness.tasks)) is not None}
        return max(full, key=lambda net: full[net]) if full else ""

    def run(self) -> Iterator[Line]:
        """Go on until the budget is spent, the space is exhausted, or the strategy has nothing new; yield every evaluation.

        The state is whole whenever something else runs: between two of them, and while a net is judged, which is then judged again.

        Raises:
            MetabenchError: the strategy asks for a net outside the space, or for none at all.
        """
        space, quiet = self.strategy.strategy.space, 0
        while not self.told:
            if self.spent + 1e-9 >= self.budget or (
                self.waiting and self._price(self.waiting) > self.budget - self.spent + 1e-9
            ):
                self.told = "the budget is spent"
            elif self._exhausted(space.size):
                self.told = f"all {space.size} nets of the space were evaluated: the answer is exhaustive"
            elif self.waiting:
                known = len(self.lines)
                value = self._judged(self.waiting)
                if not self.emptying:
                    self.strategy.tell([self.waiting], [value])
                self.waiting = ""
                if len(self.lines) > known:
                    quiet = 0
                    yield self.lines[-1]
            elif self.emptying or (quiet >= _PATIENCE and self.lines and self.budget >= space.size):
                self.emptying = True
                self.waiting = next(net for net in space.all() if self.fitness.tasks not in self.paid.get(net, {}))
            elif quiet >= _PATIENCE:
                self.told = f"the strategy asked {quiet} times for nothing new"
            else:
                quiet += 1
                self.waiting = next(iter(self.strategy.ask(1)), "")
        if not self.lines:
            raise MetabenchError("the strategy asked for no net: 'ask' returned nothing")

    def _exhausted(self, size: int) -> bool:
        return sum(self.fitness.tasks in found for found in self.paid.values()) >= size

    def _tasks(self, net: str) -> tuple[int, int]:
        """Return on how many tasks a net is to be judged, and on how many it was: at least as many if it is paid for."""
        part = 1.0 if self.emptying else self.strategy.strategy.part(net)
        if isinstance(part, bool) or not isinstance(part, Real) or not 0 < part <= 1:
            raise MetabenchError(
                f"the strategy wants '{net}' judged on {part!r} of the tasks: expected more than 0, at most 1"
            )
        tasks, known = max(1, round(part * self.fitness.tasks)), self.paid.get(net, {})
        # The nearest number of tasks that is enough, else the most.
        return tasks, min((count for count in known if count >= tasks), default=max(known, default=0))

    def _price(self, net: str) -> float:
        """Return what judging a net takes of the budget, in full evaluations."""
        tasks, before = self._tasks(net)
        return self._share(net, tasks, before) if before < tasks else 0.0

    def _cost(self, net: str, tasks: int) -> Cost:
        """Return what judging a net on some tasks costs; nothing on none."""
        if not tasks:
            return Cost()
        if (net, tasks) not in self._costs:
            self._costs[net, tasks] = self.fitness.cost(net, tasks)
        return self._costs[net, tasks]

    def _share(self, net: str, tasks: int, before: int) -> float:
        """Return what judging a net on further tasks costs, as a part of its full evaluation."""
        whole = self._cost(net, self.fitness.tasks).flops
        if not whole:
            return (tasks - before) / self.fitness.tasks
        return (self._cost(net, tasks).flops - self._cost(net, before).flops) / whole

    def _judged(self, net: str) -> float:
        """Return the fitness that the strategy learns, paid for if it was not."""
        tasks, before = self._tasks(net)
        if before < tasks:
            value = _finite(self.fitness, net, tasks)
            self.paid.setdefault(net, {})[tasks] = value
            self._note(net, tasks, before, value)
        else:
            value = self.paid[net][before]
        return self._worst() if value is None else value

    def _note(self, net: str, tasks: int, before: int, value: float | None) -> None:
        """Add the line of an evaluation; tasks seen before were paid for."""
        paid = self._cost(net, tasks) - self._cost(net, before)
        total = (self.lines[-1].cost if self.lines else Cost()) + paid
        spent = self.spent + self._share(net, tasks, before)
        self.lines.append(Line(len(self.lines) + 1, net, tasks, value, spent, total, self.best))

    def _worst(self) -> float:
        """Return a fitness below all that was found."""
        known = [value for found in self.paid.values() for value in found.values() if value is not None]
        return min([0.0, *known]) - 1

    def receive(self, migrants: Mapping[str, float]) -> None:
        """Tell the strategy of nets that another island has paid for; here they cost nothing."""
        new = {net: value for net, value in migrants.items() if self.fitness.tasks not in self.paid.get(net, {})}
        for net, value in new.items():
            self.paid.setdefault(net, {})[self.fitness.tasks] = value
            self.foreign.add(net)
        if new:
            self.strategy.tell(list(new), list(new.values()))


def _finite(fitness: Fitness, net: str, tasks: int) -> float | None:
    from metabench.core.errors import Diverged

    try:
        value = float(fitness(net, tasks))
    except Diverged:
        return None
    return value if math.isfinite(value) else None
