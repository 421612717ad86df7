"""Metadata of a suite's table of results: the configuration, what was used, and the source that made it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metabench import __version__
from metabench.measure.environment import PROJECT, git_commit
from metabench.results.certificate import Certificate
from metabench.suite.config.load import to_yaml
from metabench.suite.plan.catalogue import dataset_card, method_cards, problem_cards
from metabench.suite.plan.plan import Plan


def results_metadata(plan: Plan, certificates: Mapping[str, Certificate] | None = None) -> dict[str, str]:
    """Return the metadata of a suite's results: methods, problems and data sets are those of its cells, in the suite's order.

    certificates: by method; those of methods that the suite does not use are left out.
    """
    plugins = [Path(path) for path in plan.suite.plugins]
    return {
        "suite": to_yaml(plan.suite),
        "methods": _used(method_cards(plugins), (cell.method for cell in plan.cells)),
        "problems": _used(problem_cards(plugins), (cell.problem for cell in plan.cells)),
        "datasets": json.dumps(
            {name: dataset_card(name, plugins) for name in dict.fromkeys(cell.dataset for cell in plan.cells)}
        ),
        "certificates": _certified(certificates or {}, {cell.method for cell in plan.cells}),
        "git_commit": git_commit(PROJECT),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
    }


def _used(cards: Mapping[str, Any], names: Iterable[str]) -> str:
    return json.dumps({name: cards[name] for name in dict.fromkeys(names)})


def _certified(certificates: Mapping[str, Certificate], used: Collection[str]) -> str:
    return json.dumps({name: certificate.to_json() for name, certificate in certificates.items() if name in used})
