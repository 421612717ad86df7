"""Curves on disk: all points of sound curves with their types, nothing of faulty ones, and nothing lost without a word."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metabench.core.curves import POINTS, Curve, sound_curves
from metabench.core.errors import MetabenchError
from metabench.results.curves import CURVE_COLUMNS, CURVES_SCHEMA, points_of, read_curves
from metabench.results.schema import BY_NAME, CELL_COLUMNS
from metabench.results.store import collect, read_rows, rows_of, write_rows
from metabench.results.typed import CURVES, NUMBERS, OPTIONS, PICTURES

_BY_TYPE: dict[pa.DataType, Any] = {
    pa.string(): "text",
    pa.int64(): 3,
    pa.float64(): 0.1,
    pa.bool_(): True,
    NUMBERS: {},
    OPTIONS: {"steps": 8},
    CURVES: None,
    PICTURES: None,
}
LOSS = Curve((0.0, 1.0, 2.0), (2.0, 1.0, 0.5), "nat", "outer step", log_y=True)
TASKS = Curve((0.0, 5.0), (80.0, 90.0), "%", "inner step", (70.0, 85.0), (88.0, 95.0), n=20)
LOG_X = Curve((1e-3,), (4.0,), along="learning rate", log_x=True)


def make_row(cell: str = "0a1b2c3d", seed: int = 0, **changes: Any) -> dict[str, Any]:
    filled = {column.name: _BY_TYPE[column.type] for column in CELL_COLUMNS}
    return filled | {"status": "ok", "cell": cell, "seed": seed} | changes


def collected(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write each row as a cell of its own, collect them and return curves.parquet."""
    paths = [folder / "cells" / f"{index}.parquet" for index in range(len(rows))]
    for path, row in zip(paths, rows, strict=True):
        write_rows(path, [row])
    return collect(paths, folder / "results.parquet").curves


def test_the_curves_of_a_row_come_back_as_they_were_written(tmp_path: Path) -> None:
    curves = {"loss": LOSS, "accuracy": TASKS, "rates": LOG_X}
    rows = [make_row(seed=0, curves=curves), make_row(seed=1, curves={}), make_row(seed=2, curves=None)]
    write_rows(tmp_path / "cell.parquet", rows)
    assert [row["curves"] for row in rows_of(read_rows(tmp_path / "cell.parquet"))] == [curves, {}, None]


def test_a_curve_of_several_outer_steps_has_the_step_in_a_column_and_comes_back_under_its_names(tmp_path: Path) -> None:
    outputs = {name: Curve((0.0, 1.0), (value, 2.0), along="query") for name, value in (("f", 1.0), ("f, after outer step 5", 3.0))}
    path = collected(tmp_path, [make_row(curves=outputs | {"loss": LOSS})])
    frame = pandas.read_parquet(path)
    assert frame.groupby("name").outer_step.apply(lambda steps: sorted(set(steps.dropna()))).to_dict() == {"f": [5], "loss": []}
    assert frame[(frame.name == "f") & frame.outer_step.isna()].value.tolist() == [1.0, 2.0]
    assert read_curves(path) == {("0a1b2c3d", 0): outputs | {"loss": LOSS}}


def test_curves_of_other_sequences_are_kept_as_numbers(tmp_path: Path) -> None:
    curve = Curve(range(3), np.array([1, 2, 3], dtype=np.float32), log_y=np.True_)  # type: ignore[arg-type]
    write_rows(tmp_path / "cell.parquet", [make_row(curves={"loss": curve})])
    ((kept,),) = (row["curves"].values() for row in rows_of(read_rows(tmp_path / "cell.parquet")))
    assert kept == Curve((0.0, 1.0, 2.0), (1.0, 2.0, 3.0), log_y=True)


