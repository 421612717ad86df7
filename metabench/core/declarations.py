"""Checks of what somebody else declares, once, when it is found: each message names the key and what was expected."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metabench.core.citations import bibtex
from metabench.core.errors import MetabenchError, missing_file
from metabench.core.kind import Kind
from metabench.core.method import Cost, Limit, Mean, Method, Peer, Target
from metabench.core.options import build, describe
from metabench.core.problem import Metric, Problem, ProblemCard
from metabench.core.registry import Registry, pick

_METHOD: Mapping[str, tuple[type, ...]] = {
    "title": (str,),
    "target": (Target,),
    "exact": (bool,),
    "cost": (Cost,),
    "citation": (str,),
    "options": (type,),
    "stochastic": (bool,),
    "limit": (Limit, type(None)),
    "mean": (Mean, type(None)),
    "peer": (Peer, type(None)),
    "order": (int, float),
}
_KIND: Mapping[str, tuple[type, ...]] = {
    "title": (str,),
    "stages": (tuple,),
    "columns": (tuple,),
    "trains": (bool,),
    "trains_none": (bool,),
    "partner": (str,),
    "curves": (Mapping,),
    "options": (type,),
    "order": (int, float),
}
_CARD: Mapping[str, tuple[type, ...]] = {
    "title": (str,),
    "datasets": (tuple,),
    "sizes": (Mapping, Registry),
    "default_size": (str,),
    "metrics": (tuple,),
    "citation": (str,),
    "options": (type,),
    "inner_steps": (int,),
    "outer_steps": (int,),
    "files": (tuple,),
    "illustration": (bool,),
}


def check_method(method: Method, name: str) -> None:
    """Raise MetabenchError if a method's declaration cannot be listed, planned or called."""
    what = f"method '{name}'"
    check_fields(method, _METHOD, what)
    check_citation(method.citation, what)
    _check_options(method.options, what)


def check_problem(problem: type[Problem], name: str) -> None:
    """Raise MetabenchError if a problem lacks a method, its card, or one of the files that it reads, or if the card cannot be used."""
    what = f"problem '{name}'"
    if inspect.isabstract(problem):
        raise MetabenchError(f"{what}: {problem.__name__} lacks {', '.join(sorted(problem.__abstractmethods__))}")
    card = getattr(problem, "card", None)
    if not isinstance(card, ProblemCard):
        raise MetabenchError(
            f"{what}: {problem.__name__}.card is {'missing' if card is None else repr(card)}, expected a metabench.core.ProblemCard"
        )
    check_fields(card, _CARD, what)
    for key, kind, expected in (
        ("datasets", str, "names of data sets, or 'own'"),
        ("sizes", str, "a line by the name of a size"),
        ("metrics", Metric, "Metric, the first for tables"),
    ):
        values = getattr(card, key)
        members = list(values.values()) if isinstance(values, Mapping) else list(values)
        if not members or not all(isinstance(member, kind) for member in members):
            raise MetabenchError(f"{what}: {key} is {values!r}, expected one or more: {expected}")
    if card.default_size or isinstance(card.sizes, Registry):
        known = card.sizes.loaded() if isinstance(card.sizes, Registry) else card.sizes
        pick(f"default size of {what}", card.default_size, known)
    for metric in card.metrics:
        if metric.direction not in ("max", "min"):
            raise MetabenchError(
                f"{what}: metric '{metric.name}' has the direction {metric.direction!r}, expected 'max' or 'min'"
            )
    for key in ("inner_steps", "outer_steps"):
        if getattr(card, key) < 1:
            raise MetabenchError(f"{what}: {key} is {getattr(card, key)}, expected 1 or more")
    check_citation(card.citation, what)
    _check_options(card.options, what)
    check_files(card.files, what)


def check_kind(kind: Kind, name: str) -> None:
    """Raise MetabenchError if a kind of experiment cannot be listed, planned or run."""
    what = f"kind of experiment '{name}'"
    check_fields(kind, _KIND, what)
    if not kind.stages or not all(callable(stage) for stage in kind.stages):
        raise MetabenchError(
            f"{what}: stages is {kind.stages!r}, expected one or more functions from a Subject to columns"
        )
    if kind.check is not None and not callable(kind.check):
        raise MetabenchError(f"{what}: check is {kind.check!r}, expected a function, or None")
    if callable(kind.prepares) != callable(kind.prepare) or (kind.prepares is not None and not callable(kind.prepares)):
        raise MetabenchError(f"{what}: prepares and prepare are two functions, or None both")
    _check_options(kind.options, what)


def check_fields(declared: Any, expected: Mapping[str, tuple[type, ...]], what: str) -> None:
    """Raise MetabenchError if an attribute is not of one of the types expected of it."""
    for key, kinds in expected.items():
        value = getattr(declared, key)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            words = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            raise MetabenchError(f"{what}: {key} is {value!r}, expected {words}")


def check_citation(citation: str, what: str) -> None:
    """Raise MetabenchError if a citation is neither a key of `references.bib`, nor BibTeX, nor empty."""
    try:
        bibtex(citation)
    except MetabenchError as error:
        raise MetabenchError(f"{what}: {error}; your own paper is cited by its BibTeX, '@article{{...}}'") from error


def check_files(files: tuple[Path, ...], what: str) -> None:
    """Raise MetabenchError if a data file is not a path, or is not there."""
    for path in files:
        if not isinstance(path, Path):
            raise MetabenchError(f"{what}: the data file {path!r} is a {type(path).__name__}, expected a pathlib.Path")
        if not path.is_file():
            raise missing_file(f"{what}: data file", path)


def _check_options(options: type, what: str) -> None:
    if not (dataclasses.is_dataclass(options) and options.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise MetabenchError(f"{what}: options is {options.__name__}, expected a dataclass with frozen=True")
    try:
        described = describe(options)
        for option in described:
            if option["default"] is dataclasses.MISSING:
                raise MetabenchError(f"option '{option['name']}' of {what} has no default")
        build(options, {option["name"]: option["default"] for option in described}, what)
    except MetabenchError:
        raise
    except Exception as error:  # somebody else's class: its type hints are evaluated here for the first time
        raise MetabenchError(f"{what}: its options cannot be read: {type(error).__name__}: {error}") from error
