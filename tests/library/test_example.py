"""The example of docs/library.md runs as it is, and the hypergradient helps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

DOCUMENT = Path(__file__).parents[2] / "docs" / "library.md"


def test_learned_weights_raise_the_accuracy_on_examples_that_neither_loss_sees() -> None:
    (example,) = re.findall(r"<!-- example -->\n```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        exec(compile(example, str(DOCUMENT), "exec"), names)
    (plain_validation, plain_test), (validation, test) = names["plain"], names["learned"]
    assert validation > plain_validation + 0.1
    assert test > plain_test + 0.1
    clean = names["noisy"] == names["labels"]
    scores, train = names["scores"].detach(), names["train"]
    assert scores[train][clean[train]].mean() > scores[train][~clean[train]].mean() + 1
    print(names["plain"], names["learned"])