def test_collected_curves_are_those_of_the_rows_and_the_table_of_rows_has_none(tmp_path: Path) -> None:
    rows = [
        make_row("0000000a", 1, curves={"loss": LOSS, "accuracy": TASKS}),
        make_row("0000000a", 2, curves={"loss": LOG_X}),
        make_row("0000000b", 1, curves=None),
        make_row("0000000c", 1, curves={"loss": LOSS}),
    ]
    path = collected(tmp_path, rows)
    assert read_curves(path) == {
        ("0000000a", 1): {"loss": LOSS, "accuracy": TASKS},
        ("0000000a", 2): {"loss": LOG_X},
        ("0000000c", 1): {"loss": LOSS},
    }
    assert "curves" not in read_rows(tmp_path / "results.parquet").schema.names
    assert not (tmp_path / "results.csv").read_text().splitlines()[0].count("curves")


def test_the_long_form_has_a_row_per_point_and_says_whose_it_is(tmp_path: Path) -> None:
    path = collected(tmp_path, [make_row(seed=4, label="unrolled", curves={"loss": LOSS, "accuracy": TASKS})])
    frame = pandas.read_parquet(path)
    assert list(frame) == [column.name for column in CURVE_COLUMNS]
    assert frame["x"].tolist() == [*LOSS.x, *TASKS.x] and frame["value"].tolist() == [*LOSS.values, *TASKS.values]
    assert frame["lower"].isna().tolist() == [True] * 3 + [False] * 2 and frame["upper"].tolist()[3:] == [88.0, 95.0]
    assert set(frame["label"]) == {"unrolled"} and set(frame["seed"]) == {4}
    assert frame["n"].tolist() == [1] * 3 + [20] * 2 and frame["log_y"].tolist() == [True] * 3 + [False] * 2
    assert all(pq.read_schema(path).field(name).metadata[b"description"] for name in ("label", "value"))
    table = pandas.read_csv(path.with_suffix(".csv"))
    assert list(table) == list(frame)
    pandas.testing.assert_frame_equal(table, frame.astype(table.dtypes.to_dict()), check_dtype=False)


def test_a_value_that_is_close_to_nothing_and_one_that_is_exact_keep_every_digit(tmp_path: Path) -> None:
    curve = Curve((0.1, 1 / 3), (5e-324, 2**53 + 0.0))
    path = collected(tmp_path, [make_row(curves={"loss": curve})])
    assert read_curves(path)["0a1b2c3d", 0]["loss"] == curve
    assert pandas.read_csv(path.with_suffix(".csv"))["x"].tolist() == [0.1, 1 / 3]


@pytest.mark.parametrize(
    ("curve", "fault"),
    [
        (Curve([0, 1], [1.0, math.nan]), "is not finite: values[1] is nan"),
        (Curve([0, math.inf], [1.0, 2.0]), "is not finite: x[1] is inf"),
        (Curve([0, 1], [1.0]), "has 2 x and 1 values"),
        (Curve([0, 1], [1.0, 2.0], lower=[1.0], upper=[1.0, 2.0]), "has 2 x and 1 lower"),
        (Curve([0], [1.0], lower=[1.0]), "has one quartile without the other"),
        (Curve([], []), "has no points"),
        ([1.0, 2.0], "is a list, not a Curve"),
        (None, "is a NoneType, not a Curve"),
        (Curve(["a"], [1.0]), "has values that are no numbers: must be real number, not str"),  # type: ignore[list-item]
        (Curve(3, [1.0]), "has values that are no numbers: object of type 'int' has no len()"),  # type: ignore[arg-type]
        (Curve([0], [10**400]), "has values that are no numbers: int too large to convert to float"),
        (Curve([0], [1.0], n=None), "has values that are no numbers"),  # type: ignore[arg-type]
    ],
)
def test_a_faulty_curve_is_named_kept_from_the_row_and_refused_in_one(tmp_path: Path, curve: Any, fault: str) -> None:
    sound, message = sound_curves({"loss": LOSS, "accuracy": curve})
    assert sound == {"loss": LOSS}
    assert message.startswith(f"no curve 'accuracy': it {fault}")
    write_rows(tmp_path / "sound.parquet", [make_row(curves=sound)])
    with pytest.raises(MetabenchError) as caught:
        write_rows(tmp_path / "faulty.parquet", [make_row(curves={"loss": LOSS, "accuracy": curve})])
    assert f"column 'curves': 'accuracy' {fault}" in str(caught.value)
    assert not (tmp_path / "faulty.parquet").exists()


