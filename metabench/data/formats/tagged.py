"""Tagged words: CoNLL-U with universal parts of speech, and the IOB2 files of WikiAnn and PAN-X."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from metabench.core.errors import MetabenchError
from metabench.data.languages import Examples

UPOS = ("NOUN", "VERB", "ADJ", "ADV", "PRON", "DET", "ADP", "NUM", "CONJ", "PRT", "PUNCT", "X")
"""The twelve universal parts of speech of Petrov, Das & McDonald 2012."""

TO_UPOS: Mapping[str, str] = {
    **{tag: tag for tag in UPOS},
    "AUX": "VERB",
    "PROPN": "NOUN",
    "CCONJ": "CONJ",
    "SCONJ": "CONJ",
    "PART": "PRT",
    **dict.fromkeys(("SYM", "INTJ", "ONOM", "AFFIX"), "X"),
}
"""From the tags of Universal Dependencies, and those of the Turkish treebanks, to the twelve."""

NER = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
"""The tags of WikiAnn and PAN-X."""

_COLUMNS = 10


def conllu(content: str, where: str) -> Examples:
    """Return the sentences of a CoNLL-U file, with the universal part of speech (column 4) of each word by its place in `UPOS`.

    Ranges of words and empty nodes (numbers such as 3-4 and 5.1) are left out: their words have lines of their own.

    Raises:
        MetabenchError: a line has other than ten columns, or a tag that does not map to one of the twelve; it names `where`, line and tag.
    """

    def rows() -> Iterator[tuple[int, str, str] | None]:
        for number, line in enumerate(content.splitlines(), start=1):
            if not line.strip():
                yield None
            elif not line.startswith("#"):
                columns = line.split("\t")
                if len(columns) != _COLUMNS:
                    raise MetabenchError(
                        f"{where}, line {number}: expected {_COLUMNS} columns of CoNLL-U, found {len(columns)}"
                    )
                if columns[0].isdigit():
                    yield number, columns[1], columns[3]

    return _sentences(rows(), where, TO_UPOS, UPOS)


def iob2(content: str, where: str) -> Examples:
    """Return the sentences of a file with a line 'LANGUAGE:WORD TAB TAG' for each word and an empty one after each sentence.

    The tags are those of `NER`. The language and its colon may be missing, as in copies of the files.

    Raises:
        MetabenchError: a line is not a word and a tag, or the tag is another; it names `where`, line and tag.
    """

    def rows() -> Iterator[tuple[int, str, str] | None]:
        for number, line in enumerate(content.splitlines(), start=1):
            if not line.strip():
                yield None
                continue
            word, tab, tag = line.rstrip().rpartition("\t")
            if not tab:
                raise MetabenchError(f"{where}, line {number}: expected 'LANGUAGE:WORD TAB TAG', found {line!r}")
            language, colon, rest = word.partition(":")
            yield number, rest if colon and rest and language.replace("-", "").isalpha() else word, tag

    return _sentences(rows(), where, {tag: tag for tag in NER}, NER)


def spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Return the spans (first word, last word, type) of a sentence's IOB2 tags; an I- that continues nothing begins one."""
    found, begun, kind = set(), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        continues = tag.startswith("I-") and tag[2:] == kind
        if kind and not continues:
            found.add((begun, place - 1, kind))
            kind = ""
        if tag != "O" and not continues:
            begun, kind = place, tag[2:]
    return found


def _sentences(
    rows: Iterator[tuple[int, str, str] | None], where: str, mapped: Mapping[str, str], classes: Sequence[str]
) -> Examples:
    words: list[tuple[str, ...]] = []
    labels: list[tuple[int, ...]] = []
    number_of = {tag: i for i, tag in enumerate(classes)}
    now: list[tuple[str, int]] = []

    def end() -> None:
        if now:
            words.append(tuple(word for word, _ in now))
            labels.append(tuple(label for _, label in now))
            now.clear()

    for row in rows:
        if row is None:
            end()
            continue
        number, word, tag = row
        if tag not in mapped:
            raise MetabenchError(
                f"{where}, line {number}: the tag '{tag}' of '{word}' does not map to one of {', '.join(classes)}"
            )
        now.append((word, number_of[mapped[tag]]))
    end()
    if not words:
        raise MetabenchError(f"{where} has no sentence")
    return Examples(tuple(words), tuple(labels))
