"""Classes to train on, few of them as in the study of Meta Neural Kernels, and unseen ones, of other domains, to be tested on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from metabench.core.errors import MetabenchError, unknown
from metabench.core.randomness import stream_seed
from metabench.data.contract import Classification
from metabench.data.few_shot import Domain, FewShot

Parts = tuple[dict[str, Domain], dict[str, Domain]]
"""Domains to train on and domains to be tested on."""


def parts(data: FewShot | Classification, trained: str, tested: str, seed: int) -> Parts:
    """Return the domains trained on and those of the test, by names joined by '+'; '' is what the data set itself calls so.

    Without domains, the classes are halved, by the seed: training images of one half, test images of the other.

    Raises:
        MetabenchError: there is no such domain; or one is on both sides.
    """
    if isinstance(data, Classification):
        return _halves(data, seed)
    known = {**data.train, **data.validation, **data.test}
    train = _named(trained, data.train, known, "train_on")
    test = _named(tested, data.test, known, "test_on")
    if shared := set(train) & set(test):
        raise MetabenchError(
            f"domain '{min(shared)}' is trained on and tested: name it under 'train_on' or 'test_on', not both"
        )
    return train, test


def _named(names: str, own: Mapping[str, Domain], known: Mapping[str, Domain], key: str) -> dict[str, Domain]:
    if not names:
        return dict(own)
    found = {}
    for name in (part.strip() for part in names.split("+")):
        if name not in known:
            raise unknown(f"domain under '{key}'", name, known)
        found[name] = known[name]
    return found


def _halves(data: Classification, seed: int) -> Parts:
    order = _order(len(data.classes), seed, "halves of the classes")
    half = len(order) // 2

    def domain(images: np.ndarray, targets: np.ndarray, chosen: np.ndarray) -> Domain:
        return _subset(Domain(np.uint8(np.rint(255 * images)), targets, data.classes), chosen)

    return (
        {"seen classes": domain(data.train_inputs, data.train_targets, order[:half])},
        {"unseen classes": domain(data.test_inputs, data.test_targets, order[half:])},
    )


def drawn(domains: Mapping[str, Domain], count: int, seed: int) -> Domain:
    """Return `count` classes of all that some domains have, drawn by the seed, as one domain; 0: all.

    The first classes of a larger draw are those of a smaller one.

    Raises:
        MetabenchError: there are fewer.
    """
    places = [(name, number) for name, domain in domains.items() for number in range(len(domain.classes))]
    if count > len(places):
        raise MetabenchError(
            f"{count} classes to train on, and {' + '.join(domains)} has {len(places)}: ask for at most as many, or for more domains"
        )
    order = _order(len(places), seed, "classes trained on")[: count or len(places)]
    chosen = [places[place] for place in order]
    pieces = [
        _subset(domain, np.array([number for its, number in chosen if its == name], np.int64))
        for name, domain in domains.items()
        if any(its == name for its, _ in chosen)
    ]
    firsts = np.cumsum([0] + [len(piece.classes) for piece in pieces])
    return Domain(
        np.concatenate([piece.images[np.arange(piece.images.shape[0])] for piece in pieces]),
        np.concatenate([first + piece.targets for first, piece in zip(firsts, pieces, strict=False)]),
        tuple(name for piece in pieces for name in piece.classes),
    )


def _subset(domain: Domain, chosen: np.ndarray) -> Domain:
    """Return some classes of a domain, renumbered in the order given."""
    number = np.full(len(domain.classes), -1, np.int64)
    number[chosen] = np.arange(len(chosen))
    kept = np.flatnonzero(number[domain.targets] >= 0)
    return Domain(domain.images[kept], number[domain.targets[kept]], tuple(domain.classes[one] for one in chosen))


def _order(count: int, seed: int, purpose: str) -> np.ndarray:
    """Return 0, ..., count - 1 in an order that the seed decides. Only PCG64's raw stream is used: numpy promises to keep it."""
    return np.argsort(np.random.PCG64(stream_seed(seed, purpose)).random_raw(count), kind="stable")
