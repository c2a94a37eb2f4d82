"""A dataset: a table of images, the names of its classes, and a report of how it was prepared."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.catalog import DIGITS, MAX_PROBABILITIES
from mnist_lib.data.corrections import CorrectionCounts, UsedLabels
from mnist_lib.data.groups import GroupCounts
from mnist_lib.data.images import ImageArray, in_memory
from mnist_lib.data.request import CountsBySplit
from mnist_lib.data.table import TEST, TRAIN, ImageHashes, Table, ranks_by_place
from mnist_lib.errors import DataError
from mnist_lib.spec import MIN_VALIDATION, VALIDATION_PERCENT
from mnist_lib.wording import counted

NO_LABELS = UsedLabels.of(b"")


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
        """Return whether each test image is none of these near-copies: [test images]."""
        distinct = np.ones(test_images, bool)
        distinct[self.test] = False
        return distinct


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found while a dataset was prepared."""

    notices: tuple[str, ...] = ()  # about what is left out
    unreadable: tuple[str, ...] = ()  # paths of files and folders that could not be read and are left out
    has_test_folder: bool = False  # whether the folder says which pictures are for the test
    reusable: bool = True  # False: what has been prepared is among the temporary files
    corrections: CorrectionCounts | None = None  # None: there are none
    used_labels: UsedLabels = NO_LABELS
    corrected: ImageHashes | None = None  # [m, 2]: of images that corrections relabel or remove; None: of none
    changes: Changes | None = None  # None: there was no earlier run, or it is not known what its images were
    near_copies: NearCopies | None = None  # None: not looked for
    # The files of the first near-copies in the test split, and of the training images that they resemble.
    near_copy_files: tuple[tuple[str, str], ...] = ()
    new_records: NDArray[np.void] | None = field(default=None, compare=False)  # to be recorded, see `prepared.recorded`
    # By model: why a user's model cannot be trained on the dataset.
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The table has the rows of the train split, then those of the test split, then the counter-examples of each.

    Until corrections are applied, pictures that are in several classes are among the last rows. They are left out,
    unless a correction says which class is correct.
    """

    table: Table
    name: str
    version: str
    classes: tuple[str, ...]  # the names of the labels
    fingerprint: str  # covers every image and label of both splits
    group_by: str | None = None  # as in `DataRequest`
    none: str | None = None  # as in `DataRequest`
    made_up: tuple[str, ...] = ()  # kinds of made-up pictures that no class looks like, see `data.made_up`
    report: Report = field(default_factory=Report)

    @classmethod
    def of(cls, name: str, version: str, train: Table, test: Table, classes: Sequence[str] = DIGITS) -> Dataset:
        """Return a dataset of two splits. Random train images, but always the same, are for validation."""
        splits = np.repeat(np.array((TRAIN, TEST), np.uint8), (len(train), len(test)))
        table = replace(train.followed_by(test), splits=splits, ranks=ranks_by_place(len(train), len(test)))
        dataset = cls(table=table, name=name, version=version, classes=tuple(classes), fingerprint="")
        return replace(dataset, fingerprint=dataset.fingerprint_of_splits())

    def fingerprint_of_splits(self) -> str:
        """Return the sha256 of the images and labels of both splits."""
        return hashlib.sha256(f"{self.train.fingerprint}{self.test.fingerprint}".encode()).hexdigest()

    def reporting(self, **found: Any) -> Dataset:
        """Return the dataset with other fields of its report."""
        return replace(self, report=replace(self.report, **found))

    @property
    def train(self) -> Table:
        return self._part(TRAIN)

    @property
    def test(self) -> Table:
        return self._part(TEST)

    def counter_examples(self, split: int) -> ImageArray:
        """Return the pictures that show none of the classes. `split`: TRAIN or TEST"""
        return self._part(2 + split).images

    def _part(self, part: int) -> Table:
        """Return the rows of a part, without a copy."""
        return self.table.take(slice(*self._bounds[part : part + 2]))

    @functools.cached_property
    def _bounds(self) -> NDArray[np.int64]:
        """Return the first row of each of the four parts, and the end of the last. The parts are sorted."""
        return np.searchsorted(self.table.parts(len(self.classes)), np.arange(5))

    @property
    def test_groups(self) -> NDArray[np.int32] | None:
        """The number of the group of each test image, [test images], or None if the images have no groups."""
        return None if self.group_by is None else self.test.groups

    @property
    def group_counts(self) -> GroupCounts | None:
        """The numbers of groups, or None if the images have no groups."""
        if self.group_by is None:
            return None
        train, test = (len(np.unique(split.groups)) for split in (self.train, self.test))
        return GroupCounts(by=self.group_by, train=train, test=test)

    def changed(self, table: Table, fingerprint: str) -> Dataset:
        """Return the dataset with other rows or labels, and their fingerprint, with which a folder's version begins."""
        version = fingerprint[:8] if self.version == self.fingerprint[:8] else self.version
        return replace(self, table=table, version=version, fingerprint=fingerprint)

    def without_images(self) -> Dataset:
        """Return what the driver needs to know: everything but the images and their files."""
        return replace(self, table=replace(self.table, images=self.table.images[:0], files=self.table.files[:0]))

    def in_memory(self) -> Dataset:
        """Return the dataset with its pixels in memory, unless these are too many; see `images.in_memory`."""
        return self.with_images(in_memory(self.table.images))

    def with_images(self, images: ImageArray) -> Dataset:
        """Return the dataset with the same images from elsewhere."""
        return replace(self, table=replace(self.table, images=images))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.table.images.shape[1:]
        return height, width, channels

    def check_use(self, validation_percent: int | None, folds: int | None = None) -> None:
        """Raise DataError if no image is left to train on, or if the results of a trial would be too large to store."""
        of_folds = [] if folds is None else np.bincount(self.folds(folds), minlength=folds).tolist()
        if 0 in of_folds:
            got = f"{counted(sum(of_folds), 'training image')}, none of them in fold {of_folds.index(0)}"
            raise DataError(f"{self.name}: expected images in each of {folds} folds, got {got}; use fewer --folds")
        train = len(self.train)
        held_out = self.validation_size(validation_percent)
        if held_out >= train:
            raise DataError(
                f"{self.name}: expected images to train on, got {held_out} of {train} for validation; add"
                " pictures, or lower --validation-percent"
            )
        predicted = max([len(self.test), *of_folds])
        size = 4 * predicted * len(self.classes)
        if size > MAX_PROBABILITIES:
            raise DataError(
                f"{self.name}: expected at most {MAX_PROBABILITIES:,} bytes of probabilities, got {size:,} for"
                f" {predicted:,} images and {len(self.classes):,} classes; use fewer test images, or more --folds"
            )

    def percent_for_validation(self, validation_percent: int | None) -> int:
        """Return the percentage of train images for validation, also if none is given.

        It is then 0 if too few images would be for validation, unless the folder says which are.
        """
        if validation_percent is not None:
            return validation_percent
        enough = self.validation_size(VALIDATION_PERCENT) >= MIN_VALIDATION
        return VALIDATION_PERCENT if enough or self.train.validation.any() else 0

    def validation_size(self, validation_percent: int | None) -> int:
        """Return how many train images are for validation."""
        return int(is_validated(self.train, self.percent_for_validation(validation_percent)).sum())

    def train_and_validation(self, validation_percent: int | None) -> tuple[Table, Table | None]:
        """Split the train images into those to train on and those for validation; these are None if there are none."""
        train = self.train
        held_out = self.validation_size(validation_percent)
        if not held_out:
            return train, None
        order = np.lexsort((train.ranks, ~train.validation))
        return train.take(order[held_out:]), train.take(order[:held_out])

    def folds(self, folds: int) -> NDArray[np.int64]:
        """Return the fold of each train image, [train images], from 0. Only its rank decides."""
        numbers = (self.train.ranks % 1 * folds).astype(np.int64)  # a rank may be rounded up to 1
        return np.minimum(numbers, folds - 1)

    def train_and_fold(self, fold: int, folds: int) -> tuple[Table, Table]:
        """Split the train images into those of the other folds, to train on, and those of a fold, in their order."""
        inside = self.folds(folds) == fold
        return self.train.take(~inside), self.train.take(inside)


def is_validated(train: Table, percent: int) -> NDArray[np.bool_]:
    """Return whether each train image is for validation, [n]: those in a folder for it or, without one, those with a
    rank below the share.
    """
    if not percent or train.validation.any():
        return train.validation & (percent > 0)
    validated: NDArray[np.bool_] = train.ranks < percent / 100
    return validated
