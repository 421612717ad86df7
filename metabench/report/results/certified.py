"""Whether a method is what it declares to be, for the source that its rows were measured with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from metabench.results.certificate import AS_DECLARED, CERTIFIED, FAILED, UNDECLARED, UNSUPPORTED, VERDICTS, Certificate

NOT_CERTIFIED = "not certified"
OTHER_SOURCE = f"{NOT_CERTIFIED}: hash differs"
NEVER = f"{NOT_CERTIFIED}: never run"

VERDICT_WORDS: Mapping[str, str] = {
    **VERDICTS,
    OTHER_SOURCE: "its source is not the certified one, so the certificate does not apply to these rows",
    NEVER: "it has no certificate",
}

VALID = (CERTIFIED, AS_DECLARED)
# The worst first: a label whose entries differ goes by the worst of them.
GRAVITY = (FAILED, OTHER_SOURCE, NEVER, UNDECLARED, UNSUPPORTED, AS_DECLARED, CERTIFIED)


def read_certificates(cards: Mapping[str, Mapping[str, Any]]) -> dict[str, Certificate]:
    """Return the certificates in the metadata of results, by method. Raises MetabenchError where one is none."""
    return {name: Certificate.from_json(dict(card)) for name, card in cards.items()}


def verdict(certificate: Certificate | None, hashes: Iterable[str]) -> str:
    """Return the verdict on rows of a method: the certificate's if every row has its source, one of those that begin with
    'not certified' otherwise.

    hashes: the rows' `method_hash`.
    """
    if certificate is None:
        return NEVER
    return certificate.verdict if set(hashes) <= {certificate.method_hash} else OTHER_SOURCE


def worst(verdicts: Iterable[str]) -> str:
    """Return the worst verdict; without any verdict, that there is no certificate."""
    return min(verdicts, key=GRAVITY.index, default=NEVER)


def doubt(verdict: str) -> str:
    """Return why a method with this verdict is marked with a dagger; empty if it is certified."""
    return "" if verdict in VALID else f"{verdict}: {VERDICT_WORDS[verdict]}"


def short(verdict: str) -> str:
    """Return the verdict for CSV: one word for every method without a certificate of its own source."""
    return NOT_CERTIFIED if verdict.startswith(NOT_CERTIFIED) else verdict
