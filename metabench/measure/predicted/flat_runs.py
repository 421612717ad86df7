"""Runs of flat graphs, and of steps, under a ledger: the first on inputs of some shapes is recorded, the others add what it added.

What does not branch, and drops each input after its last use, takes the same bytes at every run; but which inputs are then freed
depends on who else holds them. So the record says when each is dropped, and the ledger sees what that frees. A run may be part of another.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metabench.measure.predicted.fake_results import FakeResults, Layout

if TYPE_CHECKING:
    from metabench.measure.predicted.ledger import Ledger

Run = Callable[[list[Any]], list[Any]]


@dataclass(frozen=True)
class _Stretch:
    """What a run adds until it drops the inputs at `places`, in bytes: at most, and in the end."""

    rise: int
    net: int
    places: tuple[int, ...]


@dataclass(frozen=True)
class _Output:
    """An output: a view of the input at the place `layout.base`, or of the run's own block number `block`.

    The block has `whole` bytes, of which `counted` are the ledger's.
    """

    layout: Layout
    block: int
    whole: int
    counted: int


@dataclass(frozen=True)
class _Record:
    stretches: tuple[_Stretch, ...]
    outputs: tuple[_Output, ...]
    flops: int
    operations: int


class KnownRuns:
    """What is known of runs; the ledgers of calls that differ in their number of steps alone may share it.

    steps: what `metabench.autodiff.simulated` keeps of a step, by what tells steps apart.
    """

    def __init__(self) -> None:
        self.steps: dict[Any, Any] = {}
        self.records: dict[Any, _Record | None] = {}


class FlatRuns:
    """The runs under one ledger."""

    def __init__(self, ledger: Ledger, call: FakeResults, known: KnownRuns) -> None:
        self._ledger, self._call = ledger, call
        self._records = known.records

    def __call__(self, run: Run, given: list[Any]) -> list[Any]:
        """Return `run(given)`; the list is emptied, as the run would."""
        shapes = self._call.shapes_of(given)
        if shapes is None or any(tensor.requires_grad for tensor in given):
            return run(given)
        storages = [tensor.untyped_storage()._cdata for tensor in given]
        firsts = tuple(map(storages.index, storages))
        key = (run, shapes, firsts)
        if key not in self._records:
            record, settled = self._recorded(run, given, firsts)
            if not settled:
                return run(given)
            self._records[key] = record
        record = self._records[key]
        return run(given) if record is None else self._replayed(record, given)

    def _recorded(self, run: Run, given: list[Any], firsts: tuple[int, ...]) -> tuple[_Record | None, bool]:
        """Run on stand-ins, which count nothing, and leave the ledger as it was; the record is None where an output cannot be made again.

        The second value is whether nothing was left behind, in a cache say: if something was, the next run takes less.
        """
        ledger = self._ledger
        live = ledger.live_bytes
        before = ledger.peak_bytes, ledger.flops, ledger.operations, ledger.noting
        events: list[tuple[int, int] | int] = []
        standing = self._call.stand_ins(given, firsts)
        storages = {standing[place].untyped_storage()._cdata: place for place in set(firsts)}
        watched = [
            weakref.ref(standing[place].untyped_storage(), functools.partial(_note, events, place)) for place in set(firsts)
        ]
        ledger.noting = events
        try:
            results = run(standing)
        except BaseException:
            ledger.noting = before[3]
            raise
        ledger.noting = None
        del watched, standing
        # A block that is gone may have left its address to another.
        outputs = self._outputs(results, {key: place for key, place in storages.items() if place not in events})
        del results
        record = None
        if outputs is not None:
            record = _Record(_stretches(events, firsts), outputs, ledger.flops - before[1], ledger.operations - before[2])
        ledger.peak_bytes, ledger.flops, ledger.operations, ledger.noting = before
        return record, ledger.live_bytes == live

    def _outputs(self, results: list[Any], storages: dict[int, int]) -> tuple[_Output, ...] | None:
        found = []
        blocks: dict[int, int] = {}
        for tensor in results:
            layout = self._call.layout_of(tensor, storages)
            if layout is None or tensor.requires_grad:
                return None
            key = tensor.untyped_storage()._cdata
            block = blocks.setdefault(key, len(blocks)) if layout.base is None else -1
            found.append(_Output(layout, block, tensor.untyped_storage().nbytes(), self._ledger.size_of(key)))
        return tuple(found)

    def _replayed(self, record: _Record, given: list[Any]) -> list[Any]:
        ledger = self._ledger
        for stretch in record.stretches:
            ledger.add_at_once(stretch.rise, stretch.net)
            for place in stretch.places:
                given[place] = None
        ledger.flops += record.flops
        ledger.operations += record.operations
        results: list[Any] = []
        blocks: dict[int, Any] = {}
        for output in record.outputs:
            if output.layout.base is not None:
                base = given[output.layout.base]
            elif (base := blocks.get(output.block)) is None:
                base = blocks[output.block] = self._call.block(output.whole, output.layout.device)
                ledger.follow(base.untyped_storage(), output.counted)
            results.append(self._call.made(output.layout, base))
        given.clear()
        return results


def _note(events: list[Any], place: int, _: object) -> None:
    events.append(place)


def _stretches(events: list[tuple[int, int] | int], firsts: tuple[int, ...]) -> tuple[_Stretch, ...]:
    found: list[_Stretch] = []
    rise = net = 0
    for event in [*events, -1]:
        if isinstance(event, tuple):
            net += event[0]
            rise = max(rise, net + event[1])
        else:
            found.append(_Stretch(rise, net, tuple(place for place, first in enumerate(firsts) if first == event)))
            rise = net = 0
    return tuple(found)
