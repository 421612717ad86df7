"""Learning to minimise random quadratics, many at once. Andrychowicz et al. 2016, section 3.1.

f(w) = |W w - y|^2 with W [d, d] and y [d] drawn for each task; as in the paper from N(0, 1), or from U[0, 1) as in its published code.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from metabench.core import Batch, ProblemCard, Tree, option
from metabench.core.lazy import torch
from metabench.core.problem import Setting
from metabench.learned.problem import METRICS, LearnedOptimiserProblem, LearnedOptions
from metabench.learned.tasks import Episode, Part, Tasks


@dataclass(frozen=True)
class Options(LearnedOptions):
    """Options of `learned_quadratics`."""

    tasks: int = option(32, minimum=1, help="quadratics at once, in every episode of training")
    test_tasks: int = option(1024, minimum=1, help="quadratics of a test; half as many validate")
    entries: str = option("normal", choices=("normal", "uniform"), help="distribution of W and y: N(0, 1), or U[0, 1)")


class Quadratics(Tasks):
    """Quadratics of one dimension, stacked."""

    stacked = True

    def __init__(self, dimension: int, entries: str, together: dict[Part, int], setting: Setting) -> None:
        self.together = together[Part.TRAIN]
        self._counts, self._dimension, self._entries = together, dimension, entries
        self._setting = setting

    def begin(self, part: Part, stream: torch.Generator) -> Episode:
        """Return new quadratics, each with its start drawn from N(0, 0.01^2)."""
        tasks, size = self._counts[part], self._dimension
        draw = torch.randn if self._entries == "normal" else torch.rand
        task = {
            "matrix": draw((tasks, size, size), generator=stream, dtype=torch.float64),
            "target": draw((tasks, size), generator=stream, dtype=torch.float64),
        }
        start = 0.01 * torch.randn((tasks, size), generator=stream, dtype=torch.float64)
        setting = self._setting
        placed = {name: leaf.to(setting.device, setting.dtype) for name, leaf in task.items()}
        return Episode({"w": start.to(setting.device, setting.dtype)}, itertools.repeat(placed), placed)

    def losses(self, params: Tree, batch: Batch) -> torch.Tensor:
        """Return |W w - y|^2 of each task."""
        return (torch.einsum("nij,nj->ni", batch["matrix"], params["w"]) - batch["target"]).square().sum(1)


class LearnedQuadratics(LearnedOptimiserProblem):
    """Learn an optimiser on random quadratics."""

    card = ProblemCard(
        title="learning to minimise random quadratics",
        datasets=("analytic",),
        sizes={"d10": "10 dimensions", "d5": "5 dimensions", "d20": "20 dimensions"},
        metrics=METRICS,
        citation="andrychowicz2016learning",
        options=Options,
        inner_steps=20,
        outer_steps=1000,
        illustration=True,
    )

    def family(self) -> Quadratics:
        """Return quadratics of the size's dimension."""
        options: Options = self.setting.options
        counts = {
            Part.TRAIN: options.tasks,
            Part.VALIDATION: max(1, options.test_tasks // 2),
            Part.TEST: options.test_tasks,
        }
        return Quadratics(int(self.setting.size[1:]), options.entries, counts, self.setting)
