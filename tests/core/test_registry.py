"""Methods and problems are found, not listed: in the package, and in plugins."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from bilevel import call, checkpoint, make_problem

from metabench.core import registry
from metabench.core.errors import MetabenchError
from metabench.core.method import Target
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.methods import METHODS, method, methods
from metabench.problems import problem, problems

PLUGIN = """
    from dataclasses import dataclass

    import torch

    from metabench.core import Cost, Hypergradient, Target, method, option, tree
    from metabench.methods.t1t2 import t1t2


    @dataclass(frozen=True)
    class Options:
        factor: float = option(2.0, above=0, help="by which t1t2 is multiplied")


    @method(title="twice t1t2", target=Target.ONE_STEP, exact=False, cost=Cost(), citation="@misc{twice}", options=Options)
    def twice(problem, state, meta, window, options, generator):
        found = t1t2(problem, state, meta, window, None, generator)
        return Hypergradient(tree.scale(options.factor, found.meta), found.state, found.outer_loss)
"""


def written(folder: Path, text: str, name: str = "plugin.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_the_methods_of_the_package_are_all_found_in_the_order_of_tables() -> None:
    orders = [found.order for found in methods().values()]
    assert orders == sorted(set(orders))
    assert next(iter(methods())) == "none"
    folder = Path(__file__).parents[2] / "metabench" / "methods"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == {found.module.rpartition(".")[2] for found in methods().values()}


def test_a_method_that_is_exported_under_two_names_is_one_method(tmp_path: Path) -> None:
    path = written(tmp_path, PLUGIN + "\n    again = twice\n", "two_names.py")
    assert list(methods([path])) == [*methods(), "twice"]


def test_the_problems_of_the_package_are_all_found_by_their_files() -> None:
    folder = Path(__file__).parents[2] / "metabench" / "problems"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(problems())
    assert all(kind.card.sizes and kind.card.datasets and kind.card.metrics for kind in problems().values())


@pytest.mark.parametrize(("given", "near"), [("unroled", "unrolled"), ("t1t1", "t1t2"), ("ift-cg", "ift_cg")])
def test_an_unknown_method_is_answered_with_the_nearest(given: str, near: str) -> None:
    with pytest.raises(MetabenchError, match=f"unknown method '{given}': did you mean '{near}'"):
        method(given)


def test_an_unknown_problem_is_answered_with_the_nearest() -> None:
    with pytest.raises(MetabenchError, match="unknown problem 'label_nose': did you mean 'label_noise'"):
        problem("label_nose")


def test_a_plugin_adds_its_method_after_the_packages_and_may_build_on_them(tmp_path: Path) -> None:
    path = written(tmp_path, PLUGIN)
    found = methods([path])
    assert list(found) == [*methods(), "twice"]
    twice = method("twice", [path])
    assert (twice.target, twice.exact, twice.stochastic) == (Target.ONE_STEP, False, False)
    on = make_problem("toy_1d")
    at = checkpoint(on)
    answer = twice(on, *at, build(twice.options, {"factor": 3}, "method 'twice'"), generator(0, "test"))
    assert float(answer.meta["l"]) == pytest.approx(3 * float(call("t1t2", on, *at).meta["l"]), rel=1e-14)


def test_a_plugin_is_imported_once(tmp_path: Path) -> None:
    path = written(tmp_path, PLUGIN, "once.py")
    assert methods([path])["twice"] is methods([path])["twice"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("raise RuntimeError('out of luck')", "cannot be imported: RuntimeError: out of luck"),
        ("import no_such_module_at_all", "cannot be imported: ModuleNotFoundError"),
        ("import sys; sys.exit('bye')", "cannot be imported: SystemExit: bye"),
        ("def broken(:", "cannot be imported: SyntaxError"),
        ("x = 1", "declares nothing: decorate a function"),
        ("from metabench.methods.t1t2 import t1t2", "declares nothing: decorate a function"),
        (
            PLUGIN.replace("def twice", "def unrolled"),
            "declares the method 'unrolled', a name that",
        ),
        (PLUGIN.replace("exact=False", "exact='no'"), "method 'twice': exact is 'no', expected bool"),
        (PLUGIN.replace("cost=Cost()", "cost=None"), "method 'twice': cost is None, expected Cost"),
        (
            PLUGIN.replace("@dataclass(frozen=True)", "@dataclass"),
            "options is Options, expected a dataclass with frozen=True",
        ),
        (PLUGIN.replace("option(2.0,", "option(-2.0,"), "option 'factor' of method 'twice': must be above 0, got -2.0"),
        (
            PLUGIN.replace('= option(2.0, above=0, help="by which t1t2 is multiplied")', ""),
            "option 'factor' of method 'twice' has no default",
        ),
        (PLUGIN.replace("factor: float", "factor: 'Number'"), "its options cannot be read: NameError"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, text: str, complaint: str) -> None:
    path = written(tmp_path, text, "unusable.py")
    with pytest.raises(MetabenchError) as caught:
        methods([path])
    assert complaint in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_plugin_that_is_not_there_or_not_python_is_named(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match=r"missing\.py': no such file"):
        methods([tmp_path / "missing.py"])
    with pytest.raises(MetabenchError, match=r"notes\.txt': not a Python file"):
        methods([written(tmp_path, "x", "notes.txt")])


def test_two_plugins_may_not_take_one_name(tmp_path: Path) -> None:
    paths = [written(tmp_path, PLUGIN, name) for name in ("left.py", "right.py")]
    with pytest.raises(
        MetabenchError, match=r"right\.py' declares the method 'twice', a name that '.*left\.py' has declared"
    ):
        methods(paths)


def test_of_two_plugins_of_one_name_that_a_process_has_loaded_the_last_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_LOADED", [])
    for title in ("first", "second"):
        methods([written(tmp_path, PLUGIN.replace("twice t1t2", title), f"{title}.py")])
    assert METHODS.loaded()["twice"].title == "second"
