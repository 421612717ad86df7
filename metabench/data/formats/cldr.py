"""Names of territories, languages, scripts and currencies in the world's locales, from the Unicode CLDR as Babel ships it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from metabench.core.errors import MetabenchError

KINDS = {"territory": "territories", "language": "languages", "script": "scripts", "currency": "currencies"}
"""The classes, and the attribute of a Babel `Locale` that holds the names of each by code."""


def kinds_by_name(locale: Any) -> dict[str, set[str]]:
    """Return the classes of every name of a locale, which has the attributes in `KINDS`, each a mapping from codes to names."""
    found: dict[str, set[str]] = {}
    for kind, attribute in KINDS.items():
        for name in getattr(locale, attribute).values():
            if isinstance(name, str):
                found.setdefault(" ".join(name.split()), set()).add(kind)
    return found


def table(locale_of: Callable[[str], Any], source: str, targets: Iterable[str]) -> bytes:
    """Return the names of the source locale and of the targets as lines 'locale TAB class TAB name' in UTF-8.

    `locale_of` returns a Babel `Locale` by its name. Names of two classes are left out, and so are a target's names that the source has,
    too: they would be known.
    """
    known = kinds_by_name(locale_of(source))
    lines = []
    for locale in (source, *targets):
        for name, kinds in sorted(kinds_by_name(locale_of(locale)).items()):
            if len(kinds) == 1 and (locale == source or name not in known):
                lines.append(f"{locale}\t{next(iter(kinds))}\t{name}\n")
    return "".join(lines).encode("utf-8")


def read_table(content: bytes, where: str) -> Mapping[str, list[tuple[str, str]]]:
    """Return (name, class) pairs by locale from what `table` wrote; raise MetabenchError naming `where` and the line that is wrong."""
    found: dict[str, list[tuple[str, str]]] = {}
    for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) != 3 or fields[1] not in KINDS:
            raise MetabenchError(f"{where}, line {number}: expected a locale, a class and a name, found {line!r}")
        found.setdefault(fields[0], []).append((fields[2], fields[1]))
    return found
