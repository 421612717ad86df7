"""A cell's method, problem and data, its plugins included, and its label with options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metabench import data
from metabench.core.kind import Kind
from metabench.core.lazy import torch
from metabench.core.method import Method
from metabench.core.options import build, options_text
from metabench.core.problem import Problem, Setting
from metabench.kinds import kind
from metabench.methods import method
from metabench.problems import problem
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.preparations import PROBLEM, folders_of


def method_of(cell: Cell) -> Method:
    """Return the cell's method."""
    return method(cell.method, cell.plugin_files)


def problem_class(cell: Cell) -> type[Problem]:
    """Return the class of the cell's problem."""
    return problem(cell.problem, cell.plugin_files)


def load_data(cell: Cell) -> Any:
    """Return what the cell's data set loads as."""
    return data.load(cell.dataset, plugins=cell.plugin_files)


def kind_of(cell: Cell) -> Kind:
    """Return the cell's kind of experiment."""
    return kind(cell.kind, cell.plugin_files)


def kind_options(cell: Cell) -> Any:
    """Return the options of the cell's kind of experiment, typed."""
    return build(kind_of(cell).options, cell.kind_options, f"kind of experiment '{cell.kind}'")


def method_options(cell: Cell) -> Any:
    """Return the options of the cell's method, typed."""
    return build(method_of(cell).options, cell.method_options, f"method '{cell.method}'")


def problem_options(cell: Cell) -> Any:
    """Return the options of the cell's problem, typed."""
    return build(problem_class(cell).card.options, cell.problem_options, f"problem '{cell.problem}'")


def problem_of(
    cell: Cell,
    seed: int,
    loaded: Any,
    device: str,
    dtype: str,
    prepared: Path | None = None,
    simulated: bool = False,
) -> Problem:
    """Return the cell's problem for one of its seeds.

    Args:
        cell: the cell.
        seed: one of its seeds.
        loaded: what `load_data` returned.
        device: where tensors live.
        dtype: of parameters and data.
        prepared: the folder of all that is prepared for the suite.
        simulated: whether shapes alone count.
    """
    setting = Setting(
        size=cell.size,
        options=problem_options(cell),
        inner_steps=cell.inner_steps,
        seed=seed,
        device=torch.device(device),
        dtype=getattr(torch, dtype),
        data=loaded,
        outer_steps=cell.outer_steps,
        prepared=folders_of(prepared, cell, seed).get(PROBLEM),
        simulated=simulated,
    )
    return problem_class(cell)(setting)


def label(name: str, options: Any) -> str:
    """Return a method's name in tables and figures: the name, with the options that differ from their defaults."""
    text = options_text(options)
    return f"{name} ({text})" if text else name


def title(cell: Cell) -> str:
    """Return the line that says which cell runs; options and numbers of steps are named where they are not the default."""
    parts = (
        f"{cell.problem}/{cell.dataset}/{cell.size}",
        options_text(problem_options(cell)),
        label(cell.method, method_options(cell)),
        "" if cell.inner_steps == problem_class(cell).card.inner_steps else f"{cell.inner_steps} inner steps",
        "again" if cell.replicate else "",
        "1 seed" if len(cell.seeds) == 1 else f"{len(cell.seeds)} seeds",
    )
    return " · ".join(filter(None, parts))
