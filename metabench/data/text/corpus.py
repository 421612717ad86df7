"""Texts as tokens: every span of every domain, encoded by one tokeniser that has learned on the training spans alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from metabench.core.errors import MetabenchError
from metabench.data.contract import Domains, Text
from metabench.data.text.tokens import BYTES, Ids, tokeniser

MERGED = 1024
"""Default vocabulary of the tokeniser 'bpe'."""


@dataclass(frozen=True)
class Spans:
    """The spans of one domain as tokens: int64 arrays, disjoint."""

    train: Ids
    valid: Ids
    test: Ids


@dataclass(frozen=True)
class Corpus:
    """The tokens of a data set.

    Attributes:
        domains: the spans of every domain by name, in the order of the data set; one domain, "text", where there are no others.
        vocabulary: number of tokens.
        bytes_of: number of bytes of each, int64 of shape [vocabulary].
    """

    domains: Mapping[str, Spans]
    vocabulary: int
    bytes_of: Ids


def corpus(
    data: Any,
    name: str,
    vocabulary: int,
    shortest: int,
    *,
    unit: str = "a sequence and the token after it",
    key: str = "sequence",
) -> Corpus:
    """Return the tokens of `data`, a `Text` or `Domains`, under the named tokeniser; a vocabulary of 0 means its default.

    Every span must hold one `unit` of `shortest` tokens, whose length the option `key` decides.

    Raises:
        MetabenchError: the data are not text; a span has fewer than `shortest` tokens; what the tokeniser raises.
    """
    if not isinstance(data, Text | Domains):
        raise MetabenchError(f"a language model needs text, got {type(data).__name__}")
    texts = data.texts if isinstance(data, Domains) else {"text": data}
    learned_on = np.concatenate([text.train for text in texts.values()])
    chosen = tokeniser(name, vocabulary or (BYTES if name == "bytes" else MERGED), learned_on)
    domains = {
        domain: Spans(*(chosen.encode(span) for span in (text.train, text.valid, text.test)))
        for domain, text in texts.items()
    }
    for domain, spans in domains.items():
        for what, tokens in vars(spans).items():
            if len(tokens) < shortest:
                raise MetabenchError(
                    f"the {what} span of '{domain}' is too short: {len(tokens):,} tokens ({name}), and {unit} takes "
                    f"{shortest:,}; give more text or a smaller '{key}'"
                )
    return Corpus(domains, chosen.vocabulary, chosen.bytes_of)
