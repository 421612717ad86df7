"""Certificates on disk, and what their rows come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metabench.core.errors import MetabenchError
from metabench.results.certificate import (
    CERTIFICATE_COLUMNS,
    CERTIFICATE_SCHEMA,
    Certificate,
    certificates,
    read_all_certificates,
    read_certificates,
    write_certificates,
)

_BY_TYPE: dict[pa.DataType, Any] = {pa.string(): "", pa.int64(): 3, pa.float64(): 0.1}


def claim(verdict: str = "certified", **changes: Any) -> dict[str, Any]:
    """Return a row of a claim; keywords change it."""
    row = {column.name: _BY_TYPE[column.type] for column in CERTIFICATE_COLUMNS}
    row |= {"method": "mixflow", "method_hash": "abc", "kind": "claim", "verdict": verdict, "case": "ridge, sgd"}
    row |= {"title": "mixed mode", "target": "unrolled", "torch_version": "2.13.0", "dtype": "float64"}
    return row | {"relative_error": 1e-12, "tolerance": 1e-10, "cosine": 1.0, "norm_ratio": 1.0} | changes


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [claim(), claim("FAILED", message="wrong", draws=None)]
    write_certificates(tmp_path / "deep" / "one.parquet", rows)
    assert read_certificates(tmp_path / "deep" / "one.parquet") == rows


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (["certified", "FAILED", "unsupported"], "FAILED"),
        (["certified", "approximate-as-declared"], "approximate-as-declared"),
        (["certified", "unsupported"], "certified"),
        (["unsupported"], "unsupported"),
        (["undeclared"], "undeclared"),
    ],
)
def test_a_method_has_the_verdict_of_its_claims(verdicts: list[str], verdict: str) -> None:
    found = certificates(claim(each) for each in verdicts)["mixflow"]
    assert found.verdict == verdict
    assert sum(found.claims.values()) == len(verdicts)


def test_figures_are_the_worst_of_the_claims_that_are_held_to_something() -> None:
    rows = [
        claim(relative_error=1e-12, cosine=0.9, norm_ratio=0.5),
        claim(relative_error=1e-11, cosine=1.0, norm_ratio=1.5),
        claim(relative_error=0.5, tolerance=None),
        claim(relative_error=2e-7, dtype="float32"),
        claim("unsupported", relative_error=None, cosine=None, norm_ratio=None, message="no minimum"),
        claim("unsupported", relative_error=None, cosine=None, norm_ratio=None, message="no minimum"),
    ]
    found = certificates(rows)["mixflow"]
    assert found.error_float32 == 2e-7
    assert (found.error, found.cosine, found.norm_ratio) == (1e-11, 0.9, (0.5, 1.5))
    assert found.unsupported == ("no minimum",)


def test_a_failure_is_told_once_with_the_case_where_it_was_found_first() -> None:
    rows = [
        claim("FAILED", case=case, options=options, message="twice as long")
        for case, options in (("ridge, sgd", "steps=5"), ("ridge, adam", ""))
    ]
    assert certificates(rows)["mixflow"].failures == ("ridge, sgd, steps=5: twice as long",)


def test_points_of_a_curve_are_no_claims() -> None:
    points = [
        claim(
            "approximate-as-declared", kind="budget", budget_option="steps", budget=float(steps), relative_error=error
        )
        for steps, error in ((1, 0.5), (2, 0.1), (3, None))
    ]
    found = certificates([claim(), *points])["mixflow"]
    assert found.claims == {"certified": 1}
    assert found.curves == (("ridge, sgd", "steps", ((1.0, 0.5), (2.0, 0.1))),)


def test_a_certificate_survives_json() -> None:
    rows = [claim(), claim(kind="budget", budget_option="steps", budget=1.0), claim("FAILED", message="wrong")]
    found = certificates(rows)["mixflow"]
    assert Certificate.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(MetabenchError, match="not a certificate"):
        Certificate.from_json({"method": "mixflow"})


def test_files_of_several_methods_are_read_together(tmp_path: Path) -> None:
    write_certificates(tmp_path / "a.parquet", [claim(), claim(method="t1t2")])
    write_certificates(tmp_path / "b.parquet", [claim(method="none")])
    assert list(read_all_certificates([tmp_path / "a.parquet", tmp_path / "b.parquet"])) == ["mixflow", "t1t2", "none"]
    write_certificates(tmp_path / "b.parquet", [claim(method="t1t2")])
    with pytest.raises(MetabenchError, match=r"'t1t2' has certificates in two files.*a\.parquet.*b\.parquet"):
        read_all_certificates([tmp_path / "a.parquet", tmp_path / "b.parquet"])


def test_what_is_no_file_of_certificates_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match=r"no certificates .*metabench certify"):
        read_certificates(tmp_path / "none.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(MetabenchError, match=r"torn\.parquet.*remove the file"):
        read_certificates(tmp_path / "torn.parquet")
    table = pa.Table.from_pylist([claim()], schema=CERTIFICATE_SCHEMA)
    pq.write_table(table.replace_schema_metadata({"metabench_certificate": "0"}), tmp_path / "old.parquet")
    with pytest.raises(MetabenchError, match="version 0, expected 3"):
        read_certificates(tmp_path / "old.parquet")
    pq.write_table(table.drop_columns(["seconds"]), tmp_path / "short.parquet")
    with pytest.raises(MetabenchError, match="columns are not those of version 3"):
        read_certificates(tmp_path / "short.parquet")
