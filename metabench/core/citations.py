"""What methods, problems and data sets cite: keys of `metabench/references.bib`, or the BibTeX itself."""

from __future__ import annotations

import functools
import inspect
import re
from pathlib import Path

from metabench.core.errors import unknown

REFERENCES = Path(__file__).parents[1] / "references.bib"


@functools.cache
def references() -> dict[str, str]:
    """Return the entries of `references.bib` by key."""
    entries = re.split(r"^(?=@)", REFERENCES.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {keys(entry)[0]: entry.strip() for entry in entries if entry.startswith("@")}


def keys(citation: str) -> list[str]:
    """Return the keys that a citation names, separated by spaces, or those of its BibTeX; empty if it cites nothing."""
    if citation.lstrip().startswith("@"):
        return re.findall(r"^\s*@\w+\{\s*([^,\s}]+)", citation, re.MULTILINE)
    return citation.split()


def bibtex(citation: str) -> str:
    """Return a citation as BibTeX; empty if it cites nothing.

    Raises:
        MetabenchError: `references.bib` has no entry of this key.
    """
    if citation.lstrip().startswith("@"):
        return inspect.cleandoc(citation).strip()
    known = references()
    for key in keys(citation):
        if key not in known:
            raise unknown("citation", key, known)
    return "\n".join(known[key] for key in keys(citation))
