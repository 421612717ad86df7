"""Named entities of WikiAnn and PAN-X, from a folder of the user's: LANGUAGE/train, LANGUAGE/dev and LANGUAGE/test."""

from __future__ import annotations

from pathlib import Path

from metabench.core.errors import MetabenchError
from metabench.data.formats.tagged import NER, iob2
from metabench.data.languages import Examples, Languages

FILES = {"train": "train", "validation": "dev", "test": "test"}
"""The file of each part."""

_WHAT = (
    "put the unpacked archives of WikiAnn (PAN-X, Rahimi et al. 2019) there, one folder for each language, as en/ and qu/, with the files "
    "train, dev and test, whose lines are 'LANGUAGE:WORD TAB TAG'"
)


def panx_files(folder: str, languages: tuple[str, ...] = ()) -> list[Path]:
    """Return the files of the `languages` in the folder; by default of all languages that it has.

    Raises:
        MetabenchError: there is no such folder or file, or the folder has no language; the message says what to put where.
    """
    place = Path(folder).expanduser()
    if not folder or not place.is_dir():
        raise MetabenchError(f"there is no folder {folder or 'of PAN-X: name one'}: {_WHAT}")
    chosen = languages or tuple(sorted(one.name for one in place.iterdir() if (one / FILES["train"]).is_file()))
    if not chosen:
        raise MetabenchError(f"the folder {place} has no language: {_WHAT}")
    found = [place / language / file for language in chosen for file in FILES.values()]
    for path in found:
        if not path.is_file():
            raise MetabenchError(f"there is no file {path}: {_WHAT}")
    return found


def panx(folder: str, source: str, target: str) -> Languages:
    """Return the entities of two languages; raise MetabenchError as `panx_files` and `iob2`."""
    panx_files(folder, (source, target))
    parts = {language: _parts(Path(folder).expanduser() / language) for language in (source, target)}
    return Languages("PAN-X", NER, "span F1", source, {}, parts)


def _parts(folder: Path) -> dict[str, Examples]:
    found = {}
    for part, file in FILES.items():
        path = folder / file
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MetabenchError(f"cannot read {path}: {error}") from error
        found[part] = iob2(content, str(path))
    return found
