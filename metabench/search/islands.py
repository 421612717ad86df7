"""Islands: searches beside each other that exchange their best net, round by round, in files.

Round r of an island reads round r - 1 of itself and of its left neighbour. The graph is static, so a workflow engine runs it, on one
machine or many, and repeats what was killed with the same result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from metabench.core.atomic import write_text_atomically
from metabench.core.errors import MetabenchError
from metabench.core.randomness import stream_seed
from metabench.models.search_space import Space
from metabench.search.driver import Cost, Fitness, Line, Search
from metabench.search.study import Entrant, Outcome

_VERSION = 2


@dataclass(frozen=True)
class Round:
    """One round of one island.

    Attributes:
        search: what the islands are of: a hash of space, strategy, fitness and budget.
        seed: of the search, the same on all its islands.
        island: from 0 on.
        number: of the round, from 0 on.
    """

    search: str
    seed: int
    island: int
    number: int

    @property
    def strategy_seed(self) -> int:
        """The seed of the island's strategy: no two islands draw the same."""
        return stream_seed(self.seed, f"island {self.island}")

    def file(self, folder: Path) -> Path:
        """Return where its state is."""
        return folder / f"island-{self.island}.round-{self.number}.json"

    def before(self, islands: int) -> tuple[Round, Round]:
        """Return the rounds that it reads: its own last one, and that of its left neighbour."""
        own = replace(self, number=self.number - 1)
        return own, replace(own, island=(self.island - 1) % islands)


def write_round(of: Round, search: Search, folder: Path) -> Path:
    """Write the state after a round, whole or not at all; the same state gives the same file."""
    path, state = of.file(folder), search.state()
    written = {"version": _VERSION, "round": asdict(of), "sha256": _digest(state), "state": state}
    write_text_atomically(path, json.dumps(written, sort_keys=True))
    return path


def _digest(state: Any) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def read_round(of: Round, folder: Path) -> Mapping[str, Any]:
    """Return the state after a round.

    Raises:
        MetabenchError: it is missing, damaged, or of another search, seed, island or round.
    """
    path = of.file(folder)
    if not path.is_file():
        raise MetabenchError(f"round {of.number} of island {of.island} is missing: '{path}'; run it first")
    damaged = MetabenchError(f"'{path}' is damaged: remove it, and run round {of.number} of island {of.island} again")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged from error
    if version != _VERSION:
        raise MetabenchError(
            f"'{path}' is of version {version!r}, expected {_VERSION}: remove it, and run its round again"
        )
    whose, state = found.get("round"), found.get("state")
    if not isinstance(whose, dict) or not isinstance(state, dict) or found.get("sha256") != _digest(state):
        raise damaged
    for key, value in asdict(of).items():
        if whose.get(key) != value:
            raise MetabenchError(
                f"'{path}' is of {key} {whose.get(key)!r}, expected {value!r}: it belongs to another search"
            )
    return state


def migrants(state: Mapping[str, Any], tasks: int, count: int = 1) -> dict[str, float]:
    """Return the best nets of a state with their fitness on `tasks` tasks, the best first."""
    full = {net: found[str(tasks)] for net, found in state["paid"].items() if found.get(str(tasks)) is not None}
    return {net: full[net] for net in sorted(full, key=lambda net: (-full[net], net))[:count]}


def begun(
    of: Round, islands: int, folder_of: Callable[[Round], Path], make: Callable[[Mapping[str, Any] | None], Search]
) -> Search:
    """Return the search of a round before it runs: from the island's last round, with the best net of its left neighbour's.

    Args:
        of: the round.
        islands: of the ring.
        folder_of: from a round to the folder of its file.
        make: from a state, or None for the first round, to the search, with what all rounds up to this one may pay for as its budget.

    Raises:
        MetabenchError: as `read_round`.
    """
    if of.number == 0:
        return make(None)
    own, left = (read_round(one, folder_of(one)) for one in of.before(islands))
    # It ended when the budget of its last round did.
    search = make({**own, "told": ""})
    search.receive(migrants(left, search.fitness.tasks))
    return search


