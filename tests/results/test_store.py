"""Rows on disk: whole or not at all, of one schema version, and never silently lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from metabench.core.errors import MetabenchError
from metabench.results.schema import COLUMNS, SCHEMA
from metabench.results.store import CorruptRows, OtherSchema, collect, quarantine, read_metadata, read_rows, write_rows

_BY_TYPE: dict[pa.DataType, Any] = {pa.string(): "text", pa.int64(): 3, pa.float64(): 0.1, pa.bool_(): True}


def make_row(**changes: Any) -> dict[str, Any]:
    return (
        {column.name: _BY_TYPE[column.type] for column in COLUMNS}
        | {"status": "ok", "cell": "0a1b2c3d", "seed": 0}
        | changes
    )


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [make_row(seed=seed, quality=1 / 3 + seed, peak_bytes=2**53 + 1, metric=None) for seed in range(3)]
    write_rows(tmp_path / "deep" / "cell.parquet", rows)
    assert read_rows(tmp_path / "deep" / "cell.parquet").to_pylist() == rows


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


def test_another_schema_version_is_refused_with_both_versions(tmp_path: Path) -> None:
    path = tmp_path / "old.parquet"
    table = pa.Table.from_pylist([make_row()], schema=SCHEMA).replace_schema_metadata({"metabench_schema": "0"})
    pq.write_table(table, path)
    with pytest.raises(OtherSchema, match=r"schema version 0.*reads version 2.*run its cells again"):
        read_rows(path)


def test_a_file_that_lacks_a_column_of_its_own_version_is_corrupt(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([make_row()], schema=SCHEMA).drop_columns(["quality"]), tmp_path / "cell.parquet"
    )
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
        collect(paths, tmp_path / "results.parquet", rerun="snakemake --cores 2")
    assert f"snakemake --cores 2 {paths[1]} {paths[3]}" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".parquet") == ["0.parquet", "2.parquet"]
    assert len([path for path in tmp_path.iterdir() if ".corrupt-" in path.name]) == 2


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
    options = pyarrow.csv.ConvertOptions(
        column_types=SCHEMA, strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    assert (
        pyarrow.csv.read_csv(report.csv, convert_options=options, parse_options=parsing).to_pylist()
        == table.to_pylist()
    )


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
