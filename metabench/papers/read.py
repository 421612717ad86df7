"""Published figures as data: one YAML file per paper, read and checked here.

A figure is one number that a paper, its supplement, poster, project site or code states. It names the setting in the paper's words, the
source, the problems here that it may be set beside (`comparable`), and how the two protocols differ (`differs`); a figure that nothing
here may be set beside says why under `differs`, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from metabench.core.citations import references
from metabench.core.errors import MetabenchError, missing_file, unknown

FOLDER = Path(__file__).parent
COLUMNS = ("peak_bytes", "dynamic_bytes", "time_median_s", "quality")
"""Columns of the rows that a published figure may be set beside. Qualities of two methods are subtracted, all else is divided."""
RATIO = "ratio"
"""Unit of a figure that is itself the ratio of `method` to `against`."""

_MEAN_AND_SPREAD = re.compile(r"(-?\d+(?:\.\d+)?) ± \d+(?:\.\d+)?")


@dataclass(frozen=True)
class Value:
    """A published value.

    text: as printed. number: None where the paper states bounds alone. low, high: the bounds; of a number, those that round to it.
    """

    text: str
    number: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Setting:
    """Where a paper measured, in its words; empty where it does not say."""

    model: str
    data: str
    hardware: str = ""
    training: str = ""


@dataclass(frozen=True)
class Comparable:
    """The rows that a figure may be set beside.

    column: one of `COLUMNS`. Every other field leaves out rows: those of other problems; of other sizes, data sets and kinds of experiment
    where any are named; and those whose options of the problem, or of `Figure.method`, have other values than these.
    """

    column: str
    problems: tuple[str, ...]
    sizes: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    problem_options: Mapping[str, Any] = field(default_factory=dict)
    method_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """One published figure.

    what, unit: the quantity. method, against: names of methods here, or the paper's where the suite has no such method; `against` is empty
    if the figure stands alone. value, against_value: of the two, in `unit`; `against_value` is None where `value` is already their ratio.
    source: table, figure or section. comparable: None if no problem here may be set beside it.
    """

    what: str
    unit: str
    method: str
    value: Value
    setting: Setting
    source: str
    differs: str
    against: str = ""
    against_value: Value | None = None
    comparable: Comparable | None = None

    @property
    def text(self) -> str:
        """The value as printed, with that of the other method and the unit: '0.4 against 0.9 GB', 'at most 0.1 times'."""
        other = f" against {self.against_value.text}" if self.against_value else ""
        return f"{self.value.text}{other} {'times' if self.unit == RATIO else self.unit}"


@dataclass(frozen=True)
class Statement:
    """An ordering that a paper states or draws without a number: its system is ahead of the best tuned baseline, or is not.

    what: in the paper's words. ahead: whether it says so. problem, trial: the problem and its test here that the statement may be set
    beside; no trial: the tasks trained on. source: figure or section. differs: how the protocols differ.
    """

    what: str
    ahead: bool
    problem: str
    source: str
    differs: str
    trial: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper with its figures and statements.

    name: of its file. arxiv: its number there; may be empty. bibtex: key in references.bib; may be empty. note: what is left out, and why.
    """

    name: str
    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    figures: tuple[Figure, ...]
    arxiv: str = ""
    bibtex: str = ""
    note: str = ""
    statements: tuple[Statement, ...] = ()


def papers(files: Iterable[Path] = ()) -> dict[str, Paper]:
    """Return the package's papers and those of `files`, by name.

    Raises:
        MetabenchError: as `read_paper`, or two files have the same name.
    """
    found: dict[str, Paper] = {}
    for path in (*sorted(FOLDER.glob("*.yaml")), *map(Path, files)):
        paper = read_paper(path)
        if paper.name in found:
            raise MetabenchError(f"two papers are called '{paper.name}': rename '{path}'")
        found[paper.name] = paper
    return found


