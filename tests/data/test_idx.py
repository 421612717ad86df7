from __future__ import annotations

import gzip

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.data.formats import idx

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def test_an_array_survives_the_format_plain_and_gzipped() -> None:
    content = idx.encode(IMAGES)
    assert content[:4] == b"\x00\x00\x08\x03"
    np.testing.assert_array_equal(idx.decode(content, "images", 3), IMAGES)
    np.testing.assert_array_equal(idx.decode(gzip.compress(content), "images", 3), IMAGES)


def test_an_empty_set_is_a_valid_file() -> None:
    assert idx.decode(idx.encode(IMAGES[:0]), "images", 3).shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "magic number of 4 bytes, found 0 bytes"),
        (b"\x89PNG\r\n", "0x89504e47"),
        (b"\x00\x00\x0d\x03" + bytes(12), "unsigned bytes"),
        (idx.encode(IMAGES[0]), "expected an IDX file of 3 dimensions, found 2"),
        (idx.encode(IMAGES)[:10], "truncated IDX header: expected 16 bytes, found 10"),
        (idx.encode(IMAGES)[:-1], r"announces shape \[2, 3, 4\], 24 bytes; found 23"),
        (idx.encode(IMAGES) + b"\x00", "24 bytes; found 25"),
        (gzip.compress(idx.encode(IMAGES), mtime=0)[:-6], "damaged gzip stream"),
    ],
)
def test_what_is_not_the_announced_array_is_refused_by_name(content: bytes, complaint: str) -> None:
    with pytest.raises(MetabenchError, match=rf"^my-file: .*{complaint}"):
        idx.decode(content, "my-file", 3)


def test_a_header_that_announces_more_than_memory_holds_is_refused() -> None:
    with pytest.raises(MetabenchError, match="found 0"):
        idx.decode(b"\x00\x00\x08\x03" + b"\x7f\xff\xff\xff" * 3, "huge", 3)


def test_only_unsigned_bytes_are_written() -> None:
    with pytest.raises(TypeError, match="float64"):
        idx.encode(np.zeros(3))
