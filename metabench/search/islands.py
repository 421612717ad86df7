"""Islands: searches beside each other that exchange their best net, round by round, in files.

Round r of an island reads round r - 1 of itself and of its left neighbour. The graph is static, so a workflow engine runs it, on one
machine or many, and repeats what was killed with the same result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from metabench.core.atomic import write_text_atomically
from metabench.core.errors import MetabenchError
from metabench.core.randomness import stream_seed
from metabench.search.driver import Search

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


def begun(of: Round, islands: int, folder: Path, make: Callable[[Mapping[str, Any] | None], Search]) -> Search:
    """Return the search of a round before it runs: from the island's last round, with the best net of its left neighbour's.

    Args:
        of: the round.
        islands: of the ring.
        folder: of the files.
        make: from a state, or None for the first round, to the search, with what all rounds up to this one may pay for as its budget.

    Raises:
        MetabenchError: as `read_round`.
    """
    if of.number == 0:
        return make(None)
    own, left = (read_round(one, folder) for one in of.before(islands))
    # It ended when the budget of its last round did.
    search = make({**own, "told": ""})
    search.receive(migrants(left, search.fitness.tasks))
    return search
