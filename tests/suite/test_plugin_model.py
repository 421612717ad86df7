"""A plugin's network is a size of every problem that takes one: listed, planned, predicted, hashed and run."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_choice import KERNELS

from metabench.core import registry, tree
from metabench.core.errors import MetabenchError
from metabench.core.randomness import generator
from metabench.models.classifiers import CLASSIFIERS, classifier
from metabench.models.language import LANGUAGE_MODELS, LanguageOptions, language_model
from metabench.problems import problem
from metabench.suite.plan.catalogue import problem_cards, size_cards
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import _hash, code_hash
from metabench.suite.plan.plan import Plan, load_suite, plan
from metabench.suite.predict.largest_that_fits import answers
from metabench.suite.predict.one_cell import predict
from metabench.suite.run.run_cell import run_cell

PLUGIN = Path(__file__).parents[1] / "plugins" / "residual.py"


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have loaded no plugin before a test, nor by it after."""
    monkeypatch.setattr(registry, "_LOADED", [])
    monkeypatch.setattr(registry, "load_file", functools.cache(registry.load_file.__wrapped__))


def suite_of(plugin: Path | None, **changes: Any) -> Plan:
    experiment = {
        "problem": "label_noise",
        "datasets": ["digits"],
        "sizes": ["residual8"],
        "options": {"train": 200, "validation": 100},
        "methods": ["unrolled"],
        "outer_steps": 3,
    }
    suite = {"name": "x", "seeds": [0], "kernels": KERNELS, "measure": {"time_repeats": 1}, "aa": False, "rounds": 0}
    plugins = [str(plugin)] if plugin else []
    return plan(load_suite(suite | {"plugins": plugins, "experiments": {"a": experiment | changes}}))


def cell_of(plugin: Path | None = PLUGIN, **changes: Any) -> Cell:
    (cell,) = suite_of(plugin, **changes).cells
    return cell


def silent(*progress: object) -> None:
    """Report nothing."""


def written(folder: Path, old: str = "", new: str = "") -> Path:
    """Return a copy of the plugin with a change."""
    text = PLUGIN.read_text()
    assert old in text
    path = folder / "networks.py"
    path.write_text(text.replace(old, new) if old else text)
    return path


def test_it_is_listed_with_the_problems_that_take_it() -> None:
    listed = [card for card in size_cards([PLUGIN]) if card["size"] == "residual8"]
    assert [(card["problem"], card["description"], card["default"]) for card in listed] == [
        (name, "residual MLP of width 8", False) for name in ("label_noise", "rotation")
    ]
    assert [card["size"] for card in size_cards([PLUGIN]) if card["default"]] == [
        card["size"] for card in size_cards() if card["default"]
    ]
    families = problem_cards([PLUGIN])["label_noise"]["families"]
    assert (families["mlp64"], families["conv4"], families["residual16"]) == (
        "MLP",
        "convolutional network",
        "residual MLP",
    )


def test_it_is_planned_only_where_its_plugin_is_named() -> None:
    assert cell_of().size == "residual8"
    assert cell_of(sizes=[]).size == "mlp256"
    with pytest.raises(
        MetabenchError, match="unknown size of problem 'label_noise' 'residual9': did you mean 'residual"
    ):
        cell_of(sizes=["residual9"])
    with pytest.raises(MetabenchError, match="unknown size of problem 'lm_learning_rates' 'residual8'"):
        cell_of(problem="lm_learning_rates", datasets=["jargon"], options={})
    with pytest.raises(MetabenchError, match="unknown size of problem 'label_noise' 'residual8'"):
        cell_of(None)


def test_it_runs_and_its_memory_is_predicted() -> None:
    cell = cell_of()
    (row,) = run_cell(cell, silent)
    assert (row["status"], row["message"]) == ("ok", "")
    assert row["n_params"] == 64 * 8 + 8 + 2 * 8 + 8 * 8 + 8 + 8 * 10 + 10
    assert row["hypergradient_error"] < 1e-9
    assert predict(cell).peak_bytes == pytest.approx(row["peak_bytes"], rel=0.05)
    (wider,) = run_cell(dataclasses.replace(cell, size="residual16"), silent)
    assert wider["n_params"] > row["n_params"] and wider["quality"] != row["quality"]


def test_its_file_is_part_of_the_hash_of_its_cells_alone(tmp_path: Path) -> None:
    path = written(tmp_path)
    cells = cell_of(path), cell_of(path, sizes=["mlp256"])
    before = [code_hash(cell) for cell in cells]
    _hash.cache_clear()
    path.write_text(path.read_text() + "# edited")
    assert [code_hash(cell) != was for cell, was in zip(cells, before, strict=True)] == [True, False]


def test_the_largest_that_fits_is_answered_for_it() -> None:
    asked: list[str] = []

    @dataclasses.dataclass(frozen=True)
    class Figures:
        peak_bytes: int = 100
        static_bytes: int = 10
        dynamic_bytes: int = 90
        flops: int = 0
        message: str = ""
        note: str = ""

    def predictor(cell: Cell, device: str | None) -> Figures:
        asked.append(cell.size)
        return Figures()

    whole = suite_of(PLUGIN, sizes=[])
    found = list(answers(whole, 10**6, silent, None, (), predictor))
    assert set(found[0][0].sizes) == set(CLASSIFIERS()) | {"residual8", "residual16"} == set(asked)