@dataclass(frozen=True)
class Ring:
    """A search on islands, each of which sends its best net to its right neighbour after every round but the last.

    Attributes:
        entrant: whose strategy every island has.
        space: of the nets.
        budget: full evaluations of all islands together.
        seed: of the search.
        islands: how many.
        rounds: how many.
        name: what the fitness is of: a round of another one is refused.

    Raises:
        MetabenchError: the budget does not give each island an evaluation a round.
    """

    entrant: Entrant
    space: Space
    budget: int
    seed: int
    islands: int
    rounds: int
    name: str

    def __post_init__(self) -> None:
        check_ring(self.budget, self.islands, self.rounds)

    def round(self, island: int, number: int) -> Round:
        """Return a round, whose file says of what ring it is."""
        said = [self.entrant.name, self.space.name, self.budget, self.islands, self.rounds, self.name]
        return Round(hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16], self.seed, island, number)

    def share(self, island: int) -> int:
        """Return how many evaluations an island may pay for: the first ones of an uneven budget one more."""
        return self.budget // self.islands + (island < self.budget % self.islands)

    def run(self, of: Round, fitness: Fitness, folder_of: Callable[[Round], Path]) -> Path:
        """Run a round, after those that it reads, and return its file.

        Raises:
            MetabenchError: as `read_round`, or as `Entrant.search`.
        """
        share = self.share(of.island)

        def make(state: Mapping[str, Any] | None) -> Search:
            search = self.entrant.search(self.space, share, of.strategy_seed, fitness, state)
            search.budget = share * (of.number + 1) // self.rounds
            return search

        search = begun(of, self.islands, folder_of, make)
        for _ in search.run():
            pass
        return write_round(of, search, folder_of(of))

    def outcome(self, fitness: Fitness, test: Callable[[str], float], folder_of: Callable[[Round], Path]) -> Outcome:
        """Return what the ring came to: the best net of all islands, of equal ones the first by name.

        Raises:
            MetabenchError: as `read_round`; or every net diverged.
        """
        last = [self.round(island, self.rounds - 1) for island in range(self.islands)]
        states = [read_round(one, folder_of(one)) for one in last]
        best = {net: value for state in states for net, value in migrants(state, fitness.tasks).items()}
        if not best:
            raise MetabenchError(
                f"{self.entrant.name}, seed {self.seed}: no net was judged on all tasks: the budget ended before, or all diverged"
            )
        chosen = min(best, key=lambda net: (-best[net], net))
        told = f"{self.islands} islands, {self.rounds} rounds"
        lines = [[Line(**{**line, "cost": Cost(**line["cost"])}) for line in state["lines"]] for state in states]
        together = _side_by_side(lines, fitness.tasks)
        return Outcome(self.entrant.name, self.seed, chosen, best[chosen], test(chosen), together, told)


def check_ring(budget: int, islands: int, rounds: int) -> None:
    """Raise MetabenchError unless a budget gives each island an evaluation in every round."""
    if islands < 1 or rounds < 1 or budget < islands * rounds:
        least = max(1, islands) * max(1, rounds)
        raise MetabenchError(
            f"a budget of {budget} evaluations for {islands} islands and {rounds} rounds: expected {least} or more"
        )


def _side_by_side(islands: Sequence[Sequence[Line]], tasks: int) -> list[Line]:
    """Return the lines of islands that work beside each other as those of one search: costs and evaluations add up."""
    steps = sorted((line.spent, island, line.number) for island, lines in enumerate(islands) for line in lines)
    before = [(0.0, Cost())] * len(islands)
    spent, cost, best, value = 0.0, Cost(), "", float("-inf")
    found = []
    for _, island, number in steps:
        line, (known, paid) = islands[island][number - 1], before[island]
        before[island] = (line.spent, line.cost)
        spent, cost = spent + line.spent - known, cost + line.cost - paid
        if line.tasks == tasks and line.fitness is not None and line.fitness > value:
            best, value = line.encoding, line.fitness
        found.append(replace(line, number=len(found) + 1, spent=spent, cost=cost, best=best))
    return found
