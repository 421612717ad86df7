"""Transformers read no later token and only relative places, have the sizes of their names, and two derivatives in either mode."""

from __future__ import annotations

import math

import pytest
import torch

from metabench.core import MetabenchError, tree
from metabench.core.randomness import generator
from metabench.core.segments import Segment, chain_loss
from metabench.models.attention_block import HIDDEN, Block, rotated
from metabench.models.language import (
    LANGUAGE_MODELS,
    LanguageOptions,
    NextToken,
    language_model,
    next_token_segments,
    token_losses,
)
from metabench.models.transformer import SIZES, TOKENS, Transformer

SMALL = Transformer(vocabulary=11, width=8, heads=2, blocks=2, hidden=12)
TIED = Transformer(vocabulary=11, width=8, heads=2, blocks=2, hidden=12, tied=True)
UNITS = {"k": 1e3, "M": 1e6, "B": 1e9}

every_size = pytest.mark.parametrize("size", list(SIZES))
tied_or_not = pytest.mark.parametrize("model", [SMALL, TIED], ids=["untied", "tied"])


def drawn_params(model: Transformer, dtype: torch.dtype = torch.float64, seed: int = 0) -> tree.Tree:
    """Return parameters in general position: norms that scale and shift, and no small outputs."""
    stream = generator(seed, "params")
    return {
        name: torch.randn(shape, generator=stream, dtype=torch.float64).mul(0.4).add(name.endswith(".scale")).to(dtype)
        for name, shape in model.shapes().items()
    }


def drawn_tokens(model: Transformer, n: int = 3, length: int = 7) -> torch.Tensor:
    return torch.randint(model.vocabulary, (n, length), generator=generator(0, "tokens"))


def loss_of(model: Transformer, tokens: torch.Tensor):  # type: ignore[no-untyped-def]
    def loss(params: tree.Tree) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(params, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    return loss


@tied_or_not
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_token_changes_the_logits_at_its_place_and_after_it_and_none_before(model: Transformer, place: int) -> None:
    params, tokens = drawn_params(model), drawn_tokens(model)
    other = tokens.clone()
    other[:, place] = (other[:, place] + 1) % model.vocabulary
    changed = (model(params, other) - model(params, tokens)).abs().amax((0, 2))
    assert not changed[:place].any()
    assert bool((changed[place:] > 1e-6).all())


def test_sequences_of_a_batch_do_not_see_each_other() -> None:
    params, tokens = drawn_params(SMALL), drawn_tokens(SMALL)
    torch.testing.assert_close(SMALL(params, tokens)[1:2], SMALL(params, tokens[1:2]), rtol=1e-12, atol=1e-12)


def test_attention_scores_depend_on_relative_places_alone() -> None:
    stream = generator(0, "rotary")
    query, key = (torch.randn(6, generator=stream, dtype=torch.float64).expand(9, 6) for _ in range(2))
    queries, keys = rotated(torch.stack([query, key]), scale=1.0)
    scores = queries @ keys.T
    for distance in range(-8, 9):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-12, atol=1e-12)
    assert len({round(float(scores.diagonal(distance)[0]), 6) for distance in range(-8, 9)}) == 17


