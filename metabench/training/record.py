"""What is kept of a run: numbers against the outer step, which become curves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metabench.core.curves import Curve, after_step, curve_fault
from metabench.core.errors import MetabenchError

ALONG = "outer step"
DECADES = 2
"""Values that span as many ask for a logarithmic axis."""


@dataclass
class Record:
    """Numbers by name, each with the outer steps after which they were seen, and curves that came whole.

    `numbers` holds plain lists, so that a checkpoint can store them.
    """

    numbers: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    whole: dict[str, Curve] = field(default_factory=dict)

    def add(self, step: int, values: Mapping[str, float | Curve], source: str = "", keep: bool = False) -> None:
        """Keep the numbers seen after outer step `step`; of a curve that comes whole, the last stays, and this one if asked to `keep` it.

        Raises:
            MetabenchError: they are no numbers and curves by name, or a name has a number or a curve already; it names the `source`.
        """
        for name, value in checked(values, source).items():
            steps, numbers = self.numbers.get(name, ([], []))
            if name in (self.numbers if isinstance(value, Curve) else self.whole) or (steps and steps[-1] >= step):
                raise MetabenchError(f"{source} returned '{name}', a name that another curve of the run has")
            if isinstance(value, Curve):
                # A checkpoint takes plain numbers only. One with a fault is kept to be reported.
                self.whole[name] = value if curve_fault(value) else value.plain()
                if keep:
                    self.whole[after_step(name, step)] = self.whole[name]
            else:
                steps.append(step)
                numbers.append(float(value))
                self.numbers[name] = steps, numbers

    def curves(self, units: Mapping[str, str] | None = None, log: Collection[str] = ()) -> dict[str, Curve]:
        """Return all curves by name; numbers against the outer step, with the unit that `units` names for them.

        Numbers in `log` ask for a logarithmic axis where they are positive and span two decades or more.
        """
        known = units or {}
        of_numbers = {
            name: Curve(steps, values, known.get(name, ""), ALONG, log_y=name in log and _spans_decades(values))
            for name, (steps, values) in self.numbers.items()
        }
        return of_numbers | self.whole


def _spans_decades(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= 10**DECADES


def checked(values: Any, source: str, also: type = Curve) -> Mapping[str, Any]:
    """Return what a problem's hook returned: numbers, curves and what is of the type `also`, by name.

    Raises:
        MetabenchError: it is something else; the message names the `source`.
    """
    if not isinstance(values, Mapping):
        raise MetabenchError(f"{source} returned a {type(values).__name__}, expected numbers and curves by name")
    for name, value in values.items():
        try:
            _ = value if isinstance(value, Curve | also) else float(value)
        except (TypeError, ValueError) as error:
            raise MetabenchError(f"{source} returned '{name}' as {value!r}, expected a number or a Curve") from error
    return values
