from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.data import DataFile, card, load
from metabench.data.fetch.download import SourceFailed
from metabench.data.fetch.drawing import SCRIPTS, FontFile, draw, draw_all
from metabench.data.fetch.fonts import DrawnFonts, FontPackage, font_packages
from metabench.data.few_shot import FewShot
from metabench.data.formats.deb import deb_files
from metabench.data.formats.glyphs import compressed, decode, encode
from metabench.data.formats.sfnt import read_face
from metabench.data.sets import glyphs

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SANS, BOLD, OBLIQUE, SERIF = (
    (FONTS / f"DejaVu{name}.ttf").read_bytes() for name in ("Sans", "Sans-Bold", "Sans-Oblique", "Serif")
)


def deb(files: dict[str, bytes], pack: Callable[[bytes], bytes] = lzma.compress, suffix: str = ".xz") -> bytes:
    """Return a Debian package, as deb(5) describes it."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar{suffix}": pack(held.getvalue())}
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
        parts.append(content + b"\n" * (len(content) % 2))
    return b"".join(parts)


@pytest.fixture(scope="module")
def shipped() -> FewShot:
    data = load("glyphs")
    assert isinstance(data, FewShot)
    return data


def test_the_glyphs_are_what_the_card_says_and_no_script_is_in_two_parts(shipped: FewShot) -> None:
    declared = card("glyphs")
    parts = {"train": shipped.train, "validation": shipped.validation, "test": shipped.test, "far": shipped.far}
    assert tuple(script for part in parts.values() for script in part) == declared.domains
    assert len(set(declared.domains)) == len(declared.domains)
    for name, part in parts.items():
        assert sum(len(domain.targets) for domain in part.values()) == declared.sizes[name]
        for domain in part.values():
            assert domain.images.shape == (len(domain.targets), *declared.input_shape)
            assert set(domain.targets) == set(range(len(domain.classes)))
            assert np.bincount(domain.targets).min() >= 10


def test_no_two_families_draw_a_character_alike_and_no_image_is_empty(shipped: FewShot) -> None:
    for domain in shipped.test.values():
        flat = domain.images[:].reshape(len(domain.targets), -1)
        keyed = np.concatenate([domain.targets[:, None], flat], axis=1)
        assert len(np.unique(keyed, axis=0)) == len(keyed)
        assert flat.max(axis=1).min() > 0


def test_the_characters_are_recognisable(shipped: FewShot) -> None:
    # The nearest of 53 mean images is right for most, and by chance for one in fifty.
    domain = shipped.train["Devanagari"]
    flat = domain.images[:].reshape(len(domain.targets), -1) / 255
    means = np.stack([flat[domain.targets == label].mean(axis=0) for label in range(len(domain.classes))])
    nearest = np.argmax(flat @ means.T - (means**2).sum(axis=1) / 2, axis=1)
    assert np.mean(nearest == domain.targets) > 0.6


def test_every_family_has_a_package_with_a_licence() -> None:
    packages = {package.name: package for package in font_packages()}
    used = decode((Path(glyphs.__file__).parents[1] / "embedded/glyphs/glyphs.xz").read_bytes(), "glyphs.xz")
    assert set(used.packages) == set(packages)
    assert all(package.licence and len(package.sha256) == 64 for package in packages.values())
    notices = (Path(glyphs.__file__).parents[1] / "embedded/glyphs/LICENSE").read_text(encoding="utf-8")
    assert all(family in notices for family in used.families) and all(name in notices for name in packages)


def test_a_face_says_its_family_weight_slant_and_characters() -> None:
    sans, bold, oblique = read_face(SANS), read_face(BOLD), read_face(OBLIQUE)
    assert (sans.family, sans.weight, sans.slanted) == ("DejaVu Sans", 400, False)
    assert bold.weight == 700 and oblique.slanted
    assert {ord("a"), ord("ж"), 0x1D7D8} <= sans.characters and ord("あ") not in sans.characters


def test_a_font_without_the_characters_is_named_and_so_is_a_file_that_is_no_font() -> None:
    with pytest.raises(
        MetabenchError, match=r"font 'DejaVu Sans' has no character 'あ' \(U\+3042\), 'い'.* and 1 more"
    ):
        draw(SANS, "aあいうえ", 16, "DejaVu Sans")
    with pytest.raises(MetabenchError, match=r"font 'a.ttf': it is no TrueType or OpenType font"):
        draw(b"text", "a", 16, "a.ttf")
    with pytest.raises(MetabenchError, match=r"font 'cut.ttf': the font is damaged"):
        draw(SANS[:3000], "a", 16, "cut.ttf")


def test_a_character_fills_the_image_except_for_a_margin_and_a_space_has_none() -> None:
    images = draw(SANS, "l— ", 16, "DejaVu Sans")
    assert set(images) == {"l", "—"}
    assert np.flatnonzero(images["l"].any(axis=1)).tolist() == list(range(1, 15))
    assert np.flatnonzero(images["—"].any(axis=0)).tolist() == list(range(1, 15))


def test_a_family_draws_once_in_its_upright_regular_face() -> None:
    fonts = [FontFile("p", name, content) for name, content in (("b", BOLD), ("o", OBLIQUE), ("s", SANS), ("f", SERIF))]
    drawn = draw_all(fonts, 16, fewest=2)
    assert drawn.families == ("DejaVu Sans", "DejaVu Serif") and drawn.packages == ("p", "p")
    expected = draw(SANS, SCRIPTS["Latin"], 16, "DejaVu Sans")
    first = drawn.images[(drawn.characters == 0) & (drawn.drawn_by == 0)]
    np.testing.assert_array_equal(first[0], expected[drawn.scripts["Latin"][0]])
    for content in (encode(drawn), compressed(encode(drawn))):
        again = decode(content, "a file")
        assert again.scripts == drawn.scripts
        np.testing.assert_array_equal(again.images, drawn.images)
    with pytest.raises(MetabenchError, match="a file holds no drawn characters"):
        decode(encode(drawn)[:-1], "a file")


def test_the_scripts_have_no_small_kana_and_no_capital_that_differs_in_size_alone() -> None:
    assert "ぁ" not in SCRIPTS["Hiragana"] and "あ" in SCRIPTS["Hiragana"]
    assert "O" not in SCRIPTS["Latin"] and "A" in SCRIPTS["Latin"]


@pytest.mark.parametrize(("pack", "suffix"), [(lzma.compress, ".xz"), (gzip.compress, ".gz"), (bytes, "")])
def test_a_debian_package_is_read_without_debian_s_programs(pack: Callable[[bytes], bytes], suffix: str) -> None:
    files = {"usr/share/fonts/a.ttf": b"font", "usr/share/doc/a/copyright": b"free"}
    assert deb_files(deb(files, pack, suffix)) == files


def test_a_package_that_cannot_be_read_says_why() -> None:
    for content, reason in (
        (b"no archive", "no Debian package"),
        (deb({}, bytes, ".zst"), r"its files are in data.tar.zst: expected"),
        (deb({"a": b"b"}, lambda _: b"odd"), "it is damaged"),
        (b"!<arch>\n", "has no data.tar"),
    ):
        with pytest.raises(ValueError, match=reason):
            deb_files(content)


def archive(folder: Path) -> tuple[FontPackage, ...]:
    """Put two packages into `folder` and return them."""
    made = []
    for name, fonts in (("fonts-sans", {"usr/a.ttf": SANS}), ("fonts-serif", {"usr/b.ttf": SERIF, "usr/doc": b""})):
        content = deb(fonts)
        (folder / f"{name}_1-1_all.deb").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        made.append(FontPackage(f"{name}_1-1_all.deb", len(content), digest, "free"))
    return tuple(made)


def silent(what: str, here: int, total: int) -> None:
    pass


def test_fonts_are_downloaded_and_drawn_and_what_was_interrupted_is_resumed(tmp_path: Path) -> None:
    pool, folder = tmp_path / "pool", tmp_path / "data"
    pool.mkdir(), folder.mkdir()
    packages = archive(pool)
    expected = encode(draw_all([FontFile("fonts-sans", "a", SANS), FontFile("fonts-serif", "b", SERIF)], 16, 2))
    file = DataFile("drawn.bin", len(expected), hashlib.sha256(expected).hexdigest())
    source = DrawnFonts(16, packages, ((tmp_path / "gone").as_uri() + "/", pool.as_uri() + "/"), fewest=2)
    content = (pool / packages[1].file).read_bytes()
    (pool / packages[1].file).unlink()
    with pytest.raises(SourceFailed, match=r"package fonts-serif: .*gone/: .*; .*pool/"):
        source.supply([file], folder, silent, lambda command, where: None)
    assert [path.name for path in folder.iterdir()] == ["packages"]
    (pool / packages[1].file).write_bytes(content)
    (pool / packages[0].file).unlink()  # there already
    source.supply([file], folder, silent, lambda command, where: None)
    assert [path.name for path in folder.iterdir()] == ["drawn.bin"]
    assert (folder / "drawn.bin").read_bytes() == expected


def test_what_another_pillow_draws_is_refused_with_the_version_to_install(tmp_path: Path) -> None:
    source = DrawnFonts(16, archive(tmp_path), (tmp_path.as_uri() + "/",), fewest=2)
    with pytest.raises(SourceFailed, match=r"drawn with Pillow .* and FreeType .*pip install pillow==13"):
        source.supply([DataFile("a.bin", 1, "0" * 64)], tmp_path, silent, lambda command, where: None)
    assert not (tmp_path / "a.bin").exists()
