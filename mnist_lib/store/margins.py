"""The margins of training images, by which wrong labels are found: a network learns wrongly labelled images late.

The margin of an image is by how much the logit of its label exceeds the highest other one. In the end, a network may
have memorised wrong labels, so only the first half of the epochs counts (Pleiss et al., "Identifying Mislabeled Data
using the Area Under the Margin Ranking", 2020).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.table import ImageHashes, Labels, Table
from mnist_lib.documents import reading
from mnist_lib.objects.archives import npz, read_npz

MARGINS = "margins.npz"  # the file of a version
MAX_STORED = 200_000  # images, those with the lowest margins

Sums = NDArray[np.float32]  # [2, images]: the sum of the margins of each image so far, and how many these are


def counted_epochs(epochs: int) -> int:
    """Return the number of epochs, from the first one on, whose margins count."""
    return -(-epochs // 2)


def no_sums(images: int) -> Sums:
    return np.zeros((2, images), np.float32)


def add_margins(sums: Sums, images: NDArray[np.int32], margins: NDArray[np.float32], batch_size: int) -> None:
    """Add the margins of a chunk to the sums.

    Args:
        images: the indices of the chunk's images, in the order in which they were trained on.
        margins: [steps, images of all replicas]; the last ones may be padding.
        batch_size: of all replicas together.
    """
    sums[0, images] += margins[:, :batch_size].reshape(-1)[: len(images)]
    sums[1, images] += 1


@dataclass(frozen=True)
class Margins:
    """The mean margins of the images that a model was trained on, the lowest first."""

    hashes: ImageHashes  # [n, 2]
    labels: Labels  # [n] as they were in training
    means: NDArray[np.float32]  # [n]
    quartiles: NDArray[np.float32]  # [3]: of all images, also of those that are not stored

    @classmethod
    def of(cls, sums: Sums, split: Table) -> "Margins":
        """Return the lowest mean margins of the images of a split, without images that were never added to the sums."""
        means = sums[0] / np.maximum(sums[1], 1)
        trained = np.flatnonzero(sums[1])
        lowest = trained[np.argsort(means[trained], kind="stable")][:MAX_STORED]
        quartiles = np.percentile(means[trained], [25, 50, 75]).astype(np.float32)
        return cls(split.hashes[lowest], split.labels[lowest], means[lowest], quartiles)

    @property
    def deviations(self) -> NDArray[np.float64]:
        """How many interquartile ranges each margin is below the median, [n]; 0 unless the margin is negative.

        The result does not depend on the scale of the logits.
        """
        low, median, high = self.quartiles
        deviations = np.zeros(len(self.means))
        np.divide(median - self.means, high - low, out=deviations, where=(self.means < 0) & (high > low))
        return deviations

    def file(self) -> bytes:
        return npz({**vars(self), "labels": self.labels.astype(np.uint16)}, compressed=True)

    @classmethod
    def read(cls, content: bytes, name: str) -> "Margins":
        """Return what a file holds. Raises IntegrityError if it is damaged. `name`: for messages."""
        with reading(name):
            return cls(**read_npz(content))
