"""Plugins declare problems, data sets and inner optimisers, too: several in one file, checked when they are found."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path

import pytest
from kernel_choice import KERNELS

from metabench.autodiff.optimisers import INNER_OPTIMISERS
from metabench.core import registry
from metabench.core.errors import MetabenchError
from metabench.data import card, datasets, load
from metabench.methods import methods
from metabench.problems import problem, problems
from metabench.suite.plan.catalogue import dataset_cards, optimiser_cards, problem_cards
from metabench.suite.plan.code_hash import _hash, code_hash
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.run_cell import run_cell

PLUGIN = """
    import dataclasses
    from pathlib import Path

    from metabench.core import Cost, Hypergradient, Metric, ProblemCard, Target, method
    from metabench.data import Dataset, DatasetCard
    from metabench.methods.t1t2 import t1t2
    from metabench.problems.toy_1d import Toy1D

    NOTES = Path(__file__).with_name("notes.txt")
    DATA = Dataset(DatasetCard(name="numbers", title="Three numbers", task="numbers", sizes={"train": 3}), lambda read: [1, 2, 3])

    class Own(Toy1D):
        card = dataclasses.replace(Toy1D.card, title="mine", datasets=("numbers", "own"), citation="@misc{own}", files=(NOTES,))

        @classmethod
        def examples_needed(cls, options):
            return 3

    class Other(Toy1D):
        card = dataclasses.replace(Toy1D.card, name="other", datasets=("own",), citation="")

    @method(title="the same", target=Target.ONE_STEP, exact=True, cost=Cost(), citation="", order=55)
    def same(problem, state, meta, window, options, generator):
        return t1t2(problem, state, meta, window, None, generator)
"""


def written(folder: Path, text: str = PLUGIN, name: str = "several.py") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "notes.txt").write_text("kept")
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_one_file_may_declare_several_things_of_several_sorts(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert [name for name in problems([path]) if name not in problems()] == ["other", "several"]
    assert [name for name in datasets([path]) if name not in datasets()] == ["numbers"]
    assert list(methods([path]))[5:7] == ["same", "truncated"]
    assert problem("several", [path]).card.title == "mine"
    assert load("numbers", plugins=[path]) == [1, 2, 3]
    assert card("numbers", [path]).sizes == {"train": 3}
    with pytest.raises(MetabenchError, match="unknown problem 'severel': did you mean 'several'"):
        problem("severel", [path])
    assert problem_cards([path])["several"]["citation_key"] == "own"
    assert list(problem_cards([path])["several"]["files"]) == ["notes.txt"]
    assert dataset_cards([path])["numbers"]["available"]


def test_they_are_planned_and_hashed_with_their_file_and_their_data(tmp_path: Path) -> None:
    path = written(tmp_path)

    def hashes(plugin: Path) -> dict[str, str]:
        grids = {
            "a": {"problem": "several", "methods": ["same", "none"]},
            "b": {"problem": "other", "methods": ["none"]},
            "c": {"problem": "toy_1d", "methods": ["none"]},
        }
        cells = plan(load_suite({"name": "x", "plugins": [str(plugin)], "experiments": grids})).cells
        assert [cell.dataset for cell in cells] == ["numbers", "numbers", "own", "analytic"]
        return {f"{cell.problem} {cell.method}": code_hash(cell) for cell in cells}

    before = hashes(path)
    assert len(set(before.values())) == 4
    path.with_name("notes.txt").write_text("changed")
    assert {name for name, found in hashes(path).items() if found != before[name]} == {"several same", "several none"}
    path.with_name("notes.txt").write_text("kept")
    edited = hashes(written(tmp_path / "edited", PLUGIN + "\n    # edited\n"))
    assert {name for name, found in edited.items() if found == before[name]} == {"toy_1d none"}


def test_a_problem_of_the_package_takes_a_plugins_data_of_its_task(tmp_path: Path) -> None:
    path = written(tmp_path, PLUGIN.replace('task="numbers"', 'task="classification"'))

    def planned(problem: str) -> list[str]:
        grid = {
            "a": {
                "problem": problem,
                "datasets": ["numbers"],
                "options": {"train": 1, "validation": 2},
                "methods": ["none"],
            }
        }
        return [
            cell.dataset for cell in plan(load_suite({"name": "x", "plugins": [str(path)], "experiments": grid})).cells
        ]

    assert planned("regularisation") == ["numbers"]
    with pytest.raises(MetabenchError, match="unknown data set of problem 'lm_learning_rates' 'numbers'"):
        planned("lm_learning_rates")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('title="mine"', "title=3", "problem 'several': title is 3, expected str"),
        ('datasets=("numbers", "own")', 'datasets="own"', "problem 'several': datasets is 'own', expected tuple"),
        ('datasets=("numbers", "own")', "datasets=()", "datasets is (), expected one or more: names of data sets"),
        ('title="mine"', "sizes={}", "sizes is {}, expected one or more"),
        (
            'title="mine"',
            "default_size='scaler'",
            "unknown default size of problem 'several' 'scaler': did you mean 'scalar'",
        ),
        ('title="mine"', "metrics=('rmse',)", "metrics is ('rmse',), expected one or more: Metric"),
        (
            'title="mine"',
            "metrics=(Metric('rmse', 'low'),)",
            "metric 'rmse' has the direction 'low', expected 'max' or 'min'",
        ),
        ('title="mine"', "inner_steps=0", "inner_steps is 0, expected 1 or more"),
        ('title="mine"', "outer_steps=True", "outer_steps is True, expected int"),
        ('title="mine"', "options=dict", "options is dict, expected a dataclass with frozen=True"),
        ('"@misc{own}"', '"bohdal2021"', "unknown citation 'bohdal2021': did you mean 'bohdal2021evograd'"),
        ('title="mine"', 'name="my own"', "problem 'my own': a name consists of letters, digits, _ and -"),
        ("(NOTES,)", "(NOTES.with_name('note.txt'),)", "note.txt' does not exist: did you mean"),
        ("(NOTES,)", "('notes.txt',)", "the data file 'notes.txt' is a str, expected a pathlib.Path"),
        ('name="other"', 'name="several"', "declares the problem 'several', a name that"),
        ('name="other"', 'name="toy_1d"', "toy_1d.py' has declared"),
        (
            "    card = dataclasses",
            "    card = None and dataclasses",
            "Own.card is missing, expected a metabench.core.ProblemCard",
        ),
    ],
)
def test_a_problem_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in PLUGIN
    path = written(tmp_path, PLUGIN.replace(old, new))
    with pytest.raises(MetabenchError) as refused:
        problems([path])
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Bare(Problem):\n    pass", "declares nothing: decorate a function"),
        ("class Bare(Problem):\n    card = Toy1D.card", "problem 'bare': Bare lacks evaluate, initial, inner_loss"),
    ],
)
def test_a_class_without_its_methods_is_no_problem(tmp_path: Path, text: str, words: str) -> None:
    imports = "from metabench.core import Problem\nfrom metabench.problems.toy_1d import Toy1D\n"
    path = written(tmp_path, imports + text, "bare.py")
    with pytest.raises(MetabenchError) as refused:
        problems([path])
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name="numbers"', 'name="digits"', "declares the data set 'digits', a name that"),
        ('{"train": 3}', '{"train": 0}', "data set 'numbers': split 'train' has the size 0, expected 1 or more"),
        ("lambda read: [1, 2, 3]", "None", "data set 'numbers': decode is None, expected a function"),
        ('title="Three numbers"', "title=None", "data set 'numbers': title is None, expected str"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    path = written(tmp_path, PLUGIN.replace(old, new))
    with pytest.raises(MetabenchError) as refused:
        datasets([path])
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


def test_two_files_that_declare_one_name_are_both_named(tmp_path: Path) -> None:
    paths = [written(tmp_path / side, name="mine.py") for side in ("left", "right")]
    for found, sort, name in ((problems, "problem", "mine"), (datasets, "data set", "numbers")):
        with pytest.raises(MetabenchError) as refused:
            found(paths)
        assert (
            str(refused.value)
            == f"plugin '{paths[1]}' declares the {sort} '{name}', a name that '{paths[0]}' has declared"
        )


def test_a_problem_that_needs_more_examples_or_another_data_set_is_refused(tmp_path: Path) -> None:
    for old, new, words in (
        ("return 3", "return 4", "problem 'several' takes 4 training examples, data set 'numbers' has 3"),
        ('("numbers", "own")', '("numbrs",)', "unknown data set of problem 'several' 'numbrs': did you mean 'numbers'"),
    ):
        path = written(tmp_path / new[:8].strip('("'), PLUGIN.replace(old, new))
        suite = {"name": "x", "plugins": [str(path)], "experiments": {"a": {"problem": "several", "methods": ["none"]}}}
        with pytest.raises(MetabenchError, match=words):
            plan(load_suite(suite))


HALF = """
    from metabench.autodiff.optimisers import SGD, NamedOptimiser
    from metabench.core import tree

    class Half(SGD):
        def update(self, gradient, params, state, meta):
            return super().update(tree.tree_map(lambda leaf: leaf / 2, gradient), params, state, meta)

    HALF = NamedOptimiser("half", "half a step", lambda rate, decay: Half(rate, decay))
