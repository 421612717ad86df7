"""Certificates: what `metabench certify` found, one row per method, case and claim, and the verdict on each method.

The only place where their columns are declared. A file of another version is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metabench.core.atomic import write_atomically
from metabench.core.errors import MetabenchError
from metabench.results.schema import Column

CERTIFICATE_VERSION = 3

CERTIFIED = "certified"
AS_DECLARED = "approximate-as-declared"
FAILED = "FAILED"
UNSUPPORTED = "unsupported"
UNDECLARED = "undeclared"

VERDICTS = {
    CERTIFIED: "equals the exact value of its target up to rounding, wherever it answers",
    AS_DECLARED: "approximates its target as declared: reaches it in a limit, equals its formula, or has the mean that theory gives",
    FAILED: "is not what it declares to be",
    UNSUPPORTED: "declines this combination and says why",
    UNDECLARED: "declares neither that it is exact nor a limit in which it is: nothing to check it against",
}

_STRING, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()

CERTIFICATE_COLUMNS: tuple[Column, ...] = (
    Column("method", _STRING, "hypergradient method", required=True),
    Column("method_hash", _STRING, "hash of the source that the method depends on", required=True),
    Column("title", _STRING, "the method in one line", required=True),
    Column(
        "kind",
        _STRING,
        "'claim': checked to a tolerance; 'budget': a point of the curve of error against solver budget",
        required=True,
    ),
    Column("problem", _STRING, "certification problem", required=True),
    Column("case", _STRING, "the problem with everything that distinguishes this case", required=True),
    Column("optimiser", _STRING, "inner optimiser", required=True),
    Column("inner_steps", _INT, "K", required=True),
    Column("dimension", _INT, "number of inner parameters", required=True),
    Column("n_meta", _INT, "number of meta-parameters", required=True),
    Column("dtype", _STRING, "dtype of the call; the reference is computed in float64", required=True),
    Column("scale", _FLOAT, "factor on the inner loss", required=True),
    Column("weight_decay", _FLOAT, "of the inner optimiser", required=True),
    Column(
        "options", _STRING, "the method's options that differ from its defaults, as 'key=value, ...'", required=True
    ),
    Column(
        "claim",
        _STRING,
        "what it is checked against: 'exact', 'limit', 'formula', 'mean', 'carried' (its memory leads to the target), 'again' (it answers "
        "the same when it is called again), 'drawn' (it draws), 'none' or 'undeclared'",
        required=True,
    ),
    Column("target", _STRING, "what the method estimates", required=True),
    Column(
        "instead",
        _STRING,
        "what the library that the method asks computes where that is not what it is to estimate; empty for a method that asks none",
        required=True,
    ),
    Column("verdict", _STRING, "one of " + ", ".join(VERDICTS), required=True),
    Column("relative_error", _FLOAT, "norm of the difference from the reference, over the norm of the reference"),
    Column("cosine", _FLOAT, "cosine with the exact value of its target; for a mean, with its theoretical value"),
    Column(
        "norm_ratio",
        _FLOAT,
        "norm over the norm of the exact value of its target; for a mean, over that of its theoretical value",
    ),
    Column("tolerance", _FLOAT, "relative error that is allowed"),
    Column("draws", _INT, "draws in the mean; methods that sample only"),
    Column("standard_error", _FLOAT, "standard error of that mean over the norm of the reference"),
    Column("p_value", _FLOAT, "probability of a difference at least this large, if the mean is right"),
    Column(
        "level", _FLOAT, "p_value below which the claim fails: the probability of failing a correct method by chance"
    ),
    Column("budget_option", _STRING, "the option that `budget` refers to; empty for claims", required=True),
    Column("budget", _FLOAT, "solver budget at this point of the curve"),
    Column("message", _STRING, "explanation of the failure; why it is unsupported", required=True),
    Column("seconds", _FLOAT, "time of this row's check"),
    Column("instruction_set", _STRING, "CPU instruction set that the kernels used", required=True),
    Column("torch_version", _STRING, "version of torch", required=True),
    Column("metabench_version", _STRING, "version of metabench", required=True),
)

CERTIFICATE_SCHEMA = pa.schema(
    [
        pa.field(c.name, c.type, nullable=not c.required, metadata={"description": c.description})
        for c in CERTIFICATE_COLUMNS
    ],
    metadata={"metabench_certificate": str(CERTIFICATE_VERSION)},
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Certificate:
    """Summary of the rows of one method.

    verdict: FAILED if any claim failed; else CERTIFIED if every answer is exact; else AS_DECLARED; UNDECLARED or UNSUPPORTED if
    nothing was checked. claims: rows by verdict. error: the worst relative error in float64 of the claims with a tolerance;
    error_float32: of those in float32, most of it rounding; cosine and norm_ratio: the lowest, and (lowest, highest), against the exact
    target. failures: case, options and message of what failed, each message once. unsupported: why, each reason once. curves: (case,
    budget option, [(budget, relative error), ...]). instead: what the library that it asks computes where that is not its target; empty for
    a method of no library.
    """

    method: str
    method_hash: str
    title: str
    target: str
    verdict: str
    claims: dict[str, int]
    error: float | None
    cosine: float | None
    norm_ratio: tuple[float, float] | None
    failures: tuple[str, ...]
    unsupported: tuple[str, ...]
    curves: tuple[tuple[str, str, tuple[tuple[float, float], ...]], ...]
    torch_version: str
    instruction_set: str = ""
    error_float32: float | None = None
    instead: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Certificate:
        """Return the inverse of `to_json`; raise MetabenchError for anything else."""
        try:
            ratio = values["norm_ratio"]
            return cls(
                **{
                    **values,
                    "norm_ratio": None if ratio is None else (ratio[0], ratio[1]),
                    "failures": tuple(values["failures"]),
                    "unsupported": tuple(values["unsupported"]),
                    "curves": tuple(
                        (case, option, tuple((budget, error) for budget, error in points))
                        for case, option, points in values["curves"]
                    ),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MetabenchError(f"not a certificate: {type(error).__name__}: {error}") from error


def write_certificates(path: Path, rows: Sequence[Row]) -> None:
    """Write `rows` to `path`, whole or not at all; columns that a row lacks are empty."""
    complete = [{column.name: row.get(column.name) for column in CERTIFICATE_COLUMNS} for row in rows]
    table = pa.Table.from_pylist(complete, schema=CERTIFICATE_SCHEMA)
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))


def read_certificates(path: Path) -> list[Row]:
    """Return the rows of a file; raise MetabenchError if it is not one of this version."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(use_threads=False)
    except FileNotFoundError as error:
        raise MetabenchError(f"no certificates '{path}': `metabench certify --out` writes them") from error
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MetabenchError(
            f"certificates '{path}' cannot be read ({reason}): remove the file and run `metabench certify` again"
        ) from error
    version = (table.schema.metadata or {}).get(b"metabench_certificate", b"").decode()
    if version != str(CERTIFICATE_VERSION):
        raise MetabenchError(
            f"certificates '{path}': version {version or 'none'}, expected {CERTIFICATE_VERSION}: run `metabench certify` again"
        )
    if table.schema.names != CERTIFICATE_SCHEMA.names:
        raise MetabenchError(
            f"certificates '{path}': the columns are not those of version {version}: run `metabench certify` again"
        )
    rows: list[Row] = table.to_pylist()
    return rows


