"""Learning to paint: the pixels of an image are the parameters. Andrychowicz et al. 2016, section 3.4, after Gatys et al. 2016.

f(image) = a content loss against the features of a photograph's crop + a style loss against the Gram matrices of a style + roughness, each
relative to what it is measured against. The feature network is a part of the size's name: with another, the losses are other numbers.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metabench.core import Batch, ProblemCard, Tree, option
from metabench.core.errors import MetabenchError, unknown
from metabench.core.lazy import torch
from metabench.core.pictures import Picture
from metabench.core.problem import Setting
from metabench.data import Pictures, load
from metabench.learned.problem import METRICS, LearnedOptimiserProblem, LearnedOptions
from metabench.learned.tasks import Episode, Part, Tasks
from metabench.models.features import NETWORKS, Features, features


@dataclass(frozen=True)
class Options(LearnedOptions):
    """Options of `neural_art`."""

    horizon: int = option(128, minimum=1, help="inner steps of an episode")
    tasks: int = option(1, minimum=1, help="images at once, in every episode of training")
    test_tasks: int = option(
        4, minimum=1, help="images of a test; half as many validate, and are painted in other sizes"
    )
    style: str = option("", help="the style that is trained with, by name; '': the first of the data set")
    content_weight: float = option(1.0, minimum=0, help="of the content loss")
    style_weight: float = option(100.0, minimum=0, help="of the style loss")
    roughness_weight: float = option(
        0.01, minimum=0, help="of the mean square of differences between neighbouring pixels"
    )


SIDE = 128
"""The most pixels that a test has on a side."""


class Art(Tasks):
    """Images to paint in one style, stacked. A pixel's parameter p stands for the value 0.5 + 0.25 p; an image starts as noise, N(0, 1).

    Raises:
        MetabenchError: there is no photograph of a part, or a photograph or the style is smaller than the image.
    """

    stacked = True

    def __init__(
        self, network: Features, style: str, pixels: int, together: Mapping[Part, int], setting: Setting
    ) -> None:
        self.together = together[Part.TRAIN]
        self.network, self.style, self.pixels = network, style, pixels
        self._counts, self._setting = together, setting
        pictures: Pictures = setting.data
        self._photographs = {part: _checked(getattr(pictures, part.value), part.value, pixels) for part in Part}
        (picture,) = _checked({style: pictures.styles[style]}, "style", pixels)
        top, left = ((extent - pixels) // 2 for extent in picture.shape[1:])
        with torch.no_grad():
            self._grams = network(self._placed(picture[None, :, top : top + pixels, left : left + pixels]))[1]

    def _placed(self, images: torch.Tensor) -> torch.Tensor:
        """Return images of bytes as values in [0, 1]."""
        return images.to(self._setting.device, self._setting.dtype) / 255

    def begin(self, part: Part, stream: torch.Generator) -> Episode:
        """Return new crops of the part's photographs, each with an image of noise."""
        count, pixels = self._counts[part], self.pixels
        # Python's random numbers: which crop it is must be known where tensors have no values, as in a prediction.
        places = random.Random(stream.initial_seed())
        crops = self._placed(torch.stack([self._crop(self._photographs[part], places) for _ in range(count)]))
        start = torch.randn((count, 3, pixels, pixels), generator=stream, dtype=torch.float64)
        with torch.no_grad():
            content, _ = self.network(crops)
        grams = {f"style{number}": gram.expand(count, -1, -1) for number, gram in enumerate(self._grams)}
        goal = {"content": content, **grams}
        return Episode(
            {"image": start.to(self._setting.device, self._setting.dtype)},
            itertools.repeat(goal),
            goal | {"crop": crops},
        )

    def _crop(self, photographs: Sequence[torch.Tensor], places: random.Random) -> torch.Tensor:
        """Return a square of one of the photographs, shape [3, pixels, pixels], each place equally likely."""
        photograph = photographs[places.randrange(len(photographs))]
        top, left = (places.randrange(extent - self.pixels + 1) for extent in photograph.shape[1:])
        return photograph[:, top : top + self.pixels, left : left + self.pixels]

    def losses(self, params: Tree, batch: Batch) -> torch.Tensor:
        """Return the loss of each image."""
        options: Options = self._setting.options
        content, grams = self.network(_values(params["image"]))
        styles = [_apart(gram, batch[f"style{number}"]) for number, gram in enumerate(grams)]
        style = torch.stack(styles).mean(0)
        rough = sum(params["image"].diff(dim=axis).square().mean((1, 2, 3)) for axis in (2, 3))
        return (
            options.content_weight * _apart(content, batch["content"])
            + options.style_weight * style
            + options.roughness_weight * rough
        )

    def pictures(self, params: Tree, episode: Episode, losses: torch.Tensor) -> dict[str, Picture]:
        """Return the first image of an episode under its loss, and the crop that is its content."""
        crop, image = episode.constants["crop"][0], _values(params["image"][0]).nan_to_num(0)
        return {
            "content": Picture.of(_bytes(crop), "content"),
            f"in the style of {self.style}": Picture.of(_bytes(image), f"loss {float(losses[0]):.3g}"),
        }