"""


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have loaded no plugin before the test, nor by it after."""
    monkeypatch.setattr(registry, "_LOADED", [])


@pytest.mark.usefixtures("no_plugins")
def test_a_plugins_inner_optimiser_is_a_choice_of_every_problem(tmp_path: Path) -> None:
    experiment = {"problem": "toy_1d", "methods": ["t1t2"], "outer_steps": 2, "options": {"optimiser": "half"}}
    suite = {
        "name": "x",
        "seeds": [0],
        "kernels": KERNELS,
        "measure": {"time_repeats": 3},
        "experiments": {"a": experiment},
    }
    with pytest.raises(MetabenchError, match="unknown value of option 'optimiser' of problem 'toy_1d' 'half'"):
        plan(load_suite(suite))
    path = written(tmp_path, HALF, "optimisers.py")
    (cell,) = plan(load_suite(suite | {"plugins": [str(path)]})).cells
    (row,) = run_cell(cell, lambda *progress: None)
    assert (row["status"], row["target_error"]) == ("ok", pytest.approx(0, abs=1e-12))
    plain = dataclasses.replace(cell, problem_options=cell.problem_options | {"optimiser": "sgd"})
    assert next(run_cell(plain, lambda *progress: None))["quality"] != row["quality"]
    before = code_hash(cell), code_hash(plain)
    _hash.cache_clear()
    path.write_text(path.read_text() + "# edited")
    assert (code_hash(cell) != before[0], code_hash(plain) != before[1]) == (True, False)
    assert list(optimiser_cards([path]))[-1] == "half"


@pytest.mark.usefixtures("no_plugins")
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"half"', '"adam"', "declares the inner optimiser 'adam', a name that"),
        ("Half(rate, decay)", "None", "inner optimiser 'half': it makes a NoneType, which lacks init()"),
    ],
)
def test_an_inner_optimiser_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    path = written(tmp_path, HALF.replace(old, new))
    with pytest.raises(MetabenchError) as refused:
        INNER_OPTIMISERS([path])
    assert words in str(refused.value)
    assert str(path) in str(refused.value)
    # Who catches the error goes on, without it.
    assert "adam" in INNER_OPTIMISERS
    assert "half" not in INNER_OPTIMISERS
