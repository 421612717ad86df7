"""Tokenisers give every byte back, and what they learned depends on the training text alone."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.data import load
from metabench.data.text import tokens
from metabench.data.text.tokens import Tokeniser, bits_per_byte, tokeniser


def as_bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, dtype=np.uint8)


@pytest.fixture(scope="module")
def train() -> np.ndarray:
    return load("jargon").train[:200_000]


@pytest.fixture(scope="module", params=[("bytes", 256), ("bpe", 256), ("bpe", 600)], ids=lambda p: f"{p[0]}-{p[1]}")
def chosen(request: pytest.FixtureRequest, train: np.ndarray) -> Tokeniser:
    return tokeniser(*request.param, train)


EVERY_PAIR = bytes(byte for first in range(256) for second in range(256) for byte in (first, second))


def decode(chosen: Tokeniser, ids: np.ndarray) -> bytes:
    """Return the bytes that ids stand for."""
    if isinstance(chosen, tokens.SingleBytes):
        return bytes(ids.tolist())
    assert isinstance(chosen, tokens.BytePairs)
    by_id = sorted(chosen._model.get_vocab().items(), key=lambda entry: entry[1])
    return b"".join(by_id[index][0].encode("latin-1") for index in ids.tolist())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"The Jargon File, 4.4.7:\r\n\tyak  shaving\n\n",
        "Märchen für 2 €, 漢字 и кириллица 🦜 e\u0301".encode(),
        "漢字".encode()[1:-1],
        b"\x00\xff\xfe\x80 \xc3",
        EVERY_PAIR,
        np.random.default_rng(0).bytes(20_000),
    ],
    ids=["empty", "space", "english", "utf-8", "cut characters", "no utf-8", "every pair", "noise"],
)
def test_all_bytes_come_back(chosen: Tokeniser, content: bytes) -> None:
    ids = chosen.encode(as_bytes(content))
    assert ids.dtype == np.int64 and ids.ndim == 1
    assert decode(chosen, ids) == content
    assert chosen.bytes_of[ids].sum() == len(content)


def test_the_held_out_spans_come_back_though_they_begin_within_a_word(train: np.ndarray) -> None:
    learned = tokeniser("bpe", 600, train)
    data = load("foldoc")
    for span in (data.valid, data.test):
        assert decode(learned, learned.encode(span)) == span.tobytes()


def test_every_token_stands_for_as_many_bytes_as_it_says(chosen: Tokeniser) -> None:
    assert chosen.bytes_of.shape == (chosen.vocabulary,) and chosen.bytes_of.dtype == np.int64
    alone = [decode(chosen, np.array([index])) for index in range(chosen.vocabulary)]
    assert [len(token) for token in alone] == chosen.bytes_of.tolist()
    assert len(set(alone)) == chosen.vocabulary
    assert alone[:256] == [bytes([byte]) for byte in range(256)]


def test_a_byte_is_its_own_id() -> None:
    plain = tokeniser("bytes")
    np.testing.assert_array_equal(plain.encode(as_bytes(b"az\xff")), [97, 122, 255])
    assert plain.vocabulary == 256


def test_merges_shorten_the_text_more_the_more_there_are(train: np.ndarray) -> None:
    text = load("jargon").valid
    lengths = [len(tokeniser("bpe", vocabulary, train).encode(text)) for vocabulary in (256, 512, 1024)]
    assert lengths[0] == len(text) > 1.5 * lengths[1] > 1.5 * lengths[2]


def test_no_merge_crosses_a_word(train: np.ndarray) -> None:
    learned = tokeniser("bpe", 1024, train)
    for index in range(256, 1024):
        token = decode(learned, np.array([index]))
        assert token.strip() == b"" or b" " not in token[1:]
        assert token.strip() == b"" or b"\n" not in token


def test_the_commonest_pair_is_the_first_merge() -> None:
    learned = tokeniser("bpe", 257, as_bytes(b"zebra zest zero " * 100))
    assert decode(learned, np.array([256])) == b"ze"


def test_what_is_learned_is_the_same_in_every_process(train: np.ndarray) -> None:
    code = (
        "import hashlib; from metabench.data import load; from metabench.data.text.tokens import tokeniser\n"
        "learned = tokeniser('bpe', 600, load('jargon').train[:200_000])\n"
        "print(hashlib.sha256(learned.encode(load('jargon').valid).tobytes()).hexdigest())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = tokeniser("bpe", 600, train).encode(load("jargon").valid)
    assert elsewhere == hashlib.sha256(here.tobytes()).hexdigest()


def test_a_vocabulary_is_learned_once_for_a_text(train: np.ndarray) -> None:
    assert tokeniser("bpe", 600, train) is tokeniser("bpe", 600, train.copy())
    assert tokeniser("bpe", 600, train) is not tokeniser("bpe", 601, train)
    assert tokeniser("bpe", 600, train) is not tokeniser("bpe", 600, train[:-1])


def test_a_uniform_guess_over_bytes_costs_eight_bits_per_byte() -> None:
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8, rel=1e-15)


@pytest.mark.parametrize(
    ("name", "vocabulary", "length", "complaint"),
    [
        ("bpee", 300, 5000, "unknown tokeniser 'bpee': did you mean 'bpe'?"),
        ("bpe", 255, 5000, "a vocabulary of 255 cannot hold every byte; at least 256"),
        ("bytes", 1024, 5000, "tokeniser 'bytes' has a vocabulary of 256, got 1,024; 'bpe' learns larger ones"),
        ("bpe", 300, 999, "a training text of 999 bytes is too short to learn from, expected at least 1,000"),
        ("bpe", 300, None, "tokeniser 'bpe' learns its vocabulary: give it a training text"),
    ],
)
def test_nonsense_is_refused(train: np.ndarray, name: str, vocabulary: int, length: int | None, complaint: str) -> None:
    with pytest.raises(MetabenchError) as refused:
        tokeniser(name, vocabulary, None if length is None else train[:length])
    assert complaint in str(refused.value)


def test_a_vocabulary_beyond_the_text_names_the_largest_that_can_be_learned(train: np.ndarray) -> None:
    with pytest.raises(MetabenchError, match=r"choose at most ([\d,]+)$") as refused:
        tokeniser("bpe", 50_000, train[:5000])
    most = int(str(refused.value).rsplit(" ", 1)[1].replace(",", ""))
    assert 256 < most < 5000
    assert tokeniser("bpe", most, train[:5000]).vocabulary == most


def test_texts_of_the_wrong_kind_are_refused(chosen: Tokeniser) -> None:
    with pytest.raises(MetabenchError, match=r"text as uint8 of shape \[n\], got int64 of shape \[2, 2\]"):
        chosen.encode(np.zeros((2, 2), dtype=np.int64))


def test_without_the_library_the_extra_that_brings_it_is_named(
    monkeypatch: pytest.MonkeyPatch, train: np.ndarray
) -> None:
    monkeypatch.setattr(tokens, "_LEARNED", {})
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert tokeniser("bytes").encode(as_bytes(b"hi")).tolist() == [104, 105]
    with pytest.raises(MetabenchError, match=r"pip install 'metabench\[text\]'"):
        tokeniser("bpe", 300, train)