def test_a_module_is_drawn_by_the_seed_alone_in_every_dtype() -> None:
    CLASSIFIERS([PLUGIN])
    network = classifier("residual8", (1, 8, 8), 10, torch.device("cpu"), torch.float64)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    wide, again = (network.initial(generator(0, "x"), torch.float64) for _ in range(2))
    narrow, other = network.initial(generator(0, "x"), torch.float32), network.initial(generator(1, "x"), torch.float64)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(wide[name], leaf) for name, leaf in again.items())
    assert all(torch.equal(wide[name].float(), leaf) for name, leaf in narrow.items())
    assert not torch.equal(wide["first.weight"], other["first.weight"])
    assert network(wide, torch.ones(5, 1, 8, 8, dtype=torch.float64)).shape == (5, 10)
    doubled = tree.scale(2.0, wide)
    assert not torch.equal(
        network(doubled, torch.eye(64, dtype=torch.float64)), network(wide, torch.eye(64, dtype=torch.float64))
    )


def test_buffers_and_frozen_parameters_are_constants_of_the_network(tmp_path: Path) -> None:
    path = tmp_path / "frozen.py"
    path.write_text(
        "import torch\n"
        "from metabench.models.named import NamedClassifier\n"
        "def frozen(shape, classes):\n"
        "    first = torch.nn.Linear(64, 8).requires_grad_(False)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.Tanh(), torch.nn.Linear(8, classes))\n"
        "FROZEN = NamedClassifier('frozen', 'random features', 'random features', frozen)\n"
    )
    CLASSIFIERS([path])
    inputs = torch.rand(5, 1, 8, 8, generator=generator(0, "inputs"), dtype=torch.float64)
    one, other = (classifier("frozen", (1, 8, 8), 10, torch.device("cpu"), torch.float64) for _ in range(2))
    params = one.initial(generator(1, "x"), torch.float64)
    assert {name: tuple(leaf.shape) for name, leaf in params.items()} == {"3.weight": (10, 8), "3.bias": (10,)}
    assert torch.equal(one(params, inputs), other(params, inputs))


DECLARED = "functools.partial(Residual, width)"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('f"residual{width}"', 'f"mlp{width * 8}"', "declares the classifier 'mlp64', a name that"),
        ('f"residual{width}"', '"twice"', "declares the classifier 'twice', a name that"),
        ('"residual MLP", functools', "None, functools", "model 'residual8': family is None, expected str"),
        (DECLARED, "3", "model 'residual8': make is 3, expected a function"),
        ('f"residual{width}"', '"my own"', "classifier 'my own': a name consists of letters"),
    ],
)
def test_a_declaration_that_cannot_be_used_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = written(tmp_path, old, new)
    with pytest.raises(MetabenchError) as refused:
        cell_of(path)
    assert words in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (
            "lambda shape, classes: None",
            "model 'residual8': it makes a NoneType, which lacks 'initial': expected a torch.nn.Module, or a network",
        ),
        (
            'lambda shape, classes: type("Half", (), {"initial": 0})()',
            "model 'residual8': it makes a Half, which cannot be called: expected a torch.nn.Module",
        ),
        (
            "lambda shape, classes: nn.Sequential(nn.Linear(64, classes), nn.Dropout(0.5))",
            "the module cannot be a function of its parameters: '1' (Dropout) draws from global random numbers",
        ),
    ],
)
def test_what_is_no_network_is_named_in_the_row(tmp_path: Path, new: str, words: str) -> None:
    (row,) = run_cell(cell_of(written(tmp_path, DECLARED, new)), silent)
    assert row["status"] != "ok" and words in row["message"]


LANGUAGE = """
from metabench.models.named import NamedLanguageModel
from metabench.models.transformer import Transformer

class Untied:
    def __init__(self, model):
        self.__dict__.update(
            {name: getattr(model, name) for name in ("vocabulary", "head", "initial", "shapes", "body", "head_names")}
        )
        self.call = model

    def __call__(self, params, tokens):
        return self.call(params, tokens)

TINY = NamedLanguageModel("tiny", "one block", "tiny", lambda vocabulary, compute: Transformer(vocabulary, 8, 2, 1, 16, compute))
PLAIN = NamedLanguageModel("plain", "one block", "tiny", lambda vocabulary, compute: Untied(TINY.make(vocabulary, compute)))
NONE = NamedLanguageModel("none", "nothing", "tiny", lambda vocabulary, compute: TINY.make(vocabulary, compute).head)
"""


def test_a_language_model_is_declared_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "language.py"
    path.write_text(LANGUAGE)
    assert list(problem("lm_learning_rates").card.named_sizes([path]))[-3:] == ["none", "plain", "tiny"]
    options = {"batch": 2, "sequence": 8, "evaluated": 4}
    rows = []
    for size in ("tiny", "plain"):
        cell = cell_of(path, problem="lm_learning_rates", datasets=["jargon"], sizes=[size], options=options)
        rows.extend(run_cell(cell, silent))
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert rows[0]["quality"] == rows[1]["quality"] and rows[0]["n_params"] == rows[1]["n_params"]
    LANGUAGE_MODELS([path])
    for size, given, words in (
        ("plain", {"blocks": 2}, "model 'plain', a Untied, has no 'blocks' to set: leave the option out"),
        ("none", {}, "model 'none': it makes a Head, which lacks 'initial': expected a network that is a chain"),
        ("tiny", {"heads": 3}, "a width of 8 is not 3 heads of an even number of features each: try a width of 6"),
    ):
        with pytest.raises(MetabenchError, match=words):
            language_model(size, 256, LanguageOptions(**given))
