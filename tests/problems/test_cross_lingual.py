"""The transformation is the identity at first and reads the source alone; modes leave a language out; every task has its score."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from bilevel import SMALL, checkpoint, make_problem

from metabench.autodiff.gradients import outer_value
from metabench.autodiff.inner import begin, run
from metabench.core import Problem, Tree, tree
from metabench.core.errors import MetabenchError
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.data.formats.tagged import UPOS
from metabench.data.languages import Examples, Languages
from metabench.methods import method
from metabench.problems import problem
from metabench.problems.cross_lingual import CrossLingual, cross_entropy

NAMES = {"dataset": "cldr_names", "size": "chars-32"}


def made(**options: Any) -> CrossLingual:
    found = make_problem("cross_lingual", **NAMES, **options)
    assert isinstance(found, CrossLingual)
    return found


def moved(meta: Tree) -> Tree:
    # Not the same in every feature: a norm takes that away.
    return meta | {"up.weight": torch.linspace(-1, 1, meta["up.weight"].numel()).view_as(meta["up.weight"]).double()}


@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_the_transformation_begins_as_none_and_then_changes_the_source_alone(layer: int) -> None:
    on, off = made(layer=layer), made(layer=layer, transform=False)
    state, meta, window = checkpoint(on)
    batch = window.inner[0]
    assert float(on.inner_loss(state.params, meta, batch)) == float(off.inner_loss(state.params, meta, batch))
    assert float(off.inner_loss(state.params, moved(meta), batch)) == float(off.inner_loss(state.params, meta, batch))
    scores = {name: on._scores(state.params, batch) for name in ("before", "after")}
    torch.testing.assert_close(scores["before"], scores["after"])
    changes = {
        mode: float(one.inner_loss(state.params, moved(meta), batch) - one.inner_loss(state.params, meta, batch))
        for mode in ("joint", "source", "target")
        for one in [made(layer=layer, mode=mode)]
    }
    assert abs(changes["joint"]) > 1e-3
    assert changes["source"] == pytest.approx(changes["joint"], rel=1e-9)
    assert changes["target"] == 0


def test_modes_are_the_losses_of_their_languages_and_joint_is_their_sum() -> None:
    joint, source, target = (made(mode=mode) for mode in ("joint", "source", "target"))
    state, meta, window = checkpoint(joint)
    batch = window.inner[0]
    losses = [float(one.inner_loss(state.params, meta, batch)) for one in (joint, source, target)]
    assert losses[0] == pytest.approx(losses[1] + losses[2], rel=1e-12)
    rows = {name: leaf[4:] for name, leaf in batch.items()}
    assert losses[2] == pytest.approx(float(joint.outer_loss(state.params, meta, rows)), rel=1e-9)


def test_the_hypergradient_is_that_of_finite_differences() -> None:
    on = made(hide=0.0)
    state, meta, window = checkpoint(on)
    meta = moved(meta)
    chosen = method("unrolled")
    found = chosen(on, state, meta, window, chosen.options(), torch.Generator()).meta
    direction = {name: torch.randn(leaf.shape, dtype=leaf.dtype) for name, leaf in meta.items()}

    def outer(step: float) -> float:
        there = tree.add_scaled(meta, step, direction)
        return float(
            outer_value(on, run(on, begin(on, state, there), there, window.inner).params, there, window.outer[-1])
        )

    expected = (outer(1e-5) - outer(-1e-5)) / 2e-5
    assert float(tree.dot(found, direction)) == pytest.approx(expected, rel=1e-5)
    assert all(float(leaf.abs().max()) > 0 for leaf in found.values())


def test_what_is_held_out_is_read_by_the_outer_loss_alone() -> None:
    on, shared = made(held_out=4), made()
    inner, outer = (set(on._examples[part].words) for part in ("target", "outer"))
    assert (len(inner), len(outer)) == (8, 4) and not inner & outer
    assert set(shared._examples["target"].words) == set(shared._examples["outer"].words) == inner | outer
    for part in ("validation", "test"):
        assert not set(on._examples[part].words) & (inner | outer)


def test_hidden_tokens_are_those_of_words_at_the_rate_asked_for() -> None:
    for share in (0.0, 0.5, 1.0):
        batch = next(made(hide=share, batch=100, train=100, source_train=500).windows())[0].inner[0]
        of_words = batch["words"] > 0
        found = float((batch["tokens"][of_words] == 1).double().mean())
        assert abs(found - share) <= 5 * (share * (1 - share) / int(of_words.sum())) ** 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "en"}, "source and target are both 'en'"),
        ({"target": "kl", "train": 200}, "'kl' has too few examples: it has 176"),
        ({"held_out": 12}, "12 of 12 training examples of the target are held out: expected fewer"),
        ({"weights": "nowhere"}, "there is no folder nowhere: put config.json, model.safetensors and tokenizer.json"),
        ({"layer": 3}, "after block 3: 'chars-32' has 2"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MetabenchError, match=message):
        made(**options)


def on_data(data: Any, size: str = "chars-32", **options: Any) -> Problem:
    built = build(problem("cross_lingual").card.options, SMALL["cross_lingual"] | options, "here")
    return problem("cross_lingual")(Setting(size, built, 1, 0, torch.device("cpu"), torch.float64, data))


def sentences(words: tuple[str, ...]) -> Examples:
    return Examples(tuple((word, ".", word) for word in words), ((0, 10, 0),) * len(words))


def test_a_whole_sentence_is_scored_word_by_word() -> None:
    whole = {"pt": sentences(("sol", "mar", "lua") * 10), "tr": sentences(tuple("abcdefghijklmnopqrstuvwxyzçğıöşü"))}
    data = Languages("parts", UPOS, "accuracy", "pt", whole, {})
    on = on_data(data, length=4, train=10, test=5)
    state, meta = on.initial_state()
    # Every word is taken for a noun: right for two of three, whether or not a sentence is cut into several rows.
    params = {name: torch.zeros_like(leaf) for name, leaf in state.params.items()}
    params["label.bias"] = torch.eye(len(UPOS), dtype=torch.float64)[0]
    found = on.evaluate(params, meta)
    assert found["test score (%)"] == found["test accuracy (%)"] == pytest.approx(200 / 3)
    assert on.observe(params, meta) == {"validation score (%)": pytest.approx(200 / 3)}
    state, meta, window = checkpoint(on)
    assert float(on.inner_loss(state.params, meta, window.inner[0])) > 0


def write_panx(root: Path) -> str:
    for language in ("en", "qu"):
        (root / language).mkdir(parents=True)
        for part in ("train", "dev", "test"):
            lines = [f"{language}:{name}{i}\tB-LOC\n{language}:x\tO\n\n" for i in range(6) for name in ("Lima", "Roma")]
            (root / language / part).write_text("".join(lines), encoding="utf-8")
    return str(root)


def test_entities_of_a_folder_are_scored_by_spans(tmp_path: Path) -> None:
    on = on_data(None, folder=write_panx(tmp_path), target="qu", train=8, source_train=0, validation=4, test=4)
    state, meta = on.initial_state()
    params = {name: torch.zeros_like(leaf) for name, leaf in state.params.items()}
    params["label.bias"] = torch.eye(7, dtype=torch.float64)[5]  # everything is a place: one span in two is right
    assert on.evaluate(params, meta)["test score (%)"] == pytest.approx(100 * 2 / 3)
    with pytest.raises(MetabenchError, match=f"name the target language: the folder {tmp_path} has qu"):
        on_data(None, folder=str(tmp_path))
    with pytest.raises(MetabenchError, match="there is no folder of PAN-X: name one: put the unpacked archives"):
        on_data(None, target="qu")


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the library transformers is not installed (extra nlp)"
)
def test_xlm_r_learns_on_entities_of_a_folder(tmp_path: Path) -> None:
    options = {
        "folder": write_panx(tmp_path),
        "target": "qu",
        "train": 8,
        "source_train": 0,
        "validation": 4,
        "test": 4,
    }
    on = on_data(None, "xlmr-tiny", learning_rate=1e-2, **options)
    state, meta, window = checkpoint(on, windows_before=10)
    chosen = method("evograd")
    found = chosen(on, state, meta, window, chosen.options(), torch.Generator()).meta
    assert tree.all_finite(found) and float(tree.norm(found)) > 0
    assert on.evaluate(state.params, meta)["test score (%)"] > 90


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the library transformers is not installed (extra nlp)"
)
def test_trained_weights_and_their_tokeniser_come_from_a_folder(tmp_path: Path) -> None:
    import tokenizers
    import transformers

    numbers = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "Lima0": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="<unk>"))
    weights = tmp_path / "weights"
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    config = transformers.XLMRobertaConfig(vocab_size=5, max_position_embeddings=30, type_vocab_size=1, **shape)
    model = transformers.XLMRobertaModel(config, add_pooling_layer=False)
    model.save_pretrained(weights)
    made.save(str(weights / "tokenizer.json"))
    options = {"folder": write_panx(tmp_path / "panx"), "target": "qu", "train": 8, "source_train": 0, "validation": 4}
    on = on_data(None, "xlmr-base", weights=str(weights), **options)
    state, meta, window = checkpoint(on, windows_before=0)
    assert torch.equal(state.params["embed.word_embeddings.weight"], model.embeddings.word_embeddings.weight.double())
    assert float(on.inner_loss(state.params, meta, window.inner[0])) > 0


def test_the_loss_ignores_places_without_a_word() -> None:
    scores = torch.zeros(1, 3, 2, dtype=torch.float64)
    scores[0, 2] = torch.tensor([9.0, -9.0])
    assert float(cross_entropy(scores, torch.tensor([[0, 1, -100]]))) == pytest.approx(0.6931471805599453)