def test_several_faults_are_all_named() -> None:
    _, message = sound_curves({"a": Curve([], []), "b": LOSS, "c": Curve([0], [math.nan])})
    assert message == "no curve 'a': it has no points; no curve 'c': it is not finite: values[0] is nan"
    assert sound_curves({"b": LOSS}) == ({"b": LOSS}, "")
    assert sound_curves({}) == ({}, "")


def test_sound_curves_are_thinned_with_their_ends_and_quartiles() -> None:
    x = range(5000)
    long = Curve(x, [v**2 for v in x], lower=[v - 1 for v in x], upper=[v + 1 for v in x], n=4, log_x=True)
    kept = sound_curves({"loss": long})[0]["loss"]
    assert len(kept.x) == len(kept.values) == len(kept.lower) == len(kept.upper) == POINTS
    assert (kept.x[0], kept.x[-1], kept.values[-1], kept.upper[-1]) == (0.0, 4999.0, 4999.0**2, 5000.0)
    assert (kept.n, kept.log_x, kept.log_y) == (4, True, False)


def test_points_of_unequal_numbers_are_refused() -> None:
    table = pa.Table.from_pylist(
        [
            {
                name: "text" if BY_NAME[name].type == pa.string() else 1
                for name in CURVES_SCHEMA.names
                if name in BY_NAME
            }
            | {"curves": [{"name": "loss", "x": [1.0, 2.0], "values": [1.0], "lower": [], "upper": []}]}
        ],
        schema=pa.schema(
            [(name, BY_NAME[name].type) for name in CURVES_SCHEMA.names if name in BY_NAME] + [("curves", CURVES)]
        ),
    )
    with pytest.raises(MetabenchError, match="more values than x, or fewer"):
        points_of(table)


def test_files_that_are_no_curves_are_refused(tmp_path: Path) -> None:
    path = collected(tmp_path, [make_row(curves={"loss": LOSS})])
    with pytest.raises(MetabenchError, match=r"no curves '.*absent.parquet': `metabench collect` writes them"):
        read_curves(tmp_path / "absent.parquet")
    with pytest.raises(MetabenchError, match="version none, expected 2"):
        read_curves(tmp_path / "results.parquet")
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"metabench_curves": "9"}), tmp_path / "later.parquet")
    with pytest.raises(MetabenchError, match="version 9, expected 2: run `metabench collect` again"):
        read_curves(tmp_path / "later.parquet")
    pq.write_table(table.drop_columns(["value"]), tmp_path / "fewer.parquet")
    with pytest.raises(MetabenchError, match="the columns are not those of version 2"):
        read_curves(tmp_path / "fewer.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(MetabenchError, match="cannot be read"):
        read_curves(path)


@pytest.mark.slow  # writes and reads hundreds of files
def test_hundreds_of_cells_are_collected_in_memory_of_the_order_of_their_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _handle: None)
    curve = Curve(tuple(map(float, range(POINTS))), tuple(1 / (1 + v) for v in range(POINTS)), "nat", "outer step")
    curves = {"outer loss": curve, "time": dataclasses.replace(curve, unit="s")}
    paths = []
    for index in range(250):
        cell = hashlib.sha256(str(index).encode()).hexdigest()[:8]
        paths.append(tmp_path / "cells" / f"{cell}.parquet")
        write_rows(paths[-1], [make_row(cell, seed, curves=curves) for seed in range(8)])
    pool = pa.default_memory_pool()
    pool.release_unused()
    before = pool.max_memory()
    report = collect(paths, tmp_path / "results.parquet")
    points = 8 * len(curves) * POINTS * 250
    # Seven numbers and eleven indices of words; room for the cells' own tables and for what is written.
    assert pool.max_memory() - before < 1.6 * points * (7 * 8 + 11 * 4)
    assert report.rows == 2000 and pq.read_metadata(report.curves).num_rows == points
    assert report.curves.stat().st_size < 8 * points
    found = read_curves(report.curves)
    assert len(found) == 2000 and all(one == curves for one in found.values())