def test_places_are_turned_by_the_angles_of_the_paper() -> None:
    features = torch.randn(2, 5, 6, generator=generator(1, "rotary"), dtype=torch.float64)
    queries, keys = rotated(features, scale=0.5)
    for t in range(5):
        for i in range(3):
            angle = t * 10_000 ** (-2 * i / 6)
            turn = torch.tensor(
                [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64
            )
            pair = [i, i + 3]
            torch.testing.assert_close(keys[t, pair], turn @ features[1, t, pair], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(queries[t, pair], 0.5 * turn @ features[0, t, pair], rtol=1e-12, atol=1e-12)


def test_a_block_is_what_torch_computes_with_its_own_attention() -> None:
    model = Transformer(vocabulary=5, width=12, heads=3, blocks=1, hidden=20)
    block, n, length = model.block, 2, 6
    stream = torch.randn(n, length, 12, generator=generator(0, "stream"), dtype=torch.float64)
    params = {name.removeprefix("block0."): leaf for name, leaf in drawn_params(model).items()}

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return unit * params[f"{name}.scale"] + params[f"{name}.shift"]

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(n, length, 3, 4).transpose(1, 2)

    query, key, value = (norm("norm1", stream) @ params["qkv.weight"].T).split(12, -1)
    turned = rotated(torch.stack([heads(query), heads(key)]))
    attended = torch.nn.functional.scaled_dot_product_attention(turned[0], turned[1], heads(value), is_causal=True)
    expected = stream + attended.transpose(1, 2).reshape(n, length, 12) @ params["out.weight"].T
    inside = torch.nn.functional.gelu(norm("norm2", expected) @ params["up.weight"].T)
    expected = expected + inside @ params["down.weight"].T
    torch.testing.assert_close(block(params, {}, {}, {HIDDEN: stream})[HIDDEN], expected, rtol=1e-11, atol=1e-11)


@every_size
def test_sizes_have_the_parameters_of_their_names_within_three_percent(size: str) -> None:
    model = SIZES[size].model(256)
    expected = float(size[:-1]) * UNITS[size[-1]]
    count = sum(math.prod(shape) for shape in model.shapes().values())
    assert abs(count / expected - 1) <= 0.03
    assert model.width % model.heads == 0
    assert (model.width // model.heads) % 2 == 0
    assert model.vocabulary == SIZES[size].rows
    assert SIZES[size].title.strip() == LANGUAGE_MODELS()[size].title


def test_a_vocabulary_beyond_the_rows_of_a_size_adds_rows() -> None:
    assert SIZES["1M"].model(300).vocabulary == 300
    assert SIZES["44M"].model(300).vocabulary == 32_000


def test_an_unknown_size_is_answered_with_the_nearest() -> None:
    with pytest.raises(MetabenchError, match="unknown size '245M': did you mean '244M'"):
        language_model("245M", 256, LanguageOptions())


@tied_or_not
def test_the_tree_has_the_declared_names_and_shapes(model: Transformer) -> None:
    params = model.initial(generator(0, "initial"), torch.float64)
    assert {name: tuple(leaf.shape) for name, leaf in params.items()} == model.shapes()
    assert list(params) == list(model.shapes())
    assert ("head.weight" in params) is not model.tied
    assert {"embed.weight", "block0.norm1.scale", "block1.down.weight", "head.norm.shift"} <= set(params)


def test_the_same_seed_draws_the_same_model_in_every_number_type() -> None:
    wide, narrow = (SMALL.initial(generator(3, "initial"), dtype) for dtype in (torch.float64, torch.float32))
    assert all(torch.equal(leaf.float(), narrow[name]) for name, leaf in wide.items())


@pytest.mark.parametrize("size", ["100k", "1M"])
def test_a_model_begins_close_to_knowing_nothing(size: str) -> None:
    model = SIZES[size].model(256)
    params = model.initial(generator(0, "initial"), torch.float32)
    assert float(loss_of(model, drawn_tokens(model, 4, 65))(params)) == pytest.approx(math.log(256), abs=0.5)


@tied_or_not
def test_the_chain_is_the_whole_loss_and_its_derivative_too(model: Transformer) -> None:
    tokens, segments = drawn_tokens(model), next_token_segments(model)
    params = tree.leaves_for_grad(drawn_params(model))
    whole, chained = loss_of(model, tokens)(params), chain_loss(segments, params, {}, {TOKENS: tokens})
    assert float(chained.detach()) == pytest.approx(float(whole.detach()), rel=1e-12)
    ours, theirs = (torch.autograd.grad(loss, list(params.values())) for loss in (chained, whole))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    assert {name for segment in segments for _, name in segment.params} == set(params)


def test_equal_blocks_are_equal_functions_across_depths_and_instances() -> None:
    deep = Transformer(vocabulary=300, width=8, heads=2, blocks=5, hidden=12)
    functions = {segment.function for model in (SMALL, deep, TIED) for segment in model.body()[1:]}
    assert functions == {Block(8, 2, 12)}
    assert {next_token_segments(model)[-1].function for model in (SMALL, deep)} == {NextToken(SMALL.head)}
    assert Block(8, 2, 12) != Block(8, 4, 12)
    assert all(isinstance(segment, Segment) for segment in SMALL.body())


@tied_or_not
def test_forward_over_reverse_and_reverse_over_reverse_agree(model: Transformer) -> None:
    loss, params = loss_of(model, drawn_tokens(model)), drawn_params(model)
    direction = drawn_params(model, seed=1)
    leaves = tree.leaves_for_grad(params)
    first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    reverse = torch.autograd.grad(first, list(leaves.values()), list(direction.values()))
    _, forward = torch.func.jvp(torch.func.grad(loss), (params,), (direction,))
    for (name, ours), theirs in zip(forward.items(), reverse, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)
        assert bool(theirs.any()), name


def test_derivatives_are_those_of_finite_differences() -> None:
    model = Transformer(vocabulary=4, width=4, heads=2, blocks=1, hidden=3)
    params, tokens = drawn_params(model), drawn_tokens(model, 2, 4)
    names, leaves = list(params), [leaf.requires_grad_() for leaf in params.values()]

    def value(*values: torch.Tensor) -> torch.Tensor:
        return loss_of(model, tokens)(dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(value, leaves, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(value, leaves, check_fwd_over_rev=True, fast_mode=True)


def test_losses_of_tokens_are_minus_the_logarithms_of_their_probabilities() -> None:
    tokens = drawn_tokens(SMALL)
    logits = SMALL(drawn_params(SMALL), tokens[:, :-1])
    expected = -logits.softmax(-1).gather(2, tokens[:, 1:, None])[..., 0].log()
    torch.testing.assert_close(token_losses(logits, tokens), expected, rtol=1e-10, atol=1e-12)


def test_bfloat16_arithmetic_is_close_and_leaves_the_loss_and_gradients_in_the_parameters_type() -> None:
    model = SIZES["100k"].model(256)
    rounded = SIZES["100k"].model(256, compute="bfloat16")
    params = tree.leaves_for_grad(model.initial(generator(0, "initial"), torch.float32))
    tokens = drawn_tokens(model, 4, 33)
    exact, coarse = (loss_of(one, tokens)(params) for one in (model, rounded))
    assert coarse.dtype == torch.float32
    assert float(coarse.detach()) == pytest.approx(float(exact.detach()), rel=0.01)
    assert not torch.equal(coarse, exact)
    assert model.block != rounded.block
    ours, theirs = (torch.autograd.grad(loss, list(params.values())) for loss in (coarse, exact))
    assert {leaf.dtype for leaf in ours} == {torch.float32}
    a, b = (torch.cat([leaf.flatten() for leaf in leaves]) for leaves in (ours, theirs))
    assert float((a - b).norm() / b.norm()) < 0.05


def test_bfloat16_has_second_derivatives_in_either_mode() -> None:
    model = Transformer(vocabulary=11, width=16, heads=2, blocks=2, hidden=32, compute="bfloat16")
    loss, params = loss_of(model, drawn_tokens(model)), drawn_params(model, torch.float32)
    direction = drawn_params(model, torch.float32, seed=1)
    leaves = tree.leaves_for_grad(params)
    first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    reverse = torch.autograd.grad(first, list(leaves.values()), list(direction.values()))
    _, forward = torch.func.jvp(torch.func.grad(loss), (params,), (direction,))
    a, b = (torch.cat([leaf.flatten() for leaf in leaves]) for leaves in (forward.values(), reverse))
    assert a.dtype == b.dtype == torch.float32
    assert float((a - b).norm() / b.norm()) < 0.1
