"""Options are validated once, at the edge: an error names the key, the value, what was expected and the nearest valid choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.core.method import NoOptions
from metabench.core.options import build, changed, describe, option, options_text
from metabench.methods import methods
from metabench.problems import problems


@dataclass(frozen=True)
class Options:
    copies: int = option(2, minimum=2, maximum=8, help="perturbed copies")
    sigma: float = option(0.1, above=0, help="size of the perturbation")
    noise: str = option("sign", choices=("sign", "gaussian"), help="kind of noise")
    detach: bool = option(True, help="whether to stop the gradient")
    rank: int | None = option(None, minimum=1, help="rank, or full")
    shift: float = option(-4.0, help="any number")


def made(**values: Any) -> Options:
    return build(Options, values, "method 'x'")


def test_nothing_given_is_the_defaults() -> None:
    assert made() == Options()
    assert build(NoOptions, {}, "method 'none'") == NoOptions()


def test_values_take_the_declared_type() -> None:
    found = made(copies=3, sigma=1, noise="gaussian", detach=False, rank=4)
    assert found == Options(3, 1.0, "gaussian", False, 4)
    assert isinstance(found.sigma, float)
    assert made(rank=None).rank is None


@pytest.mark.parametrize(("written", "number"), [("1e-3", 1e-3), ("1E-3", 1e-3), ("0.5", 0.5), (2, 2.0), ("3", 3.0)])
def test_numbers_that_yaml_leaves_as_text_are_numbers(written: Any, number: float) -> None:
    assert made(sigma=written).sigma == number


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("copies", 1, "must be at least 2, got 1"),
        ("copies", 9, "must be at most 8, got 9"),
        ("copies", 2.0, "expected int, got 2.0"),
        ("copies", "2", "expected int, got '2'"),
        ("copies", True, "expected int, got True"),
        ("copies", None, "expected int, got None"),
        ("sigma", 0, "must be above 0, got 0"),
        ("sigma", -0.1, "must be above 0"),
        ("sigma", True, "expected float, got True"),
        ("sigma", "small", "expected a number, got 'small'"),
        ("sigma", [0.1], "expected a number, got [0.1]"),
        ("sigma", None, "expected a number, got None"),
        ("sigma", "nan", "expected a finite number, got nan"),
        ("shift", float("inf"), "expected a finite number, got inf"),
        ("detach", 1, "expected bool, got 1"),
        ("detach", "true", "expected bool, got 'true'"),
        ("noise", 3, "expected str, got 3"),
        ("noise", "gausian", "did you mean 'gaussian'?"),
        ("rank", 0, "must be at least 1, got 0"),
        ("rank", "full", "expected int, got 'full'"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: Any, complaint: str) -> None:
    with pytest.raises(MetabenchError) as caught:
        made(**{name: value})
    assert complaint in str(caught.value)
    assert f"option '{name}' of method 'x'" in str(caught.value)


@pytest.mark.parametrize(("given", "near"), [("copis", "copies"), ("sgima", "sigma"), ("detached", "detach")])
def test_an_unknown_option_is_answered_with_the_nearest(given: str, near: str) -> None:
    with pytest.raises(MetabenchError, match=f"unknown option of method 'x' '{given}': did you mean '{near}'"):
        made(**{given: 1})


def test_an_option_unlike_any_other_is_answered_with_all() -> None:
    with pytest.raises(MetabenchError, match="known: copies, detach, noise, rank, shift, sigma"):
        made(zzz=1)
    with pytest.raises(MetabenchError, match="known: none"):
        build(NoOptions, {"zzz": 1}, "method 'none'")


def test_changed_lists_what_differs_from_the_defaults_in_the_order_of_declaration() -> None:
    assert changed(Options()) == {}
    assert changed(made(sigma=0.1, copies=2)) == {}
    assert list(changed(made(detach=False, sigma=0.2, copies=3)).items()) == [
        ("copies", 3),
        ("sigma", 0.2),
        ("detach", False),
    ]


def test_an_option_that_could_be_taken_for_several_is_quoted() -> None:
    @dataclass(frozen=True)
    class Named:
        name: str = option("default", help="any text")
        rate: float = option(0.5, above=0, help="a number")

    assert options_text(Named()) == ""
    assert options_text(Named("flip", 0.25)) == "name=flip, rate=0.25"
    assert options_text(Named("a, copies=3")) == 'name="a, copies=3"'


def test_describe_tells_name_type_default_bounds_and_meaning() -> None:
    rows = describe(Options)
    assert [row["name"] for row in rows] == ["copies", "sigma", "noise", "detach", "rank", "shift"]
    assert rows[0] == {
        "name": "copies",
        "type": "int",
        "default": 2,
        "help": "perturbed copies",
        "minimum": 2,
        "maximum": 8,
    }
    assert rows[1]["above"] == 0
    assert rows[2]["choices"] == ("sign", "gaussian")
    assert rows[4]["type"] == "int | None"
    assert describe(NoOptions) == []


def test_the_defaults_of_every_method_and_problem_keep_their_own_bounds() -> None:
    declared = {f"method '{name}'": one.options for name, one in methods().items()}
    declared |= {f"problem '{name}'": one.card.options for name, one in problems().items()}
    for where, options in declared.items():
        rows = describe(options)
        assert all(row["help"] for row in rows), where
        assert build(options, {row["name"]: row["default"] for row in rows}, where) == options()
