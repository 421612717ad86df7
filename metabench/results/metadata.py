"""Metadata of results.parquet: the suite, its commit, citations, and certificates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metabench.core.errors import MetabenchError

PREFIX = "metabench:"

Cards = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Metadata:
    """The suite behind a table of rows.

    suite: the resolved configuration, YAML. methods, problems, datasets: name to its description (title, target, exact, cost, memory,
    citation as BibTeX), in the order of the suite. certificates: method to `Certificate.to_json()`, empty where nothing was certified and
    in files from before there were certificates. git_commit, created_at (UTC, ISO 8601) and version identify the collecting source.
    """

    suite: str = ""
    methods: Cards = field(default_factory=dict)
    problems: Cards = field(default_factory=dict)
    datasets: Cards = field(default_factory=dict)
    certificates: Cards = field(default_factory=dict)
    git_commit: str = ""
    created_at: str = ""
    version: str = ""


KEYS = tuple(Metadata.__dataclass_fields__)
_CARDS = ("methods", "problems", "datasets", "certificates")


def encode_metadata(metadata: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return `metadata` as Parquet key-value pairs. Raises MetabenchError for an unknown key, a value that is not a string, or bad JSON."""
    pairs: dict[bytes, bytes] = {}
    for key, value in metadata.items():
        if key not in KEYS:
            raise MetabenchError(f"unknown metadata '{key}': known: {', '.join(KEYS)}")
        if not isinstance(value, str):
            raise MetabenchError(f"metadata '{key}' is {type(value).__name__}, expected a string")
        if key in _CARDS:
            _cards(key, value)
        pairs[f"{PREFIX}{key}".encode()] = value.encode("utf-8")
    return pairs


def decode_metadata(pairs: Mapping[bytes, bytes] | None) -> Metadata:
    """Return the metadata found in Parquet key-value pairs; what is absent stays empty. Raises MetabenchError for bad JSON."""
    found: dict[str, Any] = {}
    for key in KEYS:
        raw = (pairs or {}).get(f"{PREFIX}{key}".encode())
        if raw is not None:
            text = raw.decode("utf-8")
            found[key] = _cards(key, text) if key in _CARDS else text
    return Metadata(**found)


def _cards(key: str, text: str) -> Cards:
    try:
        cards = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise MetabenchError(f"metadata '{key}' is not JSON: {error}") from error
    if not isinstance(cards, dict) or not all(isinstance(card, dict) for card in cards.values()):
        raise MetabenchError(f"metadata '{key}' must be a JSON object of objects, by name")
    return cards
