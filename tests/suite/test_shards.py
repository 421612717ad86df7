"""Shards are a suite cut up, and merged they are the suite; what does not belong together is refused in one sentence."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.measure.environment import torch_version
from metabench.results.curves import read_curves
from metabench.results.store import collect, read_metadata, read_rows, rows_of, write_rows
from metabench.suite.config.load import load_suite
from metabench.suite.plan.code_hash import code_hash
from metabench.suite.plan.plan import Plan, plan
from metabench.suite.run.merge import merge
from metabench.suite.run.provenance import results_metadata
from tests.suite.conftest import SUITE
from tests.suite.test_supervise import finished

TOY = SUITE["experiments"]["toy"] | {"inner_steps": [1, 2, 3, 4, 5], "methods": ["unrolled", "t1t2", "none"]}


def planned(folder: Path, shard: str = "", **changes: Any) -> Plan:
    return plan(load_suite(SUITE | {"results": str(folder), "experiments": {"toy": TOY}, "shard": shard} | changes))


def collected(made: Plan, **changes: Any) -> Path:
    """Write rows of all cells and collect them; return the folder. Keywords change the rows."""
    for cell in made.cells:
        own = {"cell": cell.hash, "code_hash": code_hash(cell), "torch_version": torch_version(), "method": cell.method}
        curve = Curve((0.0, 1.0), (2.0, float(cell.inner_steps)), "nat", "outer step")
        write_rows(made.row_file(cell), [finished(cell, seed) | own | {"curves": {"loss": curve}} | changes for seed in cell.seeds])
    collect([made.row_file(cell) for cell in made.cells], made.results, results_metadata(made))
    return made.folder


def folders(tmp_path: Path, total: int) -> list[Path]:
    return [collected(planned(tmp_path, f"{number}/{total}")) for number in range(1, total + 1)]


def merged(parts: Sequence[Path], tmp_path: Path) -> list[dict[str, Any]]:
    merge(parts, tmp_path / "merged" / "results.parquet")
    return rows_of(read_rows(tmp_path / "merged" / "results.parquet"))


@pytest.mark.parametrize("total", [1, 2, 3, 5])
def test_every_cell_is_in_one_shard_and_what_is_compared_stays_together(tmp_path: Path, total: int) -> None:
    whole = planned(tmp_path)
    shards = [planned(tmp_path, f"{number}/{total}") for number in range(1, total + 1)]
    assert Counter(cell for part in shards for cell in map(repr, part.cells)) == Counter(map(repr, whole.cells))
    for part in shards:
        # Five settings of three methods each.
        assert set(Counter(cell.inner_steps for cell in part.cells).values()) == {3}
        assert [cell for cell in whole.cells if cell in part.cells] == list(part.cells), "in the order of the suite"
        assert part.folder.parent == whole.folder
    assert max(len(part.cells) for part in shards) - min(len(part.cells) for part in shards) <= 3


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "1/2 "])
def test_any_other_text_is_no_shard(tmp_path: Path, text: str) -> None:
    with pytest.raises(MetabenchError, match="expected a number and how many there are, as '3/16'"):
        planned(tmp_path, text)


def test_more_shards_than_there_are_comparisons_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match="shard 6/6 has no cells: the suite has 5 settings"):
        planned(tmp_path, "6/6")


def test_merged_they_are_the_suite(tmp_path: Path) -> None:
    whole = planned(tmp_path)
    collected(whole)
    parts = folders(tmp_path, 3)
    rows = merged([parts[2], parts[0], parts[1]], tmp_path)
    unlike = {"started_at"}
    expected = [{name: value for name, value in row.items() if name not in unlike} for row in rows_of(read_rows(whole.results))]
    assert [{name: value for name, value in row.items() if name not in unlike} for row in rows] == expected
    assert read_curves(tmp_path / "merged" / "curves.parquet") == read_curves(whole.curves)
    one, other = (read_metadata(path) for path in (tmp_path / "merged" / "results.parquet", whole.results))
    assert dataclasses.replace(one, created_at="", suite="") == dataclasses.replace(
        other, created_at="", suite=""
    )
    assert "shard: ''" in one.suite


def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first, second, third = folders(tmp_path, 3)
    refused: list[tuple[list[Path], str]] = [
        ([first, third], "1 shard is missing: 2/3"),
        ([first], "2 shards are missing: 2/3, 3/3"),
        ([first, second, second, third], "shard 2/3 is there 2 times"),
        ([collected(planned(tmp_path)), second], "is not of a shard: its suite was run whole"),
        ([first, collected(planned(tmp_path / "b", "2/3", seeds=[0]))], r"differ in the key 'seeds': \[0, 1, 2\] and \[0\]"),
        ([first, collected(planned(tmp_path / "c", "2/2"))], "is one of 3 shards, .* one of 2"),
        ([first, tmp_path / "nowhere"], "no row file"),
    ]
    for parts, words in refused:
        with pytest.raises(MetabenchError, match=words):
            merge(parts, tmp_path / "merged" / "results.parquet")
    assert not (tmp_path / "merged").exists()


def test_other_source_or_torch_is_refused(tmp_path: Path) -> None:
    first = collected(planned(tmp_path, "1/2"))
    other = planned(tmp_path / "other", "2/2")
    for change, words in (
        ({"code_hash": "0123456789ab"}, "were made by other source"),
        ({"torch_version": "2.0.0"}, "was run with torch .* with 2.0.0: run both with one"),
    ):
        with pytest.raises(MetabenchError, match=words):
            merge([first, collected(other, **change)], tmp_path / "merged" / "results.parquet")


def test_rows_twice_or_missing_are_refused(tmp_path: Path) -> None:
    one, two = planned(tmp_path, "1/2"), planned(tmp_path, "2/2")
    first, second = collected(one), collected(two)
    files = [made.row_file(cell) for made in (one, two) for cell in made.cells]
    collect(files, two.results, results_metadata(two))
    with pytest.raises(MetabenchError, match=r"has two rows for seed 0: in .*shard-1-of-2' and .*shard-2-of-2'"):
        merge([first, second], tmp_path / "merged" / "results.parquet")
    collect(files[-1:], two.results, results_metadata(two))
    with pytest.raises(MetabenchError, match="rows of the suite are in no shard, the first of toy_1d/analytic/scalar/"):
        merge([first, second], tmp_path / "merged" / "results.parquet")


