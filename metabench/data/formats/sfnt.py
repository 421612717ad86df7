"""Fonts in TrueType's and OpenType's common container: family, weight, slant and which characters they have."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_KINDS = (b"\x00\x01\x00\x00", b"OTTO", b"true")
_UNICODE = ((3, 10), (0, 4), (0, 6), (3, 1), (0, 3), (0, 2), (0, 1), (0, 0))
"""Platform and encoding of tables from Unicode to glyphs, the widest first. Others are of legacy encodings, and are not read."""
_FAMILY_NAMES = (16, 1)
"""Numbers of the names of a family with all its weights, and of one of up to four styles."""


@dataclass(frozen=True)
class Face:
    """What a font file says of itself; `weight` is 400 for regular and 700 for bold, `characters` are code points."""

    family: str
    weight: int
    slanted: bool
    characters: frozenset[int]


def read_face(content: bytes) -> Face:
    """Return what a font file says of itself. Raises ValueError if it is no font of one face, or is damaged."""
    if content[:4] not in _KINDS:
        raise ValueError("it is no TrueType or OpenType font of one face")
    try:
        count = struct.unpack_from(">H", content, 4)[0]
        tables = {}
        for number in range(count):
            tag, _, start, size = struct.unpack_from(">4sIII", content, 12 + 16 * number)
            tables[tag] = content[start : start + size]
        style = struct.unpack_from(">H", tables[b"head"], 44)[0]
        weight = struct.unpack_from(">H", tables[b"OS/2"], 4)[0] if b"OS/2" in tables else 700 if style & 1 else 400
        return Face(_family(tables[b"name"]), weight, bool(style & 2), frozenset(_characters(tables[b"cmap"])))
    except (struct.error, KeyError, IndexError) as error:
        raise ValueError(f"the font is damaged or incomplete: {error}") from error


def _family(table: bytes) -> str:
    count, storage = struct.unpack_from(">HH", table, 2)
    found: dict[tuple[int, bool], str] = {}
    for number in range(count):
        platform, _, language, name, size, start = struct.unpack_from(">6H", table, 6 + 12 * number)
        if name in _FAMILY_NAMES:
            raw = table[storage + start : storage + start + size]
            text = raw.decode("mac_roman" if platform == 1 else "utf-16-be", "replace").strip("\0 ")
            english = language in (0, 0x409)
            found.setdefault((name, english), text)
    for name in _FAMILY_NAMES:
        for english in (True, False):
            if text := found.get((name, english)):
                return text
    raise KeyError("no name of a family")


def _characters(table: bytes) -> set[int]:
    count = struct.unpack_from(">H", table, 2)[0]
    places = {}
    for number in range(count):
        platform, encoding, start = struct.unpack_from(">HHI", table, 4 + 8 * number)
        places[platform, encoding] = start
    for key in _UNICODE:
        if key in places:
            kind = struct.unpack_from(">H", table, places[key])[0]
            if kind in (4, 12):
                return (_segments if kind == 4 else _groups)(table[places[key] :])
    return set()


def _segments(table: bytes) -> set[int]:
    """Read format 4: segments of 16-bit characters."""
    count = struct.unpack_from(">H", table, 6)[0] // 2
    ends = struct.unpack_from(f">{count}H", table, 14)
    starts = struct.unpack_from(f">{count}H", table, 16 + 2 * count)
    deltas = struct.unpack_from(f">{count}H", table, 16 + 4 * count)
    offsets = struct.unpack_from(f">{count}H", table, 16 + 6 * count)
    found = set()
    for number, (first, last, delta, offset) in enumerate(zip(starts, ends, deltas, offsets, strict=True)):
        for character in range(first, min(last, 0xFFFE) + 1):
            glyph = character
            if offset:
                place = 16 + 6 * count + 2 * number + offset + 2 * (character - first)
                glyph = struct.unpack_from(">H", table, place)[0]
                if not glyph:
                    continue
            if (glyph + delta) & 0xFFFF:
                found.add(character)
    return found


def _groups(table: bytes) -> set[int]:
    """Read format 12: groups of 32-bit characters."""
    found: set[int] = set()
    for number in range(struct.unpack_from(">I", table, 12)[0]):
        first, last, glyph = struct.unpack_from(">III", table, 16 + 12 * number)
        found.update(range(first + (glyph == 0), min(last, 0x10FFFF) + 1))
    return found
