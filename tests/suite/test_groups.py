"""Cells of one setting form a group, and then none of them times itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.suite.plan.groups import Group
from metabench.suite.plan.plan import Plan, load_suite, plan

TOY: dict[str, Any] = {"problem": "toy_1d", "inner_steps": [2, 3], "methods": ["none", "t1t2", "unrolled"]}


def made(tmp_path: Path, **changes: Any) -> Plan:
    suite = {
        "name": "s",
        "seeds": [0, 1],
        "aa": False,
        "results": str(tmp_path),
        "experiments": {"first": TOY, "second": TOY | {"kind": "cost"}},
    }
    return plan(load_suite(suite | changes))


def test_a_group_is_a_setting_with_all_its_methods(tmp_path: Path) -> None:
    found = made(tmp_path).groups
    assert [{(cell.experiment, cell.inner_steps) for cell in group.cells} for group in found] == [
        {("first", 2)},
        {("first", 3)},
        {("second", 2)},
        {("second", 3)},
    ]
    assert all([cell.method for cell in group.cells] == TOY["methods"] for group in found)
    assert len({group.name for group in found}) == 4
    assert {group.rounds for group in found} == {15}


def test_a_second_run_of_the_baseline_is_timed_beside_the_first(tmp_path: Path) -> None:
    groups = made(tmp_path, aa=True, experiments={"first": TOY | {"kind": "quality"}}).groups
    for group in groups:
        assert [(cell.method, cell.replicate, cell.kind) for cell in group.cells if cell.replicate] == [("unrolled", 1, "cost")]
        assert len(group.cells) == len(TOY["methods"]) + 1


def test_a_cell_times_itself_where_cells_take_no_turns(tmp_path: Path) -> None:
    assert {cell.measure["time_repeats"] for cell in made(tmp_path).cells} == {0}
    for changes in ({"rounds": 0}, {"timing": "shared"}):
        alone = made(tmp_path, **changes)
        assert not alone.groups
        assert {cell.measure["time_repeats"] for cell in alone.cells} == {15}


def test_a_further_method_changes_no_other_cell_and_no_name(tmp_path: Path) -> None:
    """A lone cell is a group, too: if it timed itself, a second one would make it run again."""
    alone = made(tmp_path, experiments={"first": TOY | {"methods": ["unrolled"]}})
    joined = made(tmp_path, experiments={"first": TOY})
    specs = {cell.hash: cell.spec_hash for cell in joined.cells}
    assert all(specs[cell.hash] == cell.spec_hash for cell in alone.cells)
    assert [group.name for group in alone.groups] == [group.name for group in joined.groups]
    assert not {group.hash for group in alone.groups} & {group.hash for group in joined.groups}


def test_a_kind_that_measures_no_time_is_in_no_group(tmp_path: Path) -> None:
    plugin = tmp_path / "norms.py"
    plugin.write_text(
        "from metabench.core.kind import Kind\n"
        "from metabench.stages.well_posed import well_posed\n"
        "NORM = Kind('norm', 'nothing else', stages=(well_posed,), columns=('diagnostics',), module=__name__)\n"
    )
    experiments = {"first": TOY | {"kind": "norm"}, "second": TOY | {"kind": "cost"}}
    found = made(tmp_path, plugins=[str(plugin)], experiments=experiments).groups
    assert {cell.experiment for group in found for cell in group.cells} == {"second"}


def test_a_group_is_read_back_with_its_cells(tmp_path: Path) -> None:
    planned = made(tmp_path)
    planned.write()
    for group in planned.groups:
        assert Group.read(planned.times_file(group).with_suffix(".json")) == group


def test_a_file_that_is_no_group_is_refused_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "group.json"
    for text, words in (
        ("[]", "not a group of version 2"),
        ('{"version": 2', "not a group's file"),
        ('{"version": 2}', "row_files"),
        ('{"version": 2, "row_files": ["one.parquet"], "cells": [{}]}', "spec version None"),
    ):
        file.write_text(text)
        with pytest.raises(MetabenchError, match=words):
            Group.read(file)
    with pytest.raises(MetabenchError, match="No such file"):
        Group.read(tmp_path / "gone.json")
