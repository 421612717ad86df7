"""Rebuild metabench/data/embedded/ from Debian's and Python's packages, to the byte.

    python scripts/embed_data.py                 build into the package
    python scripts/embed_data.py --check         build aside and compare with what the package ships
    python scripts/embed_data.py --debs FOLDER   take the .deb files from FOLDER instead of downloading them
    python scripts/embed_data.py --table FILE    ship this table of nets; its card is to say its size and sha256

The table of nets takes an hour to make (`metabench table build`): unless one is given, the one that ships stays.

The packages' versions and checksums are pinned; JPEG pictures and characters are as Pillow 13 decodes
and draws them. If the archive of the machine's release holds another version, take the
.deb files from https://snapshot.debian.org and pass --debs. Needs numpy, Pillow, pip and
dpkg-deb, and apt-get unless --debs is given.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import io
import json
import lzma
import re
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from metabench.data import DatasetCard, card, splits
from metabench.data.fetch.download import SourceFailed
from metabench.data.fetch.drawing import draw_all
from metabench.data.fetch.files import EMBEDDED
from metabench.data.fetch.fonts import FontPackage, font_files, font_packages
from metabench.data.fetch.packages import debian_package, python_package, run_command
from metabench.data.formats import cldr, idx
from metabench.data.formats import glyphs as drawn
from metabench.data.formats.deb import deb_files
from metabench.data.sets import cldr_names, fashion_mnist, photographs


@dataclass(frozen=True)
class Package:
    """A Debian package, or a Python package's wheel, pinned."""

    name: str
    version: str
    sha256: str


