"""Labelled images as tasks on which optimisers are learned: a network is trained on batches, and judged on images that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import Setting
from metabench.core.types import Batch, Tree
from metabench.data.contract import Classification
from metabench.data.splits import disjoint
from metabench.learned.networks import SmallNetwork
from metabench.learned.tasks import Episode, Part, Tasks

JUDGED = 2000
"""The most images on which a network is judged."""
_SHARES = {Part.TRAIN: 0.35, Part.VALIDATION: 0.2, Part.TEST: 0.35}
_JUDGED_SHARE = 0.1


@dataclass(frozen=True)
class Images:
    """For each part, images to step on and others to be judged by. No two parts share an image, whatever the seed.

    A data set's training images are split, stratified; those by which test tasks are judged are its test images. Training tasks
    are judged by the images that they step on.
    """

    stepped: Mapping[Part, Batch]
    judged: Mapping[Part, Batch]
    classes: int

    @classmethod
    def of(cls, data: object, setting: Setting) -> Images:
        """Return the images of a data set, on the setting's device and of its dtype.

        Raises:
            MetabenchError: the data set is not one of labelled images, or too small for three parts.
        """
        if not isinstance(data, Classification):
            raise MetabenchError(
                f"optimisers are learned on labelled images, and the data set loads as a {type(data).__name__}"
            )
        count, targets = len(data.train_targets), data.train_targets
        if _JUDGED_SHARE * count < 1:
            raise MetabenchError(f"optimisers are learned on three parts of a data set, and it has {count} images")
        sizes = {part.value: int(share * count) for part, share in _SHARES.items()}
        rows = disjoint(count, sizes | {"judged": min(JUDGED, int(_JUDGED_SHARE * count))}, 0, targets)
        tests = len(data.test_targets)
        rows["unseen"] = disjoint(tests, {"unseen": min(JUDGED, tests)}, 0, data.test_targets)["unseen"]

        def placed(inputs: object, labels: object) -> Batch:
            return {
                "inputs": torch.as_tensor(inputs).to(setting.device, setting.dtype),
                "targets": torch.as_tensor(labels).to(setting.device),
            }

        stepped = {part: placed(data.train_inputs[rows[part.value]], targets[rows[part.value]]) for part in Part}
        judged = {
            Part.TRAIN: {name: leaf[:JUDGED] for name, leaf in stepped[Part.TRAIN].items()},
            Part.VALIDATION: placed(data.train_inputs[rows["judged"]], targets[rows["judged"]]),
            Part.TEST: placed(data.test_inputs[rows["unseen"]], data.test_targets[rows["unseen"]]),
        }
        return cls(stepped, judged, len(data.classes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image, [channels, height, width]."""
        channels, height, width = self.judged[Part.TEST]["inputs"].shape[1:]
        return channels, height, width

    def averaged(self, side: int) -> Images:
        """Return the images averaged over squares of as many pixels as leave a side of `side` or more."""
        square = self.shape[-1] // side
        if square <= 1:
            return self

        def smaller(batch: Batch) -> Batch:
            return {**batch, "inputs": torch.nn.functional.avg_pool2d(batch["inputs"], square)}

        return self._of(smaller, self.classes)

    def only(self, labels: Sequence[int]) -> Images:
        """Return the images of some classes, which become 0, 1, ... in the order of `labels`."""

        def chosen(batch: Batch) -> Batch:
            wanted = batch["targets"].new_tensor(labels)
            hits = batch["targets"][:, None] == wanted
            there = hits.any(1)
            return {"inputs": batch["inputs"][there], "targets": hits[there].int().argmax(1)}

        return self._of(chosen, len(labels))

    def _of(self, change: Callable[[Batch], Batch], classes: int) -> Images:
        stepped, judged = (
            {part: change(batch) for part, batch in batches.items()} for batches in (self.stepped, self.judged)
        )
        return Images(stepped, judged, classes)


class ImageTasks(Tasks):
    """A network to be trained on images from new initial parameters, one task an episode.

    Batches are drawn with replacement; the loss is the mean cross-entropy.
    """

    unit = "nat"

    def __init__(self, images: Images, network: SmallNetwork, batch: int, setting: Setting) -> None:
        self.batch = batch
        self._images, self._network, self._setting = images, network, setting

    def group(self, name: str) -> str:
        """Return 'conv' or 'dense'."""
        return "conv" if name.startswith("conv") else "dense"

    def begin(self, part: Part, stream: torch.Generator) -> Episode:
        """Return new initial parameters, and batches of the part's images."""
        setting = self._setting
        drawn = self._network.initial(stream, setting.dtype)
        params = {name: leaf.to(setting.device) for name, leaf in drawn.items()}
        return Episode(params, self._batches(self._images.stepped[part], stream), self._images.judged[part])

    def _batches(self, images: Batch, stream: torch.Generator) -> Iterator[Batch]:
        count = len(images["targets"])
        while True:
            rows = torch.randint(count, (self.batch,), generator=stream).to(self._setting.device)
            yield {name: leaf[rows] for name, leaf in images.items()}

    def losses(self, params: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy on a batch, shape [1]."""
        scores = self._network(params, batch["inputs"])
        return torch.nn.functional.cross_entropy(scores, batch["targets"]).reshape(1)

    def judged(self, params: Tree, episode: Episode) -> torch.Tensor:
        """Return the mean cross-entropy on images that no step of any part sees, shape [1]."""
        return self.losses(params, episode.constants)
