"""config/README.md says what the configuration is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from metabench.core.errors import MetabenchError
from metabench.suite.config.keys import Experiment, Limits, Measure, Suite
from metabench.suite.config.reference import reference, write_reference
from metabench.suite.plan.plan import load_suite, plan

ROOT = Path(__file__).parents[2]


def test_the_reference_is_in_step_with_the_configuration() -> None:
    assert (ROOT / "config/README.md").read_text(encoding="utf-8") == reference(), "run `metabench config-reference`"


@pytest.mark.parametrize("section", [Suite, Experiment, Limits, Measure])
def test_every_key_is_explained(section: type) -> None:
    text = reference()
    for entry in dataclasses.fields(section):
        assert entry.metadata["help"]
        assert re.search(rf"^\| `{entry.name}` \| .* \| .* \| {re.escape(entry.metadata['help'])}", text, re.MULTILINE)


def test_its_example_is_a_suite_with_as_many_cells_as_it_says() -> None:
    example = re.search(r"```yaml\n(.*?)```", reference(), re.DOTALL)
    promised = re.search(r"= (\d+) cells", reference())
    assert example is not None
    assert promised is not None
    assert len(plan(load_suite(yaml.safe_load(example[1]))).cells) == int(promised[1])


def test_it_is_written_where_it_belongs(tmp_path: Path) -> None:
    write_reference(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == reference()
    with pytest.raises(MetabenchError, match="is not a folder"):
        write_reference(tmp_path / "nowhere" / "README.md")
