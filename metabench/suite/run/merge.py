"""The tables of a suite's shards as one table of the suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from metabench.core.errors import MetabenchError
from metabench.results.certificate import Certificate
from metabench.results.curves import CURVES_FILE, read_points
from metabench.results.metadata import Metadata
from metabench.results.pictures import PICTURES_FILE
from metabench.results.store import CollectReport, read_metadata, read_rows, write_collected
from metabench.results.times import TIMES_FILE, read_times
from metabench.suite.config.load import load_suite
from metabench.suite.plan.code_hash import code_hash
from metabench.suite.plan.plan import Plan, plan
from metabench.suite.plan.shards import Shard
from metabench.suite.run.provenance import results_metadata

_RESULTS = "results.parquet"


@dataclass(frozen=True)
class _Part:
    """What a shard collected."""

    place: Path
    shard: Shard
    suite: dict[str, Any]
    """All keys but `shard` and `results`."""
    metadata: Metadata
    rows: pa.Table


def merge(folders: Sequence[Path], out: Path) -> CollectReport:
    """Write the tables of all shards of a suite as those of the suite, rows in its order; return what was written.

    Raises:
        MetabenchError: a folder has no table of a shard; they are of different suites, or of different numbers of shards; one is there
            twice or not at all; a cell has rows in two, or in none; rows or certificates of one source differ in their code or torch.
    """
    parts = [_read(folder) for folder in folders]
    _check_complete(parts)
    suite = load_suite({**parts[0].suite, "shard": ""})
    whole = plan(suite)
    _check_rows(parts, whole)
    rows = pa.concat_tables([part.rows.replace_schema_metadata(None) for part in parts]).combine_chunks()
    place = {cell.hash: index for index, cell in enumerate(whole.cells)}
    places = [place[name] for name in rows["cell"].to_pylist()]
    order = sorted(range(len(places)), key=places.__getitem__)
    certificates: dict[str, Certificate] = {}
    for part in parts:
        certificates |= {name: Certificate.from_json(value) for name, value in part.metadata.certificates.items()}
    return write_collected(
        rows.take(order),
        out,
        results_metadata(whole, certificates),
        files=len(place),
        points=[read_points(part.place / CURVES_FILE) for part in parts],
        pictures=[pq.read_table(file) for part in parts if (file := part.place / PICTURES_FILE).is_file()],
        turns=pa.concat_tables([read_times(part.place / TIMES_FILE) for part in parts]),
    )


def _read(folder: Path) -> _Part:
    rows = read_rows(folder / _RESULTS)
    metadata = read_metadata(folder / _RESULTS)
    suite = yaml.safe_load(metadata.suite) if metadata.suite else {}
    if not suite.get("shard"):
        raise MetabenchError(f"'{folder / _RESULTS}' is not of a shard: its suite was run whole")
    shard = Shard.parse(suite["shard"])
    return _Part(folder, shard, {key: value for key, value in suite.items() if key not in ("shard", "results")}, metadata, rows)


def _check_complete(parts: Sequence[_Part]) -> None:
    """Raise MetabenchError unless the parts are all shards of one suite, each once."""
    first = parts[0]
    for part in parts[1:]:
        if part.suite != first.suite:
            key = next(key for key in {**first.suite, **part.suite} if first.suite.get(key) != part.suite.get(key))
            raise MetabenchError(
                f"shards of different suites: '{first.place}' and '{part.place}' differ in the key '{key}': "
                f"{_short(first.suite.get(key))} and {_short(part.suite.get(key))}"
            )
        if part.shard.total != first.shard.total:
            raise MetabenchError(
                f"'{first.place}' is one of {first.shard.total} shards, '{part.place}' one of {part.shard.total}: merge those of one number"
            )
    found = Counter(part.shard.number for part in parts)
    if twice := [number for number, times in found.items() if times > 1]:
        places = ", ".join(f"'{part.place}'" for part in parts if part.shard.number == twice[0])
        raise MetabenchError(f"shard {twice[0]}/{first.shard.total} is there {found[twice[0]]} times: {places}")
    if missing := [number for number in range(1, first.shard.total + 1) if number not in found]:
        names = ", ".join(f"{number}/{first.shard.total}" for number in missing[:10]) + (" ..." if len(missing) > 10 else "")
        noun = "shard is" if len(missing) == 1 else "shards are"
        raise MetabenchError(f"{len(missing)} {noun} missing: {names}")


def _check_rows(parts: Sequence[_Part], whole: Plan) -> None:
    """Raise MetabenchError unless each cell of the suite has its rows once, and all are of the same source and torch."""
    cells = {cell.hash: cell for cell in whole.cells}
    seen: dict[tuple[str, int], Path] = {}
    # What has one hash here was made by the same files, and must have one there.
    made: dict[str, tuple[str, Path]] = {}
    torch: tuple[str, Path] | None = None
    for part in parts:
        columns = ("cell", "seed", "code_hash", "torch_version")
        for name, seed, code, version in zip(*(part.rows[column].to_pylist() for column in columns), strict=True):
            if name not in cells:
                raise MetabenchError(f"'{part.place}' has rows of cell {name}, which the suite as planned by this source has not")
            if (name, seed) in seen:
                raise MetabenchError(f"cell {cells[name].name} has two rows for seed {seed}: in '{seen[name, seed]}' and '{part.place}'")
            seen[name, seed] = part.place
            first, place = made.setdefault(code_hash(cells[name]), (code, part.place))
            if first != code:
                raise MetabenchError(
                    f"rows of {cells[name].name} in '{part.place}' were made by other source ({code}) than those of its like in '{place}' "
                    f"({first}): run both shards with one source"
                )
            torch = torch or (version, part.place)
            if torch[0] != version:
                raise MetabenchError(f"'{torch[1]}' was run with torch {torch[0]}, '{part.place}' with {version}: run both with one")
    certified: dict[str, tuple[str, Path]] = {}
    for part in parts:
        for method, certificate in part.metadata.certificates.items():
            first, place = certified.setdefault(method, (certificate["method_hash"], part.place))
            if first != certificate["method_hash"]:
                raise MetabenchError(f"method '{method}' was certified from other source in '{part.place}' than in '{place}'")
    if lost := [(cell, seed) for cell in whole.cells for seed in cell.seeds if (cell.hash, seed) not in seen]:
        cell, seed = lost[0]
        raise MetabenchError(f"{len(lost)} rows of the suite are in no shard, the first of {cell.name}, seed {seed}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
