"""Drawing characters with fonts: one image per character and font family."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError
from metabench.data.formats.glyphs import Glyphs
from metabench.data.formats.sfnt import Face, read_face

EM = 72
"""Pixels of an em at which a character is drawn before it is reduced."""

FEWEST_FAMILIES = 10
"""Families that must draw a character differently for it to be a class."""

_RANGES = {
    "Latin": "az ABDEGHLMNQRT",
    "Digits": "09",
    "Greek": "αω ΓΔΗΛΝΞΣΥΩ",
    "Cyrillic": "ая АБЕ",
    "Armenian": "աֆ",
    "Georgian": "აჰ",
    "Hebrew": "את",
    "Arabic": "ءي",
    "Devanagari": "ऄह क़ॡ",
    "Bengali": "অহ",
    "Gurmukhi": "ਅਹ",
    "Gujarati": "અહ",
    "Oriya": "ଅହ",
    "Tamil": "அஹ",
    "Telugu": "అహ",
    "Kannada": "ಅಹ",
    "Malayalam": "അഹ",
    "Sinhala": "අෆ",
    "Thai": "กฮ",
    "Lao": "ກຮ",
    "Myanmar": "ကအ",
    "Ethiopic": "ሀፚ",
    "Khmer": "កឳ",
    "Hiragana": "あん",
    "Katakana": "アヶ",
    "Hangul": "ㄱㅣ",
}
"""Characters by script: a pair of letters is a range, a longer word its own letters.

