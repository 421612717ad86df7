"""Documents, docstrings and messages use the field's words; WORDS lists the phrases to avoid and what to write instead."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_ONE = "rows?|samples?|times?|values?|seconds?|runs?|tensors?|bytes|lines?|jobs?|objects?|files?|directions?|points?|trees?|once|one"
_EACH = "seed|cell|method|step|core|process|second|problem|task|window|setting|row|tensor|point|class|line|file|device|experiment"

WORDS = {
    rf"(?:{_ONE}) (?-i:an?) (?:{_EACH})": "per: 'one row per seed'",
    "(?:take|takes|taken|taking|took) (?:them |it )?again": "recompute",
    "run again|runs again|computed again": "rerun, recompute",
    "drawn again|drawn anew": "redrawn",
    "once more": "again; of code: independently",
    "number types?": "dtype",
    "perceptrons?(?! \\(MLPs\\))": "MLP",
    "the way back|a sweep back|sweeps back": "the backward pass, a backward sweep",
    "on the way ahead|the way ahead": "the forward pass",
    "let go of|lets go of": "free, freed",
    "(?:is|are|was|be|been) held (?:to|beside)": "is checked against",
    "holds? (?:it|them|a method|methods) to": "check against",
    "foretold|foretells?|foreseen|forecasts?": "predicted",
    "(?:is|are) told(?! apart)": "reported, named",
    "(?:what|whatever) (?:becomes?|became|comes?|came) of": "outcome, result",
    "(?:what|to what) .{0,40}\\bcomes? to[.:,;]": "name the result: the verdict, the summary",
    "in words of|in the words of": "in terms of",
    "an other": "another",
    "needs not": "need not",
    "stands? (?:in|beside|at|below|above|there|by)": "is in, appears in",
    "at the (?:most|least)": "at most, at least",
    "(?:an?|the) \\w+ of yours|a text of the user|of one's own": "your own",
    "(?<!there )(?:is|are) no (?:folder|file|checkout|Parquet|YAML|Python|string|number|name|formula|identity)": "is not a",
    "(?<!there )(?:is|are) no (?:derivative|function|text|initial|scalar)": "is not a",
    "so many|so much(?! that)": "this many; name the number",
    "to the end": "completely; or leave it out",
    "goes wrong with": "fails in",
    "dear|dearer|dearest": "expensive",
    "mend|mends|mended": "fix",
    "gravest|commonest": "worst, most common",
    "the house|this house": "the package, metabench",
    "whoever": "everyone who, the caller",
    "but for": "except",
    "for it is|hence no": "because",
    "near by": "nearby",
    "as long as every": "while every",
    "of a name": "by name",
    "is brought|are brought|brings the": "provide, fetch, move",
    "weigh(?:s|ed|ing)? (?:each|the|every|noisily|mixed|examples?|tokens?|losses|network)": "weight, weighted, weighting",
    "is asked (?:of|for)|are asked (?:of|for)": "is required, is requested",
    "in silence": "silently",
    "(?:may|can) be had": "can be fetched",
}
"""Phrase, as a regular expression in which a space is any white space, and what to write instead."""
WHITE_SPACE = r"\\s+"

PATTERNS = [
    (re.compile(rf"\b(?:{re.sub('(?<!there) ', WHITE_SPACE, phrase)})(?!\w)", re.IGNORECASE), instead)
    for phrase, instead in WORDS.items()
]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "config/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "mutants.md"),
    "metabench/report/page/templates/page.html",
)
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "metabench").rglob("*.py"))


def findings(text: str, name: str, first: int = 1) -> Iterator[str]:
    """Yield 'file:line: words: write ...' for each phrase to avoid in a text whose first line has the number `first`."""
    for pattern, instead in PATTERNS:
        for match in pattern.finditer(text):
            line = first + text.count("\n", 0, match.start())
            yield f"{name}:{line}: '{' '.join(match[0].split())}': write {instead}"


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each docstring and each other string in a module; of formatted strings, the fixed parts."""
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            fixed = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield node.lineno, "".join(map(str, fixed))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value


def newest_section(changelog: str) -> str:
    """Return a changelog up to the end of its newest section."""
    return "\n## ".join(changelog.split("\n## ")[:2])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_avoids_these_phrases(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    found = list(findings(newest_section(text) if document == "CHANGELOG.md" else text, document))
    assert not found, "\n".join(found)


def test_docstrings_and_messages_avoid_these_phrases() -> None:
    found = [
        finding
        for module in MODULES
        for line, text in prose((ROOT / module).read_text(encoding="utf-8"))
        for finding in findings(text, module, line)
    ]
    assert not found, "\n".join(found)


def test_a_planted_phrase_is_found_with_its_line_and_its_replacement() -> None:
    docstring = '"""Return rows.\n\n    They have one row a\n    seed.\n    """'
    planted = (
        f'"""One module."""\n\n\ndef run(seed):\n    {docstring}\n    raise ValueError(f"{{seed}} is held to it")\n'
    )
    found = [finding for line, text in prose(planted) for finding in findings(text, "m.py", line)]
    assert found == [
        "m.py:7: 'row a seed': write per: 'one row per seed'",
        "m.py:10: 'is held to': write is checked against",
    ]


def test_a_planted_phrase_is_found_in_a_document() -> None:
    assert list(findings("It is fast.\nOne job a\nmethod runs.", "docs/a.md")) == [
        "docs/a.md:2: 'job a method': write per: 'one row per seed'"
    ]
