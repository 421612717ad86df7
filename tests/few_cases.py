"""The cases of the certificates that tell bugs apart: tests make most certificates on these, and `pytest --full` on all."""

from __future__ import annotations

import importlib

import pytest

from metabench.certify import claims, means
from metabench.certify.cases import Case, cases
from metabench.certify.claims import Claim
from metabench.core import Target

_MOVING = (
    "tanh_network, momentum, K=4",
    "inner_loss_and_outer_loss_and_update_and_start, adam, K=3, outer losses: every",
    "learning_rate, adam, K=4, outer losses: every",
    "inner_loss_and_start, sgd, K=1",
    "ridge, sgd, K=4",
    "ridge, momentum, K=4",
    "ridge, adam, K=4",
    "ridge, adam, K=4, one dimension",
    "ridge, sgd, K=4, weight decay 0.2",
    "ridge, momentum, K=12",
    "ridge, sgd, K=4, F times 1e-06",
    "learning_rate, sgd, K=3, outer losses: early",
    "logistic, adam, K=5",
    "many_weights, sgd, K=2",
    "scheduled_rate, sgd, K=4",
    "learned_schedule, momentum, K=4, outer losses: every",
)
_IMPLICIT = (
    "ridge, sgd, K=4, at a minimum",
    "ridge, sgd, K=4, at a minimum, one dimension",
    "ridge, momentum, K=4, at a minimum, weight decay 0.2",
    "ridge, adam, K=12, weight decay 0.1",
    "ridge, sgd, K=4, weight decay 0.1",
    "logistic, nesterov, K=3",
    "inner_loss_and_outer_loss, sgd, K=2, scale 0.5",
    "tanh_network, sgd, K=4, at a minimum",
    "scheduled_rate, sgd, K=4, at a minimum",
    "learning_rate, sgd, K=4",
)


def few(target: Target) -> tuple[Case, ...]:
    """Return those of the certificates' cases that tell bugs apart."""
    chosen = _IMPLICIT if target.of_minimum else _MOVING
    found = {case.text: case for case in cases(target)}
    return tuple(found[text] for text in chosen)


SETS = 6
"""Option sets with which an exact method is called again and again."""
RUNS = 2
"""Runs of several windows on which a planted bug is sought: with momentum and of three windows, and with Adam and several roles."""
TERMS = 500
"""Steps of a solver that does not stop early beyond which a limit is left to the full certificate: a thousand terms take seconds."""


def make_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make certificates on these cases; methods that draw are held to their formulas alone, which tell of every draw."""
    again = importlib.import_module("metabench.certify.again")
    variants, limit = claims.option_variants, claims._limit
    monkeypatch.setattr(claims, "cases", few)
    monkeypatch.setattr(claims, "EVERYWHERE", 1)
    monkeypatch.setattr(claims, "_limit", lambda method, case: filter(_short, limit(method, case)))
    monkeypatch.setattr(again, "option_variants", lambda method: variants(method)[:SETS])
    monkeypatch.setattr(means, "MEANS", {})


def make_fewest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a planted bug: an exact method with its defaults alone, on fewer runs of several windows."""
    make_few(monkeypatch)
    again = importlib.import_module("metabench.certify.again")
    variants, runs = claims.option_variants, again._runs
    for module in (claims, again):
        monkeypatch.setattr(module, "option_variants", lambda method: variants(method)[:1])
    monkeypatch.setattr(again, "_runs", lambda target: runs(target)[:RUNS])


def _short(claim: Claim) -> bool:
    return claim.options.get("tolerance") != 0 or claim.options.get("steps", 0) <= TERMS
