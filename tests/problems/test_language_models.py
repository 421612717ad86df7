"""Language models: splits do not mix, a bit is a bit, the seed decides the sequences, and a chain is the loss that it is a chain of."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from metabench import data
from metabench.autodiff.inner import run
from metabench.core import Batch, InnerState, MetabenchError, Problem, Tree, Window, tree
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.core.segments import chain_loss
from metabench.data import Domains, Text
from metabench.models.language import token_losses
from metabench.models.transformer import TOKENS, Transformer
from metabench.problems import problem
from metabench.problems.lm_loss_weights import scores
from metabench.stages.well_posed import check_losses, check_reach, check_trees

NAMES = ("lm_learning_rates", "lm_initialisation", "lm_loss_weights")
SMALL: dict[str, Any] = {"blocks": 2, "width": 16, "heads": 2, "sequence": 12, "batch": 4, "evaluated": 20}
MORE: dict[str, dict[str, Any]] = {
    "lm_initialisation": {"topic": 400, "tasks": 3, "test_topics": 4},
    "lm_loss_weights": {"outer_batch": 4},
}

every_problem = pytest.mark.parametrize("name", NAMES)

cached = functools.cache(data.load)


def marked(low: int) -> Text:
    """Return a text whose spans share no byte: train from `low`, validation from low + 20, test from low + 40; 20 bytes each."""
    stream = np.random.Generator(np.random.PCG64(low))
    return Text(*((stream.integers(0, 20, 4000) + low + 20 * part).astype(np.uint8) for part in range(3)))


TWO = Domains({"first": marked(0), "second": marked(100)})


def made(name: str, on: Any = None, *, seed: int = 0, steps: int = 2, size: str = "100k", **options: Any) -> Problem:
    """Return a problem with a small model, on two marked domains if nothing else is given."""
    kind = problem(name)
    built = build(kind.card.options, SMALL | MORE.get(name, {}) | options, name)
    loaded = TWO if on is None else on
    return kind(Setting(size, built, steps, seed, torch.device("cpu"), torch.float64, loaded))


def drawn(of: Problem, count: int = 30) -> list[Window]:
    return [window for windows in itertools.islice(of.windows(), count) for window in windows]


def seen(batches: list[Batch]) -> set[int]:
    return set(torch.cat([batch[TOKENS].flatten() for batch in batches]).tolist())


def inner_and_outer(windows: list[Window]) -> tuple[list[Batch], list[Batch]]:
    return [batch for window in windows for batch in window.inner], [w.outer[-1] for w in windows]  # type: ignore[misc]


def moved(params: Tree, by: float) -> Tree:
    stream = torch.Generator().manual_seed(0)
    return {k: v + by * torch.randn(v.shape, generator=stream, dtype=v.dtype) for k, v in params.items()}


@every_problem
def test_problems_are_well_posed(name: str) -> None:
    of = made(name)
    state, meta = of.initial_state()
    windows = drawn(of, 2)
    check_trees(state, meta)
    check_losses(of, state, meta, windows[0])
    check_reach(of, state, meta, windows)


@every_problem
@pytest.mark.parametrize("dataset", ["jargon_foldoc"])
def test_default_options_and_every_declared_data_set_make_a_problem(name: str, dataset: str) -> None:
    card = problem(name).card
    assert dataset in card.datasets
    assert next(iter(card.named_sizes())) == "100k"
    built = build(card.options, {}, name)
    of = problem(name)(Setting("100k", built, 1, 0, torch.device("cpu"), torch.float32, cached(dataset)))
    state, _ = of.initial_state()
    assert abs(tree.count(state.params) / 1e5 - 1) < 0.03
    assert drawn(of, 1)[0].inner[0][TOKENS].shape == (of.batch, built.sequence + 1)
    assert problem(name).examples_needed(built) <= data.card(dataset).sizes["train"]


@every_problem
def test_batches_have_one_shape_and_the_seed_decides_them(name: str) -> None:
    of = made(name)
    ours, again, others = (drawn(one, 5) for one in (of, made(name), made(name, seed=1)))
    batches = [[b for w in windows for b in (*w.inner, w.outer[-1])] for windows in (ours, again, others)]
    assert {tuple(batch[TOKENS].shape) for batch in batches[0]} == {(4, 13)}  # type: ignore[index]
    assert {batch[TOKENS].dtype for batch in batches[0]} == {torch.int64}  # type: ignore[index]
    assert all(torch.equal(a[TOKENS], b[TOKENS]) for a, b in zip(batches[0], batches[1], strict=True))  # type: ignore[index]
    assert not any(torch.equal(a[TOKENS], b[TOKENS]) for a, b in zip(batches[0], batches[2], strict=True))  # type: ignore[index]


@every_problem
def test_sequences_are_runs_of_the_text(name: str) -> None:
    of = made(name)
    texts = [span.tobytes() for text in TWO.texts.values() for span in (text.train, text.valid)]
    for batch in itertools.chain(*inner_and_outer(drawn(of, 3))):
        for sequence in batch[TOKENS].numpy().astype(np.uint8):
            assert any(sequence.tobytes() in text for text in texts)


def test_inner_outer_and_metric_read_training_validation_and_test_text() -> None:
    for name, on in (("lm_learning_rates", TWO.texts["first"]), ("lm_loss_weights", TWO)):
        inner, outer = (seen(batches) for batches in inner_and_outer(drawn(made(name, on))))
        assert inner <= set(range(20)) | set(range(100, 120))
        assert outer == set(range(20, 40))


@every_problem
def test_the_metric_is_of_the_test_text_alone(name: str) -> None:
    other = Domains({k: Text(t.train, t.valid, t.test[::-1].copy()) for k, t in TWO.texts.items()})
    found = []
    for on in (TWO, other):
        of = made(name, on)
        state, meta = of.initial_state()
        meta = moved(meta, 0.1) if name == "lm_initialisation" else meta
        found.append((of.evaluate(moved(state.params, 0.1), meta), drawn(of, 2)))
    assert found[0][0] != found[1][0]
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        assert all(torch.equal(a[TOKENS], b[TOKENS]) for a, b in zip(ours.inner, theirs.inner, strict=True))


@every_problem
def test_a_model_that_knows_nothing_has_eight_bits_a_byte(name: str) -> None:
    of = made(name, steps=1)
    state, meta = of.initial_state()
    blank = state.params | {"head.weight": torch.zeros_like(state.params["head.weight"])}
    values = of.evaluate(blank, meta | {"head.weight": blank["head.weight"]} if name == "lm_initialisation" else meta)
    assert list(values) == [metric.name for metric in of.card.metrics]
    # What begins at zero has adapted after a step.
    assert list(values.values())[-1] == pytest.approx(8, rel=1e-12)
    assert float(of.outer_loss(blank, meta, drawn(of, 1)[0].outer[-1] or {})) == pytest.approx(math.log(256))


def test_bits_are_counted_per_byte_and_not_per_token() -> None:
    text = cached("jargon")
    on = Text(text.train[:60_000], text.valid[:4000], text.test[:4000])
    of = made("lm_learning_rates", on, tokeniser="bpe", vocabulary=400, evaluated=10_000)
    state, meta = of.initial_state()
    blank = state.params | {"head.weight": torch.zeros_like(state.params["head.weight"])}
    assert blank["head.weight"].shape[0] == 400
    found = next(iter(of.evaluate(blank, meta).values()))
    # Each token costs log2(400) bits and is longer than a byte.
    assert 0.4 * math.log2(400) < found < 0.9 * math.log2(400)


@every_problem
def test_both_losses_equal_their_chains_and_so_do_their_derivatives(name: str) -> None:
    of = made(name)
    state, meta = of.initial_state()
    params, meta = tree.leaves_for_grad(moved(state.params, 0.1)), tree.leaves_for_grad(meta)
    window = drawn(of, 1)[0]
    for loss, segments, batch in (
        (of.inner_loss, of.inner_segments(), window.inner[0]),
        (of.outer_loss, of.outer_segments(), window.outer[-1] or {}),
    ):
        assert len(segments) == 2 + 2
        value, chained = loss(params, meta, batch), chain_loss(segments, params, meta, batch)
        assert float(chained.detach()) == pytest.approx(float(value.detach()), rel=1e-13)
        leaves = [*params.values(), *meta.values()]
        ours, theirs = (torch.autograd.grad(one, leaves, allow_unused=True) for one in (value, chained))
        assert all((a is None) == (b is None) for a, b in zip(ours, theirs, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None)


@every_problem
def test_losses_are_the_cross_entropies_of_the_next_tokens(name: str) -> None:
    of = made(name)
    state, meta = of.initial_state()
    params = moved(state.params, 0.1)
    tokens = (drawn(of, 1)[0].outer[-1] or {})[TOKENS]
    hidden: Tree = {}
    for segment in of.outer_segments()[:-1]:
        hidden = segment(params, meta, {TOKENS: tokens}, hidden)
    normed = torch.nn.functional.layer_norm(
        hidden["hidden"], (16,), params["head.norm.scale"], params["head.norm.shift"]
    )
    chances = (normed @ params["head.weight"].T).softmax(-1).gather(2, tokens[:, 1:, None])
    assert float(of.outer_loss(params, meta, {TOKENS: tokens})) == pytest.approx(
        float(-chances.log().mean()), rel=1e-12
    )


@every_problem
def test_a_text_shorter_than_one_sequence_is_the_users_mistake(name: str) -> None:
    short = Domains({k: Text(t.train, t.valid[:9], t.test) for k, t in TWO.texts.items()})
    needed = 400 if name == "lm_initialisation" else 13
    with pytest.raises(MetabenchError, match=rf"valid span of 'first' is too short: 9 tokens .* takes {needed}"):
        made(name, short)


def test_half_a_topic_holds_a_sequence() -> None:
    with pytest.raises(MetabenchError, match=r"half a topic of 20 tokens .* 13: a 'topic' needs at least 26"):
        made("lm_initialisation", topic=20)


@every_problem
def test_unknown_sizes_and_heads_that_do_not_divide_are_the_users_mistake(name: str) -> None:
    with pytest.raises(MetabenchError, match="unknown size '3M'"):
        made(name, size="3M")
    with pytest.raises(MetabenchError, match="a width of 16 is not 3 heads"):
        made(name, heads=3)


def test_images_are_no_text() -> None:
    with pytest.raises(MetabenchError, match="a language model needs text, got Classification"):
        made("lm_learning_rates", cached("digits"))


def test_width_depth_and_number_type_can_be_swept() -> None:
    of = made("lm_learning_rates", blocks=3, width=24, heads=3, hidden=10, compute="bfloat16")
    state, _ = of.initial_state()
    assert state.params["block2.up.weight"].shape == (10, 24)
    assert "block3.up.weight" not in state.params
    assert made("lm_learning_rates", width=24, heads=3).initial_state()[0].params["block0.up.weight"].shape == (96, 24)


def test_learning_rates_begin_even_and_scale_the_steps_of_their_tensors() -> None:
    of = made("lm_learning_rates", optimiser="sgd", learning_rate=0.1)
    state, meta = of.initial_state()
    assert list(meta) == list(state.params)
    batch = drawn(of, 1)[0].inner[0]
    faster = meta | {"block1.up.weight": meta["block1.up.weight"] + math.log(3)}
    plain, changed = (run(of, state, rates, [batch]).params for rates in (meta, faster))
    for name, leaf in state.params.items():
        expected = (3 if name == "block1.up.weight" else 1) * (plain[name] - leaf)
        torch.testing.assert_close(changed[name] - leaf, expected, rtol=1e-9, atol=1e-12)
    assert of.summary(faster)["largest / smallest learning rate"] == pytest.approx(3)


def test_topics_come_from_the_domains_in_turn_and_their_halves_are_support_and_query() -> None:
    of = made("lm_initialisation", topic=400, tasks=4)
    starts = {id(text): text for text in TWO.texts.values()}.values()
    for windows in itertools.islice(of.windows(), 5):
        assert len(windows) == 4
        for window, text in zip(windows, itertools.cycle(starts), strict=False):
            (support, query) = ([b[TOKENS] for b in batches] for batches in inner_and_outer([window]))
            places = [[_place(text.train, row) for batch in part for row in batch] for part in (support, query)]
            topics = {place // 400 for part in places for place in part}
            assert len(topics) == 1
            assert all(place % 400 + 12 < 200 for place in places[0])
            assert all(place % 400 >= 200 for place in places[1])


def _place(text: np.ndarray[Any, Any], row: torch.Tensor) -> int:
    """Return where a sequence stands in a text; 13 bytes of 20 kinds stand in one place of 4000."""
    return text.tobytes().index(row.numpy().astype(np.uint8).tobytes())


def test_topics_of_an_epoch_are_all_different() -> None:
    of = made("lm_initialisation", topic=400, tasks=2)
    windows = drawn(of, 10)  # ten topics of 400 tokens in each of two training spans
    for which, text in enumerate(TWO.texts.values()):
        found = [_place(text.train, w.inner[0][TOKENS][0]) // 400 for w in windows[which::2]]
        assert sorted(found) == list(range(10))


def test_an_initialisation_is_judged_after_adaptation_from_the_meta_parameters() -> None:
    of = made("lm_initialisation", steps=3)
    state, meta = of.initial_state()
    other = InnerState(moved(state.params, 1.0), state.optimiser)
    values = of.evaluate(state.params, meta)
    assert of.evaluate(other.params, meta) == values
    assert of.evaluate(state.params, moved(meta, 0.1)) != values
    adapted, before = values.values()
    assert adapted < before


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_mixed_batches_have_the_share_of_the_target_that_is_asked_for(share: float) -> None:
    of = made("lm_loss_weights", share=share, target="second", batch=50)
    rows = torch.cat([batch[TOKENS] for window in drawn(of, 10) for batch in window.inner])
    of_target = (rows >= 100).all(1)
    assert bool((of_target | (rows < 100).all(1)).all())
    assert len(rows) == 1000
    # Five standard errors of a share of 1000.
    assert abs(float(of_target.double().mean()) - share) <= 5 * (share * (1 - share) / 1000) ** 0.5
    assert all(bool((w.outer[-1][TOKENS] >= 120).all()) for w in drawn(of, 3))  # type: ignore[index]


@pytest.mark.parametrize("weigh", ["token", "sequence"])
def test_even_scores_weigh_evenly_and_weights_are_shares_of_the_batch(weigh: str) -> None:
    of = made("lm_loss_weights", weigh=weigh)
    state, meta = of.initial_state()
    params, batch = moved(state.params, 0.1), drawn(of, 1)[0].inner[0]
    even = meta | {"out.weight": torch.zeros_like(meta["out.weight"])}
    assert float(of.inner_loss(params, even, batch)) == pytest.approx(
        float(of.outer_loss(params, even, batch)), rel=1e-12
    )
    rated = meta | {"out.weight": 50 * meta["out.weight"]}
    parts = batch[TOKENS].split(1)
    # By the definition: losses of single sequences, weighed by the softmax of their scores over the batch.
    model = Transformer(256, 16, 2, 2, 64)
    losses = torch.cat([token_losses(model(params, part[:, :-1]), part) for part in parts])
    found = scores(rated, batch[TOKENS], losses, weigh)
    weighed = losses if weigh == "token" else losses.mean(1)
    weights = found.exp() / found.exp().sum()
    assert weights.shape == weighed.shape
    assert float(weights.max() / weights.min()) > 1.1
    expected = float((weights * weighed).sum())
    assert float(of.inner_loss(params, rated, batch)) == pytest.approx(expected, rel=1e-10)


def test_scores_read_the_losses_as_constants_unless_asked_otherwise() -> None:
    gradients = []
    for detach in (True, False):
        of = made("lm_loss_weights", detach=detach)
        state, meta = of.initial_state()
        params = tree.leaves_for_grad(moved(state.params, 0.1))
        rated = meta | {"out.weight": 20 * meta["out.weight"]}
        loss = of.inner_loss(params, rated, drawn(of, 1)[0].inner[0])
        gradients.append((float(loss.detach()), torch.autograd.grad(loss, params["head.weight"])[0]))
    (ours, constant), (theirs, whole) = gradients
    assert ours == theirs
    assert float((constant - whole).norm()) > 1e-6 * float(whole.norm())


def test_weighing_takes_two_domains_and_a_target_that_is_one_of_them() -> None:
    with pytest.raises(MetabenchError, match="at least two domains"):
        made("lm_loss_weights", TWO.texts["first"])
    with pytest.raises(MetabenchError, match="unknown domain for option 'target' 'secnd': did you mean 'second'"):
        made("lm_loss_weights", target="secnd")


def test_the_summary_tells_which_domain_counts_more() -> None:
    of = made("lm_loss_weights", features=1, weigher_hidden=1)
    _, meta = of.initial_state()
    (name,) = of.summary(meta)
    embedding = torch.zeros_like(meta["tokens.weight"])
    embedding[:60] = 1.0  # the first domain's bytes
    rated = meta | {
        "tokens.weight": embedding,
        "hidden.weight": torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        "hidden.bias": torch.zeros(1, dtype=torch.float64),
        "out.weight": torch.ones(1, 1, dtype=torch.float64),
    }
    assert of.summary(rated)[name] > 2
