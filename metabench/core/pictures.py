"""Pictures: results that are looked at, small and few, each with a caption."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metabench.core.lazy import torch

LIMIT = 64 * 1024
"""The most bytes that a row keeps of a picture: 128 x 128 pixels always fit."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A picture and what is said under it.

    Attributes:
        png: the PNG file, in base64.
        caption: a few words, as 'loss 0.61'.
    """

    png: str
    caption: str = ""

    @classmethod
    def of(cls, pixels: torch.Tensor, caption: str = "") -> Picture:
        """Return the picture of colours red, green and blue, bytes of shape [height, width, 3]."""
        height, width, _ = pixels.shape
        lines = b"".join(b"\0" + bytes(row) for row in pixels.flatten(1).tolist())
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
        return cls(base64.b64encode(_SIGNATURE + b"".join(_chunk(*part) for part in parts)).decode(), caption)

    @property
    def content(self) -> bytes:
        """The bytes of the PNG file."""
        return base64.b64decode(self.png)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def picture_fault(picture: Any) -> str:
    """Return what is wrong with what a problem gave as a picture, in words that follow its name; empty if nothing is."""
    if not isinstance(picture, Picture):
        return f"is a {type(picture).__name__}, not a Picture"
    try:
        content = picture.content
    except (binascii.Error, TypeError, ValueError) as error:
        return f"is not a PNG file in base64: {error}"
    if not content.startswith(_SIGNATURE):
        return "is not a PNG file"
    return f"has {len(content):,} bytes, more than {LIMIT:,}" if len(content) > LIMIT else ""


def sound_pictures(pictures: Mapping[str, Any]) -> tuple[dict[str, Picture], str]:
    """Return the pictures that a row can keep, and what is wrong with the others; empty if nothing is."""
    faults = {name: fault for name, picture in pictures.items() if (fault := picture_fault(picture))}
    sound = {name: picture for name, picture in pictures.items() if name not in faults}
    return sound, "; ".join(f"no picture '{name}': it {fault}" for name, fault in faults.items())
