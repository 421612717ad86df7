"""Methods of packages installed beside metabench: found by their entry points, and never in the way of the others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bilevel import call, checkpoint, make_problem

from metabench.core.errors import MetabenchError
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.core.registry import _offered, installed
from metabench.methods import method, methods
from metabench.problems import problem
from metabench.suite.plan.catalogue import method_cards
from metabench.suite.plan.code_hash import _hash, method_hash
from metabench.suite.plan.plan import load_suite, plan

ROOT = Path(__file__).parents[2]

TWICE = """
    from metabench.core import Cost, Hypergradient, Target, method, tree
    from metabench.methods.t1t2 import t1t2

    @method(title="twice t1t2", target=Target.ONE_STEP, exact=False, cost=Cost(), citation="@misc{twice,}")
    def twice(problem, state, meta, window, options, generator):
        found = t1t2(problem, state, meta, window, t1t2.options(), generator)
        return Hypergradient(tree.scale(2.0, found.meta), found.state, found.outer_loss)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Install a package as pip does: modules by name, and entry points. It is gone after the test."""
    before = set(sys.modules)

    def forget() -> None:
        installed.cache_clear()
        _offered.cache_clear()

    def do(
        entry_points: dict[str, str], modules: dict[str, str], name: str = "friend", group: str = "metabench.methods"
    ) -> Path:
        for module, text in modules.items():
            path = tmp_path / module
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        metadata = tmp_path / f"{name}-1.2.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = [f"{point} = {value}" for point, value in entry_points.items()]
        (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
        monkeypatch.syspath_prepend(tmp_path)
        forget()
        return tmp_path

    yield do
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]
    forget()


@pytest.mark.parametrize("value", ["friend_methods", "friend_methods:twice"])
def test_an_entry_point_is_a_module_or_a_method(install: Callable[..., Path], value: str) -> None:
    install({"twice": value}, {"friend_methods.py": TWICE})
    assert list(methods())[-1] == "twice"
    twice = method("twice")
    assert twice.module == "friend_methods"
    on = make_problem("toy_1d")
    at = checkpoint(on)
    answer = twice(on, *at, build(twice.options, {}, "method 'twice'"), generator(0, "test"))
    assert float(answer.meta["l"]) == pytest.approx(2 * float(call("t1t2", on, *at).meta["l"]), rel=1e-14)


def test_its_method_is_listed_planned_and_hashed_by_its_source(
    install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = install({"twice": "friend_methods"}, {"friend_methods.py": TWICE})
    assert method_cards()["twice"]["citation_key"] == "twice"
    grid = {"name": "x", "experiments": {"a": {"problem": "toy_1d", "methods": ["twice"]}}}
    assert [cell.method for cell in plan(load_suite(grid)).cells] == ["twice"]
    first = method_hash("twice")
    source = folder / "friend_methods.py"
    source.write_text(source.read_text().replace("2.0", "3.0"))
    _hash.cache_clear()
    assert method_hash("twice") != first
    _hash.cache_clear()
    assert capsys.readouterr().err == ""


def test_a_package_may_gather_methods_of_its_own_modules(install: Callable[..., Path]) -> None:
    modules = {
        "friend/__init__.py": "from friend._twice import twice\nfrom metabench.methods.t1t2 import t1t2\nalias = twice\n",
        "friend/_twice.py": TWICE,
    }
    install({"all": "friend", "twice": "friend._twice:twice"}, modules)
    assert method("twice").module == "friend._twice"
    assert method("t1t2").module == "metabench.methods.t1t2"


def test_a_module_that_a_method_imports_from_its_own_package_counts_in_its_hash(install: Callable[..., Path]) -> None:
    modules = {
        "friend/__init__.py": "",
        "friend/methods.py": TWICE + "    from .solvers import solve\n",
        "friend/solvers.py": "from friend import tools\nsolve = tools.one\n",
        "friend/tools.py": "one = 1\n",
        "friend/unrelated.py": "one = 1\n",
    }
    folder = install({"twice": "friend.methods"}, modules) / "friend"

    def edited(name: str) -> bool:
        before = method_hash("twice")
        (folder / name).write_text((folder / name).read_text() + "# edited\n")
        _hash.cache_clear()
        return method_hash("twice") != before

    assert [edited(name) for name in ("methods.py", "solvers.py", "tools.py", "unrelated.py")] == [
        True,
        True,
        True,
        False,
    ]


BROKEN = {
    "cannot be imported: RuntimeError: out of luck": {"friend_methods.py": "raise RuntimeError('out of luck')"},
    "cannot be imported: SystemExit: 3": {"friend_methods.py": "raise SystemExit(3)"},
    "cannot be imported: ModuleNotFoundError: No module named 'friend_methods'": {},
    "cannot be imported: SyntaxError": {"friend_methods.py": "def broken(:"},
    "declares no method": {"friend_methods.py": "from metabench.methods.t1t2 import t1t2"},
    "declares the method 'unrolled', a name that": {"friend_methods.py": TWICE.replace("def twice", "def unrolled")},
    "method 'twice': target is 'one_step', expected Target": {
        "friend_methods.py": TWICE.replace("Target.ONE_STEP", "'one_step'")
    },
    "method 'twice': options is dict, expected a dataclass": {
        "friend_methods.py": TWICE.replace('"@misc{twice,}"', '"@misc{twice,}", options=dict')
    },
}


@pytest.mark.parametrize("reason", list(BROKEN))
def test_one_that_cannot_be_used_is_left_out_and_told_once(
    install: Callable[..., Path], capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    before = list(methods())
    install({"twice": "friend_methods"}, BROKEN[reason])
    assert list(methods()) == list(methods()) == before
    assert (
        len(plan(load_suite({"name": "x", "experiments": {"a": {"problem": "toy_1d", "methods": ["none"]}}})).cells)
        == 1
    )
    said = capsys.readouterr().err
    assert said.count("warning: a method is left out: entry point 'twice = friend_methods' of friend 1.2") == 1
    assert reason in said
    with pytest.raises(MetabenchError, match=r"method 'twice' was left out: entry point .* of friend 1\.2") as caught:
        method("twice")
    assert reason in str(caught.value)
    grid = {"name": "x", "experiments": {"a": {"problem": "toy_1d", "methods": ["none", "twice"]}}}
    with pytest.raises(MetabenchError, match=r"was left out: entry point .* of friend 1\.2"):
        plan(load_suite(grid))


def test_what_is_no_module_and_no_method_is_left_out(
    install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    install({"plain": "friend_methods:plain"}, {"friend_methods.py": "def plain(): ..."})
    assert "plain" not in methods()
    assert (
        "is a function, not a module or a method: decorate a function with metabench.core.method"
        in capsys.readouterr().err
    )


def test_of_two_packages_that_take_one_name_the_first_by_their_modules_has_it(
    install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    install({"twice": "friend_methods"}, {"friend_methods.py": TWICE})
    install({"twice": "rival_methods"}, {"rival_methods.py": TWICE}, name="rival")
    assert method("twice").module == "friend_methods"
    assert re.search(
        r"of rival 1\.2 declares the method 'twice', a name that '.*friend_methods\.py' has declared",
        capsys.readouterr().err,
    )


def test_a_file_that_takes_the_name_of_an_installed_method_is_refused(
    install: Callable[..., Path], tmp_path: Path
) -> None:
    install({"twice": "friend_methods"}, {"friend_methods.py": TWICE})
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(TWICE))
    with pytest.raises(
        MetabenchError, match=r"mine\.py' declares the method 'twice', a name that '.*friend_methods\.py' has declared"
    ):
        methods([path])


def test_the_command_line_lists_the_good_and_tells_of_the_broken_on_standard_error(
    install: Callable[..., Path],
) -> None:
    folder = install(
        {"twice": "friend_methods", "other": "nowhere"},
        {"friend_methods.py": TWICE},
    )
    path = os.pathsep.join([str(ROOT), str(folder)])
    command = [sys.executable, "-m", "metabench", "list", "methods", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[-1]["name"] == "twice"
    assert done.stderr.splitlines() == [
        "warning: a method is left out: entry point 'other = nowhere' of friend 1.2 cannot be imported: "
        "ModuleNotFoundError: No module named 'nowhere'"
    ]


def test_a_package_offers_problems_and_data_sets_alike(
    install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
        import dataclasses
        from metabench.data import Dataset, DatasetCard
        from metabench.problems.toy_1d import Toy1D

        class Theirs(Toy1D):
            card = dataclasses.replace(Toy1D.card, datasets=("pairs",))

        class Nameless(Toy1D):
            card = None

        PAIRS = Dataset(DatasetCard(name="pairs", title="Pairs", task="none"), lambda read: None)
    """
    install({"theirs": "friends:Theirs"}, {"friends.py": text}, group="metabench.problems")
    install({"pairs": "friends"}, {}, name="pairs", group="metabench.datasets")
    install({"nameless": "friends:Nameless"}, {}, name="nameless", group="metabench.problems")
    grid = {"name": "x", "experiments": {"a": {"problem": "friends", "methods": ["none"]}}}
    assert [(cell.problem, cell.dataset) for cell in plan(load_suite(grid)).cells] == [("friends", "pairs")]
    said = "entry point 'nameless = friends:Nameless' of nameless 1.2 problem 'friends': Nameless.card is missing"
    assert f"warning: a problem is left out: {said}" in capsys.readouterr().err
    with pytest.raises(MetabenchError, match="problem 'nameless' was left out: entry point"):
        problem("nameless")
