"""A table with a row for each image and a column for each thing that is known of it. All but the pixels is in memory.

The hash of an image's pixels identifies it whatever its file is called, and assigns a picture of a folder to a split,
unless the pictures have groups: then the hash of the group's name does.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.images import ImageArray, blocks
from mnist_lib.objects.archives import hash_arrays

# [n, 2]: the first 16 bytes of a sha256. The chance that two of a million images share them is below 10**-26.
ImageHashes = NDArray[np.uint64]
Labels = NDArray[np.uint8] | NDArray[np.uint16]  # uint16 if a label is above 255
Ranks = NDArray[np.float32] | NDArray[np.float64]
TRAIN, TEST = 0, 1
NO_GROUP = -1
TEST_SHARE = 0.15  # of the pictures of a folder, if there is no test folder


@dataclass(frozen=True, kw_only=True)
class Table:
    """Images. All columns have the same length, n; in the driver, that of the pixels and of the files is 0."""

    images: ImageArray  # [n, height, width, channels], 0-255
    labels: Labels  # [n], from 0; the number of classes for a counter-example, which shows none of them
    hashes: ImageHashes  # [n, 2]; a picture is hashed before it is resized
    files: NDArray[np.uint8]  # [n, longest]: paths in a folder of pictures, padded with zeros; longest is 0 without
    groups: NDArray[np.int32]  # [n]: the number of the group, from 0; NO_GROUP if the images have no groups
    splits: NDArray[np.uint8]  # [n]: TRAIN or TEST
    ranks: Ranks  # [n], from 0 to 1: train images with a rank below a share are for validation; folds divide the range
    validation: NDArray[np.bool_]  # [n]: whether the folder says that the image is for validation
    conflicts: NDArray[np.bool_]  # [n]: whether another class has the same picture, and no correction says which
    published: Labels  # [n]: the labels by which others know the images
    reviewed: NDArray[np.bool_]  # [n]: whether a person has reviewed the image since it was drawn at random

    @classmethod
    def of(cls, images: ImageArray, labels: Labels, hashes: ImageHashes | None = None, **columns: Any) -> Table:
        """Return the table of train images. `hashes`: by default those of the images"""
        count = len(labels)
        table: dict[str, Any] = {
            "files": np.empty((count, 0), np.uint8),
            "groups": np.full(count, NO_GROUP, np.int32),
            "splits": np.full(count, TRAIN, np.uint8),
            "ranks": np.ones(count),
            **{name: np.zeros(count, bool) for name in ("validation", "conflicts", "reviewed")},
            "published": labels,
            **columns,
        }
        return cls(images=images, labels=labels, hashes=hashes_of(images) if hashes is None else hashes, **table)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Any) -> Table:
        return Table(**{column: values[rows] for column, values in vars(self).items()})

    def followed_by(self, other: Table) -> Table:
        return Table(**{column: np.concatenate([values, vars(other)[column]]) for column, values in vars(self).items()})

    def file(self, index: int) -> str | None:
        """Return the path of the file of an image, relative to the folder; None if there is none."""
        return os.fsdecode(self.files[index].tobytes().rstrip(b"\0")) or None

    @property
    def fingerprint(self) -> str:
        """The sha256 of the images and the labels, with their types and shapes."""
        return hash_arrays((self.images, self.labels))

    def parts(self, classes: int) -> NDArray[np.int64]:
        """Return numbers by which rows are sorted, [n]: 0 for train and 1 for test images, 2 and 3 for
        counter-examples of these, and 4 or more in a conflict.
        """
        parts: NDArray[np.int64] = self.splits + 2 * (self.labels == classes) + 4 * self.conflicts
        return parts


def as_labels(labels: NDArray[np.int64], classes: int) -> Labels:
    """Return labels in the smallest type that holds the number of classes."""
    return labels.astype(np.uint8) if classes <= 256 else labels.astype(np.uint16)


def hashes_of(images: ImageArray) -> ImageHashes:
    """Return the hashes of images, [n, height, width, channels]: picture files with these pixels have the same."""
    count, height, width, channels = images.shape
    size = hashlib.sha256(f"{(width, height)}".encode())
    hashes = np.empty((count, 2), np.uint64)
    for rows in blocks(images):
        block = np.asarray(images[rows])
        colours = np.full((*block.shape[:3], 4), 255, np.uint8)  # red, green, blue, opacity
        colours[..., : channels if channels > 1 else 3] = block
        for index, pixels in enumerate(colours.reshape(len(block), -1), start=rows.start):
            digest = size.copy()
            digest.update(pixels.data)
            hashes[index] = np.frombuffer(digest.digest()[:16], np.uint64)
    return hashes


def indices_of(hashes: ImageHashes, among: ImageHashes) -> NDArray[np.int64]:
    """Return the index in `among`, [n, 2], of the first image with each hash, or -1 if there is none."""
    if not len(among):
        return np.full(len(hashes), -1)
    # A number for each hash in `among`, from the ranks of its halves: whoever writes a file may repeat one half.
    (first, first_rank), (second, second_rank) = (np.unique(half, return_inverse=True) for half in among.T)
    numbers = first_rank * len(second) + second_rank
    order = np.argsort(numbers, kind="stable")  # the first of equal ones is found
    wanted = np.searchsorted(first, hashes[:, 0]) * len(second) + np.searchsorted(second, hashes[:, 1])
    found = order[np.minimum(np.searchsorted(numbers[order], wanted), len(among) - 1)]
    return np.where((among[found] == hashes).all(axis=1), found, -1)


def shares_of(hashes: ImageHashes) -> NDArray[np.float64]:
    """Return two numbers from 0 to 1 for each image, [n, 2], by which it is assigned to splits.

    Args:
        hashes: [n, 2], of the images or of their groups.
    """
    return hashes / 2.0**64


def is_held_out(hashes: ImageHashes) -> NDArray[np.bool_]:
    """Return whether each image is for the test, [n], if only the hash of its pixels or of its group decides."""
    held_out: NDArray[np.bool_] = shares_of(hashes)[:, 0] < TEST_SHARE
    return held_out


def text_of(image_hash: NDArray[np.uint64]) -> str:
    """Return a hash, [2], as 32 hexadecimal digits."""
    return image_hash.tobytes().hex()


def hash_of_text(text: str) -> NDArray[np.uint64]:
    """Return the hash, [2], that `text_of` has written."""
    return np.frombuffer(bytes.fromhex(text), np.uint64)
