"""The environments and images of workflow/envs have the versions of requirements.lock, and all that the package needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "workflow" / "envs"
PINNED = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)(?:\+\w+)?")


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return {normal(name): version for name, version in PINNED.findall(text)}


def needed() -> set[str]:
    """Return the names of what the package and its workflow on clusters need directly."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["workflow"], *extras["cluster"]]
    return {normal(re.match(r"[\w.-]+", one)[0]) for one in wanted} - {"metabench"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("metabench-*.yaml")), ids=lambda path: path.name)
def test_an_environment_has_all_that_is_needed_in_the_versions_of_the_lock(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    (packages,) = [one["pip"] for one in content["dependencies"] if isinstance(one, dict)]
    pinned = {normal(found[1]): found[2] for one in packages if (found := PINNED.fullmatch(one))}
    assert len(pinned) == len([one for one in packages if not one.startswith("--")])
    assert pinned.keys() == needed()
    assert pinned == {name: locked()[name] for name in pinned}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.def")), ids=lambda path: path.name)
def test_an_image_installs_the_versions_of_the_lock(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    installs = re.findall(r"pip install .*", text)
    assert len(installs) == 2 and all("--constraint requirements.lock" in one for one in installs)
    assert {normal(name): version for name, version in PINNED.findall(text)} == {"torch": locked()["torch"]}
    # What is copied into it is there, and the extras are the package's.
    copied = re.search(r"%files\n(.*?)\n\n", text, re.DOTALL)[1].split("\n")
    assert all((ROOT / line.split()[0]).exists() for line in copied)
    assert "'.[workflow,cluster]'" in text


def test_there_is_one_of_each_for_cpus_and_for_cuda() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert {f"metabench-{kind}.{ending}" for kind in ("cpu", "cuda") for ending in ("def", "yaml")} <= names
    assert "torch==" + locked()["torch"] + "+cpu" in (FOLDER / "metabench-cpu.def").read_text(encoding="utf-8")
    assert "+cpu" not in (FOLDER / "metabench-cuda.def").read_text(encoding="utf-8")
