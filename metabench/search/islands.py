"""Islands: searches beside each other that exchange their best net, round by round, in files.

Round r of an island reads round r - 1 of itself and of its left neighbour. The graph is static, so a workflow engine runs it, on one
machine or many, and repeats what was killed with the same result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metabench.core.atomic import write_text_atomically
from metabench.core.errors import MetabenchError
from metabench.search.driver import Search

_VERSION = 1


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

    def file(self, folder: Path) -> Path:
        """Return where its state is."""
        return folder / f"island-{self.island}.round-{self.number}.json"

    def before(self, islands: int) -> tuple[Round, Round]:
        """Return the rounds that it reads: its own last one, and that of its left neighbour."""
        return tuple(
            Round(self.search, self.seed, island, self.number - 1)
            for island in (self.island, (self.island - 1) % islands)
        )  # type: ignore[return-value]


def write_round(of: Round, search: Search, folder: Path) -> Path:
    """Write the state after a round, whole or not at all; the same state gives the same file."""
    path = of.file(folder)
    write_text_atomically(
        path, json.dumps({"version": _VERSION, "round": asdict(of), "state": search.state()}, sort_keys=True)
    )
    return path


def read_round(of: Round, folder: Path) -> Mapping[str, Any]:
    """Return the state after a round.

    Raises:
        MetabenchError: it is missing, damaged, or of another search, seed, island or round.
    """
    path = of.file(folder)
    if not path.is_file():
        raise MetabenchError(f"round {of.number} of island {of.island} is missing: '{path}'; run it first")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version, whose, state = found["version"], found["round"], found["state"]
    except (ValueError, KeyError, TypeError) as error:
        raise MetabenchError(
            f"'{path}' is damaged: remove it, and run round {of.number} of island {of.island} again"
        ) from error
    if version != _VERSION:
        raise MetabenchError(f"'{path}' is of version {version}, expected {_VERSION}")
    for key, value in asdict(of).items():
        if whose.get(key) != value:
            raise MetabenchError(
                f"'{path}' is of {key} {whose.get(key)!r}, expected {value!r}: it belongs to another search"
            )
    return dict(state)


def migrants(state: Mapping[str, Any], tasks: int, count: int = 1) -> dict[str, float]:
    """Return the best nets of a state with their fitness on `tasks` tasks, the best first."""
    full = {net: found[str(tasks)] for net, found in state["paid"].items() if found.get(str(tasks)) is not None}
    return {net: full[net] for net in sorted(full, key=lambda net: (-full[net], net))[:count]}
