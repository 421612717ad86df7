"""A genetic algorithm with tournaments, uniform crossover and mutation, by pymoo. Blank & Deb 2020."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metabench.core.errors import MetabenchError
from metabench.core.options import option
from metabench.core.randomness import stream_seed
from metabench.models.search_space import Space
from metabench.search.strategy import Strategy, StrategyCard


@dataclass(frozen=True)
class Options:
    """Options of `evolution`."""

    population: int = option(10, minimum=2, help="nets of a generation")
    mutation: float = option(0.3, above=0, maximum=1, help="probability that a gene of a child is redrawn")


class Evolution(Strategy):
    """Generations, each told as a whole."""

    card = StrategyCard("genetic algorithm, by pymoo", citation="blank2020pymoo", options=Options)

    def __init__(self, space: Space, budget: int, seed: int, options: Any) -> None:
        super().__init__(space, budget, seed, options)
        try:
            from pymoo.algorithms.soo.nonconvex.ga import GA  # type: ignore[import-not-found]
            from pymoo.core.problem import Problem  # type: ignore[import-not-found]
            from pymoo.operators.crossover.ux import UniformCrossover  # type: ignore[import-not-found]
        except ImportError as error:
            raise MetabenchError("strategy 'evolution' needs pymoo: pip install 'metabench[search]'") from error
        last = np.array(space.choices) - 1
        self._problem = Problem(n_var=len(last), n_obj=1, xl=np.zeros(len(last)), xu=last, vtype=int)
        first = np.array(
            [
                space.genes(net)
                for net, _ in zip(space.drawn(seed, "first population"), range(options.population), strict=False)
            ]
        )
        self._algorithm = GA(
            pop_size=options.population,
            sampling=first,
            crossover=UniformCrossover(),
            mutation=_redrawn(options.mutation, last),
            eliminate_duplicates=True,
        )
        # What ends a run is the driver's budget: pymoo would count evaluations of its own evaluator alone.
        self._algorithm.setup(
            self._problem, termination=("n_gen", 10**9), seed=stream_seed(seed, "pymoo") % 2**31, verbose=False
        )
        self._generation: Any = None
        self._waiting: list[str] = []
        self._known: dict[str, float] = {}

    @classmethod
    def fewest(cls, options: Any) -> int:
        """Return the size of a population."""
        return int(options.population)

    def ask(self, n: int) -> Sequence[str]:
        """Return nets of the present generation; none while answers are missing."""
        if self._generation is None:
            self._generation = self._algorithm.ask()
            if self._generation is None or len(self._generation) == 0:
                # No child that differs from its elders.
                return []
            self._waiting = list(dict.fromkeys(self._nets()))
        found, self._waiting = self._waiting[:n], self._waiting[n:]
        return found

    def _nets(self) -> list[str]:
        return [self.space.text([round(float(gene)) for gene in genes]) for genes in self._generation.get("X")]

    def tell(self, encodings: Sequence[str], fitness: Sequence[float]) -> None:
        """Keep answers; the algorithm goes on when its generation is complete."""
        from pymoo.core.population import Population  # type: ignore[import-not-found]

        self._known.update(zip(encodings, fitness, strict=True))
        if self._generation is not None and set(nets := self._nets()) <= set(self._known):
            generation, self._generation = self._generation, None
            # Highest is best here, least there.
            generation.set("F", -np.array([[self._known[net]] for net in nets]))
            for one in generation:
                one.evaluated.add("F")
            self._algorithm.tell(infills=generation)
            return
        strangers = [net for net in encodings if self._generation is None or net not in self._nets()]
        if strangers and self._algorithm.pop is not None and len(self._algorithm.pop):
            migrants = Population.new(X=np.array([self.space.genes(net) for net in strangers]))
            migrants.set("F", -np.array([[self._known[net]] for net in strangers]))
            merged = Population.merge(self._algorithm.pop, migrants)
            self._algorithm.pop = self._algorithm.survival.do(self._problem, merged, n_survive=len(self._algorithm.pop))


def _redrawn(probability: float, last: np.ndarray) -> Any:
    """Return the mutation that draws genes anew, each with some probability: what rounds a real number prefers its neighbours."""
    from pymoo.core.mutation import Mutation  # type: ignore[import-not-found]

    class Redrawn(Mutation):  # type: ignore[misc]
        def _do(self, problem: Any, X: np.ndarray, *given: Any, random_state: Any = None, **named: Any) -> np.ndarray:
            stream = random_state
            drawn = stream.integers(0, last + 1, size=X.shape)
            return np.where(stream.random(X.shape) < probability, drawn, X)

    return Redrawn()