def _bytes(image: torch.Tensor) -> torch.Tensor:
    """Return an image of values as bytes [height, width, 3]."""
    return (255 * image.clamp(0, 1)).round().to("cpu", torch.uint8).permute(1, 2, 0)


def _values(parameters: torch.Tensor) -> torch.Tensor:
    """Return the values of pixels, 0 black and 1 white; parameters of an image have mean 0 and deviation 1, about."""
    return 0.5 + 0.25 * parameters


def _apart(found: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Return |found - goal|^2 / |goal|^2 of each image, shape [n]."""
    return (found - goal).square().flatten(1).sum(1) / goal.square().flatten(1).sum(1)


def _checked(pictures: Mapping[str, object], part: str, pixels: int) -> list[torch.Tensor]:
    """Return pictures as tensors of bytes [3, height, width], of which there is at least one and none is smaller than a crop."""
    if not pictures:
        raise MetabenchError(f"neural_art: the data set has no {part} photograph, and needs one or more")
    found = []
    for name, picture in pictures.items():
        height, width = picture.shape[:2]
        if min(height, width) < pixels:
            raise MetabenchError(
                f"neural_art: {part} picture '{name}' has {width} x {height} pixels, and its crops {pixels} x {pixels}"
            )
        found.append(torch.tensor(picture).permute(2, 0, 1))
    return found


_SAID = {"random": "untrained features", "onet": "features of O-Net", "vgg16": "features of VGG-16"}


class NeuralArt(LearnedOptimiserProblem):
    """Learn an optimiser that paints photographs in a style."""

    card = ProblemCard(
        title="learning to paint photographs in a style",
        datasets=("photographs",),
        sizes={
            f"{name}-{pixels}": f"{pixels} x {pixels} pixels, {said}"
            for name, said in _SAID.items()
            for pixels in (64, 32, 128)
        },
        metrics=METRICS,
        citation="andrychowicz2016learning gatys2016image he2016powerful",
        options=Options,
        inner_steps=32,
        outer_steps=200,
    )

    def family(self) -> Art:
        """Return the painting of images in the style and of the size that are trained with."""
        name, pixels = self.setting.size.rsplit("-", 1)
        weights = None if name == NETWORKS[0] else load(name)
        self._network = features(name, weights, self.setting.device, self.setting.dtype)
        styles = self.setting.data.styles
        style = self.setting.options.style or next(iter(styles), "")
        if style not in styles:
            raise unknown("style", style, styles)
        self._own = self._art(style, int(pixels), self.setting.options.test_tasks)
        return self._own

    def _art(self, style: str, pixels: int, tests: int) -> Art:
        counts = {Part.TRAIN: self.setting.options.tasks, Part.VALIDATION: max(1, tests // 2), Part.TEST: tests}
        return Art(self._network, style, pixels, counts, self.setting)

    def others(self) -> dict[str, Art]:
        """Return the painting of images with twice as many pixels on a side, and in the other styles."""
        own, tests = self._own, max(1, self.setting.options.test_tasks // 2)
        side = 2 * own.pixels
        larger = {f"{side} x {side}": self._art(own.style, side, tests)} if side <= SIDE else {}
        styles = [style for style in self.setting.data.styles if style != own.style]
        return larger | {f"style {style}": self._art(style, own.pixels, tests) for style in styles}
