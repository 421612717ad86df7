"""A row says where it was measured, and nothing that names a machine."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from pathlib import Path

import metabench
from metabench.measure.environment import environment, git_commit, lock_hash

KEYS = {
    "hardware",
    "load_at_start",
    "platform",
    "python_version",
    "torch_version",
    "metabench_version",
    "git_commit",
    "lock_hash",
}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_environment_has_every_key_and_no_name_of_the_machine() -> None:
    found = environment("cpu")
    assert found.keys() == KEYS
    assert all(isinstance(value, str | float) for value in found.values())
    assert platform.node() not in found.values()
    assert found["metabench_version"] == metabench.__version__
    assert found["python_version"] == platform.python_version()
    assert str(found["torch_version"])[0].isdigit()
    assert str(found["hardware"]).endswith(("core", "cores"))


def test_measuring_is_imported_and_described_without_torch() -> None:
    code = (
        "import sys; from metabench.measure import clock, device, environment, outcome; "
        "from metabench.measure.memory import meter, storages; "
        "environment.environment('cpu'); outcome.outcome(MemoryError()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_commit_is_marked_where_files_differ_from_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert git_commit.__wrapped__(tmp_path) == ""
    (tmp_path / "kept").write_text("one")
    git(tmp_path, "add", "kept")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    git(tmp_path, "tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit.__wrapped__(tmp_path) == commit
    (tmp_path / "untracked").write_text("two")
    assert git_commit.__wrapped__(tmp_path) == commit
    (tmp_path / "kept").write_text("three")
    assert git_commit.__wrapped__(tmp_path) == commit + "+"


def test_someone_elses_repository_is_not_the_source(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "theirs")
    (tmp_path / "site-packages").mkdir()
    assert git_commit.__wrapped__(tmp_path / "site-packages") == ""


def test_the_lock_is_hashed_where_there_is_one(tmp_path: Path) -> None:
    assert lock_hash.__wrapped__(tmp_path) == ""
    (tmp_path / "requirements.lock").write_bytes(b"torch==2.13.0\n")
    assert lock_hash.__wrapped__(tmp_path) == hashlib.sha256(b"torch==2.13.0\n").hexdigest()
