from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.data import Classification, Domains, Text, card, datasets, is_available, load
from metabench.data.fetch import files
from metabench.data.sets import digits

SHIPPED = [declared for declared in datasets().values() if declared.embedded]
EMBEDDED = [declared.name for declared in SHIPPED if not any(file.belongs_to for file in declared.files)]


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_manifest_the_cards_and_the_files_agree(name: str) -> None:
    said = json.loads((files.EMBEDDED / "manifest.json").read_text(encoding="utf-8"))[name]
    declared = card(name)
    assert (said["licence"], said["attribution"]) == (declared.licence, declared.attribution)
    assert (said["title"], said["source"]) == (declared.title, declared.source)
    assert said["files"] == {file.name: {"size": file.size, "sha256": file.sha256} for file in declared.files}
    for file in declared.files:
        content = (files.EMBEDDED / name / file.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)
    assert (files.EMBEDDED / said["licence_file"]).stat().st_size > 0


def test_what_ships_is_declared_and_at_most_12_megabytes() -> None:
    shipped = [path for path in files.EMBEDDED.rglob("*") if path.is_file()]
    declared = {files.EMBEDDED / name / file.name for name in EMBEDDED for file in card(name).files}
    assert declared == {path for path in shipped if path.name not in ("LICENSE", "manifest.json")}
    assert sum(path.stat().st_size for path in shipped) <= 12_000_000


def images_are_distinct(data: Classification) -> bool:
    every = np.concatenate([data.train_inputs, data.test_inputs]).reshape(-1, data.train_inputs[0].size)
    return len(np.unique(every, axis=0)) == len(every)


@pytest.mark.parametrize("name", ["fashion_mnist_10k", "digits"])
def test_images_and_labels_are_what_the_card_says(name: str) -> None:
    declared, data = card(name), load(name)
    assert isinstance(data, Classification)
    for split, inputs, targets in (
        ("train", data.train_inputs, data.train_targets),
        ("test", data.test_inputs, data.test_targets),
    ):
        assert inputs.shape == (declared.sizes[split], *declared.input_shape)
        assert targets.shape == (declared.sizes[split],)
        assert inputs.dtype == np.float32 and targets.dtype == np.int64
        assert inputs.min() == 0.0 and inputs.max() == 1.0
        assert set(targets) == set(range(len(declared.classes)))
    assert data.classes == declared.classes


def test_the_part_of_fashion_mnist_is_balanced_and_its_test_images_are_not_in_its_train_images() -> None:
    data = load("fashion_mnist_10k")
    np.testing.assert_array_equal(np.bincount(data.train_targets), 1000)
    np.testing.assert_array_equal(np.bincount(data.test_targets), 200)
    assert images_are_distinct(data)


def test_the_labels_of_fashion_mnist_belong_to_its_images() -> None:
    # The nearest mean image of the ten classes is right for two test images in three, and by chance for one in ten.
    data = load("fashion_mnist_10k")
    train, test = (inputs.reshape(len(inputs), -1) for inputs in (data.train_inputs, data.test_inputs))
    means = np.stack([train[data.train_targets == label].mean(axis=0) for label in range(10)])
    nearest = np.argmax(test @ means.T - (means**2).sum(axis=1) / 2, axis=1)
    assert np.mean(nearest == data.test_targets) > 0.6


def test_digits_are_those_of_scikit_learn_split_once_and_for_all() -> None:
    from sklearn.datasets import load_digits

    data = load("digits")
    images = np.concatenate([data.train_inputs, data.test_inputs]).reshape(1797, 64) * 16
    labels = np.concatenate([data.train_targets, data.test_targets])
    ours, theirs = np.column_stack([images, labels]), np.column_stack(load_digits(return_X_y=True))
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    assert images_are_distinct(data)
    share = np.bincount(data.test_targets) / np.bincount(labels)
    np.testing.assert_allclose(share, 360 / 1797, atol=0.01)
    np.testing.assert_array_equal(data.test_inputs, load("digits").test_inputs)


def test_digits_are_the_same_by_the_library_s_own_loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Elsewhere:
        submodule_search_locations = (str(tmp_path),)

    expected = load("digits")
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: Elsewhere)
    np.testing.assert_array_equal(load("digits").train_inputs, expected.train_inputs)


