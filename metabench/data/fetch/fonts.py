"""Font packages of Debian as a source of drawn characters: downloaded, unpacked here, drawn, and nothing installed."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metabench.core.errors import MetabenchError
from metabench.core.types import Progress
from metabench.data.contract import DataFile, Run
from metabench.data.fetch.download import SourceFailed, download
from metabench.data.fetch.drawing import FEWEST_FAMILIES, FontFile, draw_all
from metabench.data.fetch.files import is_whole, unwritable
from metabench.data.fetch.sources import place
from metabench.data.formats.deb import deb_files
from metabench.data.formats.glyphs import encode

ARCHIVES = ("http://deb.debian.org/debian/", "https://snapshot.debian.org/archive/debian/20250520T000000Z/")
"""Where the packages are: the archive of Debian 12, and as it was on a day, for when packages are replaced."""

PILLOW = "13.0.0"
"""The version of Pillow whose images the checksums are of: another FreeType draws a few pixels otherwise."""

_FONTS = (".otf", ".ttf")


@dataclass(frozen=True)
class FontPackage:
    """A Debian package, pinned: its path in the archive, size in bytes, sha256, and what licences its fonts have."""

    path: str
    size: int
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def name(self) -> str:
        return self.file.partition("_")[0]


@functools.cache
def font_packages() -> tuple[FontPackage, ...]:
    """Return the packages that characters are drawn from, in alphabetical order."""
    text = (Path(__file__).parent / "font_packages.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines())
    return tuple(FontPackage(path, int(size), sha256, licence) for path, size, sha256, licence in rows)


def font_files(packages: Sequence[FontPackage], folder: Path) -> Iterator[FontFile]:
    """Yield the fonts in the .deb files that `folder` holds.

    Raises:
        SourceFailed: a package is missing, is not the one that is pinned, or holds no font.
    """
    for package in packages:
        archive = folder / package.file
        if not is_whole(archive, DataFile(package.file, package.size, package.sha256)):
            raise SourceFailed(f"{archive} is missing or not the package with sha256 {package.sha256}")
        try:
            held = deb_files(archive.read_bytes())
        except ValueError as error:
            raise SourceFailed(f"{archive}: {error}") from error
        fonts = [FontFile(package.name, path, held[path]) for path in sorted(held) if path.endswith(_FONTS)]
        if not fonts:
            raise SourceFailed(f"package {package.name} holds no TrueType or OpenType font")
        yield from fonts


@dataclass(frozen=True)
class DrawnFonts:
    """One file of characters that `fewest` families or more draw, at `side` x `side` pixels, with pinned font packages.

    Downloaded packages stay in the folder 'packages' until the file is there: an interrupted call leaves whole packages, and the next one
    goes on with the others.
    """

    side: int
    packages: tuple[FontPackage, ...] | None = None
    archives: tuple[str, ...] = ARCHIVES
    fewest: int = FEWEST_FAMILIES

    @property
    def title(self) -> str:
        return "Debian's font packages"

    def supply(self, files: Sequence[DataFile], folder: Path, progress: Progress, run: Run) -> None:
        del run
        (file,) = files
        held = folder / "packages"
        try:
            held.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(held, error) from error
        packages = font_packages() if self.packages is None else self.packages
        for package in packages:
            self._download(package, held, progress)
        progress(f"drawing {file.name}", 0, 0)
        try:
            drawn = encode(draw_all(font_files(packages, held), self.side, self.fewest))
        except MetabenchError as error:
            raise SourceFailed(str(error)) from error
        found = hashlib.sha256(drawn).hexdigest()
        if found != file.sha256:
            raise SourceFailed(
                f"{file.name} came out with sha256 {found}, expected {file.sha256}: it is drawn with {_drawn_with()}, "
                f"expected Pillow {PILLOW} (pip install pillow=={PILLOW})"
            )
        whole = held / file.name
        try:
            whole.write_bytes(drawn)
        except OSError as error:
            raise unwritable(whole, error) from error
        place(whole, file, folder)
        shutil.rmtree(held, ignore_errors=True)

    def _download(self, package: FontPackage, held: Path, progress: Progress) -> None:
        file = DataFile(package.file, package.size, package.sha256)
        if is_whole(held / file.name, file):
            return
        reasons = []
        for archive in self.archives:
            try:
                return download(archive + package.path, held / file.name, file, progress)
            except SourceFailed as failure:
                reasons.append(f"{archive}: {failure}")
        raise SourceFailed(f"package {package.name}: {'; '.join(reasons)}")


def _drawn_with() -> str:
    import PIL
    from PIL import features

    return f"Pillow {PIL.__version__} and FreeType {features.version('freetype2')}"
