"""A dataset as arrays in memory, which workers get through Ray's object store, and its validation split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.archives import hash_arrays
from mnist_lib.catalog import NUM_CLASSES
from mnist_lib.errors import DataError

# One split for all trials and runs, so that their validation accuracies can be compared.
VALIDATION_SEED = 20_260_101


@dataclass(frozen=True)
class Split:
    images: NDArray[np.uint8]  # [n, height, width, 1], 0-255
    labels: NDArray[np.uint8]  # [n], 0-9

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[Any]) -> Split:
        return Split(self.images[indices], self.labels[indices])

    @property
    def fingerprint(self) -> str:
        """The sha256 of the images and the labels, with their types and shapes."""
        return hash_arrays((self.images, self.labels))

    def check(self, name: str, expected: int) -> None:
        """Check the number of images, the labels and the pixels of the named split.

        Raises:
            DataError: it does not have `expected` images, or has a label above 9 or a blank image.
        """
        if not len(self) == len(self.images) == expected:
            raise DataError(f"{name}: expected {expected} images, got {len(self.images)} and {len(self)} labels")
        if self.labels.max() >= NUM_CLASSES:
            index = int(self.labels.argmax())
            raise DataError(f"{name}: expected labels 0 to {NUM_CLASSES - 1}, image {index} has {self.labels[index]}")
        flat = self.images.reshape(len(self), -1)
        constant = np.flatnonzero(flat.min(axis=1) == flat.max(axis=1))
        if len(constant):
            raise DataError(f"{name}: image {constant[0]} is blank: all its pixels are {flat[constant[0], 0]}")


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a dataset for the driver: everything but the images."""

    name: str
    version: str
    fingerprint: str
    train: int  # images, including those for validation
    test_labels: NDArray[np.uint8]
    image_shape: tuple[int, int, int]  # height, width, channels
    reusable: bool


@dataclass(frozen=True)
class Dataset:
    """The two published splits. The fingerprint covers every image and label of both."""

    name: str
    version: str
    train: Split
    test: Split
    fingerprint: str
    reusable: bool = True  # whether it was prepared in a folder that the next run reads

    @classmethod
    def of(cls, name: str, version: str, train: Split, test: Split) -> Dataset:
        fingerprint = hashlib.sha256(f"{train.fingerprint}{test.fingerprint}".encode()).hexdigest()
        return cls(name, version, train, test, fingerprint)

    @property
    def info(self) -> DatasetInfo:
        train, labels = len(self.train), self.test.labels
        return DatasetInfo(self.name, self.version, self.fingerprint, train, labels, self.image_shape, self.reusable)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def train_and_validation(self, validation_percent: int) -> tuple[Split, Split | None]:
        """Split the train images into those to train on and those for validation; None at 0 percent."""
        held_out = validation_size(len(self.train), validation_percent)
        if not held_out:
            return self.train, None
        order = np.random.default_rng(VALIDATION_SEED).permutation(len(self.train))
        return self.train.take(order[held_out:]), self.train.take(order[:held_out])


def validation_size(train: int, validation_percent: int) -> int:
    """Return how many of `train` images are for validation: the share rounded up."""
    return -(-train * validation_percent // 100)
