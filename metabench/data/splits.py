"""Disjoint splits: which examples go where, the same on every machine and with every version of numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError

Indices = npt.NDArray[np.int64]


def check_disjoint(splits: Mapping[str, Indices], n: int | None = None) -> None:
    """Raise MetabenchError unless `splits` are subsets of range(n) without a shared example; the message names two that share one."""
    seen: dict[int, str] = {}
    for name, indices in splits.items():
        chosen = np.asarray(indices)
        if not np.issubdtype(chosen.dtype, np.integer) or chosen.ndim != 1:
            raise MetabenchError(
                f"split '{name}': expected a list of integers, indices, found {chosen.dtype} of shape {chosen.shape}"
            )
        for index in chosen.tolist():
            if index < 0 or (n is not None and index >= n):
                there = "a negative index" if index < 0 else f"there are {n} examples, numbered from 0"
                raise MetabenchError(f"split '{name}' has the index {index}: {there}")
            if (first := seen.setdefault(index, name)) != name:
                shared = len(np.intersect1d(splits[first], indices))
                raise MetabenchError(
                    f"splits '{first}' and '{name}' overlap: {shared} example{'s' * (shared > 1)} in both, the first of them {index}"
                )


def disjoint(
    n: int, sizes: Mapping[str, int], seed: int, targets: npt.NDArray[np.integer] | None = None
) -> dict[str, Indices]:
    """Return disjoint random subsets of range(n), one per entry of `sizes`, each in ascending order.

    With `targets`, of shape [n], every subset keeps the proportions of the classes: exactly where the counts divide
    evenly, to about one example per class elsewhere. The order of draw is that of PCG64's raw stream, which numpy
    promises to keep, and not that of a Generator's methods, which it does not. Raises MetabenchError if more is requested
    than exists.
    """
    if seed < 0:
        raise MetabenchError(f"the seed of a split must not be negative, found {seed}")
    return _cut(np.asarray(np.random.PCG64(seed).random_raw(n), dtype=np.uint64), sizes, targets)


def by_content(
    examples: npt.NDArray[np.uint8], sizes: Mapping[str, int], targets: npt.NDArray[np.integer] | None = None
) -> dict[str, Indices]:
    """Return disjoint subsets of `examples`, drawn in the order of the sha256 of each example's bytes.

    A fixed rule without a seed: it depends on the examples alone, not on the order in which a source lists them.
    Stratified and refused as in `disjoint`.
    """
    keys = [int.from_bytes(hashlib.sha256(example.tobytes()).digest()[:8], "big") for example in examples]
    return _cut(np.asarray(keys, dtype=np.uint64), sizes, targets)


def _cut(
    keys: npt.NDArray[np.uint64], sizes: Mapping[str, int], targets: npt.NDArray[np.integer] | None
) -> dict[str, Indices]:
    n = len(keys)
    for name, size in sizes.items():
        if size < 0:
            raise MetabenchError(f"split '{name}': its size must not be negative, found {size}")
    asked = sum(sizes.values())
    if asked > n:
        parts = " + ".join(f"{name} {size}" for name, size in sizes.items())
        raise MetabenchError(f"a split asks for {parts} = {asked} examples, but there are {n}")
    order = np.argsort(keys, kind="stable")
    if targets is not None:
        if len(targets) != n:
            raise MetabenchError(f"a stratified split of {n} examples needs {n} targets, found {len(targets)}")
        order = order[np.argsort(_place_in_class(targets[order]), kind="stable")]
    splits: dict[str, Indices] = {}
    start = 0
    for name, size in sizes.items():
        splits[name] = np.sort(order[start : start + size]).astype(np.int64)
        start += size
    return splits


def _place_in_class(targets: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    # The j-th of c examples of a class stands at (j + 1/2)/c. In the order of these places every class is spread
    # evenly, so any run of consecutive examples has the proportions of the whole.
    place = np.empty(len(targets), dtype=np.float64)
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return place
