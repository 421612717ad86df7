"""A table of networks trained from nothing: how many queries each answers, task by task, in one file.

The file is a line of JSON, then arrays of bytes, compressed with xz. With it a search has an exact regret, and costs a second.
"""

from __future__ import annotations

import functools
import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError, unknown

VALIDATION, TEST = "validation", "test"
_FORMAT = "metabench net table 1"
_FILTERS = ({"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0},)


@dataclass(frozen=True, eq=False)
class NetTable:
    """The right answers of every net of a space.

    Attributes:
        about: what the table is of: space, image shape, ways, shots, queries, settings of training and the source of the data.
        nets: canonical encodings.
        seeds: of training.
        steps: of adaptation, after which answers were counted.
        domains: of each part, the name of every task's domain.
        right: of each part, right answers, uint8 of shape [nets, seeds, steps, tasks]; the tasks are the same for all nets and seeds.
        pixels: of each part, right answers by the nearest support image, uint8 of shape [tasks].
        costs: of each net, by name: parameters, FLOPs of scoring an image, FLOPs and seconds of training, and the peak bytes of
            one hypergradient of one task, shape [nets] each.
    """

    about: Mapping[str, Any]
    nets: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    domains: Mapping[str, tuple[str, ...]]
    right: Mapping[str, npt.NDArray[np.uint8]]
    pixels: Mapping[str, npt.NDArray[np.uint8]]
    costs: Mapping[str, npt.NDArray[np.float64]]

    @property
    def asked(self) -> int:
        """Queries of a task."""
        return int(self.about["ways"] * self.about["queries"])

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {net: row for row, net in enumerate(self.nets)}

    def row(self, net: str) -> int:
        """Return the row of a net; raise MetabenchError, naming the nearest, if the table lacks it."""
        if net not in self._rows:
            raise unknown("net of the table", net, self.nets)
        return self._rows[net]

    def accuracies(
        self,
        part: str,
        steps: int | None = None,
        seeds: Sequence[int] | None = None,
        tasks: Sequence[int] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return the accuracy (%) of every net, shape [nets]: the mean over some seeds and tasks, or all.

        Args:
            part: 'validation' or 'test'.
            steps: of adaptation; None: as many as in training.
            seeds: of training.
            tasks: numbers of tasks of the part.

        Raises:
            MetabenchError: the table has no such part, steps or seeds.
        """
        if part not in self.right:
            raise unknown("part of the table", part, self.right)
        wanted = self.about["inner_steps"] if steps is None else steps
        if wanted not in self.steps:
            raise MetabenchError(f"the table has no answers after {wanted} steps of adaptation: it has {self.steps}")
        found = self.right[part][:, :, self.steps.index(wanted)]
        if seeds is not None:
            if unlike := set(seeds) - set(self.seeds):
                raise MetabenchError(f"the table has no seed {min(unlike)}: it has {self.seeds}")
            found = found[:, [self.seeds.index(seed) for seed in seeds]]
        chosen = found if tasks is None else found[:, :, np.asarray(tasks)]
        return 100 * chosen.mean((1, 2), dtype=np.float64) / self.asked

    def pixel_accuracy(self, part: str) -> float:
        """Return the accuracy (%) of the nearest support image."""
        return float(100 * self.pixels[part].mean(dtype=np.float64) / self.asked)


def encode(table: NetTable) -> bytes:
    """Return the bytes of a table, compressed; they depend on nothing but its content."""
    head = {
        "format": _FORMAT,
        "about": dict(table.about),
        "nets": table.nets,
        "seeds": table.seeds,
        "steps": table.steps,
        "domains": {part: list(names) for part, names in table.domains.items()},
        "costs": {name: values.tolist() for name, values in table.costs.items()},
    }
    pieces = [json.dumps(head, sort_keys=True).encode() + b"\n"]
    for part in sorted(table.right):
        right = table.right[part]
        # What a task is like repeats from net to net: tasks first, so that a net stands beside others on the same task.
        pieces += [np.ascontiguousarray(right.transpose(2, 3, 1, 0)).tobytes(), table.pixels[part].tobytes()]
    return lzma.compress(b"".join(pieces), lzma.FORMAT_XZ, filters=_FILTERS)


def decode(content: bytes, name: str) -> NetTable:
    """Return the table in the bytes of file `name`; raise MetabenchError if they are damaged or of another version."""
    try:
        line, _, rest = lzma.decompress(content).partition(b"\n")
        head = json.loads(line)
        if head["format"] != _FORMAT:
            raise MetabenchError(f"{name} is a table of another version, '{head['format']}': expected '{_FORMAT}'")
        counts = tuple(len(head[key]) for key in ("nets", "seeds", "steps"))
        right, pixels, place = {}, {}, 0
        for part, names in sorted(head["domains"].items()):
            shape = (counts[2], len(names), counts[1], counts[0])
            size = int(np.prod(shape))
            right[part] = np.frombuffer(rest, np.uint8, size, place).reshape(shape).transpose(3, 2, 0, 1)
            pixels[part] = np.frombuffer(rest, np.uint8, len(names), place + size)
            place += size + len(names)
        return NetTable(
            head["about"],
            tuple(head["nets"]),
            tuple(head["seeds"]),
            tuple(head["steps"]),
            {part: tuple(names) for part, names in head["domains"].items()},
            right,
            pixels,
            {key: np.array(values, np.float64) for key, values in head["costs"].items()},
        )
    except (lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise MetabenchError(f"{name} holds no table of nets: {error}") from error
