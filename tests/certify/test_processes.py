"""Certificates of many methods: one that crashes, hangs or raises costs the others nothing, and the exit code tells."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from waiting import running, wait_until

from metabench.certify.processes import certify_all
from metabench.cli import main
from metabench.core import MetabenchError
from metabench.results.certificate import FAILED, certificates, read_certificates, write_certificates

HEADER = """
import os, signal, time
from metabench.core import Cost, Hypergradient, Target, method, tree
from metabench.autodiff.gradients import outer_value
from metabench.autodiff.inner import begin, detached, step
"""


def plugin(folder: Path, name: str, body: str, target: str = "NONE") -> Path:
    """Write a method whose function does `body`, then returns zeros after plain training."""
    text = f"""
    @method(title="{name}", target=Target.{target}, exact=True, cost=Cost(), citation="")
    def {name}(problem, state, meta, window, options, generator):
        {body}
        state, loss = detached(begin(problem, state, meta)), 0.0
        for inner, outer in zip(window.inner, window.outer):
            state = step(problem, state, meta, inner)
            loss += 0.0 if outer is None else outer_value(problem, state.params, meta, outer)
        return Hypergradient(tree.zeros_like(meta), state, loss)
    """
    path = folder / f"{name}.py"
    path.write_text(HEADER + textwrap.dedent(text))
    return path


@pytest.mark.usefixtures("few_cases")  # so that the right one is done long before the time is up
def test_a_method_that_crashes_or_hangs_has_a_row_and_the_others_their_certificates(tmp_path: Path) -> None:
    crash = plugin(tmp_path, "crash", "os.kill(os.getpid(), signal.SIGSEGV)")
    hang = plugin(tmp_path, "hang", "time.sleep(600)")
    leave = plugin(tmp_path, "leave", "os._exit(7)")
    rows = certify_all(["crash", "hang", "leave", "none"], [crash, hang, leave], jobs=2, seconds=8)
    found = certificates(rows)
    assert list(found) == ["crash", "hang", "leave", "none"]
    assert "ended its process: SIGSEGV (Segmentation fault)" in found["crash"].failures[0]
    assert "took more than 8 s" in found["hang"].failures[0]
    assert "exit status 7" in found["leave"].failures[0]
    assert found["none"].verdict == "certified"
    assert len({one.method_hash for one in found.values()}) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends with its next message")
def test_a_method_ends_with_whoever_certifies_it(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    hang = plugin(tmp_path, "hang", f"open({str(noted)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    certifying = os.fork()
    if certifying == 0:
        certify_all(["hang"], [hang])
        os._exit(0)
    try:
        wait_until(lambda: noted.exists() and noted.read_text() != "")
    finally:
        os.kill(certifying, signal.SIGKILL)
        os.waitpid(certifying, 0)
    wait_until(lambda: not running(int(noted.read_text())))


@pytest.mark.usefixtures("few_cases")  # the processes are forked: they inherit them
def test_a_method_that_is_right_a_wrong_one_and_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = plugin(tmp_path, "nothing", "pass")
    wrong = plugin(tmp_path, "flat", "pass", target="UNROLLED")
    out = tmp_path / "certificates.parquet"

    def certify(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["certify", "--out", str(out), *arguments])
        return int(ended.value.code or 0)

    assert certify("--plugin", str(right)) == 0
    assert set(certificates(read_certificates(out))) == {"nothing"}
    assert certify("--plugin", str(wrong)) == 1
    said = capsys.readouterr().out
    assert "flat FAILED" in said
    assert "it is zero" in said
    assert certify("--plugin", str(wrong), "--report-only") == 0
    assert certificates(read_certificates(out))["flat"].verdict == FAILED
    assert certify("--method", "mixfow") == 2
    assert "did you mean 'mixflow'?" in capsys.readouterr().err


def test_an_unknown_method_or_plugin_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match="unknown method 'unroled': did you mean 'unrolled'"):
        certify_all(["unroled"])
    with pytest.raises(MetabenchError, match="no such file"):
        certify_all(["none"], [tmp_path / "missing.py"])


@pytest.mark.usefixtures("few_cases")
def test_certificates_are_the_same_at_every_run_but_for_their_times(tmp_path: Path) -> None:
    first, second = (certify_all(["evograd", "none"], jobs=jobs) for jobs in (1, 2))
    for row in (*first, *second):
        row.pop("seconds")
    assert first == second
    write_certificates(tmp_path / "c.parquet", first)
    back = read_certificates(tmp_path / "c.parquet")
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in back] == first
