"""`metabench kernel rank` ranks networks without training, compares with training where that is wanted, and names what cannot be."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.test_cli import Done, in_its_own_process, metabench

SMALL = ("--tasks", "2", "--shots", "2", "--queries", "2", "--inner-steps", "2", "--outer-steps", "1")


def rank(*arguments: str) -> Done:
    return metabench("kernel", "rank", *SMALL, *arguments)


def chosen(option: str, *values: str) -> tuple[str, ...]:
    return tuple(word for value in values for word in (f"--{option}", value))


def test_networks_are_ranked_by_condition_number() -> None:
    of = (*chosen("depth", "1", "2"), *chosen("width", "8", "16"), *chosen("activation", "relu", "erf"))
    done = rank("--data", "sinusoids", "--seeds", "1", "--draws", "1", *of)
    assert done.code == 0, done.err
    assert (
        "condition at initialisation" in done.out
        and "training loss" not in done.out
        and "rank: score relu 1 x 8" in done.err
    )
    found = json.loads(rank("--data", "sinusoids", "--seeds", "1", "--draws", "1", "--json", *of).out)
    rows = found["architectures"]
    assert len(rows) == 8 and [row["rank"] for row in rows] == list(range(1, 9)) and found["correlations"] == []
    conditions = [row["condition"] for row in rows]
    assert conditions == sorted(conditions) and all(str(f"{value:.4g}") in done.out for value in conditions)


def test_ranks_are_compared_with_meta_training_on_digits() -> None:
    of = (*chosen("depth", "1"), *chosen("width", "8", "16", "infinite"), *chosen("activation", "relu"))
    done = rank("--accuracy", "--seeds", "1", "--draws", "1", *of)
    assert done.code == 0, done.err
    for words in ("test loss", "training loss", "Spearman", "infinite", "not defined: all scores agree", "random"):
        assert words in done.out


def test_losses_are_drawn_against_condition_numbers(tmp_path: Path) -> None:
    of = (*chosen("depth", "1", "2"), *chosen("width", "8", "infinite"), *chosen("activation", "relu", "erf"))
    done = rank("--data", "sinusoids", "--accuracy", "--seeds", "2", "--draws", "0", *of, "--figure", str(tmp_path / "rank"))
    assert done.code == 0, done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank.csv", "rank.pdf", "rank.png"]
    assert f"{tmp_path / 'rank.png'}" in done.err
    with (tmp_path / "rank.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and {row["label"] for row in rows} == {"relu", "erf"} and {row["n"] for row in rows} == {"2"}
    assert [row["panel"].split(":")[0] for row in rows] == ["training loss"] * 8 + ["test loss"] * 8
    refused = rank("--figure", str(tmp_path / "rank"))
    assert refused.code == 2 and "add --accuracy" in refused.err


def test_convolutions_are_ranked_beside_mlps() -> None:
    of = (*chosen("depth", "1"), *chosen("width", "infinite"), *chosen("activation", "relu"))
    done = rank("--seeds", "1", *of, *chosen("readout", "flatten", "gap"))
    assert done.code == 0, done.err
    assert all(words in done.out for words in ("convolutions, flatten", "convolutions, gap", "MLP"))


def test_an_infinite_condition_number_is_last_with_its_reason() -> None:
    of = (*chosen("depth", "1"), *chosen("width", "8"), *chosen("activation", "identity", "relu"))
    given = ("--data", "sinusoids", "--seeds", "1", "--draws", "0", *of)
    done = rank(*given)
    assert "identity 1 x 8: condition: singular: the least eigenvalue is zero" in done.out
    rows = json.loads(rank("--json", *given).out)["architectures"]
    assert [row["activation"] for row in rows] == ["relu", "identity"]
    assert rows[1]["condition"] is None and rows[1]["reasons"] and not rows[0]["reasons"]


def test_the_inner_run_is_an_option() -> None:
    of = ("--data", "sinusoids", "--seeds", "1", "--draws", "1", "--json", *chosen("depth", "1"), *chosen("width", "8"))
    of = (*of, *chosen("activation", "relu"))
    found = [
        json.loads(rank(*of, *more).out)["architectures"][0]["scores"]
        for more in ((), ("--ridge", "1"), ("--tau", "1"), ("--head",))
    ]
    for name in ("condition", "condition at initialisation"):
        assert len({scores[name][0] for scores in found}) == 4


MISTAKES = [
    (("--activation", "swish"), "unknown activation with a kernel 'swish'"),
    (("--data", "digist"), "unknown data set with tasks of few_shot_regression 'digist': did you mean 'digits'?"),
    (("--shots", "400"), "a task has two classes with 402 images each, and of 10 classes one has"),
    (("--width", "wide"), "width 'wide': expected a whole number, or 'infinite'"),
    (("--readout", "sum"), "readout 'sum': expected"),
    (("--data", "sinusoids", "--readout", "gap", "--depth", "1"), "are not square images"),
    (("--width", "0"), "hidden layers of width 0"),
    (("--ridge", "0"), "a ridge of 0: expected a number above 0"),
    (("--ridge", "1", "--tau", "1"), "name one of them"),
    (("--tau", "-1"), "an inner run for a time of -1"),
    (("--accuracy", "--method", "unroled"), "unknown method 'unroled': did you mean 'unrolled'?"),
    (
        ("--accuracy", "--depth", "1", "--width", "8", "--activation", "relu"),
        "over 1 trained architectures: expected 3 or more",
    ),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_ranking_that_cannot_be_is_one_message(arguments: tuple[str, ...], words: str) -> None:
    done = rank(*arguments)
    assert done.code == 2 and words in done.err and "Traceback" not in done.err and done.out == ""


def test_its_help_names_the_options_and_loads_no_torch() -> None:
    done = in_its_own_process("kernel", "rank", "--help", python=("-X", "importtime"))
    assert done.code == 0 and "--accuracy" in done.out
    assert not any(line.endswith("| torch") for line in done.err.splitlines())
