from __future__ import annotations

import io
import json
import runpy
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sklearn
from PIL import Image

from metabench.core.errors import MetabenchError
from metabench.data import card, load
from metabench.data.episodes import Episodes, Shape
from metabench.data.folders import few_shot_folder, read_folder
from metabench.data.registry import check_dataset
from metabench.data.sets import cross_domain, omniglot
from metabench.data.sets.glyphs_far import resized

PHOTOGRAPHS = Path(sklearn.__file__).parent / "datasets" / "images"


def folder(place: Path) -> Path:
    """Crops of scikit-learn's two photographs as two domains, each with two classes per split: left and right parts of a strip."""
    for name in ("china", "flower"):
        picture = Image.open(PHOTOGRAPHS / f"{name}.jpg")
        (place / name / "images").mkdir(parents=True)
        for split, file in enumerate(("base.json", "val.json", "novel.json")):
            held = {"label_names": [f"class {label}" for label in range(6)], "image_names": [], "image_labels": []}
            for number in range(8):
                label = 2 * split + number % 2
                crop = picture.crop(
                    (320 * (number % 2), 100 * split, 320 * (number % 2) + 90 + number, 100 * split + 80)
                )
                path = place / name / "images" / f"{split}-{number}.jpg"
                crop.save(path)
                # Absolute, as the common scripts write them, or from the folder of the split file.
                held["image_names"].append(str(path) if number < 4 else f"images/{path.name}")
                held["image_labels"].append(label)
            (place / name / file).write_text(json.dumps(held))
    return place


def test_photographs_in_a_folder_are_domains_with_disjoint_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    folder(tmp_path / "cross_domain")
    data = load("cross_domain_84")
    assert tuple(data.train) == tuple(data.validation) == tuple(data.test) == ("china", "flower")
    domain = data.test["flower"]
    assert domain.images.shape == (8, 3, 84, 84) and set(domain.targets) == {4, 5}
    images = domain.images[np.array([3, 0, 3])]
    assert images.shape == (3, 3, 84, 84) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[0], images[2])
    assert images[0].mean(axis=(1, 2)).std() > 5  # in colour
    task = Episodes("flower", domain, Shape(2, 1, 3), 0, "test")[0]
    assert set(task.classes) == {4, 5}


def test_a_missing_folder_is_answered_with_what_goes_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    with pytest.raises(
        MetabenchError,
        match=r"/cross_domain is missing: put there one folder per domain, such as miniImagenet.*base\.json",
    ):
        load("cross_domain_224")
    (tmp_path / "cross_domain").mkdir()
    with pytest.raises(MetabenchError, match="/cross_domain holds no domain"):
        load("cross_domain_224")
    folder(tmp_path / "other")
    (tmp_path / "other/china/val.json").unlink()
    with pytest.raises(MetabenchError, match=r"china has no val\.json"):
        read_folder(tmp_path / "other", 84)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("not json", r"base\.json cannot be read"),
        ([1], "found a list"),
        ({"image_label": []}, "unknown key of split file .*image_labels.*: did you mean 'image_label'"),
        ({"image_labels": [0, 1]}, "8 image_names and 2 image_labels"),
        ({"image_labels": [0] * 7 + [6]}, "the label 6 is not the number of one of its 6 label_names"),
        ({"image_labels": [2] * 8}, r"class 'class 2' is in base\.json and in val\.json"),
        ({"label_names": "a"}, "label_names is 'a', expected a list"),
    ],
)
def test_a_wrong_split_file_is_named(change: object, reason: str, tmp_path: Path) -> None:
    file = folder(tmp_path) / "china" / "base.json"
    if isinstance(change, dict):
        held = json.loads(file.read_text())
        if "image_label" in change:
            del held["image_labels"]
        change = held | change
    file.write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(MetabenchError, match=reason):
        read_folder(tmp_path, 84)


def test_an_image_that_is_missing_is_named_where_it_is_read(tmp_path: Path) -> None:
    data = read_folder(folder(tmp_path), 84)
    (tmp_path / "china/images/0-5.jpg").unlink()
    with pytest.raises(MetabenchError, match=r"image .*0-5\.jpg cannot be read"):
        data.train["china"].images[np.array([5])]


def test_a_plugin_declares_a_folder_of_photographs(tmp_path: Path) -> None:
    own = few_shot_folder(folder(tmp_path / "birds"), 16, licence="mine")
    check_dataset(own, own.card.name)
    assert (own.card.name, own.card.task, own.card.domains) == ("birds", "few-shot", ("china", "flower"))
    assert len(own.files) == 6
    assert own.decode(lambda name: b"").train["china"].images.shape == (8, 3, 16, 16)
    shutil.rmtree(tmp_path / "birds")
    with pytest.raises(MetabenchError, match="birds is missing"):
        few_shot_folder(tmp_path / "birds", 16)


def archive(part: str, characters: dict[str, int]) -> bytes:
    """Drawings of glyphs in Omniglot's layout: 105 x 105 pixels, black on white, one bit per pixel; so many characters per alphabet."""
    held, images = io.BytesIO(), load("glyphs").train["Greek"]
    with zipfile.ZipFile(held, "w") as file:
        for alphabet, count in characters.items():
            for character in range(count):
                for drawing, number in enumerate(np.flatnonzero(images.targets == character)[:3]):
                    png = io.BytesIO()
                    drawn = Image.fromarray(255 - images.images[number][0]).resize((105, 105)).convert("1")
                    drawn.save(png, "PNG")
                    file.writestr(
                        f"{part}/{alphabet}/character{character + 1:02}/0_{drawing + 1:02}.png", png.getvalue()
                    )
    return held.getvalue()