Capitals are those that differ from their small letters by more than size, which is not kept: an o and an O are one image.
"""


def _letters(ranges: str) -> str:
    found: list[str] = []
    for word in ranges.split():
        found += map(chr, range(ord(word[0]), ord(word[1]) + 1)) if len(word) == 2 else word
    # Small kana differ from others by size alone.
    kept = (one for one in found if unicodedata.category(one)[0] in "LN" and " SMALL " not in _kana(one))
    return "".join(one for one in kept if unicodedata.category(one) != "Lm")


def _kana(character: str) -> str:
    name = unicodedata.name(character, "")
    return name if name.startswith(("HIRAGANA", "KATAKANA")) else ""


SCRIPTS: Mapping[str, str] = {script: _letters(ranges) for script, ranges in _RANGES.items()}
"""The characters of each script that are drawn where enough families have them."""

_LEFT_OUT = (
    "BPG DedaEna Block GPL&GNU",
    "KacstTitleL",
    "Linux Biolinum Keyboard O",
    "Linux Libertine Initials O",
    "Unifont CSUR",
    "Unifont Sample",
    "Unifont Upper",
)
"""Families that draw more than the character: blocks, shades, keys, ornaments, or its code point."""


@dataclass(frozen=True)
class FontFile:
    """A font file: the package and path that it is from, and its content."""

    package: str
    path: str
    content: bytes


def draw(content: bytes, characters: Iterable[str], side: int, name: str) -> dict[str, npt.NDArray[np.uint8]]:
    """Return white-on-black images [side, side] of characters, each with its longer edge `side` - 2 pixels long and centred.

    A character of which nothing is seen, such as a space, has no image.

    Raises:
        MetabenchError: the font, called `name` there, has not all of the characters, or is none.
    """
    wanted = list(characters)
    try:
        face = read_face(content)
    except ValueError as error:
        raise MetabenchError(f"font '{name}': {error}") from error
    if missing := [one for one in wanted if ord(one) not in face.characters]:
        shown = ", ".join(f"'{one}' (U+{ord(one):04X})" for one in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise MetabenchError(f"font '{name}' has no character {shown}{more}")
    font = _font(content, name)
    return {one: image for one in wanted if (image := _drawn(font, one, side)) is not None}


def _font(content: bytes, name: str) -> Any:
    # Here: the fetching of any set loads this module.
    from PIL import ImageFont

    try:
        return ImageFont.truetype(io.BytesIO(content), EM, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise MetabenchError(f"font '{name}' cannot be read: {error}") from error


def _drawn(font: Any, character: str, side: int) -> npt.NDArray[np.uint8] | None:
    from PIL import Image, ImageDraw

    left, top, right, bottom = font.getbbox(character)
    if right <= left or bottom <= top:
        return None
    margin = 8
    paper = Image.new("L", (right - left + 2 * margin, bottom - top + 2 * margin))
    ImageDraw.Draw(paper).text((margin - left, margin - top), character, 255, font)
    box = paper.getbbox()
    if box is None:
        return None
    width, height = box[2] - box[0], box[3] - box[1]
    scale = (side - 2) / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = paper.crop(box).resize(size, Image.Resampling.BOX)
    image = Image.new("L", (side, side))
    image.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(image, dtype=np.uint8)


def draw_all(fonts: Iterable[FontFile], side: int, fewest: int = FEWEST_FAMILIES) -> Glyphs:
    """Return the images of every script's characters that at least `fewest` families draw, each differently.

    A family is drawn in its upright face nearest to regular weight, in the scripts of which it has at least half of the characters:
    a few Greek letters in a font of another script are mathematics. Images that another family has, to the byte, are left out, and
    so are placeholders: what a family draws for several characters of a script.

    Raises:
        MetabenchError: as `draw`.
    """
    images: dict[str, dict[str, npt.NDArray[np.uint8]]] = {}
    packages: dict[str, str] = {}
    for font, face in _faces(fonts):
        packages[face.family] = font.package
        for script, characters in SCRIPTS.items():
            there = [one for one in characters if ord(one) in face.characters]
            if 2 * len(there) < len(characters):
                continue
            for character, image in _without_placeholders(draw(font.content, there, side, face.family)).items():
                images.setdefault(script + character, {})[face.family] = image
    kept = {key: chosen for key, found in images.items() if len(chosen := _distinct(found)) >= fewest}
    scripts = {script: "".join(c for c in characters if script + c in kept) for script, characters in SCRIPTS.items()}
    scripts = {script: characters for script, characters in scripts.items() if len(characters) >= 5}
    families = sorted({family for found in kept.values() for family in found})
    number = {family: index for index, family in enumerate(families)}
    classes = [script + character for script, characters in scripts.items() for character in characters]
    rows = [(label, family, image) for label, key in enumerate(classes) for family, image in sorted(kept[key].items())]
    return Glyphs(
        scripts=scripts,
        families=tuple(families),
        packages=tuple(packages[family] for family in families),
        characters=np.array([label for label, _, _ in rows], np.uint16),
        drawn_by=np.array([number[family] for _, family, _ in rows], np.uint16),
        images=np.stack([image for _, _, image in rows]) if rows else np.zeros((0, side, side), np.uint8),
    )


def _faces(fonts: Iterable[FontFile]) -> Iterator[tuple[FontFile, Face]]:
    """Yield one face per family in alphabetical order."""
    found: dict[str, list[tuple[bool, int, str, FontFile, Face]]] = {}
    for font in fonts:
        try:
            face = read_face(font.content)
        except ValueError as error:
            raise MetabenchError(f"font '{font.path}' of package {font.package}: {error}") from error
        if face.family not in _LEFT_OUT:
            key = (face.slanted, abs(face.weight - 400), f"{font.package}/{font.path}", font, face)
            found.setdefault(face.family, []).append(key)
    for _, faces in sorted(found.items()):
        yield min(faces, key=lambda entry: entry[:3])[3:]


def _without_placeholders(images: Mapping[str, npt.NDArray[np.uint8]]) -> dict[str, npt.NDArray[np.uint8]]:
    times: dict[bytes, int] = {}
    for image in images.values():
        times[image.tobytes()] = times.get(image.tobytes(), 0) + 1
    return {character: image for character, image in images.items() if times[image.tobytes()] == 1}


def _distinct(images: Mapping[str, npt.NDArray[np.uint8]]) -> dict[str, npt.NDArray[np.uint8]]:
    first: dict[bytes, str] = {}
    for family, image in images.items():
        first.setdefault(image.tobytes(), family)
    return {family: images[family] for family in first.values()}
