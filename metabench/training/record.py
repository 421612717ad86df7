"""What is kept of a run: numbers against the outer step, which become curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from metabench.core.curves import Curve

ALONG = "outer step"


@dataclass
class Record:
    """Numbers by name, each with the outer steps after which they were seen, and curves that came whole.

    `numbers` holds plain lists, so that a checkpoint can store them.
    """

    numbers: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    whole: dict[str, Curve] = field(default_factory=dict)

    def add(self, step: int, values: Mapping[str, float | Curve]) -> None:
        """Keep the numbers seen after outer step `step`; of a curve that comes whole, the last stays."""
        for name, value in values.items():
            if isinstance(value, Curve):
                self.whole[name] = value
            else:
                steps, numbers = self.numbers.setdefault(name, ([], []))
                steps.append(step)
                numbers.append(float(value))

    def curves(self, units: Mapping[str, str] | None = None) -> dict[str, Curve]:
        """Return all curves by name; numbers against the outer step, with the unit that `units` names for them."""
        known = units or {}
        of_numbers = {name: Curve(steps, values, known.get(name, ""), ALONG) for name, (steps, values) in self.numbers.items()}
        return of_numbers | self.whole