def read_paper(path: Path) -> Paper:
    """Return the paper that a YAML file describes.

    Raises:
        MetabenchError: the file does not exist or is not YAML, or a key is unknown, missing, empty or of the wrong type; the message names
            the file, the figure, counted from 1, and the key.
    """
    path = Path(path)
    if not path.is_file():
        raise missing_file("paper file", path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MetabenchError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    where = f"'{path}'"
    required, optional = _keys(Paper, {"name"})
    _check_keys(raw, where, required - {"figures"}, optional | {"figures"})
    if not isinstance(raw["year"], int):
        raise _wrong(where, "year", raw["year"], "a whole number")
    figures = raw.get("figures") or []
    if not isinstance(figures, list):
        raise _wrong(where, "figures", figures, "a list")
    if not figures and not raw.get("note"):
        raise MetabenchError(f"{where} has no figures: say why under 'note'")
    statements = raw.get("statements") or []
    if not isinstance(statements, list):
        raise _wrong(where, "statements", statements, "a list")
    bibtex = _text(raw, "bibtex", where)
    if bibtex and bibtex not in references():
        raise MetabenchError(f"{where}: key 'bibtex': {unknown('citation', bibtex, references())}")
    return Paper(
        name=path.stem,
        title=_text(raw, "title", where),
        authors=_texts(raw, "authors", where),
        year=raw["year"],
        venue=_text(raw, "venue", where),
        arxiv=_text(raw, "arxiv", where),
        figures=tuple(_figure(one, f"{where}, figure {index}") for index, one in enumerate(figures, start=1)),
        bibtex=bibtex,
        note=_text(raw, "note", where),
        statements=tuple(_statement(one, f"{where}, statement {index}") for index, one in enumerate(statements, start=1)),
    )


def _statement(raw: Any, where: str) -> Statement:
    required, optional = _keys(Statement)
    _check_keys(raw, where, required - {"ahead"}, optional | {"ahead"})
    if not isinstance(raw.get("ahead"), bool):
        raise _wrong(where, "ahead", raw.get("ahead"), "true or false")
    return Statement(ahead=raw["ahead"], **{key: _text(raw, key, where) for key in raw if key != "ahead"})


def _figure(raw: Any, where: str) -> Figure:
    required, optional = _keys(Figure, {"what", "unit"})
    _check_keys(raw, where, required | {"quantity"}, optional)
    _check_keys(raw["quantity"], f"{where}, key 'quantity'", {"what", "unit"})
    comparable = _comparable(raw["comparable"], f"{where}, key 'comparable'") if "comparable" in raw else None
    figure = Figure(
        what=_text(raw["quantity"], "what", where),
        unit=_text(raw["quantity"], "unit", where),
        method=_text(raw, "method", where),
        value=_value(raw, "value", where),
        setting=_setting(raw["setting"], f"{where}, key 'setting'"),
        source=_text(raw, "source", where),
        differs=_text(raw, "differs", where),
        against=_text(raw, "against", where),
        against_value=_value(raw, "against_value", where) if "against_value" in raw else None,
        comparable=comparable,
    )
    if figure.unit == RATIO and (not figure.against or figure.against_value):
        raise MetabenchError(f"{where}: the unit is 'ratio', so it needs 'against' and takes no 'against_value'")
    if figure.unit != RATIO and bool(figure.against) != bool(figure.against_value):
        raise MetabenchError(f"{where}: 'against' and 'against_value' go together unless the unit is 'ratio'")
    if comparable and comparable.column != "quality" and not figure.against:
        raise MetabenchError(
            f"{where}: '{comparable.column}' of other hardware and models compares only as a ratio: name 'against'"
        )
    return figure


def _comparable(raw: Any, where: str) -> Comparable:
    required, optional = _keys(Comparable)
    _check_keys(raw, where, required, optional)
    column = _text(raw, "column", where)
    if column not in COLUMNS:
        raise MetabenchError(f"{where}: {unknown('column', column, COLUMNS)}")
    for name in ("problem_options", "method_options"):
        if not isinstance(raw.get(name, {}), Mapping):
            raise _wrong(where, name, raw[name], "options by name")
    return Comparable(
        column=column,
        problems=_texts(raw, "problems", where),
        sizes=_texts(raw, "sizes", where),
        datasets=_texts(raw, "datasets", where),
        kinds=_texts(raw, "kinds", where),
        problem_options=raw.get("problem_options", {}),
        method_options=raw.get("method_options", {}),
    )


def _setting(raw: Any, where: str) -> Setting:
    required, optional = _keys(Setting)
    _check_keys(raw, where, required, optional)
    return Setting(**{key: _text(raw, key, where) for key in raw})


def _value(raw: Mapping[str, Any], key: str, where: str) -> Value:
    """Read a number, a text such as '98.11 ± 0.32', or bounds: `{low: 2, high: 3}`, of which one may be absent."""
    value = raw[key]
    if isinstance(value, Mapping) and value:
        _check_keys(value, f"{where}, key '{key}'", set(), {"low", "high"})
        low, high = value.get("low", -math.inf), value.get("high", math.inf)
        if all(map(_is_number, (low, high))) and low <= high:
            words = (
                f"{low} to {high}" if len(value) == 2 else f"at least {low}" if "low" in value else f"at most {high}"
            )
            return Value(words, None, float(low), float(high))
    printed = _MEAN_AND_SPREAD.fullmatch(value) if isinstance(value, str) else None
    if printed or _is_number(value):
        number = Decimal(printed[1] if printed else str(value))
        half = Decimal(5).scaleb(int(number.as_tuple().exponent) - 1)
        return Value(str(value), float(number), float(number - half), float(number + half))
    raise _wrong(where, key, value, "a number, a text such as '98.11 ± 0.32', or low and high")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _keys(declared: type[Any], left_out: Iterable[str] = ()) -> tuple[set[str], set[str]]:
    """Return the fields of a dataclass that are required and those that are not: those without and with a default."""
    kept = [one for one in fields(declared) if one.name not in set(left_out)]
    required = {one.name for one in kept if one.default is MISSING and one.default_factory is MISSING}
    return required, {one.name for one in kept} - required


def _check_keys(raw: Any, where: str, required: Iterable[str], optional: Iterable[str] = ()) -> None:
    if not isinstance(raw, Mapping):
        raise MetabenchError(f"{where} is {raw!r}, expected keys with values")
    known = {*required, *optional}
    for key in raw:
        if key not in known:
            raise MetabenchError(f"{where}: {unknown('key', str(key), known)}")
    for key in sorted(required):
        if raw.get(key) in (None, "", [], {}):
            raise MetabenchError(f"{where}: key '{key}' is missing or empty")


def _text(raw: Mapping[str, Any], key: str, where: str) -> str:
    value = raw.get(key, "")
    if not isinstance(value, str):
        raise _wrong(where, key, value, "a text: put it in quotes")
    return value.strip()


def _texts(raw: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = raw.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise _wrong(where, key, value, "a list of texts")
    return tuple(value)


def _wrong(where: str, key: str, value: object, expected: str) -> MetabenchError:
    return MetabenchError(f"{where}: key '{key}' is {value!r}, expected {expected}")
