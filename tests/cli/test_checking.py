"""`metabench check` says whether a problem is well posed, which methods answer, what each costs and how far it errs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_cli import Done, metabench

SINES = Path(__file__).parents[1] / "plugins" / "sines.py"


def check(*arguments: str | Path) -> Done:
    return metabench("check", *arguments)


def test_a_problem_of_a_plugin_is_checked_and_methods_run_on_it() -> None:
    methods = ("unrolled", "t1t2", "reptile")
    chosen = [word for name in methods for word in ("--method", name)]
    done = check("--plugin", SINES, "--json", "--set", "learning_rate=0.1", *chosen)
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)
    assert (found["problem"], found["well_posed"], found["fault"]) == ("sines", True, "")
    rows = {row["method"]: row for row in found["methods"]}
    assert list(rows) == list(methods)
    assert rows["unrolled"]["relative_error"] < 1e-9 < rows["t1t2"]["relative_error"]
    for name in ("unrolled", "t1t2"):
        assert rows[name]["status"] == "ok" and rows[name]["time_s"] > 0
        assert rows[name]["predicted_bytes"] == pytest.approx(rows[name]["peak_bytes"], rel=0.05)
    assert rows["reptile"]["status"] == "unsupported" and "initial parameters" in rows["reptile"]["message"]
    assert rows["unrolled"]["peak_bytes"] > rows["t1t2"]["peak_bytes"]


def test_a_problem_that_is_not_well_posed_is_named_and_the_command_fails(tmp_path: Path) -> None:
    spoilt = tmp_path / "sines.py"
    spoilt.write_text(SINES.read_text().replace('meta[name].exp()', 'meta[name].detach().exp()'))
    done = check("--plugin", spoilt)
    assert done.code == 1
    assert "sines (analytic, mlp8, K = 5) is not well posed: " in done.out
    assert "the inner loss does not depend on any meta-parameter" in done.out


SPOILT = {
    "a loss of infinity": (".square().mean()\n", ".square().mean() / 0.0\n", "the inner loss is inf at the start"),
    "shapes that do not fit": ("hidden @ params[\"out\"]", "hidden @ params[\"out\"].T", "mat1 and mat2 shapes cannot be multiplied"),
    "an error when it is made": ("super().__init__(setting)\n", "super().__init__(setting)\n        {}[1]\n", "KeyError: 1 (spoilt.py:"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_problem_that_fails_in_its_own_code_is_told_in_one_sentence(tmp_path: Path, name: str) -> None:
    right, wrong, words = SPOILT[name]
    spoilt = tmp_path / "spoilt.py"
    spoilt.write_text(SINES.read_text().replace(right, wrong))
    done = check("--plugin", spoilt)
    assert done.code == 1 and "spoilt (analytic, mlp8, K = 5) is not well posed: " in done.out
    assert words in done.out and "Traceback" not in done.err


def test_certificates_that_cannot_be_read_are_no_fault_of_the_problem(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "certificates.parquet").write_bytes(b"PAR1")
    done = metabench("check", "--plugin", SINES, cwd=tmp_path)
    assert done.code == 2 and "certificates.parquet' cannot be read" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plugin", "nowhere.py"], "nowhere.py': no such file"),
        ([], "no plugin declares a problem"),
        (["--problem", "toy1d"], "unknown problem 'toy1d': did you mean 'toy_1d'?"),
        (["--problem", "toy_1d", "--size", "large"], "unknown size of problem 'toy_1d' 'large'"),
        (["--problem", "toy_1d", "--method", "unroled"], "unknown method 'unroled': did you mean 'unrolled'?"),
        (["--problem", "toy_1d", "--set", "lr=1"], "unknown option of problem 'toy_1d' 'lr'"),
        (["--problem", "toy_1d", "--set", "lr"], "expected 'key=value'"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], words: str) -> None:
    done = check(*arguments)
    assert done.code == 2 and words in done.err and "Traceback" not in done.err