FASHION_MNIST = Package(
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
JARGON = Package("dict-jargon", "4.4.7-3.1", "405f8168d7994ed2cb71407bb95493daec2e9aa66fc0461dafa74a9d6728a8c1")
FOLDOC = Package("dict-foldoc", "20230119-1", "745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3")

SCIKIT_LEARN = Package("scikit-learn", "1.9.1", "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df")
SCIKIT_IMAGE = Package("scikit-image", "0.26.0", "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af")
FILE_OF = {"tissue": "ihc", "galaxies": "hubble_deep_field"}
"""The files of pictures that are not called as the picture is."""

BABEL = Package("babel", "2.18.0", "e2b422b277c2b9a9630c1d7903c2a00d0830c409c59ac8cae9081c92f1aeba35")


def unpack(package: Package, workspace: Path, debs: Path | None) -> Path:
    """Return the folder that a package, downloaded or taken from `debs`, is unpacked in."""

    def run(command: Sequence[str], folder: Path) -> None:
        if debs is None or command[0] != "apt-get":
            run_command(command, folder)
            return
        for archive in debs.glob(f"{package.name}_*.deb"):
            shutil.copy(archive, folder)

    return debian_package(package.name, workspace, run, package.version, package.sha256)


def gzipped(content: bytes) -> bytes:
    """Return `content` as a gzip file without a name or a time, so that it depends on nothing but zlib."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(content) + packer.flush()
    header = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x02\xff"
    return header + packed + struct.pack("<II", zlib.crc32(content), len(content))


def build_fashion_mnist(root: Path) -> dict[str, bytes]:
    """Return the files of the balanced part of Fashion-MNIST, from those of the package; the card states the rule."""
    built: dict[str, bytes] = {}
    whole, part = fashion_mnist.WHOLE, fashion_mnist.TENTH
    originals = root / "usr/share/datasets/fashion-mnist"
    for split, prefix in (("train", "train"), ("test", "t10k")):
        arrays = []
        for kind, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
            file = next(file for file in whole.files if file.name == f"{prefix}-{kind}-ubyte.gz")
            content = (originals / file.name).read_bytes()
            if hashlib.sha256(content).hexdigest() != file.sha256:
                raise SystemExit(f"{originals / file.name} is not the standard file")
            arrays.append((file.name, idx.decode(content, file.name, dimensions)))
        images, labels = arrays[0][1], arrays[1][1]
        if len(np.unique(images.reshape(len(images), -1), axis=0)) != len(images):
            raise SystemExit(f"{arrays[0][0]} holds an image twice")
        rows = splits.by_content(images, {split: part.sizes[split]}, labels)[split]
        built |= {name: gzipped(idx.encode(array[rows])) for name, array in arrays}
    return built


def build_jargon(root: Path) -> dict[str, bytes]:
    """Return the lexicon of the Jargon File without the dictionary's header and its closing list of letters."""
    return {"jargon.txt.xz": dictionary(root, "jargon", b"\n(TM)\n", b"\n !$&'()*+")}


def build_foldoc(root: Path) -> dict[str, bytes]:
    """Return FOLDOC, from the entry that holds its copyright notice, without Debian's own entries at the end.

    Those are under another licence. The notice and the text of the licence are entries, and stay.
    """
    return {
        "foldoc.txt.xz": dictionary(root, "foldoc", b"\nFree On-line Dictionary of Computing%", b"\nDictionary.debian")
    }


def dictionary(root: Path, name: str, first: bytes, behind: bytes) -> bytes:
    """Return the part of a dictionary from its entry `first` to the mark `behind` its last one, compressed."""
    text = gzip.decompress((root / f"usr/share/dictd/{name}.dict.dz").read_bytes())
    entries = text[text.index(first) + 1 : text.rindex(behind)].rstrip(b"\n") + b"\n"
    return lzma.compress(entries, format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)


def build_photographs(workspace: Path) -> dict[str, bytes]:
    """Return the pixels of photographs and styles in two files, and the licence of each picture."""
    held: dict[str, bytes] = {}
    for package, inside in ((SCIKIT_LEARN, "sklearn/datasets/images/"), (SCIKIT_IMAGE, "skimage/data/")):
        files = python_package(package.name, package.version, package.sha256, workspace, run_command)
        held |= {Path(name).stem: content for name, content in files.items() if name.startswith(inside)}
    pixels = dict.fromkeys(photographs.SHAPES, b"")
    for one in photographs.CREDITS:
        kind = "styles" if one.part == "style" else "photographs"
        height, width, _ = photographs.SHAPES[kind]
        picture = Image.open(io.BytesIO(held[FILE_OF.get(one.name, one.name)])).convert("RGB")
        scale = min(picture.width / width, picture.height / height)
        across, down = scale * width, scale * height
        left, top = (picture.width - across) / 2, (picture.height - down) / 2
        box = (left, top, left + across, top + down)
        pixels[kind] += picture.resize((width, height), Image.Resampling.LANCZOS, box).tobytes()
    filters = [{"id": lzma.FILTER_DELTA, "dist": 3}, {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    return {f"{kind}.xz": lzma.compress(raw, lzma.FORMAT_XZ, filters=filters) for kind, raw in pixels.items()}


def build_cldr_names(workspace: Path) -> tuple[dict[str, bytes], str]:
    """Return the names as Babel reads them from its own files, and the licences of the names and of Babel."""
    files = python_package(BABEL.name, BABEL.version, BABEL.sha256, workspace, run_command)
    unpacked = workspace / "babel.unpacked"
    for name, content in files.items():
        path = unpacked / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    sys.path.insert(0, str(unpacked))
    try:
        locale_of = importlib.import_module("babel").Locale.parse
        table = cldr.table(locale_of, cldr_names.SOURCE, cldr_names.TARGETS)
    finally:
        sys.path.remove(str(unpacked))
    licences = [
        files[name].decode()
        for name in ("babel/locale-data/LICENSE.unicode", "babel-2.18.0.dist-info/licenses/LICENSE")
    ]
    return {"names.tsv.xz": lzma.compress(table, lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)}, "\n".join(licences)


def build_glyphs(workspace: Path, debs: Path | None) -> tuple[dict[str, bytes], str]:
    """Return the file of characters drawn at 16 x 16 pixels, and whose the fonts are and under what licences."""
    for package in font_packages():
        if debs is None:
            run_command(["apt-get", "-qq", "download", package.name], workspace)
        # The archive quotes what apt-get unquotes, or the other way round: the checksum tells.
        for archive in (debs or workspace).glob(f"{package.name}_*.deb"):
            if archive != workspace / package.file:
                shutil.copy(archive, workspace / package.file)
    images = draw_all(font_files(font_packages(), workspace), side=16)
    licences = [_font_licence(package, workspace, images) for package in font_packages()]
    head = (
        "Images of characters drawn with the fonts of these Debian packages; no font is contained. The full text of each package's "
        "licences is in its\n/usr/share/doc/PACKAGE/copyright; here are the package, the licences of its fonts, the families drawn with, "
        "and the notices of copyright.\n"
    )
    return {"glyphs.xz": drawn.compressed(drawn.encode(images))}, "\n".join([head, *licences])


def _font_licence(package: FontPackage, workspace: Path, images: drawn.Glyphs) -> str:
    content = deb_files((workspace / package.file).read_bytes())
    text = content[f"usr/share/doc/{package.name}/copyright"].decode("utf-8", "replace")
    notices = (line.strip(" *#\t") for line in text.splitlines())
    kept = dict.fromkeys(
        line for line in notices if re.search(r"copyright\b.*(\d{4}|\bby\b)|\(c\)", line, re.IGNORECASE)
    )
    families = [family for family, home in zip(images.families, images.packages, strict=True) if home == package.name]
    lines = [
        f"{package.file.removesuffix('_all.deb').replace('_', ' ')}: {package.licence}",
        f"  {', '.join(families)}",
    ]
    return "\n".join([*lines, *(f"  {line[:200]}" for line in list(kept)[:12]), ""])


BUILT_FROM = {
    "fashion_mnist_10k": (FASHION_MNIST, build_fashion_mnist),
    "foldoc": (FOLDOC, build_foldoc),
    "jargon": (JARGON, build_jargon),
}


def entry(declared: DatasetCard, origin: object, built: dict[str, bytes]) -> dict[str, object]:
    """Return what the manifest says of a data set."""
    return {
        "title": declared.title,
        "licence": declared.licence,
        "licence_file": f"{declared.name}/LICENSE",
        "attribution": declared.attribution,
        "source": declared.source,
        "origin": origin,
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in built.items()
        },
    }


def origin(kind: str, package: Package) -> dict[str, str]:
    """Return a package as the manifest names it."""
    return {kind: package.name, "version": package.version, "sha256": package.sha256}


def build_table(target: Path, table: Path | None) -> dict[str, object]:
    """Write a table of nets and its licence under `target`, or the one that ships; return what the manifest says of it."""
    declared = card("few_shot_table")
    (file,) = declared.files
    content = (table or EMBEDDED / declared.name / file.name).read_bytes()
    folder = target / declared.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file.name).write_bytes(content)
    (folder / "LICENSE").write_text(f"{declared.attribution}.\n\nMade by: {declared.source}.\n", encoding="utf-8")
    return entry(declared, {"made_by": declared.source}, {file.name: content})


def build(target: Path, debs: Path | None, table: Path | None) -> None:
    """Write every embedded data set, its licence and the manifest under `target`."""
    manifest: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, (package, builder) in BUILT_FROM.items():
            root = unpack(package, Path(temporary), debs)
            built = builder(root)
            folder = target / name
            folder.mkdir(parents=True, exist_ok=True)
            for file_name, content in built.items():
                (folder / file_name).write_bytes(content)
            shutil.copyfile(root / "usr/share/doc" / package.name / "copyright", folder / "LICENSE")
            manifest[name] = entry(card(name), origin("debian_package", package), built)
        built = build_photographs(Path(temporary))
        folder = target / "photographs"
        folder.mkdir(parents=True, exist_ok=True)
        for file_name, content in built.items():
            (folder / file_name).write_bytes(content)
        credits = "\n".join(f"{one.name}: {one.credit}" for one in photographs.CREDITS)
        (folder / "LICENSE").write_text(f"{photographs.CARD.source}.\n\n{credits}\n", encoding="utf-8")
        wheels = [origin("python_package", package) for package in (SCIKIT_LEARN, SCIKIT_IMAGE)]
        manifest["photographs"] = entry(card("photographs"), wheels, built)
        built, licences = build_cldr_names(Path(temporary))
        folder = target / "cldr_names"
        folder.mkdir(parents=True, exist_ok=True)
        for file_name, content in built.items():
            (folder / file_name).write_bytes(content)
        (folder / "LICENSE").write_text(f"{cldr_names.CARD.source}.\n\n{licences}", encoding="utf-8")
        manifest["cldr_names"] = entry(card("cldr_names"), origin("python_package", BABEL), built)
        built, licence = build_glyphs(Path(temporary), debs)
        folder = target / "glyphs"
        folder.mkdir(parents=True, exist_ok=True)
        for file_name, content in built.items():
            (folder / file_name).write_bytes(content)
        (folder / "LICENSE").write_text(licence, encoding="utf-8")
        manifest["glyphs"] = entry(
            card("glyphs"),
            [{"debian_package": one.name, "path": one.path, "sha256": one.sha256} for one in font_packages()],
            built,
        )
    manifest["few_shot_table"] = build_table(target, table)
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (target / "manifest.json").write_text(text, encoding="utf-8")


def unpacked(path: Path) -> bytes:
    """Return the content of a file, decompressed if it is compressed."""
    content = path.read_bytes()
    return {".gz": gzip.decompress, ".xz": lzma.decompress}.get(path.suffix, bytes)(content)


def differences(built: Path, shipped: Path) -> list[str]:
    """Return a line for every file that `built` and `shipped` do not have alike."""
    names = {path.relative_to(top) for top in (built, shipped) for path in top.rglob("*") if path.is_file()}
    found = []
    for name in sorted(names):
        if not (built / name).is_file() or not (shipped / name).is_file():
            found.append(f"{name}: only in {'the package' if (shipped / name).is_file() else 'what was built'}")
        elif (built / name).read_bytes() != (shipped / name).read_bytes():
            same = unpacked(built / name) == unpacked(shipped / name)
            found.append(
                f"{name}: {'same content, compressed otherwise by this zlib or liblzma' if same else 'differs'}"
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what the package ships; write nothing there")
    parser.add_argument("--debs", type=Path, help="folder with the .deb files, instead of downloading them")
    parser.add_argument("--table", type=Path, help="a table of nets, in place of the one that ships")
    chosen = parser.parse_args()
    try:
        if not chosen.check:
            build(EMBEDDED, chosen.debs, chosen.table)
            print((EMBEDDED / "manifest.json").read_text(encoding="utf-8"))
            return 0
        with tempfile.TemporaryDirectory() as temporary:
            build(Path(temporary), chosen.debs, chosen.table)
            found = differences(Path(temporary), EMBEDDED)
    except SourceFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    print("\n".join(found) or f"{EMBEDDED} is what the packages give, to the byte")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