def test_omniglot_s_smallest_background_alphabets_validate_and_its_evaluation_alphabets_test() -> None:
    sizes = {f"alphabet{count}": count for count in (7, 2, 9, 3, 4, 5, 6)}
    contents = {
        "images_background.zip": archive("images_background", sizes),
        "images_evaluation.zip": archive("images_evaluation", {"other": 4}),
    }
    (declared,) = omniglot.DATASETS
    data = declared.decode(contents.__getitem__)
    assert set(data.train) == {"alphabet7", "alphabet9"} and tuple(data.test) == ("other",)
    assert [len(domain.classes) for domain in data.validation.values()] == [2, 3, 4, 5, 6]
    domain = data.test["other"]
    assert domain.images.shape == (12, *card("omniglot").input_shape)
    np.testing.assert_array_equal(domain.targets, np.repeat(np.arange(4), 3))
    # White on black, and the same character as what was drawn.
    original = load("glyphs").train["Greek"].images[np.array([0])][0, 0].astype(float)
    found = np.asarray(Image.fromarray(domain.images[np.array([0])][0, 0]).resize((16, 16)), float)
    assert found.mean() < 128 and np.corrcoef(original.ravel(), found.ravel())[0, 1] > 0.8


def test_an_archive_in_another_layout_is_named() -> None:
    (declared,) = omniglot.DATASETS
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr("images_background/a.png", b"")
    for content in (b"odd", held.getvalue()):
        with pytest.raises(
            MetabenchError, match=r"images_background\.zip: expected drawings as images_background/ALPHABET"
        ):
            declared.decode(lambda name, content=content: content)


def test_the_split_files_that_are_there_are_files_that_cells_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    place = folder(tmp_path / "cross_domain")
    for declared in runpy.run_path(str(cross_domain.__file__))["DATASETS"]:
        found = {path.relative_to(place).as_posix() for path in declared.files}
        assert found == {f"{name}/{file}.json" for name in ("china", "flower") for file in ("base", "val", "novel")}


def ravi(place: Path) -> Path:
    """Crops of scikit-learn's two photographs, listed as Ravi and Larochelle list mini-ImageNet."""
    (place / "images").mkdir(parents=True)
    for split, file in enumerate(("train.csv", "val.csv", "test.csv")):
        rows = ["filename,label"]
        for number in range(6):
            name = ("china", "flower")[number % 2]
            path = place / "images" / f"{name}{split}{number}.jpg"
            picture = Image.open(PHOTOGRAPHS / f"{name}.jpg")
            picture.crop((30 * number, 100 * split, 30 * number + 90, 100 * split + 80)).save(path)
            rows.append(f"{path.name},n0{split}{number % 2}")
        (place / file).write_text("\n".join(rows) + "\n")
    return place


def test_mini_imagenet_is_read_from_a_folder_by_its_split_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    with pytest.raises(
        MetabenchError, match=r"mini_imagenet has no train\.csv, val\.csv, test\.csv: put there the split files"
    ):
        load("mini_imagenet")
    place = ravi(tmp_path / "mini_imagenet")
    data = load("mini_imagenet")
    domain = data.test["photographs"]
    assert domain.classes == ("n020", "n021") and domain.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert domain.images.shape == (6, 3, 84, 84) and domain.images[np.array([5])].dtype == np.uint8
    assert set(data.train["photographs"].classes).isdisjoint(domain.classes)
    (place / "val.csv").write_text((place / "train.csv").read_text())
    with pytest.raises(MetabenchError, match=r"class 'n000' is in train\.csv and in val\.csv"):
        load("mini_imagenet")
    (place / "val.csv").write_text("file,label\na,b\n")
    with pytest.raises(MetabenchError, match="expected rows of the columns filename and label"):
        load("mini_imagenet")


def test_digits_and_garments_are_far_domains_to_test_on_alone() -> None:
    scripts, found, digits = load("glyphs"), load("glyphs_far"), load("digits")
    assert list(found.test) == [*scripts.test, "Handwritten", "Garments"]
    assert list(found.train) == list(scripts.train) and list(found.validation) == list(scripts.validation)
    own = found.test["Handwritten"]
    assert own.images.shape == (1797, 1, 16, 16) and own.images.dtype == np.uint8
    # Twice as wide: each pixel four times.
    for label in range(10):
        eights = np.concatenate(
            [digits.train_inputs[digits.train_targets == label], digits.test_inputs[digits.test_targets == label]]
        )
        ours = own.images[own.targets == label]
        np.testing.assert_array_equal(ours[:, 0, ::2, ::2], np.rint(255 * eights[:, 0]))
        np.testing.assert_array_equal(ours[:, 0, 1::2, 1::2], ours[:, 0, ::2, ::2])


def test_images_are_resized_by_the_mean_over_the_area() -> None:
    images = load("fashion_mnist_10k").test_inputs[:50]
    found = resized(images, 16)
    # 7 pixels become 4: the first of these is a whole one and three quarters of the second.
    weights = np.array([1, 0.75]) / 1.75
    first = weights @ images[:, 0, :2, :2] @ weights
    np.testing.assert_allclose(found[:, 0, 0, 0], 255 * first, atol=0.51)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 255 * images.mean(axis=(1, 2, 3)), atol=0.3)