def test_digits_without_scikit_learn_and_with_another_table_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = digits._table()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MetabenchError, match="pip install scikit-learn"):
            load("digits")
    table[0, 0] += 1
    monkeypatch.setattr(digits, "_table", lambda: table)
    with pytest.raises(MetabenchError, match=r"not those expected: sha256 68aea062.*, found"):
        load("digits")


def prose(data: Text) -> str:
    return b"".join(span.tobytes() for span in (data.train, data.valid, data.test)).decode("utf-8")


@pytest.mark.parametrize(
    ("name", "first", "last", "words"),
    [
        ("jargon", "(TM)\n", "other\n    games.\n", ("bogosity", "hacker", "yak shaving")),
        (
            "foldoc",
            "Free On-line Dictionary of Computing%",
            "(2015-01-21)\n",
            ("back-propagation", "hacker", "Zilog"),
        ),
    ],
)
def test_a_text_is_three_spans_of_one_prose(name: str, first: str, last: str, words: tuple[str, ...]) -> None:
    data = load(name)
    assert isinstance(data, Text)
    spans = (data.train, data.valid, data.test)
    assert [len(span) for span in spans] == list(card(name).sizes.values())
    assert all(span.dtype == np.uint8 for span in spans)
    assert len(data.train) > 1_000_000
    text = prose(data)
    assert text.startswith(first) and text.endswith(last)
    places = [text.index(f"\n{word}\n") for word in words]
    assert places == sorted(places)


def test_foldoc_keeps_its_copyright_notice_and_its_licence_and_no_entry_of_debian() -> None:
    text = " ".join(prose(load("foldoc")).split())
    assert "Copyright 1985 by Denis Howe Permission is granted to copy, distribute and/or modify this document" in text
    assert "0. PREAMBLE" in text and "10. FUTURE REVISIONS OF THIS LICENSE" in text
    assert "00-database" not in text and "<hilliard@debian.org>" not in text


def test_two_domains_are_the_two_texts_each_with_its_own_spans() -> None:
    data = load("jargon_foldoc")
    assert isinstance(data, Domains)
    assert tuple(data.texts) == card("jargon_foldoc").domains == ("jargon", "foldoc")
    for name, text in data.texts.items():
        for span in ("train", "valid", "test"):
            np.testing.assert_array_equal(getattr(text, span), getattr(load(name), span))
    for span, size in card("jargon_foldoc").sizes.items():
        assert size == sum(len(getattr(text, span)) for text in data.texts.values())


@pytest.mark.parametrize(
    ("held_out", "of", "within", "most"),
    [
        ("test", "jargon", "foldoc", 0.05),
        ("valid", "jargon", "foldoc", 0.01),
        ("test", "foldoc", "jargon", 0.02),
        ("valid", "foldoc", "jargon", 0.02),
    ],
)
def test_little_of_a_held_out_span_stands_in_the_other_domain_s_training_span(
    held_out: str, of: str, within: str, most: float
) -> None:
    def normalised(span: np.ndarray) -> bytes:
        return b" ".join(span.tobytes().replace(b"{", b"").replace(b"}", b"").split())

    looked_for, read = normalised(getattr(load(of), held_out)), normalised(load(within).train)
    runs = [looked_for[start : start + 60] for start in range(0, len(looked_for) - 60, len(looked_for) // 300)]
    assert sum(run in read for run in runs) / len(runs) <= most


def test_a_set_put_together_from_others_is_there_when_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_available("jargon_foldoc")
    shutil.copytree(files.EMBEDDED / "jargon", tmp_path / "jargon")
    monkeypatch.setattr(files, "EMBEDDED", tmp_path)
    assert is_available("jargon") and not is_available("jargon_foldoc")
    with pytest.raises(MetabenchError, match=r"foldoc/foldoc.txt.xz ships with metabench and is missing"):
        load("jargon_foldoc")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
@pytest.mark.parametrize("name", EMBEDDED)
def test_a_damaged_embedded_file_is_named_and_never_used(
    name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(files.EMBEDDED / name, tmp_path / name)
    monkeypatch.setattr(files, "EMBEDDED", tmp_path)
    file = card(name).files[0]
    path = tmp_path / name / file.name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        path.unlink()
        with pytest.raises(MetabenchError, match=rf"{file.name} ships with metabench and is missing"):
            load(name)
        return
    path.write_bytes(content if damage == "flipped" else content[:1000])
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(MetabenchError, match=rf"{file.name} is damaged: expected sha256 {file.sha256}.*found {found}"):
        load(name)
    assert path.exists()


def test_a_card_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        card("digits").title = "other"
