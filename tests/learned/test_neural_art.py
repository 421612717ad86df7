"""Images painted by an optimiser: the loss, the crops and the styles, feature networks, and what is refused."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import torch
from bilevel import cached_data
from learned_problems import learned

from metabench.core.errors import MetabenchError
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.core.randomness import generator
from metabench.data import Pictures
from metabench.learned.tasks import Part
from metabench.models.features import Features, features
from metabench.problems.neural_art import Art, NeuralArt, Options

DOUBLE = torch.device("cpu"), torch.float64


def art(pictures: Pictures, size: str = "random-32", **options: Any) -> Art:
    chosen = build(Options, {"optimiser": "sgd", **options}, "neural_art")
    return NeuralArt(Setting(size, chosen, 2, 0, *DOUBLE, pictures)).family()


def begun(tasks: Art, part: Part, name: str = "a task") -> Any:
    return tasks.begin(part, generator(0, name))


def test_the_loss_is_that_of_content_style_and_roughness_written_out() -> None:
    tasks = art(cached_data("photographs"), content_weight=2.0, style_weight=3.0, roughness_weight=5.0, tasks=2)
    episode = begun(tasks, Part.TRAIN)
    goal = dict(episode.constants)
    found = tasks.losses(episode.params, goal)
    assert found.shape == (2,)
    for number, image in enumerate(episode.params["image"]):
        values, content = 0.5 + 0.25 * image, goal["content"][number]
        seen, grams = tasks.network(values[None])
        expected = 2 * (seen[0] - content).pow(2).sum() / content.pow(2).sum()
        for layer, gram in enumerate(grams):
            style = goal[f"style{layer}"][number]
            expected = expected + (gram[0] - style).pow(2).sum() / style.pow(2).sum()
        steps = (image[:, 1:] - image[:, :-1]).pow(2).mean() + (image[:, :, 1:] - image[:, :, :-1]).pow(2).mean()
        torch.testing.assert_close(found[number], expected + 5 * steps)


def test_a_content_s_own_crop_has_no_content_loss_and_a_style_s_own_picture_no_style_loss() -> None:
    pictures: Pictures = cached_data("photographs")
    crop = torch.from_numpy(pictures.styles["tissue"][64:96, 64:96].copy()).permute(2, 0, 1)[None].double() / 255
    image = {"image": (crop - 0.5) / 0.25}
    only = {"content_weight": 0.0, "roughness_weight": 0.0}
    trained, other = (art(pictures, style=style, **only) for style in ("tissue", "gravel"))
    assert float(trained.losses(image, begun(trained, Part.TRAIN).constants)) < 1e-20
    assert float(other.losses(image, begun(other, Part.TRAIN).constants)) > 0.1
    alone = art(
        dataclasses.replace(pictures, train={"tissue": pictures.styles["tissue"][64:96, 64:96]}),
        style_weight=0.0, roughness_weight=0.0,
    )
    assert float(alone.losses(image, begun(alone, Part.TRAIN).constants)) < 1e-20


def test_the_parts_share_no_photograph_and_a_stream_decides_the_crops() -> None:
    pictures: Pictures = cached_data("photographs")
    parts = [pictures.train, pictures.validation, pictures.test]
    assert len({name for part in parts for name in part}) == sum(len(part) for part in parts) == 8
    tasks = art(pictures)
    # Photographs of one colour tell which part a crop comes from.
    flat = {part.value: np.full((40, 50, 3), 60 * number, np.uint8) for number, part in enumerate(Part)}
    plain = art(Pictures(**{part: {part: flat[part]} for part in flat}, styles=pictures.styles))
    for number, part in enumerate(Part):
        expected, _ = plain.network(torch.full((1, 3, 32, 32), 60 * number / 255, dtype=torch.float64))
        torch.testing.assert_close(begun(plain, part).constants["content"][:1], expected)
    first, again, other = (begun(tasks, Part.TRAIN, name) for name in ("a task", "a task", "another"))
    assert torch.equal(first.constants["content"], again.constants["content"])
    assert torch.equal(first.params["image"], again.params["image"])
    assert not torch.equal(first.constants["content"], other.constants["content"])


def test_it_is_tested_at_twice_the_size_and_in_the_other_styles() -> None:
    problem = NeuralArt(
        Setting(
            "random-32",
            build(Options, {"optimiser": "sgd", "horizon": 2}, ""),
            2,
            0,
            *DOUBLE,
            cached_data("photographs"),
        )
    )
    others = problem.others()
    assert list(others) == ["64 x 64", "style galaxies", "style gravel"]
    assert [(one.pixels, one.style) for one in others.values()] == [(64, "tissue"), (32, "galaxies"), (32, "gravel")]
    found = problem.evaluate({}, problem.initial())
    assert {"loss", "64 x 64: loss", "style gravel: loss"} <= set(found)
    largest = NeuralArt(
        Setting("random-128", build(Options, {"optimiser": "sgd"}, ""), 2, 0, *DOUBLE, cached_data("photographs"))
    )
    assert list(largest.others()) == ["style galaxies", "style gravel"]


def test_an_lstm_paints_and_its_update_has_a_gradient() -> None:
    problem = learned("neural_art", inner_steps=2)
    (window,) = next(problem.window_lists())
    assert window.begins is not None and window.begins["image"].shape == (1, 3, 32, 32)
    assert set(window.inner[0]) == {"content", "style0", "style1", "style2"}


@pytest.mark.parametrize(
    ("changed", "size", "message"),
    [
        ({"train": {}}, "random-32", "the data set has no train photograph"),
        (
            {"test": {"small": np.zeros((40, 20, 3), np.uint8)}},
            "random-32",
            "test picture 'small' has 20 x 40 pixels, and its crops 32 x 32",
        ),
        (
            {"styles": {"spot": np.zeros((60, 80, 3), np.uint8)}},
            "random-64",
            "style picture 'spot' has 80 x 60 pixels, and its crops 64 x 64",
        ),
    ],
)
def test_too_few_and_too_small_pictures_are_refused(changed: dict[str, Any], size: str, message: str) -> None:
    with pytest.raises(MetabenchError, match=message):
        art(dataclasses.replace(cached_data("photographs"), **changed), size)


def test_an_unknown_style_is_answered_with_the_nearest() -> None:
    with pytest.raises(MetabenchError, match="unknown style 'galaxy': did you mean 'galaxies'"):
        art(cached_data("photographs"), style="galaxy")


def test_weights_that_were_not_fetched_are_answered_with_the_command(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    with pytest.raises(MetabenchError, match=r"run `metabench fetch onet`$"):
        art(cached_data("photographs"), "onet-32")
    (tmp_path / "onet").mkdir()
    (tmp_path / "onet" / "onet.pt").write_bytes(b"weights of something else")
    with pytest.raises(MetabenchError, match=r"onet.pt is damaged: expected sha256 165bfbe4.*, found"):
        art(cached_data("photographs"), "onet-32")


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    stream = generator(0, "weights")
    return {name: torch.randn(shape, generator=stream) / 10 for name, shape in shapes.items()}


def saved(held: Any) -> bytes:
    packed = io.BytesIO()
    torch.save(held, packed)
    return packed.getvalue()


def test_o_net_s_convolutions_are_computed_as_its_modules_do() -> None:
    channels = [3, 32, 64, 64]
    held = drawn({f"conv{i}.weight": (channels[i], channels[i - 1], 3, 3) for i in (1, 2, 3)})
    held |= drawn(
        {
            f"{part}{i}.{leaf}": (channels[i],)
            for i in (1, 2, 3)
            for part, leaf in (("conv", "bias"), ("prelu", "weight"))
        }
    )
    images = torch.rand((2, 3, 16, 16), dtype=torch.float64)
    content, grams = features("onet", saved(held), *DOUBLE)(images)
    expected, wanted = 2 * images - 1, []
    for i in (1, 2, 3):
        if i > 1:
            expected = torch.nn.functional.avg_pool2d(expected, 2)
        weight, bias, slope = (held[name].double() for name in (f"conv{i}.weight", f"conv{i}.bias", f"prelu{i}.weight"))
        expected = torch.nn.functional.prelu(torch.nn.functional.conv2d(expected, weight, bias, padding=1), slope)
        wanted.append(torch.einsum("nchw,ndhw->ncd", expected, expected) / expected[0, 0].numel())
    torch.testing.assert_close(content, expected)
    for ours, theirs in zip(grams, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_vgg_16_s_first_ten_convolutions_are_read_by_torchvision_s_names() -> None:
    widths = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
    widths |= {17: (256, 512), 19: (512, 512), 21: (512, 512)}
    held = drawn({f"features.{place}.weight": (after, before, 3, 3) for place, (before, after) in widths.items()})
    held |= drawn({f"features.{place}.bias": (after,) for place, (_, after) in widths.items()})
    content, grams = features("vgg16", saved(held), torch.device("cpu"), torch.float32)(torch.rand(1, 3, 16, 16))
    assert content.shape == (1, 256, 4, 4)
    assert [gram.shape[-1] for gram in grams] == [64, 128, 256, 512]


def test_weights_of_another_network_or_with_a_pickle_in_them_are_refused() -> None:
    with pytest.raises(MetabenchError, match=r"the weights of feature network 'onet' have no 'conv1.weight'"):
        features("onet", saved({"other": torch.zeros(1)}), *DOUBLE)
    for content in (saved({"conv1.weight": Features}), b"", b"no tensors"):
        with pytest.raises(MetabenchError, match="the weights of feature network 'vgg16' cannot be read"):
            features("vgg16", content, *DOUBLE)
    with pytest.raises(MetabenchError, match="unknown feature network 'onnet': did you mean 'onet'"):
        features("onnet", None, *DOUBLE)


def test_untrained_features_are_the_same_always_and_keep_the_size_of_signals() -> None:
    first, again = (features("random", None, *DOUBLE) for _ in range(2))
    images = torch.rand((1, 3, 32, 32), generator=generator(0, "image"), dtype=torch.float64)
    content, grams = first(images)
    assert torch.equal(content, again(images)[0])
    assert content.shape == (1, 32, 16, 16) and [gram.shape[-1] for gram in grams] == [16, 32, 64]
    narrow = features("random", None, torch.device("cpu"), torch.float32)(images.float())[0]
    torch.testing.assert_close(narrow.double(), content, rtol=1e-4, atol=1e-4)
    assert all(0.1 < float(gram.diagonal(dim1=1, dim2=2).mean()) < 10 for gram in grams)
