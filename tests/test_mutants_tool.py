"""`benchmarks/mutants.py`: operators make the mistakes that they are meant to make, and a mistake in a method is told from none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The benchmark imports its parts from its own folder.
sys.path.append(str(ROOT / "benchmarks"))

from mutation.kinds import returns_of  # noqa: E402
from mutation.mutants import Mutant, mutants_of  # noqa: E402
from mutation.report import markdown  # noqa: E402
from mutation.sample import drawn, sample  # noqa: E402
from mutation.scope import Equivalent, excluded, read_equivalents, stale  # noqa: E402
from mutation.server import Baseline  # noqa: E402

METHODS = "metabench/methods"


def mutants(body: str, arguments: str = "") -> list[Mutant]:
    """Return the mutants of a function of one or more lines."""
    lines = "\n    ".join(body.splitlines())
    return mutants_of(f"def f({arguments}):\n    {lines}\n", "f.py", {"step": "InnerState", "detached": "InnerState"})


def mistakes(body: str, arguments: str = "") -> set[str]:
    """Return what the mutants of a function say in the place of the original."""
    return {mutant.mutated for mutant in mutants(body, arguments)}


def of_file(file: str) -> list[Mutant]:
    paths = [path for folder in ("core", "methods", "autodiff") for path in (ROOT / "metabench" / folder).rglob("*.py")]
    return mutants_of((ROOT / file).read_text(), file, returns_of(paths))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("return a + b", {"return a - b", "return a", "return b"}),
        ("return a / b", {"return a * b", "return a"}),
        ("return -a", {"return a"}),
        ("return a[:-1]", {"return a[:]", "return a[:-2]", "return a[:0]"}),
        ("return a[first:]", {"return a[:]", "return a[first - 1:]", "return a[first + 1:]"}),
        ("return outer[k]", {"return outer[k - 1]", "return outer[k + 1]"}),
        ("return 0.5 * a", {"return 1.0 * a", "return 0.25 * a", "return 0.5 / a", "return 0.5"}),
        ("return a < b", {"return a <= b"}),
        ("return x.detach()", {"return x"}),
        ("return tree.add(a, b)", {"return a", "return b", "return tree.subtract(a, b)"}),
        (
            "return tree.add_scaled(a, -r, b)",
            {
                "return a",
                "return tree.add(a, b)",
                "return tree.add_scaled(a, r, b)",
                "return tree.add_scaled(b, -r, a)",
            },
        ),
        ("total += a", {"pass", "total -= a", "total = a"}),
        ("total = total | a", {"pass", "total = total & a", "total = a"}),
        ("refuse(problem)", {"pass"}),
        ("return g(a, wide=b)", {"return g(a)"}),
    ],
)
def test_an_operator_makes_its_mistakes(right: str, wrong: set[str]) -> None:
    assert wrong <= mistakes(right)


def test_of_a_loop_only_its_header_is_changed() -> None:
    assert mistakes("for k in range(first, n):\n    pass") == {
        "for k in range(first, n - 1):",
        "for k in range(first, n + 1):",
        "for k in range(first + 1, n):",
    }


def test_a_check_of_lengths_is_left_alone() -> None:
    assert mistakes("return list(zip(a, b, strict=True))") == set()


def test_a_condition_is_negated_once() -> None:
    assert mistakes("if a:\n    pass\nelif b is None:\n    pass") == {"if not a:", "if b is not None:"}


def test_a_state_is_taken_for_another_that_is_there_already() -> None:
    body = "before = detached(state)\nafter = step(before)\nreturn loss(after.params)"
    assert {"return loss(before.params)", "return loss(state.params)"} <= mistakes(
        body, "state: InnerState, meta: Tree"
    )
    assert "return loss(meta.params)" not in mistakes(body, "state: InnerState, meta: Tree")
    assert "before = detached(after)" not in mistakes(body, "state: InnerState, meta: Tree")


def test_what_is_no_formula_stays_as_it_is() -> None:
    source = '''
"""Text of 2 + 2."""
import math
from dataclasses import dataclass
@method(title="a" + "b", steps=3)
def f(a: int = 3) -> list[int]:
    """More of it: 1 + 1."""
    assert a is not None
    if False:
        raise Unsupported(f"{a + 1} of " + str(a - 1))
    del a
@dataclass
class Options:
    steps: int = option(5, minimum=1)
'''
    assert {mutant.mutated for mutant in mutants_of(source, "f.py", {})} == {"if True:"}


def test_a_mutant_is_its_file_but_for_one_place() -> None:
    source = "def f(α):\n    return 'é', α + 1\n"
    sums = next(mutant for mutant in mutants_of(source, "f.py", {}) if mutant.operator == "operator")
    assert sums.applied(source) == "def f(α):\n    return 'é', (α - 1)\n"
    assert (sums.function, sums.line) == ("f", 2)


def test_every_mutant_of_a_file_is_a_program() -> None:
    file = "metabench/autodiff/unrolled/last_step.py"
    found = of_file(file)
    assert len({mutant.key for mutant in found}) == len(found) > 25
    for mutant in found:
        compile(mutant.applied((ROOT / file).read_text()), file, "exec")
    assert any("outer_gradient(problem, before.params" in mutant.mutated for mutant in found)


def test_equivalents_are_mutants_of_the_source_as_it_is() -> None:
    entries = read_equivalents(ROOT / "benchmarks/mutants_equivalent.yaml")
    known = [mutant for file in sorted({entry.file for entry in entries}) for mutant in of_file(file)]
    assert [entry.mutated for entry in stale(entries, known)] == []
    keys = {entry.key for entry in entries}
    assert len(keys) == len(entries)
    assert not any(excluded(mutant) for mutant in known if mutant.key[:-1] in keys)


def test_a_sample_stays_but_for_what_turns_out_equivalent() -> None:
    found = mutants("return a + b * c - d")
    first = drawn(found, 3, "seed")
    assert len({mutant.operator for mutant in first}) == 3
    assert drawn([mutant for mutant in found if mutant != first[1]], 3, "seed")[0] == first[0]
    one = Equivalent(first[1].file, first[1].function, first[1].original, first[1].mutated, "it is", ("t1t2",))
    baseline = Baseline(1.0, [], [], {"f.py": [2]})
    everything = {("t1t2", mutant) for mutant in found if mutant != first[1]}
    assert set(sample("t1t2", "f.py", baseline, {"f.py": found}, [one], 99, 0)) == everything
    assert len(sample("darts", "f.py", baseline, {"f.py": found}, [one], 99, 0)) == len(found)


def test_an_equivalent_that_is_gone_or_without_a_reason_is_named(tmp_path: Path) -> None:
    gone = Equivalent(f"{METHODS}/darts.py", "darts", "a = b + c", "a = b - c", "none of this is there")
    assert stale([gone], of_file(gone.file)) == [gone]
    file = tmp_path / "equivalents.yaml"
    file.write_text("[{file: a.py, function: f, original: a, mutated: b, reason: ''}]")
    with pytest.raises(ValueError, match="entry 0"):
        read_equivalents(file)


JUDGE = """
import functools, json, sys
from collections import Counter
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/benchmarks"]
from mutation.server import Task, import_what_is_heavy, judge, run_all
import_what_is_heavy()
file = "metabench/methods/reptile.py"
right = Path({root!r}, file).read_text()
line = "    del options, generator\\n"
assert line in right
planted = {{
    "right": right.replace(line, "    1 + 1\\n"),
    "wrong": right.replace("tree.subtract(", "tree.add(") ,
    "raises": right.replace(line, "    1 / 0\\n"),
    "no module": "1 / 0",
    "hangs": right.replace(line, "    while True: pass\\n"),
    "dies": right.replace(line, "    import os; os._exit(3)\\n"),
}}
tasks = [
    Task(name, functools.partial(judge, "reptile", Path({root!r}), file, source, Counter()), 1.5 if name == "hangs" else 20.0)
    for name, source in planted.items()
]
print(json.dumps({{name: found.outcome for name, found in run_all(tasks, 2)}}))
"""


def test_a_mistake_in_a_method_is_told_from_none() -> None:
    command = [sys.executable, "-c", JUDGE.format(root=str(ROOT))]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert json.loads(said.splitlines()[-1]) == {
        "right": "survived",
        "wrong": "value",
        "raises": "exception",
        "no module": "exception",
        "hangs": "time-out",
        "dies": "crash",
    }


def test_the_report_names_survivors_and_counts_the_others() -> None:
    row = {
        "method": "a", "file": "a.py", "function": "f", "line": 3, "last_line": 3, "operator": "sign", "original": "return x",
        "mutated": "return -x", "occurrence": 0, "outcome": "survived", "where": "", "message": "", "seconds": 1.0,
    }  # fmt: skip
    text = markdown(
        {
            "command": "c",
            "date": "d",
            "commit": "e",
            "seed": 0,
            "seconds": 1.0,
            "mutants": [row, {**row, "method": "b", "outcome": "value"}],
            "unreached": [("a.py", "g", 2)],
            "equivalents": [],
        }
    )
    assert "catch 1 of 2 mutants over 2 methods" in text
    assert "**50.0%** are caught; 1 survive" in text
    assert "a.py:3, `f`, sign; the certificate of b catches it" in text
    assert "  - return x\n  + return -x" in text
