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
from metabench.results.schema import COLUMNS, SCHEMA, SCHEMA_VERSION
from metabench.results.store import CorruptRows, OtherSchema, collect, quarantine, read_metadata, read_rows, write_rows
from metabench.results.upgrades import UPGRADES, missing_columns

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
    with pytest.raises(OtherSchema, match=rf"schema version 0.*reads version {SCHEMA_VERSION}.*run its cells again"):
        read_rows(path)


def written_by(version: int, path: Path, lacking: tuple[str, ...], **changes: Any) -> dict[str, Any]:
    """Write a row as an older version did, without the columns that it lacked, and return it."""
    row = {name: value for name, value in make_row(**changes).items() if name not in lacking}
    schema = pa.schema([field for field in SCHEMA if field.name not in lacking])
    table = pa.Table.from_pylist([row], schema=schema)
    pq.write_table(table.replace_schema_metadata({"metabench_schema": str(version)}), path)
    return row


@pytest.mark.parametrize("version", UPGRADES)
def test_rows_of_an_older_version_are_read_with_what_it_lacked_left_empty(tmp_path: Path, version: int) -> None:
    added = missing_columns(str(version))
    assert added
    row = written_by(version, tmp_path / "old.parquet", added)
    table = read_rows(tmp_path / "old.parquet")
    assert table.to_pylist() == [row | dict.fromkeys(added)]
    assert table.schema.names == SCHEMA.names
    assert table.schema.metadata[b"metabench_schema"] == str(SCHEMA_VERSION).encode()


def test_version_3_added_predictions_and_the_floor() -> None:
    assert missing_columns("2")[:3] == ("predicted_bytes", "floor_bytes", "flops")
    assert not set(missing_columns("3")) & {"predicted_bytes", "floor_bytes", "flops"}


def test_version_4_added_kernels_and_what_plain_training_says_of_the_exact_hypergradient() -> None:
    added = {"yardstick_error", "yardstick_precision", "kernels", "instruction_set", "prediction_note"}
    assert set(missing_columns("3")) == added
    assert missing_columns("4") == ()


def test_this_version_lacks_nothing() -> None:
    assert missing_columns(str(SCHEMA_VERSION)) == ()


def test_no_upgrade_adds_a_column_that_must_be_filled() -> None:
    required = {column.name for column in COLUMNS if column.required}
    assert not required & {name for upgrade in UPGRADES.values() for name in upgrade.added}


def test_rows_of_two_versions_are_collected_into_one_table(tmp_path: Path) -> None:
    written_by(2, tmp_path / "old.parquet", missing_columns("2"), cell="00000001")
    write_rows(tmp_path / "new.parquet", [make_row()])
    report = collect([tmp_path / "old.parquet", tmp_path / "new.parquet"], tmp_path / "results.parquet")
    assert read_rows(report.parquet)["predicted_bytes"].to_pylist() == [None, 3]
    assert pq.read_schema(report.parquet).metadata[b"metabench_schema"] == str(SCHEMA_VERSION).encode()


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        (("quality", *missing_columns("2")), "says schema 2 but lacks column 'quality'"),
        (missing_columns("2")[1:], "says schema 2 but has an unknown column 'predicted_bytes'"),
    ],
)
def test_a_file_that_is_not_what_its_older_version_was_is_corrupt(
    tmp_path: Path, lacking: tuple[str, ...], message: str
) -> None:
    written_by(2, tmp_path / "old.parquet", lacking)
    with pytest.raises(CorruptRows, match=message):
        read_rows(tmp_path / "old.parquet")


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
