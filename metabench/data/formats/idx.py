"""The IDX format of MNIST and similar sets: unsigned bytes with a big-endian header."""

from __future__ import annotations

import gzip
import struct
import zlib

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError

_UNSIGNED_BYTE = 0x08


def decode(content: bytes, name: str, dimensions: int) -> npt.NDArray[np.uint8]:
    """Return the uint8 array in `content`, the bytes of an IDX file, plain or gzipped.

    `name` appears in errors. Raises MetabenchError unless the magic number, the number of dimensions and the length
    are what the header and `dimensions` say.
    """
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise MetabenchError(f"{name}: damaged gzip stream ({error})") from error
    if len(content) < 4:
        raise MetabenchError(f"{name}: not an IDX file: expected a magic number of 4 bytes, found {len(content)} bytes")
    zero, element, found = struct.unpack(">HBB", content[:4])
    if zero != 0 or element != _UNSIGNED_BYTE:
        raise MetabenchError(
            f"{name}: not an IDX file of unsigned bytes: expected a magic number starting 0x000008, "
            f"found 0x{content[:4].hex()}"
        )
    if found != dimensions:
        raise MetabenchError(f"{name}: expected an IDX file of {dimensions} dimensions, found {found}")
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise MetabenchError(f"{name}: truncated IDX header: expected {header} bytes, found {len(content)}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - header != expected:
        raise MetabenchError(
            f"{name}: the IDX header announces shape {list(shape)}, {expected} bytes; found {len(content) - header}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def encode(array: npt.NDArray[np.uint8]) -> bytes:
    """Return a uint8 array as the bytes of a plain IDX file."""
    if array.dtype != np.uint8:
        raise TypeError(f"IDX files here hold uint8, not {array.dtype}")
    header = struct.pack(f">HBB{array.ndim}I", 0, _UNSIGNED_BYTE, array.ndim, *array.shape)
    return header + np.ascontiguousarray(array).tobytes()
