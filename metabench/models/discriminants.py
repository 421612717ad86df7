"""An embedding of images by linear discriminants: the directions in which classes differ most, relative to how a class itself varies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError


@dataclass(frozen=True, eq=False)
class Discriminants:
    """x -> (x - mean) directions, scaled to length 1.

    Attributes:
        mean: of the images fitted, shape [dimensions].
        directions: shape [dimensions, classes - 1], in which the covariance within a class is the identity.
    """

    mean: npt.NDArray[np.float64]
    directions: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, images: npt.NDArray[np.float64], targets: npt.NDArray[np.int64]) -> Discriminants:
        """Fit images [n, dimensions] of labelled classes [n]. Fisher 1936; covariances shrunk as by Ledoit & Wolf 2004.

        Raises:
            MetabenchError: there are fewer than two classes, or no more images than classes.
        """
        # Here: the import takes longer than many a cell.
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # type: ignore[import-untyped]

        classes = len(np.unique(targets))
        if classes < 2 or len(images) <= classes:
            raise MetabenchError(
                f"linear discriminants of {len(images)} images in {classes} classes: expected two classes or more, and more images than "
                "classes"
            )
        fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(images, targets)
        return cls(images.mean(0), fitted.scalings_[:, : min(classes - 1, images.shape[1])])

    def __call__(self, images: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the embeddings of images [n, dimensions], shape [n, classes - 1], of length 1; zero for the mean itself."""
        return unit((images - self.mean) @ self.directions)

    def of_classes(self, images: npt.NDArray[np.float64], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the embeddings of the means of classes 0, 1, ..., shape [classes, classes - 1], of length 1."""
        return self(np.stack([images[targets == one].mean(0) for one in range(int(targets.max()) + 1)]))


def unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return vectors [..., dimensions] scaled to length 1; zero stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
