"""The row of a certificate: the columns of every row, for any outcome."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metabench import __version__
from metabench.certify.cases import Case
from metabench.core import Method, tree
from metabench.core.lazy import torch
from metabench.core.options import build, options_text
from metabench.measure.kernels import NATIVE, instruction_set
from metabench.methods import method
from metabench.results.certificate import CERTIFICATE_COLUMNS
from metabench.suite.plan.code_hash import method_hash

Row = dict[str, Any]

_NOWHERE = {
    "problem": "",
    "case": "",
    "optimiser": "",
    "inner_steps": 0,
    "dimension": 0,
    "n_meta": 0,
    "dtype": "float64",
    "scale": 1.0,
    "weight_decay": 0.0,
    "options": "",
    "budget_option": "",
    "message": "",
    "instead": "",
}


def certificate_row(**values: Any) -> Row:
    """Return a row of all columns: `values`, placeholders if they name no case, and None for the rest."""
    return {column.name: None for column in CERTIFICATE_COLUMNS} | _NOWHERE | values


def identity(name: str, plugins: Iterable[Path]) -> Row:
    """Return the columns that say which method it is, at which source, and with what it was run."""
    found = method(name, plugins)
    return {
        "method": name,
        "method_hash": method_hash(name, [str(path) for path in plugins]),
        "title": found.title,
        "target": found.target.value,
        "instead": found.peer.instead if found.peer else "",
        "instruction_set": instruction_set(NATIVE),  # of this process, whatever it was set to
        "torch_version": torch.__version__,
        "metabench_version": __version__,
    }


def case_columns(of: Method, case: Case, options: dict[str, Any]) -> Row:
    """Return the columns that say which case it is, under which options of the method."""
    return {
        "problem": case.problem.name,
        "case": case.text,
        "optimiser": case.problem.optimiser_name,
        "inner_steps": case.inner_steps,
        "dimension": tree.count(case.state.params),
        "n_meta": tree.count(case.meta),
        "scale": case.problem.scale,
        "weight_decay": case.problem.weight_decay,
        "options": options_text(build(of.options, options, f"method '{of.name}'")),
    }
