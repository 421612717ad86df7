"""Labelled text of several languages: what ships is what Babel gives, tags map or are named, and parts share nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from metabench.core.errors import MetabenchError
from metabench.data import load
from metabench.data.formats.cldr import read_table, table
from metabench.data.formats.tagged import NER, UPOS, conllu, iob2, spans
from metabench.data.languages import Examples, Languages
from metabench.data.panx import panx, panx_files
from metabench.data.scores import score
from metabench.data.sets.cldr_names import SOURCE, TARGETS
from metabench.data.text.pieces import UNLABELLED, Characters, TrainedPieces, encoded

SIZES = {"train": 100, "validation": 100, "test": 10_000}


def locale(**kinds: dict[str, str]) -> SimpleNamespace:
    return SimpleNamespace(**({kind: {} for kind in ("territories", "languages", "scripts", "currencies")} | kinds))


def test_a_name_of_two_kinds_and_one_that_is_the_same_in_english_are_left_out() -> None:
    english = locale(territories={"FR": "France", "AR": "Arabic"}, languages={"ar": "Arabic", "fr": "French"})
    german = locale(territories={"FR": "Frankreich", "SA": "Arabic", "PE": "France"}, languages={"fr": "Französisch"})
    found = read_table(table({"en": english, "de": german}.__getitem__, "en", ["de"]), "here")
    assert found["en"] == [("France", "territory"), ("French", "language")]
    assert found["de"] == [("Frankreich", "territory"), ("Französisch", "language")]
    with pytest.raises(MetabenchError, match=r"here, line 2: expected a locale, a class and a name, found 'de'"):
        read_table(b"en\tterritory\tFrance\nde\n", "here")


def test_names_ship_in_english_and_in_more_languages_each_of_one_class() -> None:
    data = load("cldr_names")
    assert tuple(data.whole) == (SOURCE, *TARGETS)
    english = {words[0] for words in data.whole["en"].words}
    for language, pool in data.whole.items():
        found = [words[0] for words in pool.words]
        assert len(set(found)) == len(found)
        assert language == "en" or not english & set(found)
    # Well-known ones, and the numbers that CLDR has in English.
    kinds = {words[0]: data.classes[label] for words, (label,) in zip(*vars(data.whole["tr"]).values(), strict=True)}
    assert [kinds[name] for name in ("Almanya", "Almanca", "ABD doları")] == ["territory", "language", "currency"]
    assert len(english) == 1376


@pytest.mark.parametrize("seed", [0, 1])
def test_the_parts_of_a_language_are_disjoint_and_keep_the_proportions_of_classes(seed: int) -> None:
    data = load("cldr_names")
    parts = data.split("fo", SIZES, seed)
    pool = {words: label for words, (label,) in zip(*vars(data.whole["fo"]).values(), strict=True)}
    drawn = [words for part in parts.values() for words in part.words]
    assert len(set(drawn)) == len(drawn) == len(pool)
    for part in ("train", "validation"):
        counts = [sum(label == (one,) for label in parts[part].labels) for one in range(4)]
        assert all(
            abs(counts[one] - 100 * sum(label == one for label in pool.values()) / len(pool)) <= 2 for one in range(4)
        )
    assert parts["train"] != data.split("fo", SIZES, seed + 1)["train"]


def test_a_language_with_too_few_names_and_one_that_there_is_not_are_named() -> None:
    data = load("cldr_names")
    with pytest.raises(MetabenchError, match=r"'kl' has too few examples: it has 176, and 100 for training and 100"):
        data.split("kl", SIZES, 0)
    with pytest.raises(MetabenchError, match=r"'en' has too few examples: it has 1376, and 5000 are requested"):
        data.all_of("en", 5000, 0)
    with pytest.raises(MetabenchError, match=r"unknown language of the names of CLDR 'fa'"):
        data.split("fa", SIZES, 0)


def row(number: str, word: str, tag: str) -> str:
    return "\t".join([number, word, "_", tag, *"______"])


def test_universal_tags_map_to_twelve_and_one_that_does_not_is_named() -> None:
    lines = [
        "# text = Do Rio",
        row("1-2", "Do", "_"),
        row("1", "De", "ADP"),
        row("2", "o", "DET"),
        row("3", "Rio", "PROPN"),
    ]
    found = conllu("\n".join([*lines, "", row("1", "e", "CCONJ"), ""]), "pt")
    assert found.words == (("De", "o", "Rio"), ("e",))
    assert [[UPOS[label] for label in labels] for labels in found.labels] == [["ADP", "DET", "NOUN"], ["CONJ"]]
    with pytest.raises(MetabenchError, match="pt, line 6: the tag 'POSTP' of 'gibi' does not map to one of NOUN, "):
        conllu("\n".join([*lines, row("4", "gibi", "POSTP")]), "pt")
    with pytest.raises(MetabenchError, match="pt, line 1: expected 10 columns of CoNLL-U, found 2"):
        conllu("1\tDe", "pt")


PANX = "qu:Kuzco\tB-PER\nqu:llaqtapi\tO\nqu:a:b\tI-LOC\n\nqu:Lima\tB-LOC\n"


def folder_of(root: Path, *languages: str) -> str:
    for language in languages:
        (root / language).mkdir()
        for part in ("train", "dev", "test"):
            (root / language / part).write_text(PANX, encoding="utf-8")
    return str(root)


def test_wikiann_is_read_from_a_folder(tmp_path: Path) -> None:
    data = panx(folder_of(tmp_path, "en", "qu"), "en", "qu")
    assert (data.score, data.classes, data.source) == ("span F1", NER, "en")
    examples = data.parts["qu"]["test"]
    assert examples.words == (("Kuzco", "llaqtapi", "a:b"), ("Lima",))
    assert [NER[label] for label in examples.labels[0]] == ["B-PER", "O", "I-LOC"]
    parts = data.split("qu", {"train": 1, "validation": 2, "test": 9}, 0)
    assert [len(part) for part in parts.values()] == [1, 2, 2]
    assert len(panx_files(str(tmp_path))) == 6


def test_a_folder_without_wikiann_s_files_says_what_to_put_where(tmp_path: Path) -> None:
    put = "put the unpacked archives of WikiAnn .* one folder for each language, as en/ and qu/, with the files train, dev"
    with pytest.raises(MetabenchError, match=f"there is no folder {tmp_path}/none: {put}"):
        panx(f"{tmp_path}/none", "en", "qu")
    with pytest.raises(MetabenchError, match=f"has no language: {put}"):
        panx_files(str(tmp_path))
    folder_of(tmp_path, "en")
    with pytest.raises(MetabenchError, match=f"there is no file {tmp_path}/qu/train: {put}"):
        panx(str(tmp_path), "en", "qu")
    (tmp_path / "en" / "dev").write_text("en:Lima\tB-CITY\n", encoding="utf-8")
    with pytest.raises(MetabenchError, match="dev, line 1: the tag 'B-CITY' of 'Lima' does not map to one of O, B-PER"):
        panx(str(tmp_path), "en", "en")
    with pytest.raises(MetabenchError, match="here, line 1: expected 'LANGUAGE:WORD TAB TAG', found 'en:Lima'"):
        iob2("en:Lima", "here")


def test_spans_and_scores_by_hand() -> None:
    assert spans(["B-PER", "I-PER", "B-PER", "O", "I-LOC", "I-ORG"]) == {
        (0, 1, "PER"),
        (2, 2, "PER"),
        (4, 4, "LOC"),
        (5, 5, "ORG"),
    }
    true, found = [[1, 2, 0, 5]], [[1, 2, 0, 3]]  # PER right; LOC taken for ORG
    assert score("span F1", true, found, NER) == pytest.approx(0.5)
    assert score("accuracy", true, found, NER) == 0.75
    # F1 of class 0 is 2/3, of 1 is 4/5; class 2 is neither true nor found.
    assert score("macro F1", [[0, 0, 1, 1]], [[0, 1, 1, 1]], "abc") == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_long_examples_are_cut_between_words_and_no_word_is_lost() -> None:
    examples = Examples((("ab", "c", "de"), ("xyz",)), ((1, 2, 3), (4,)))
    pieces = Characters(["abcdexy"])
    found = encoded({"all": examples}, pieces, 4)["all"]
    assert found.example.tolist() == [0, 0, 1]
    a, b, c, d, e, x, y = (pieces.of(letter)[0] for letter in "abcdexy")
    assert found.tokens.tolist() == [[a, b, 2, c], [d, e, 0, 0], [x, y, 1, 0]]
    assert found.words.tolist() == [[1, 1, 0, 2], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert found.labels.tolist() == [[1, 2], [3, UNLABELLED], [4, UNLABELLED]]
    assert pieces.vocabulary == 10


def test_parts_that_are_given_are_not_drawn_from_each_other() -> None:
    parts = {part: Examples(((part,),), ((0,),)) for part in ("train", "validation", "test")}
    data = Languages("given", ("a",), "accuracy", "en", {}, {"qu": parts})
    assert data.split("qu", {"train": 1, "validation": 1, "test": 5}, 3) == parts
    with pytest.raises(MetabenchError, match="'qu' has too few examples: the part 'train' has 1, and 2 examples of it"):
        data.split("qu", {"train": 2, "validation": 1, "test": 5}, 3)


def test_pieces_of_a_trained_tokeniser_are_its_numbers_plus_one(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the library tokenizers is not installed (extra nlp)")
    with pytest.raises(
        MetabenchError, match=r"there is no file .*tokenizer.json: put the tokeniser beside the weights"
    ):
        TrainedPieces(tmp_path)
    numbers = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "lima": 4, "<mask>": 5}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    pieces = TrainedPieces(tmp_path)
    assert (pieces.vocabulary, pieces.before, pieces.behind, pieces.unseen) == (7, (1,), (3,), 6)
    found = encoded({"all": Examples((("lima", "roma"),), ((1, 0),))}, pieces, 8)["all"]
    assert found.tokens.tolist() == [[1, 5, 4, 3]] and found.words.tolist() == [[0, 1, 2, 0]]
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(MetabenchError, match=r"tokenizer.json is no tokeniser"):
        TrainedPieces(tmp_path)
