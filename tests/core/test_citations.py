"""Papers are cited by their keys in `references.bib`; plugins may give BibTeX."""

from __future__ import annotations

import re

import pytest

from metabench.core import Cost, MetabenchError, Target, method
from metabench.core.citations import bibtex, keys, references
from metabench.core.declarations import check_method
from metabench.data import datasets
from metabench.learned.declared import LEARNED_OPTIMISERS
from metabench.methods import methods
from metabench.problems import problems
from metabench.search.strategy import strategies


def test_every_reference_is_a_balanced_entry_in_the_order_of_the_keys() -> None:
    assert list(references()) == sorted(references())
    for key, entry in references().items():
        assert re.match(rf"@\w+\{{{key},\n  ", entry) and entry.endswith("\n}")
        assert entry.count("{") == entry.count("}")


def test_every_reference_is_cited() -> None:
    declared = [*methods().values(), *(kind.card for kind in problems().values()), *datasets().values()]
    declared += [*LEARNED_OPTIMISERS().values(), *(kind.card for kind in strategies().values())]
    assert {key for one in declared for key in keys(one.citation)} == set(references())


def test_several_keys_are_separated_by_spaces() -> None:
    found = bibtex("maclaurin2015gradient franceschi2017forward")
    assert keys(found) == ["maclaurin2015gradient", "franceschi2017forward"]
    assert found == f"{references()['maclaurin2015gradient']}\n{references()['franceschi2017forward']}"
    assert bibtex("") == ""
    assert keys("") == []


def test_bibtex_is_unindented_and_may_have_any_key() -> None:
    given = """
        @misc{ zero,
          title = {Zero}
        }
    """
    assert bibtex(given) == "@misc{ zero,\n  title = {Zero}\n}"
    assert keys(given) == ["zero"]


def test_an_unknown_key_is_answered_with_the_nearest() -> None:
    with pytest.raises(MetabenchError, match="unknown citation 'kemaev2025': did you mean 'kemaev2025scalable'"):
        bibtex("kemaev2025")

    @method(title="t", target=Target.NONE, exact=True, cost=Cost(), citation="liu2019dart")
    def mine(*_: object) -> None: ...

    with pytest.raises(
        MetabenchError, match="method 'mine': unknown citation 'liu2019dart': did you mean 'liu2019darts'"
    ):
        check_method(mine, "mine")
