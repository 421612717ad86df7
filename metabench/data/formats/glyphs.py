"""Drawn characters in one file: a line of JSON, then numbers and pixels, compressed with xz or not."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError

_XZ = b"\xfd7zXZ\x00"


@dataclass(frozen=True, eq=False)
class Glyphs:
    """Images of characters, one per character and font family, sorted by character, then family.

    Attributes:
        scripts: by name, their characters; the order is that of the characters' numbers.
        families: names of the font families.
        packages: of each family, the package that its font is from.
        characters: the character's number per image, shape [n].
        drawn_by: the family's number per image, shape [n].
        images: shape [n, side, side], white on black.
    """

    scripts: Mapping[str, str]
    families: tuple[str, ...]
    packages: tuple[str, ...]
    characters: npt.NDArray[np.uint16]
    drawn_by: npt.NDArray[np.uint16]
    images: npt.NDArray[np.uint8]


def encode(glyphs: Glyphs) -> bytes:
    """Return the bytes of a file of drawn characters, not compressed: they depend on nothing but the images."""
    head = {
        "side": glyphs.images.shape[-1],
        "images": len(glyphs.images),
        "scripts": dict(glyphs.scripts),
        "families": glyphs.families,
        "packages": glyphs.packages,
    }
    line = json.dumps(head, ensure_ascii=False).encode() + b"\n"
    numbers = glyphs.characters.astype("<u2").tobytes() + glyphs.drawn_by.astype("<u2").tobytes()
    return line + numbers + glyphs.images.tobytes()


def compressed(content: bytes) -> bytes:
    """Return the bytes of a file of drawn characters compressed with xz, as small as it goes."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]
    return lzma.compress(content, lzma.FORMAT_XZ, filters=filters)


def decode(content: bytes, name: str) -> Glyphs:
    """Return the drawn characters in the bytes of file `name`. Raises MetabenchError if they are damaged."""
    try:
        line, _, rest = (lzma.decompress(content) if content.startswith(_XZ) else content).partition(b"\n")
        head = json.loads(line)
        count, side = head["images"], head["side"]
        numbers = np.frombuffer(rest, "<u2", 2 * count).astype(np.uint16)
        images = np.frombuffer(rest, np.uint8, count * side * side, 4 * count).reshape(count, side, side).copy()
        families, packages = tuple(head["families"]), tuple(head["packages"])
        return Glyphs(head["scripts"], families, packages, numbers[:count], numbers[count:], images)
    except (lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise MetabenchError(f"{name} holds no drawn characters: {error}") from error
