"""How much a picture looks like one of a model's classes, as a share of pictures on which the model was not trained.

The score of a picture is how certain the model is (by how much the logarithm of the sum of its exponentiated logits
exceeds their mean) less how far the features before its last layer are from those of the class that it answers (the
Mahalanobis distance, with the covariance within the classes). Both are divided by what is usual for training images.

The likeness compares the score with those of held-out pictures. So a share s of all real pictures, or fewer, has a
likeness of s or less, however bad the score is (conformal prediction: Vovk et al., 2005). How many other pictures have
so low a likeness depends on the model; `benchmarks.rejecting` measures it.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnist_lib.documents import reading
from mnist_lib.objects.archives import npz, read_npz

LIKENESS = "likeness.npz"  # the file of a version
REJECT_SHARE = 0.02  # of real pictures that are answered with "none of these"
MAX_FEATURES = 256  # more are folded, see `mnist_lib.models.model.folded`
MAX_FITTED = 10_000  # training images, so that this takes less than half an epoch
TINY = 1e-12  # instead of dividing by 0
SHRINKAGE = 0.01  # towards equal variances, so that few training images are enough

Array = NDArray[np.float32]


class Answers(NamedTuple):
    """What a model answers for n pictures."""

    probabilities: Array  # [n, classes]
    likeness: NDArray[np.float64]  # [n], above 0 and up to 1; 1 if there are no held-out pictures to compare with


@dataclass(frozen=True)
class Likeness:
    """What is needed to score pictures, and the scores of held-out ones."""

    directions: Array  # [features, features], in which the features vary equally within the classes
    means: Array  # [classes, features], of the classes in these directions
    scales: Array  # [2]: the usual certainty and the usual distance
    held_out: NDArray[np.float64]  # [n], the sorted scores of held-out pictures

    @classmethod
    def fit(cls, features: Array, logits: Array, labels: NDArray[np.integer]) -> "Likeness":
        """Return what is needed to score pictures, without held-out ones.

        Args:
            features: [n, features] of training images, as `logits`, [n, classes], and `labels`, [n].
        """
        values, classes = _numbers(features), logits.shape[1]
        counts = np.bincount(labels, minlength=classes)[:, None]
        sums = np.zeros((classes, values.shape[1]))
        np.add.at(sums, labels, values)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), values.mean(axis=0))
        within = values - means[labels]
        covariance = within.T @ within / len(values)
        least = SHRINKAGE * np.trace(covariance) / len(covariance)
        variances, axes = np.linalg.eigh(covariance)
        directions = axes / np.sqrt(np.maximum(variances, 0) + least + TINY)
        scales, none = np.ones(2, np.float32), np.empty(0)
        fitted = cls(directions.astype(np.float32), (means @ directions).astype(np.float32), scales, none)
        usual = fitted._parts(features, logits).mean(axis=1)
        return replace(fitted, scales=np.maximum(usual, TINY).astype(np.float32))

    def scores(self, features: Array, logits: Array) -> NDArray[np.float64]:
        """Return the score of each picture, [n]. Args: as for `fit`."""
        certainty, distance = self._parts(features, logits) / self.scales[:, None]
        return np.asarray(certainty - distance)

    def _parts(self, features: Array, logits: Array) -> NDArray[np.float64]:
        """Return the certainty and the distance of each picture, [2, n]."""
        # Adding a number to all logits of a picture changes no probability, and here no certainty.
        above = _numbers(logits)
        above -= above.mean(axis=1, keepdims=True)
        highest = above.max(axis=1)
        certainty = highest + np.log(np.exp(above - highest[:, None]).sum(axis=1))
        offsets = _numbers(features) @ self.directions - self.means[logits.argmax(axis=1)]
        return np.stack([certainty, np.linalg.norm(offsets, axis=1)])

    def likeness(self, features: Array, logits: Array) -> NDArray[np.float64]:
        """Return the likeness of each picture, [n]: the share, among it and the held-out ones, with no higher score."""
        lower = np.searchsorted(self.held_out, self.scores(features, logits), side="right")
        return np.asarray((lower + 1) / (len(self.held_out) + 1))

    def file(self) -> bytes:
        return npz(vars(self), compressed=True)

    @classmethod
    def read(cls, content: bytes, name: str) -> "Likeness":
        """Return what a file holds. Raises IntegrityError if it is damaged. `name`: for messages."""
        with reading(name):
            return cls(**read_npz(content))


def _numbers(values: Array) -> NDArray[np.float64]:
    """Return finite numbers: instead of infinity, the highest or lowest one that a float32 holds."""
    return np.nan_to_num(values).astype(np.float64)


def min_held_out(share: float) -> int:
    """Return how many held-out pictures are needed for any picture to have a likeness of `share` or less."""
    return math.ceil(1 / share - 1e-9) - 1
