"""A dataset as arrays in memory, which workers get through Ray's object store: its splits, and the hashes of images.

The hash of an image's pixels identifies it whatever its file is called, and assigns a picture of a folder to a split.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.archives import hash_arrays
from mnist_lib.catalog import DIGITS, MAX_PROBABILITIES, MAX_TEST_IMAGES
from mnist_lib.data.corrections import CorrectionCounts, UsedLabels
from mnist_lib.data.request import CountsBySplit
from mnist_lib.errors import DataError

# One split for all trials and runs, so that their validation accuracies can be compared.
VALIDATION_SEED = 20_260_101
TEST_SHARE = 0.15  # of the pictures of a folder, if there is no test folder
IMAGES_PER_BLOCK = 4_096  # of which the hashes are computed at a time: bounds the memory for their colours
NO_LABELS = UsedLabels.of(b"")

# [n, 2]: the first 16 bytes of a sha256. The chance that two of a million images share them is below 10**-26.
ImageHashes = NDArray[np.uint64]
Labels = NDArray[np.uint8] | NDArray[np.uint16]  # uint16 if there are more than 256 classes


def as_labels(labels: NDArray[np.int64], classes: int) -> Labels:
    """Return labels in the smallest type that holds the number of classes."""
    return labels.astype(np.uint8) if classes <= 256 else labels.astype(np.uint16)


@dataclass(frozen=True)
class Split:
    images: NDArray[np.uint8]  # [n, height, width, channels], 0-255
    labels: Labels  # [n], from 0
    known_hashes: ImageHashes | None = None  # [n, 2]; None: those of `images`
    files: NDArray[np.uint8] | None = None  # [n, longest]: paths in a folder of pictures, padded with zeros

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[Any]) -> Split:
        hashes = self.known_hashes[indices] if self.known_hashes is not None else None
        files = self.files[indices] if self.files is not None else None
        return Split(self.images[indices], self.labels[indices], hashes, files)

    def file(self, index: int) -> str | None:
        """Return the path of the file of an image, relative to the folder; None if there is none."""
        return None if self.files is None else os.fsdecode(self.files[index].tobytes().rstrip(b"\0"))

    @cached_property
    def hashes(self) -> ImageHashes:
        """The hash of each image, [n, 2]. A picture from a folder is hashed before it is resized."""
        return hashes_of(self.images) if self.known_hashes is None else self.known_hashes

    @property
    def fingerprint(self) -> str:
        """The sha256 of the images and the labels, with their types and shapes."""
        return hash_arrays((self.images, self.labels))


@dataclass(frozen=True)
class Undecided:
    """Pictures of a folder that are in several classes. They are left out, unless a correction says which is right."""

    split: Split  # with the labels of their folders
    for_test: NDArray[np.uint8]  # [n], 1: for the test split
    ranks: NDArray[np.float32]  # [n], as in `Dataset`
    paths: tuple[str, ...]  # [n]


@dataclass(frozen=True)
class Changes:
    """What changed since the last run of a dataset: for "train" and "test", the number of images of each class.

    A class without any is not in the mappings.
    """

    added: CountsBySplit
    removed: CountsBySplit
    relabelled: CountsBySplit  # by the class that an image has now
    new_test: NDArray[np.bool_]  # [test images]: those whose picture is in no split of the last run


@dataclass(frozen=True, kw_only=True)
class DatasetDescription:
    """What is known of a dataset without its images. The fingerprint covers every image and label of both splits."""

    name: str
    version: str
    classes: tuple[str, ...]  # the names of the labels
    fingerprint: str
    reusable: bool = True  # whether the next run can read what has been prepared
    # [train images], from 0 to 1: images with a rank below a share are for validation. None: they are chosen at random.
    ranks: NDArray[np.float32] | None = None
    notices: tuple[str, ...] = ()  # about what is left out
    damaged: int = 0  # files that could not be read and are left out
    corrections: CorrectionCounts | None = None  # None: there are none
    # [test images]: before corrections; None if these changed none of them, or if the labels were not published.
    published_test_labels: Labels | None = None
    labels: UsedLabels = NO_LABELS


@dataclass(frozen=True, kw_only=True)
class DatasetInfo(DatasetDescription):
    """What the driver needs to know about a dataset: everything but the images."""

    train: int  # images, including those for validation
    test_labels: Labels
    test_hashes: ImageHashes
    image_shape: tuple[int, int, int]  # height, width, channels
    changes: Changes | None = None  # None: there was no earlier run, or it is not known what its images were

    def check(self, validation_percent: int) -> None:
        """Raise DataError if no image is left to train on, or if the results of a trial would be too large to store."""
        held_out = validation_size(self.train, self.ranks, validation_percent)
        if held_out >= self.train:
            raise DataError(
                f"{self.name}: expected images to train on, got {held_out} of {self.train} for validation; add"
                " pictures, or lower --validation-percent"
            )
        if len(self.test_labels) > MAX_TEST_IMAGES:
            raise DataError(
                f"{self.name}: expected up to {MAX_TEST_IMAGES:,} test images, got {len(self.test_labels):,}; use fewer"
            )
        size = 4 * len(self.test_labels) * len(self.classes)
        if size > MAX_PROBABILITIES:
            raise DataError(
                f"{self.name}: expected at most {MAX_PROBABILITIES:,} bytes of probabilities, got {size:,} for"
                f" {len(self.test_labels):,} test images and {len(self.classes):,} classes; use fewer test images"
            )


@dataclass(frozen=True, kw_only=True)
class Dataset(DatasetDescription):
    """The train and the test split."""

    train: Split
    test: Split
    undecided: Undecided | None = None  # None: corrections are applied, or the dataset is no folder
    # By model: why a user's model cannot be trained on the dataset.
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, version: str, train: Split, test: Split, classes: Sequence[str] = DIGITS) -> Dataset:
        fingerprint = hashlib.sha256(f"{train.fingerprint}{test.fingerprint}".encode()).hexdigest()
        return cls(name=name, version=version, train=train, test=test, classes=tuple(classes), fingerprint=fingerprint)

    @property
    def info(self) -> DatasetInfo:
        return DatasetInfo(
            **{shared.name: getattr(self, shared.name) for shared in fields(DatasetDescription)},
            train=len(self.train),
            test_labels=self.test.labels,
            test_hashes=self.test.hashes,
            image_shape=self.image_shape,
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def check(self, train: int, test: int) -> None:
        """Check the published numbers of images, the labels and the pixels.

        Raises:
            DataError: a split has a wrong number of images, a label without a class, or a blank image.
        """
        for name, split, expected in (
            (f"{self.name}/train", self.train, train),
            (f"{self.name}/test", self.test, test),
        ):
            if not len(split) == len(split.images) == expected:
                raise DataError(f"{name}: expected {expected} images, got {len(split.images)} and {len(split)} labels")
            if split.labels.max() >= len(self.classes):
                index, last = int(split.labels.argmax()), len(self.classes) - 1
                raise DataError(f"{name}: expected labels 0 to {last}, image {index} has {split.labels[index]}")
            flat = split.images.reshape(len(split), -1)
            constant = np.flatnonzero(flat.min(axis=1) == flat.max(axis=1))
            if len(constant):
                raise DataError(f"{name}: image {constant[0]} is blank: all its pixels are {flat[constant[0], 0]}")

    def train_and_validation(self, validation_percent: int) -> tuple[Split, Split | None]:
        """Split the train images into those to train on and those for validation; these are None if there are none."""
        held_out = validation_size(len(self.train), self.ranks, validation_percent)
        if not held_out:
            return self.train, None
        order = _validation_order(len(self.train)) if self.ranks is None else np.argsort(self.ranks, kind="stable")
        return self.train.take(order[held_out:]), self.train.take(order[:held_out])


def random_ranks(train: int) -> NDArray[np.float32]:
    """Return ranks for images without any, so that they stay in training or validation if others are removed."""
    ranks = np.empty(train, np.float32)
    ranks[_validation_order(train)] = np.arange(train, dtype=np.float64) / train
    return ranks


def _validation_order(train: int) -> NDArray[np.int64]:
    return np.random.default_rng(VALIDATION_SEED).permutation(train)


def validation_size(train: int, ranks: NDArray[np.float32] | None, validation_percent: int) -> int:
    """Return how many of `train` images are for validation: those with a rank below the share, or the share itself."""
    if ranks is None:
        return -(-train * validation_percent // 100)
    return int((ranks < validation_percent / 100).sum())


def hashes_of(images: NDArray[np.uint8]) -> ImageHashes:
    """Return the hashes of images, [n, height, width, channels]: picture files with these pixels have the same."""
    count, height, width, channels = images.shape
    size = hashlib.sha256(f"{(width, height)}".encode())
    hashes = np.empty((count, 2), np.uint64)
    for first in range(0, count, IMAGES_PER_BLOCK):
        block = images[first : first + IMAGES_PER_BLOCK]
        colours = np.full((*block.shape[:3], 4), 255, np.uint8)  # red, green, blue, opacity
        colours[..., : channels if channels > 1 else 3] = block
        for index, pixels in enumerate(colours.reshape(len(block), -1), start=first):
            digest = size.copy()
            digest.update(pixels.data)
            hashes[index] = np.frombuffer(digest.digest()[:16], np.uint64)
    return hashes


def indices_of(hashes: ImageHashes, among: ImageHashes) -> NDArray[np.int64]:
    """Return the index in `among`, [n, 2], of an image with each hash, or -1 if there is none."""
    if not len(among):
        return np.full(len(hashes), -1)
    # A number for each hash in `among`, from the ranks of its halves: whoever writes a file may repeat one half.
    (first, first_rank), (second, second_rank) = (np.unique(half, return_inverse=True) for half in among.T)
    numbers = first_rank * len(second) + second_rank
    order = np.argsort(numbers)
    wanted = np.searchsorted(first, hashes[:, 0]) * len(second) + np.searchsorted(second, hashes[:, 1])
    found = order[np.minimum(np.searchsorted(numbers[order], wanted), len(among) - 1)]
    return np.where((among[found] == hashes).all(axis=1), found, -1)


def shares_of(hashes: ImageHashes) -> NDArray[np.float64]:
    """Return two numbers from 0 to 1 for each image, [n, 2], by which it is assigned to splits."""
    return hashes / 2.0**64


def is_held_out(hashes: ImageHashes) -> NDArray[np.bool_]:
    """Return whether each image is for the test, [n], if only its pixels decide."""
    held_out: NDArray[np.bool_] = shares_of(hashes)[:, 0] < TEST_SHARE
    return held_out


def text_of(image_hash: NDArray[np.uint64]) -> str:
    """Return a hash, [2], as 32 hexadecimal digits."""
    return image_hash.tobytes().hex()


def hash_of_text(text: str) -> NDArray[np.uint64]:
    """Return the hash, [2], that `text_of` has written."""
    return np.frombuffer(bytes.fromhex(text), np.uint64)
