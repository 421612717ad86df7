from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from metabench.core.citations import bibtex
from metabench.core.errors import MetabenchError
from metabench.data import card, datasets, is_available, load

CARDS = list(datasets().values())


def test_the_data_sets_are_those_documented() -> None:
    assert list(datasets()) == [
        "analytic",
        "cifar10",
        "cifar100",
        "cldr_names",
        "cross_domain_224",
        "cross_domain_84",
        "digits",
        "fashion_mnist",
        "fashion_mnist_10k",
        "fc100",
        "few_shot_table",
        "foldoc",
        "glyphs",
        "glyphs28",
        "glyphs_far",
        "jargon",
        "jargon_foldoc",
        "mini_imagenet",
        "mnist",
        "mnist_10k",
        "omniglot",
        "onet",
        "own",
        "photographs",
        "upos_pt_tr",
        "vgg16",
    ]


def test_listing_imports_neither_torch_nor_a_library_of_data() -> None:
    listing = (
        "import sys, metabench.data as data; data.datasets(); data.is_available('digits'); "
        "sys.exit(', '.join({'torch', 'sklearn', 'tokenizers'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", listing], check=True)


@pytest.mark.parametrize("declared", CARDS, ids=lambda declared: declared.name)
def test_every_card_says_whose_the_data_are_and_how_to_know_them(declared) -> None:
    if declared.task == "none":
        assert not declared.files
        return
    assert declared.licence and declared.attribution and declared.source and bibtex(declared.citation)
    if not declared.name.startswith(("cross_domain", "mini_imagenet")):  # from a folder of the user's
        assert declared.embedded + declared.fetched + bool(declared.library) == 1
        assert declared.files and sum(declared.sizes.values()) > 0
    for file in declared.files:
        assert file.size > 0
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
    assert (declared.task == "classification") == bool(declared.classes)
    assert (declared.task in ("classification", "few-shot")) == bool(declared.input_shape)
    assert not declared.domains or declared.task in ("text", "few-shot")


def test_an_unknown_data_set_is_answered_with_the_nearest() -> None:
    for ask in (card, load, is_available):
        with pytest.raises(MetabenchError, match="unknown data set 'fashon_mnist': did you mean 'fashion_mnist'"):
            ask("fashon_mnist")


def test_a_problem_in_closed_form_needs_no_data() -> None:
    assert is_available("analytic")
    assert load("analytic") is None


@pytest.mark.parametrize("name", [declared.name for declared in CARDS if declared.fetched])
def test_a_set_that_was_not_fetched_is_answered_with_the_command_that_does(name: str, tmp_path: Path) -> None:
    assert not is_available(name, tmp_path)
    with pytest.raises(MetabenchError, match=f"run `metabench fetch {name}`$"):
        load(name, tmp_path)


def test_the_folder_of_fetched_data_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from metabench.data.fetch.files import data_root

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("METABENCH_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_root() == tmp_path / ".cache" / "metabench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root() == tmp_path / "cache" / "metabench"
    monkeypatch.setenv("METABENCH_DATA", "~/data")
    assert data_root() == tmp_path / "data"
