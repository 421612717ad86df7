from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.data.contract import Read
from metabench.data.formats.cifar import cifar10, cifar100, fc100
from metabench.data.sets.fc100 import _SUPERCLASSES as superclasses

CLASSES = ("bird", "cat", "dog")
FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
IMAGES = np.random.default_rng(0).integers(0, 256, size=(12, 3, 32, 32), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 3


def archive(**changed: bytes | None) -> bytes:
    """Return an archive as the authors', of two records a file; `changed` are files by stem with another content, or none."""
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w:gz") as tar:
        for place, file in enumerate(FILES):
            rows = slice(2 * place, 2 * place + 2)
            whole = np.concatenate([LABELS[rows, None], IMAGES[rows].reshape(2, -1)], axis=1).tobytes()
            content = changed.get(file.removesuffix(".bin"), whole)
            if content is not None:
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return kept.getvalue()


def test_records_become_images_in_the_order_of_the_files() -> None:
    data = cifar10(lambda name: archive(), "cifar.tar.gz", CLASSES)
    assert data.train_inputs.shape == (10, 3, 32, 32) and data.train_inputs.dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([data.train_inputs, data.test_inputs]) * np.float32(255), IMAGES)
    np.testing.assert_array_equal(np.concatenate([data.train_targets, data.test_targets]), LABELS)
    assert data.train_targets.dtype == np.int64 and data.classes == CLASSES


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"no archive", "not a whole archive"),
        (archive()[:-2000], "not a whole archive"),
        (archive(data_batch_3=None), "there is no file cifar-10-batches-bin/data_batch_3.bin in it"),
        (archive(test_batch=bytes(3072)), "test_batch.bin has 3072 bytes, expected records of 3073"),
        (archive(test_batch=b"\x03" + bytes(3072)), "expected labels below 3, found 3"),
    ],
)
def test_what_is_no_such_archive_is_refused_by_name(content: bytes, complaint: str) -> None:
    with pytest.raises(MetabenchError, match=f"^cifar.tar.gz: .*{complaint}"):
        cifar10(lambda name: content, "cifar.tar.gz", CLASSES)


def hundred(content: bytes, files: tuple[str, ...] = ("train.bin", "test.bin")) -> Read:
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w:gz") as tar:
        for file in files:
            member = tarfile.TarInfo(f"cifar-100-binary/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return lambda name: kept.getvalue()


def test_the_fine_label_is_the_class_of_cifar100() -> None:
    coarse = np.full((12, 1), 19, dtype=np.uint8)
    records = np.concatenate([coarse, LABELS[:, None], IMAGES.reshape(12, -1)], axis=1).tobytes()
    data = cifar100(hundred(records), "cifar.tar.gz", CLASSES)
    for inputs, targets in ((data.train_inputs, data.train_targets), (data.test_inputs, data.test_targets)):
        np.testing.assert_array_equal(inputs * np.float32(255), IMAGES)
        np.testing.assert_array_equal(targets, LABELS)
    with pytest.raises(MetabenchError, match=r"train\.bin has 3073 bytes, expected records of 3074"):
        cifar100(hundred(bytes(3073)), "cifar.tar.gz", CLASSES)
    with pytest.raises(MetabenchError, match=r"there is no file cifar-100-binary/test\.bin in it"):
        cifar100(hundred(records, ("train.bin",)), "cifar.tar.gz", CLASSES)


def test_fc100_divides_the_fine_classes_by_superclass_and_keeps_training_and_test_images() -> None:
    coarse = np.array([0, 1, 1] * 4, dtype=np.uint8)  # bird; cat and dog
    records = np.concatenate([coarse[:, None], LABELS[:, None], IMAGES.reshape(12, -1)], axis=1).tobytes()
    parts = fc100(hundred(records), "cifar.tar.gz", CLASSES, {"train": (1,), "test": (0,)})
    assert parts["train"].classes == ("cat", "dog") and parts["test"].classes == ("bird",)
    # The records stand in both files.
    assert parts["train"].targets.tolist() == [0] * 8 + [1] * 8 and len(parts["test"].targets) == 8
    np.testing.assert_array_equal(parts["test"].images[:4], IMAGES[::3])
    np.testing.assert_array_equal(parts["train"].images[:4], IMAGES[1::3])
    with pytest.raises(MetabenchError, match="expected labels below 2, found 2"):
        fc100(hundred(records), "cifar.tar.gz", CLASSES[:2], {"train": (1,)})


def test_the_superclasses_of_fc100_are_all_twenty_each_in_one_part() -> None:
    found = [one for part in superclasses.values() for one in part]
    assert sorted(found) == list(range(20)) and [len(part) for part in superclasses.values()] == [12, 4, 4]
