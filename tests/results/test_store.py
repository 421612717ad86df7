"""Rows on disk: whole or not at all, of one schema version, and never silently lost."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.pictures import Picture
from metabench.results.curves import read_curves
from metabench.results.schema import CELL_COLUMNS, COLUMNS, SCHEMA, SCHEMA_VERSION
from metabench.results.store import (
    CorruptRows,
    OtherSchema,
    collect,
    quarantine,
    read_metadata,
    read_rows,
    rows_of,
    write_rows,
)
from metabench.results.typed import CURVES, NUMBERS, OPTIONS, PICTURES

CURVE = Curve((0.0, 1.0), (2.0, 1.0), "nat", "outer step")
PICTURE = Picture.of(torch.zeros((2, 3, 3), dtype=torch.uint8), "loss 0.5")
_BY_TYPE: dict[pa.DataType, Any] = {
    pa.string(): "text",
    pa.int64(): 3,
    pa.float64(): 0.1,
    pa.bool_(): True,
    NUMBERS: {"one": 1.0, "two": 2.0},
    OPTIONS: {"detach": True, "learning_rate": 0.5, "optimiser": "adam", "steps": 8, "rank": None},
    CURVES: {"loss": CURVE},
    PICTURES: {"image": PICTURE},
}


def make_row(**changes: Any) -> dict[str, Any]:
    return (
        {column.name: _BY_TYPE[column.type] for column in CELL_COLUMNS}
        | {"status": "ok", "cell": "0a1b2c3d", "seed": 0}
        | changes
    )


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [make_row(seed=seed, quality=1 / 3 + seed, peak_bytes=2**53 + 1, metric=None) for seed in range(3)]
    write_rows(tmp_path / "deep" / "cell.parquet", rows)
    assert rows_of(read_rows(tmp_path / "deep" / "cell.parquet")) == rows


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"detach": True, "learning_rate": 0.5, "optimiser": "adam", "steps": 8},
        {"detach": False, "learning_rate": 0.0, "optimiser": "", "steps": 0, "rank": None},
        {"text": 'a, b="c"', "like_a_number": "8", "whole_float": 8.0, "large": 2**62, "negative": -1},
    ],
)
def test_options_come_back_with_their_types_and_in_their_order(tmp_path: Path, options: dict[str, Any]) -> None:
    write_rows(tmp_path / "cell.parquet", [make_row(method_options=options)])
    collect([tmp_path / "cell.parquet"], tmp_path / "results.parquet")
    for name in ("cell.parquet", "results.parquet"):
        (row,) = rows_of(read_rows(tmp_path / name).select(["method_options", "seed"]))
        found = row["method_options"]
        assert list(found.items()) == list(options.items())
        assert [type(value) for value in found.values()] == [type(value) for value in options.values()]


def test_numbers_by_name_may_be_infinite_or_none_at_all(tmp_path: Path) -> None:
    write_rows(tmp_path / "cell.parquet", [make_row(diagnostics={"residual": math.inf, "norm": math.nan, "steps": 3})])
    report = collect([tmp_path / "cell.parquet"], tmp_path / "results.parquet")
    (row,) = rows_of(read_rows(report.parquet))
    assert row["diagnostics"] == {"residual": math.inf, "norm": pytest.approx(math.nan, nan_ok=True), "steps": 3.0}
    assert json.loads(pandas.read_csv(report.csv)["diagnostics"][0]) == {"residual": None, "norm": None, "steps": 3.0}


def test_rows_make_a_data_frame(tmp_path: Path) -> None:
    write_rows(tmp_path / "cell.parquet", [make_row(seed=seed, metrics={"accuracy": 0.5 + seed}) for seed in (0, 1)])
    frame = pandas.DataFrame(rows_of(read_rows(tmp_path / "cell.parquet")))
    assert frame["metrics"].str["accuracy"].tolist() == [0.5, 1.5]
    assert frame["method_options"].str["steps"].tolist() == [8, 8]


def test_a_cell_without_rows_is_a_valid_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "cell.parquet", [])
    assert read_rows(tmp_path / "cell.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peek_bytes": 3}, "unknown column 'peek_bytes': did you mean 'peak_bytes'"),
        ({"peak_bytes": 3.5}, "'peak_bytes' is 3.5 .float., expected int64"),
        ({"peak_bytes": True}, "'peak_bytes' is True"),
        ({"exact": "yes"}, "'exact' is 'yes'"),
        ({"problem": None}, "'problem' is required"),
        ({"metrics": "{}"}, "'metrics' is '{}' .str., expected numbers by name"),
        ({"metrics": {"accuracy": "0.5"}}, "'metrics': 'accuracy' is '0.5' .str., expected a number"),
        ({"metrics": {"accuracy": True}}, "'accuracy' is True"),
        ({"metrics": {3: 1.0}}, "'metrics' has the name 3"),
        (
            {"method_options": {"steps": [1]}},
            r"'method_options': 'steps' is \[1\] .list., expected bool, int, float, str",
        ),
        ({"method_options": None}, "'method_options' is required"),
        ({"method_options": {"steps": 2**70}}, "cannot be kept"),
        ({"pictures": {"image": b"..."}}, "'pictures': 'image' is a bytes, not a Picture"),
        ({"pictures": {"image": Picture("bm8gcGljdHVyZQ==")}}, "'image' is not a PNG file"),
        ({"curves": {"loss": [1.0]}}, "'curves': 'loss' is a list, not a Curve"),
        ({"curves": {"loss": Curve([0], [math.nan])}}, r"'loss' is not finite: values\[0\] is nan"),
        ({"curves": {"loss": Curve([0, 1], [1.0])}}, "'loss' has 2 x and 1 values"),
        ({"curves": {"loss": Curve(["a"], ["b"])}}, "'loss' has values that are no numbers"),  # type: ignore[list-item]
        ({"status": "okay"}, "unknown status 'okay': did you mean 'ok'"),
    ],
)
def test_a_wrong_row_is_refused_by_name_and_leaves_no_file(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MetabenchError, match=message):
        write_rows(tmp_path / "cell.parquet", [make_row(**changes)])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_required_column_is_named(tmp_path: Path) -> None:
    row = make_row()
    del row["hardware"]
    with pytest.raises(MetabenchError, match="'hardware' is required"):
        write_rows(tmp_path / "cell.parquet", [row])


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cell.parquet"
    write_rows(path, [make_row()])
    before = path.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MetabenchError, match=r"cannot write '.*cell.parquet': No space left"):
        write_rows(path, [make_row(seed=1)])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["cell.parquet"]


def of_version(version: int, path: Path, **changes: Any) -> Path:
    """Write a row as one of another version."""
    write_rows(path, [make_row(**changes)])
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"metabench_schema": str(version)}), path)
    return path


def test_another_schema_version_is_refused_with_both_versions_and_the_way_to_new_rows(tmp_path: Path) -> None:
    path = of_version(4, tmp_path / "old.parquet")
    with pytest.raises(
        OtherSchema, match=rf"schema version 4.*reads version {SCHEMA_VERSION}.*`snakemake --cores all`"
    ):
        read_rows(path)


def test_files_of_other_versions_are_named_with_the_command_that_makes_them_again_and_stay(tmp_path: Path) -> None:
    paths = [of_version(4, tmp_path / "a.parquet"), of_version(3, tmp_path / "b.parquet"), tmp_path / "c.parquet"]
    write_rows(paths[2], [make_row()])
    with pytest.raises(MetabenchError) as caught:
        collect(paths, tmp_path / "results.parquet", rerun="snakemake --cores 2")
    assert str(caught.value) == (
        f"2 row files have another schema version than {SCHEMA_VERSION}, which this metabench reads:\n"
        f"  {paths[0]} (version 4)\n  {paths[1]} (version 3)\nmake their rows again with:\n  snakemake --cores 2"
    )
    assert sorted(tmp_path.iterdir()) == paths


def test_of_many_files_of_another_version_ten_are_named(tmp_path: Path) -> None:
    paths = [of_version(4, tmp_path / f"{index}.parquet") for index in range(13)]
    with pytest.raises(MetabenchError, match="13 row files have") as caught:
        collect(paths, tmp_path / "results.parquet")
    assert str(caught.value).count("(version 4)") == 10
    assert "... and 3 more" in str(caught.value)


def test_a_file_that_lacks_a_column_of_its_own_version_is_corrupt(tmp_path: Path) -> None:
    write_rows(tmp_path / "cell.parquet", [make_row()])
    pq.write_table(pq.read_table(tmp_path / "cell.parquet").drop_columns(["quality"]), tmp_path / "cell.parquet")
    with pytest.raises(CorruptRows, match="lacks column 'quality'"):
        read_rows(tmp_path / "cell.parquet")


def test_any_other_parquet_file_is_no_row_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(CorruptRows, match="no row file"):
        read_rows(tmp_path / "x.parquet")


def test_a_missing_file_is_no_corrupt_one(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match="no row file") as caught:
        read_rows(tmp_path / "absent.parquet")
    assert not isinstance(caught.value, CorruptRows)


def test_corrupt_files_are_all_set_aside_and_the_others_stay(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.parquet" for index in range(4)]
    for index, path in enumerate(paths):
        write_rows(path, [make_row(cell=f"{index:08d}")])
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    paths[3].write_bytes(b"")
    with pytest.raises(MetabenchError, match="2 corrupt row files were set aside") as caught:
        collect(paths, tmp_path / "results.parquet", rerun="snakemake --cores 2", own=lambda: paths)
    assert f"snakemake --cores 2 {paths[1]} {paths[3]}" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".parquet") == ["0.parquet", "2.parquet"]
    assert len([path for path in tmp_path.iterdir() if ".corrupt-" in path.name]) == 2


def test_files_of_others_are_refused_and_stay(tmp_path: Path) -> None:
    own, other = tmp_path / "own.parquet", tmp_path / "weather.parquet"
    pq.write_table(pa.table({"celsius": [21.5]}), other)
    with pytest.raises(MetabenchError, match=r"weather\.parquet' is Parquet but no row file of metabench"):
        collect([other], tmp_path / "results.parquet")
    own.write_bytes(b"half a file")
    with pytest.raises(MetabenchError, match="1 corrupt row file was set aside") as caught:
        collect([other, own], tmp_path / "results.parquet", own=lambda: [own])
    assert "weather" not in str(caught.value)
    assert other.is_file() and not own.exists() and not (tmp_path / "results.parquet").exists()


def test_quarantine_keeps_the_content(tmp_path: Path) -> None:
    path = tmp_path / "cell.parquet"
    path.write_bytes(b"half a file")
    aside = quarantine(path)
    assert not path.exists()
    assert aside.read_bytes() == b"half a file"
    assert len(aside.name.removeprefix("cell.parquet.corrupt-")) == 8


def test_collecting_nothing_makes_an_empty_valid_table(tmp_path: Path) -> None:
    report = collect([], tmp_path / "results.parquet", {"suite": "name: empty"})
    assert (report.files, report.rows) == (0, 0)
    assert read_rows(tmp_path / "results.parquet").num_rows == 0
    assert read_metadata(tmp_path / "results.parquet").suite == "name: empty"
    assert (tmp_path / "results.csv").read_text().count("\n") == 1
    assert read_curves(tmp_path / "curves.parquet") == {}
    assert (tmp_path / "curves.csv").read_text().count("\n") == 1


def test_results_keep_order_metadata_and_descriptions_and_the_csv_agrees(tmp_path: Path) -> None:
    paths = []
    for index in (2, 0, 1):
        paths.append(tmp_path / f"{index}.parquet")
        write_rows(
            paths[-1],
            [
                make_row(cell=f"{index:08d}", seed=seed, quality=index / 7, message='a "b",\nc', metric=None)
                for seed in (0, 1)
            ],
        )
    metadata = {"methods": '{"unrolled": {"title": "Unrolled", "citation": "@article{é}"}}', "git_commit": "abc"}
    report = collect(paths, tmp_path / "results.parquet", metadata)
    table = read_rows(report.parquet)
    assert table["cell"].to_pylist() == ["00000002", "00000002", "00000000", "00000000", "00000001", "00000001"]
    assert report.statuses == {"ok": 6}
    assert read_metadata(report.parquet).methods["unrolled"]["citation"] == "@article{é}"
    assert pq.read_schema(report.parquet).field("quality").metadata[b"description"]
    maps = [column.name for column in COLUMNS if column.type in (NUMBERS, OPTIONS)]
    options = pyarrow.csv.ConvertOptions(
        column_types={field.name: pa.string() if field.name in maps else field.type for field in SCHEMA},
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    read = pyarrow.csv.read_csv(report.csv, convert_options=options, parse_options=parsing).to_pylist()
    for row in read:
        row.update({name: json.loads(row[name]) for name in maps})
    assert read == rows_of(table)


def test_a_table_that_was_collected_is_no_file_of_a_cell(tmp_path: Path) -> None:
    write_rows(tmp_path / "cell.parquet", [make_row()])
    collect([tmp_path / "cell.parquet"], tmp_path / "results.parquet")
    with pytest.raises(MetabenchError, match="is a table that was collected, not the rows of a cell"):
        collect([tmp_path / "results.parquet"], tmp_path / "again.parquet")


def test_one_cell_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / f"{name}.parquet", [make_row()])
    with pytest.raises(MetabenchError, match="cell '0a1b2c3d' has two rows for seed 0"):
        collect([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "results.parquet")


@pytest.mark.parametrize(
    ("metadata", "message"), [({"suit": "x"}, "unknown metadata 'suit'"), ({"methods": "{"}, "not JSON")]
)
def test_wrong_metadata_is_refused(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    with pytest.raises(MetabenchError, match=message):
        collect([], tmp_path / "results.parquet", metadata)
