"""The reference of a suite's keys, in Markdown: the text of `config/README.md`."""

from __future__ import annotations

import dataclasses
import typing
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from metabench.core.errors import MetabenchError
from metabench.suite.config.keys import Experiment, Limits, Measure, MemoryStudy, RivalStudy, Studies, Suite

REFERENCE = Path("config/README.md")

_HEAD = """\
# Suites

A suite is a YAML file. `config/config.yaml` is the default one; others are in `config/suites/`.

    snakemake --cores all                                            # the default suite
    snakemake --cores all --configfile config/suites/smoke.yaml      # another one
    snakemake --cores all --config seeds=[0,1] device=cuda           # with some keys changed
    metabench plan config/suites/smoke.yaml                          # what would run
    metabench plan --set seeds=[0,1] --set limits.seconds=60

A suite consists of experiments. An experiment is a grid: every combination of its data sets, sizes, options, inner steps and methods is a
cell, and every seed of a cell is a row of the results. A list of values for an option is a sweep:

```yaml
name: my_suite
experiments:
  noise:
    problem: label_noise
    sizes: [mlp256, conv16]
    options: {rate: [0.2, 0.4]}
    methods: [none, t1t2, {evograd: {copies: [2, 4]}}]
```

These are 2 sizes x 2 rates x (1 + 1 + 2) methods = 16 cells. `metabench list` shows the available choices, with every option.
Unknown keys, names or options, values of the wrong type and cells described twice are refused before anything runs.

This file is generated from `metabench/suite/config/keys.py` by `metabench config-reference`.
"""

_SECTIONS: tuple[tuple[str, type], ...] = (
    ("A suite", Suite),
    ("An experiment, `experiments.NAME`", Experiment),
    ("`limits`", Limits),
    ("`measure`", Measure),
    ("`studies`", Studies),
    ("`studies.memory`", MemoryStudy),
    ("`studies.rival`", RivalStudy),
)


def reference() -> str:
    """Return the reference of every key: type, default, bounds and meaning."""
    parts = [_HEAD]
    for title, section in _SECTIONS:
        head = "| key | type | default | meaning |\n|---|---|---|---|\n"
        parts.append(f"## {title}\n\n{(section.__doc__ or '').strip()}\n\n{head}{_rows(section)}")
    return "\n".join(parts)


def write_reference(path: Path = REFERENCE) -> None:
    """Write the reference to `path`; raise MetabenchError where its folder is missing."""
    if not path.parent.is_dir():
        raise MetabenchError(
            f"'{path.parent}' is not a folder: run this in the root of the repository, or name a file with --out"
        )
    path.write_text(reference(), encoding="utf-8")


def _rows(section: type) -> str:
    hints = typing.get_type_hints(section)
    lines = []
    for entry in dataclasses.fields(section):
        cells = (
            f"`{entry.name}`",
            _type(entry, hints[entry.name]),
            _default(entry),
            entry.metadata["help"] + _bounds(entry),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(lines)


def _type(entry: dataclasses.Field[Any], hint: Any) -> str:
    choices = (
        [choice.value for choice in hint]
        if isinstance(hint, type) and issubclass(hint, Enum)
        else entry.metadata["choices"]
    )
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if dataclasses.is_dataclass(hint) or hint == dict[str, Experiment]:
        return "section" if dataclasses.is_dataclass(hint) else "sections by name"
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return f"`{name.replace('typing.', '').replace(' | None', '')}`"


def _default(entry: dataclasses.Field[Any]) -> str:
    default = entry.default_factory() if callable(entry.default_factory) else entry.default
    if default == MISSING:
        return "required"
    if dataclasses.is_dataclass(default) or default is None:
        return ""
    if isinstance(default, Enum):
        return f"`{default.value}`"
    return f"`{default}`" if default != "" else ""


def _bounds(entry: dataclasses.Field[Any]) -> str:
    minimum, above, maximum = (entry.metadata[name] for name in ("minimum", "above", "maximum"))
    bounds = [f"at least {minimum}"] if minimum is not None else []
    bounds += [f"above {above}"] if above is not None else []
    bounds += [f"at most {maximum}"] if maximum is not None else []
    return f" ({', '.join(bounds)})" if bounds else ""
