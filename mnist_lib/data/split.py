"""A dataset as a table, of which all but the pixels is in memory: its splits, and the hashes of images.

The hash of an image's pixels identifies it whatever its file is called, and assigns a picture of a folder to a split,
unless the pictures have groups: then the hash of the group's name does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.catalog import DIGITS, MAX_PROBABILITIES
from mnist_lib.data.corrections import CorrectionCounts, UsedLabels
from mnist_lib.data.groups import GroupCounts
from mnist_lib.data.images import ImageArray, blocks, in_memory
from mnist_lib.data.request import CountsBySplit
from mnist_lib.errors import DataError
from mnist_lib.objects.archives import hash_arrays
from mnist_lib.spec import MIN_VALIDATION, VALIDATION_PERCENT
from mnist_lib.wording import counted

# One split for all trials and runs, so that their validation accuracies can be compared.
VALIDATION_SEED = 20_260_101
TEST_SHARE = 0.15  # of the pictures of a folder, if there is no test folder
NO_LABELS = UsedLabels.of(b"")

# [n, 2]: the first 16 bytes of a sha256. The chance that two of a million images share them is below 10**-26.
ImageHashes = NDArray[np.uint64]
Labels = NDArray[np.uint8] | NDArray[np.uint16]  # uint16 if there are more than 256 classes
Ranks = NDArray[np.float32] | NDArray[np.float64]
MADE: Any = None  # default of a column that is made from the others
TRAIN, TEST, UNDECIDED, COUNTER_EXAMPLE = 0, 1, 2, 4  # see `Dataset.part`
NO_GROUP = -1
COLUMNS = ("images", "labels", "hashes", "files", "groups", "ranks", "part")  # of `Dataset`


def as_labels(labels: NDArray[np.int64], classes: int) -> Labels:
    """Return labels in the smallest type that holds the number of classes."""
    return labels.astype(np.uint8) if classes <= 256 else labels.astype(np.uint16)


@dataclass(frozen=True)
class Split:
    """The images of a split, or some of them."""

    images: ImageArray  # [n, height, width, channels], 0-255
    labels: Labels  # [n], from 0
    hashes: ImageHashes = MADE  # [n, 2]; by default those of `images`. A picture is hashed before it is resized.
    files: NDArray[np.uint8] = MADE  # [n, longest]: as in `Dataset`; by default none

    def __post_init__(self) -> None:
        if self.hashes is MADE:
            object.__setattr__(self, "hashes", hashes_of(self.images))
        if self.files is MADE:
            object.__setattr__(self, "files", np.empty((len(self.images), 0), np.uint8))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Any) -> Split:
        return Split(self.images[rows], self.labels[rows], self.hashes[rows], self.files[rows])

    def file(self, index: int) -> str | None:
        """Return the path of the file of an image, relative to the folder; None if there is none."""
        return file_of(self.files[index])

    @property
    def fingerprint(self) -> str:
        """The sha256 of the images and the labels, with their types and shapes."""
        return hash_arrays((self.images, self.labels))


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
class NearCopies:
    """The test images that resemble a training image, the most similar first; see `data.near_copies`."""

    compared: int  # test images that have enough contrast
    test: NDArray[np.int64]  # [n], their indices in the test split
    train: NDArray[np.int64]  # [n], the index in the train split of the training image that each resembles most

    def distinct(self, test_images: int) -> NDArray[np.bool_]:
        """Return whether each test image is another one than these: [test images]."""
        distinct = np.ones(test_images, bool)
        distinct[self.test] = False
        return distinct


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A table with a row for each image: those of the train split, then those of the test split, then counter-examples,
    which show none of the classes.

    Until corrections are applied, pictures of a folder that are in several classes come last. They are left out, unless
    a correction says which class is correct.
    """

    images: ImageArray  # [n, height, width, channels], 0-255; in the driver, n is 0
    labels: Labels  # [n], from 0
    hashes: ImageHashes  # [n, 2]; a picture from a folder is hashed before it is resized
    files: NDArray[np.uint8]  # [n, longest]: paths in a folder of pictures, padded with zeros; longest is 0 without
    groups: NDArray[np.int32]  # [n]: the number of the group, from 0; NO_GROUP if the images have no groups
    # [n], from 0 to 1: train images with a rank below a share are for validation. If the folder says which are, theirs
    # are less by 1, the others more by 1. Folds divide the range from 0 to 1.
    ranks: Ranks
    # [n]: TRAIN or TEST; with UNDECIDED added if the picture is in several classes, or COUNTER_EXAMPLE.
    part: NDArray[np.uint8]
    name: str
    version: str
    classes: tuple[str, ...]  # the names of the labels
    fingerprint: str  # covers every image and label of both splits
    group_by: str | None = None  # as in `DataRequest`
    none: str | None = None  # as in `DataRequest`
    reusable: bool = True  # False: what has been prepared is among the temporary files
    notices: tuple[str, ...] = ()  # about what is left out
    unreadable: tuple[str, ...] = ()  # paths of files and folders that could not be read and are left out
    has_test_folder: bool = False  # whether the folder says which pictures are for the test
    corrections: CorrectionCounts | None = None  # None: there are none
    # [test images]: before corrections; None if these changed none of them, or if the labels were not published.
    published_test_labels: Labels | None = None
    # [test images]: those that people reviewed since they were drawn at random; None if there are none.
    reviewed_test: NDArray[np.bool_] | None = None
    used_labels: UsedLabels = NO_LABELS
    corrected_hashes: ImageHashes | None = None  # [m, 2]: of images that corrections relabel or remove; None: of none
    changes: Changes | None = None  # None: there was no earlier run, or it is not known what its images were
    made_up: tuple[str, ...] = ()  # kinds of made-up pictures that no class looks like, see `data.made_up`
    near_copies: NearCopies | None = None  # None: not looked for
    # The files of the first near-copies in the test split, and of the training images that they resemble.
    near_copy_files: tuple[tuple[str, str], ...] = ()
    # By model: why a user's model cannot be trained on the dataset.
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, version: str, train: Split, test: Split, classes: Sequence[str] = DIGITS) -> Dataset:
        """Return a dataset of two splits, as `of_rows`."""
        columns = ((getattr(train, column.name), getattr(test, column.name)) for column in fields(Split))
        return cls.of_rows(name, version, Split(*map(np.concatenate, columns)), len(train), classes)

    @classmethod
    def of_rows(cls, name: str, version: str, rows: Split, train: int, classes: Sequence[str]) -> Dataset:
        """Return a dataset of images: the first `train` are to train on, and random ones of these for validation.

        Their pixels do not decide: the order is random, but always the same.
        """
        ranks = np.ones(len(rows))
        ranks[np.random.default_rng(VALIDATION_SEED).permutation(train)] = np.arange(train) / max(train, 1)
        return cls(
            name=name,
            version=version,
            classes=tuple(classes),
            fingerprint="",
            **vars(rows),
            groups=np.full(len(rows), NO_GROUP, np.int32),
            ranks=ranks,
            part=np.repeat(np.array((TRAIN, TEST), np.uint8), (train, len(rows) - train)),
        ).with_fingerprint()

    def with_fingerprint(self) -> Dataset:
        """Return the dataset with the hash of its two splits."""
        hashes = f"{self.train.fingerprint}{self.test.fingerprint}"
        return replace(self, fingerprint=hashlib.sha256(hashes.encode()).hexdigest())

    def take(self, rows: Any) -> Dataset:
        return replace(self, **{column: getattr(self, column)[rows] for column in COLUMNS})

    @property
    def train(self) -> Split:
        return self._split(TRAIN)

    @property
    def test(self) -> Split:
        return self._split(TEST)

    def counter_examples(self, part: int) -> ImageArray:
        """Return the pictures that show none of the classes. `part`: TRAIN or TEST."""
        images: ImageArray = self.images[self._rows(COUNTER_EXAMPLE + part)]
        return images

    @property
    def test_groups(self) -> NDArray[np.int32] | None:
        """The number of the group of each test image, [test images], or None if the images have no groups."""
        return None if self.group_by is None else self.groups[self._rows(TEST)]

    @property
    def group_counts(self) -> GroupCounts | None:
        """The numbers of groups, or None if the images have no groups."""
        if self.group_by is None:
            return None
        train, test = (len(np.unique(self.groups[self._rows(part)])) for part in (TRAIN, TEST))
        return GroupCounts(by=self.group_by, train=train, test=test)

    def _split(self, part: int) -> Split:
        """Return the rows of a part, without a copy."""
        rows = self._rows(part)
        return Split(*(getattr(self, column.name)[rows] for column in fields(Split)))

    def _rows(self, part: int) -> slice:
        """Return the rows of a part. Only a search is needed, since the parts are sorted."""
        return slice(*np.searchsorted(self.part, np.array((part, part + 1), np.uint8)))

    def without_images(self) -> Dataset:
        """Return what the driver needs to know: everything but the images and their files."""
        return replace(self, images=self.images[:0], files=self.files[:0])

    def in_memory(self) -> Dataset:
        """Return the dataset with its pixels in memory, unless these are too many; see `images.in_memory`."""
        return replace(self, images=in_memory(self.images))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
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
            for block in blocks(split.images):
                flat = np.asarray(split.images[block]).reshape(len(split.labels[block]), -1)
                constant = np.flatnonzero(flat.min(axis=1) == flat.max(axis=1))
                if len(constant):
                    blank, value = block.start + constant[0], flat[constant[0], 0]
                    raise DataError(f"{name}: image {blank} is blank: all its pixels are {value}")

    def check_use(self, validation_percent: int | None, folds: int | None = None) -> None:
        """Raise DataError if no image is left to train on, or if the results of a trial would be too large to store."""
        if folds is not None:
            self._check_folds(np.bincount(self.folds(folds), minlength=folds))
        train, test, held_out = len(self.train), len(self.test), self.validation_size(validation_percent)
        if held_out >= train:
            raise DataError(
                f"{self.name}: expected images to train on, got {held_out} of {train} for validation; add"
                " pictures, or lower --validation-percent"
            )
        size = 4 * test * len(self.classes)
        if size > MAX_PROBABILITIES:
            raise DataError(
                f"{self.name}: expected at most {MAX_PROBABILITIES:,} bytes of probabilities, got {size:,} for"
                f" {test:,} test images and {len(self.classes):,} classes; use fewer test images"
            )

    def _check_folds(self, sizes: NDArray[np.int64]) -> None:
        if not sizes.all():
            got = f"none in fold {sizes.argmin()} of {counted(int(sizes.sum()), 'training image')}"
            raise DataError(f"{self.name}: expected images in each of {len(sizes)} folds, got {got}; use fewer --folds")
        size = 4 * int(sizes.max()) * len(self.classes)
        if size > MAX_PROBABILITIES:
            raise DataError(
                f"{self.name}: expected at most {MAX_PROBABILITIES:,} bytes of probabilities, got {size:,} for the"
                f" largest of {len(sizes)} folds; use more --folds"
            )

    def percent_for_validation(self, validation_percent: int | None) -> int:
        """Return the percentage of train images for validation, also if none is given.

        It is then 0 if too few images would be for validation, unless the folder says which are.
        """
        if validation_percent is not None:
            return validation_percent
        given = bool((self.ranks[: len(self.train)] < 0).any())
        enough = self.validation_size(VALIDATION_PERCENT) >= MIN_VALIDATION
        return VALIDATION_PERCENT if given or enough else 0

    def validation_size(self, validation_percent: int | None) -> int:
        """Return how many train images are for validation: those with a rank below the share."""
        percent = self.percent_for_validation(validation_percent)
        return int((self.ranks[: len(self.train)] < percent / 100).sum()) if percent else 0

    def train_and_validation(self, validation_percent: int | None) -> tuple[Split, Split | None]:
        """Split the train images into those to train on and those for validation; these are None if there are none."""
        train, held_out = self.train, self.validation_size(validation_percent)
        if not held_out:
            return train, None
        order = np.argsort(self.ranks[: len(train)], kind="stable")
        return train.take(order[held_out:]), train.take(order[:held_out])

    def folds(self, folds: int) -> NDArray[np.int64]:
        """Return the fold of each train image, [train images], from 0. Only its rank decides."""
        shares = self.ranks[: len(self.train)] % 1
        return np.minimum((shares * folds).astype(np.int64), folds - 1)  # a share may be rounded up to 1

    def train_and_fold(self, fold: int, folds: int) -> tuple[Split, Split]:
        """Split the train images into those of the other folds, to train on, and those of a fold, in their order."""
        inside = self.folds(folds) == fold
        return self.train.take(~inside), self.train.take(inside)


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
    """Return two numbers from 0 to 1 for each image, [n, 2], by which it is assigned to splits.

    Args:
        hashes: [n, 2], of the images or of their groups.
    """
    return hashes / 2.0**64


def is_held_out(hashes: ImageHashes) -> NDArray[np.bool_]:
    """Return whether each image is for the test, [n], if only the hash of its pixels or of its group decides."""
    held_out: NDArray[np.bool_] = shares_of(hashes)[:, 0] < TEST_SHARE
    return held_out


def file_of(path: NDArray[np.uint8]) -> str | None:
    """Return a path of `Dataset.files` as text, or None if it is empty."""
    return os.fsdecode(path.tobytes().rstrip(b"\0")) or None


def text_of(image_hash: NDArray[np.uint64]) -> str:
    """Return a hash, [2], as 32 hexadecimal digits."""
    return image_hash.tobytes().hex()


def hash_of_text(text: str) -> NDArray[np.uint64]:
    """Return the hash, [2], that `text_of` has written."""
    return np.frombuffer(bytes.fromhex(text), np.uint64)