def read_all_certificates(paths: Iterable[Path]) -> dict[str, Certificate]:
    """Return the certificates of several files by method, in their order.

    Raises MetabenchError as `read_certificates` does, and for a method that two files certify: the caller must choose.
    """
    found: dict[str, Certificate] = {}
    place: dict[str, Path] = {}
    for path in paths:
        for method, certificate in certificates(read_certificates(path)).items():
            if method in found:
                raise MetabenchError(f"method '{method}' has certificates in two files: '{place[method]}' and '{path}'")
            found[method], place[method] = certificate, Path(path)
    return found


def certificates(rows: Iterable[Row]) -> dict[str, Certificate]:
    """Return the certificates by method, in the order of the rows."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["method"], []).append(row)
    return {method: _certificate(method, of_method) for method, of_method in grouped.items()}


def _certificate(method: str, rows: list[Row]) -> Certificate:
    claims = [row for row in rows if row["kind"] == "claim"]
    counts = {verdict: number for verdict in VERDICTS if (number := sum(row["verdict"] == verdict for row in claims))}
    held = [row for row in claims if row["verdict"] in (CERTIFIED, AS_DECLARED, FAILED)]
    # A tolerance says that there is something to be held to.
    declined = sum(row["verdict"] == UNSUPPORTED and row["tolerance"] is not None for row in claims)
    judged = [row for row in held if row["tolerance"] is not None and row["relative_error"] is not None]
    errors = {
        dtype: max((row["relative_error"] for row in judged if row["dtype"] == dtype), default=None)
        for dtype in ("float64", "float32")
    }
    cosines = [row["cosine"] for row in held if row["cosine"] is not None]
    ratios = [row["norm_ratio"] for row in held if row["norm_ratio"] is not None]
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row["kind"] == "budget" and row["relative_error"] is not None:
            curves.setdefault((row["case"], row["budget_option"]), []).append((row["budget"], row["relative_error"]))
    return Certificate(
        method=method,
        method_hash=rows[0]["method_hash"],
        title=rows[0]["title"],
        target=rows[0]["target"],
        verdict=_verdict(counts, declined),
        claims=counts,
        error=errors["float64"],
        error_float32=errors["float32"],
        cosine=min(cosines, default=None),
        norm_ratio=(min(ratios), max(ratios)) if ratios else None,
        failures=_failures(claims),
        unsupported=tuple(dict.fromkeys(row["message"] for row in claims if row["verdict"] == UNSUPPORTED)),
        curves=tuple((case, option, tuple(points)) for (case, option), points in curves.items()),
        torch_version=rows[0]["torch_version"],
        instruction_set=rows[0]["instruction_set"],
        instead=rows[0]["instead"],
    )


def _failures(claims: list[Row]) -> tuple[str, ...]:
    """Return what failed and where; a message shared by several cases appears once, with the first of them."""
    told: dict[str, str] = {}
    for row in claims:
        if row["verdict"] == FAILED:
            where = ", ".join(part for part in (row["case"], row["options"]) if part)
            told.setdefault(row["message"], f"{where}: {row['message']}" if where else row["message"])
    return tuple(told.values())


def _verdict(counts: dict[str, int], declined: int) -> str:
    """Return the verdict over claims. `declined` counts refusals where an answer exists: more refusals than answers give no certificate."""
    answered = sum(counts.get(verdict, 0) for verdict in (CERTIFIED, AS_DECLARED))
    if counts.get(FAILED):
        return FAILED
    if declined > answered:
        return UNSUPPORTED
    # A method that reaches its target only in a limit, or whose formula is not the target, is as declared.
    for verdict in (UNDECLARED, AS_DECLARED, CERTIFIED):
        if counts.get(verdict):
            return verdict
    return UNSUPPORTED
