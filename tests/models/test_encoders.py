"""Encoders see both ways, ignore padding, and can be changed after any block; XLM-R by blocks is XLM-R."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch

from metabench.core import tree
from metabench.core.errors import MetabenchError
from metabench.core.randomness import generator
from metabench.models.encoders import ENCODERS, PADDING, Encoder, encoder

CPU = torch.device("cpu")
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
needs_transformers = pytest.mark.skipif(
    not HAS_TRANSFORMERS, reason="the library transformers is not installed (extra nlp)"
)
SIZES = ["chars-32", pytest.param("xlmr-tiny", marks=needs_transformers)]
TOKENS = torch.tensor([[3, 4, 5, PADDING, PADDING], [6, 7, 8, 9, 1]])


def made(size: str) -> tuple[Encoder, dict[str, torch.Tensor]]:
    found = encoder(size, 20, None, CPU)
    return found, found.initial(generator(0, "test"), torch.float64)


def unchanged(states: torch.Tensor) -> torch.Tensor:
    return states


def test_the_sizes_grow() -> None:
    found = [name for name in ENCODERS() if name.startswith("chars-")]
    counts = [tree.count(made(name)[1]) for name in found]
    assert len(found) >= 3 and counts == sorted(counts)
    assert {"xlmr-tiny", "xlmr-base", "xlmr-large"} <= set(ENCODERS())


@pytest.mark.parametrize("size", SIZES)
def test_padding_changes_nothing_and_every_token_reaches_every_other(size: str) -> None:
    on, params = made(size)
    states = on(params, TOKENS, 0, unchanged)
    assert states.shape == (2, 5, on.width) and states.dtype == torch.float64
    longer = on(params, torch.nn.functional.pad(TOKENS, (0, 3)), 0, unchanged)
    there = TOKENS != PADDING
    torch.testing.assert_close(longer[:, :5][there], states[there], rtol=1e-12, atol=1e-12)
    for place in (0, 2):
        other = TOKENS.clone()
        other[0, place] = 10
        moved = (on(params, other, 0, unchanged) - states)[0].abs().amax(-1)
        assert bool((moved[:3] > 1e-6).all())


@pytest.mark.parametrize("size", SIZES)
def test_a_change_comes_after_its_block(size: str) -> None:
    on, params = made(size)
    calls = []

    def change(states: torch.Tensor) -> torch.Tensor:
        calls.append(states)
        return 0.5 * states

    plain = on(params, TOKENS, 0, unchanged)
    found = [on(params, TOKENS, after, change) for after in range(on.blocks + 1)]
    assert len(calls) == on.blocks + 1
    assert all(not torch.allclose(one, other) for one, other in itertools.pairwise(calls))
    assert all(not torch.allclose(plain, one) for one in found[1:-1])


def test_weights_are_refused_where_there_are_none_to_load() -> None:
    with pytest.raises(
        MetabenchError, match="'chars-32' begins with random parameters, and a folder of weights is given"
    ):
        encoder("chars-32", 20, Path("weights"), CPU)
    with pytest.raises(MetabenchError, match=r"unknown size 'chars-33': did you mean 'chars-32'\?"):
        encoder("chars-33", 20, None, CPU)


def test_without_the_library_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        MetabenchError, match=r"'xlmr-base' needs the library transformers.*pip install 'metabench\[nlp\]'"
    ):
        encoder("xlmr-base", 20, None, CPU)


@needs_transformers
def test_xlm_r_by_blocks_is_the_library_s_model(tmp_path: Path) -> None:
    import transformers

    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    config = transformers.XLMRobertaConfig(vocab_size=20, max_position_embeddings=20, type_vocab_size=1, **shape)
    model = transformers.XLMRobertaModel(config, add_pooling_layer=False).double().eval()
    model.save_pretrained(tmp_path)
    on = encoder("xlmr-base", 21, tmp_path, CPU)
    assert (on.width, on.blocks) == (8, 2)
    found = on(on.initial(generator(0, "test"), torch.float64), TOKENS, 0, unchanged)
    own = torch.where(TOKENS == PADDING, 1, TOKENS - 1)
    expected = model(input_ids=own, attention_mask=(TOKENS != PADDING).long()).last_hidden_state
    there = TOKENS != PADDING
    torch.testing.assert_close(found[there], expected[there], rtol=1e-5, atol=1e-6)
    with pytest.raises(MetabenchError, match="has no XLM-R as save_pretrained writes it"):
        encoder("xlmr-base", 21, tmp_path / "none", CPU)


@needs_transformers
def test_xlm_r_has_second_derivatives() -> None:
    on, params = made("xlmr-tiny")
    leaves = {name: leaf.requires_grad_() for name, leaf in params.items()}
    loss = on(leaves, TOKENS, 1, unchanged).square().sum()
    (first,) = torch.autograd.grad(loss, [leaves["block0.attention.self.query.weight"]], create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), [leaves["block0.attention.self.key.weight"]])
    assert bool(second.isfinite().all()) and float(second.abs().max()) > 0
