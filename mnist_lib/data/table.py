"""A table with a row for each image and a column for each thing that is known of it. All but the pixels is in memory.

The hash of an image's pixels identifies it whatever its file is called. Without a test folder, this hash, or that of
the name of its group, decides whether it is for training or for the test, and whether it may be for validation. So a
picture stays in its split when others are added, and equal pictures are in the same split. Of equal pictures in several
groups, only those on the side of training are used.
"""

from __future__ import annotations

import binascii
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.groups import hash_of_group
from mnist_lib.data.images import ImageArray, Images, blocks
from mnist_lib.data.sources.listing import Listing
from mnist_lib.data.sources.scan import MAX_NAMED, listed
from mnist_lib.errors import ImageError, IntegrityError
from mnist_lib.objects.archives import hash_arrays
from mnist_lib.wording import counted

# [n, 2]: the first 16 bytes of a sha256. The chance that two of a million images share them is below 10**-26.
ImageHashes = NDArray[np.uint64]
Labels = NDArray[np.uint8] | NDArray[np.uint16]  # uint16 if a label is above 255
Ranks = NDArray[np.float32] | NDArray[np.float64]
TRAIN, TEST = 0, 1
NO_GROUP = -1
# One split for all trials and runs, so that their validation accuracies can be compared.
VALIDATION_SEED = 20_260_101
TEST_SHARE = 0.15  # of the pictures of a folder, if there is no test folder
# What is recorded of a file: the first 16 bytes of a hash of its content, and the hash of the picture as in `Table`.
RECORD = np.dtype([("content", "<u8", 2), ("hash", "<u8", 2)])
NO_RECORDS = np.empty(0, RECORD)


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
    # The first half decides: even of a billion images, two have the same one with a probability of 3%.
    order = np.argsort(among[:, 0], kind="stable")  # the first of equal ones is found
    places = np.searchsorted(among[order, 0], hashes[:, 0])
    found = order[np.minimum(places, len(among) - 1)]
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


def parse_records(lines: bytes, where: str) -> NDArray[np.void]:
    """Return the records in the lines of a file, an array of RECORD. Raises IntegrityError if the file is damaged."""
    try:
        return np.frombuffer(bytes.fromhex(lines.decode()), RECORD)
    except ValueError as error:
        raise IntegrityError(f"{where}: expected two hashes of 32 digits a line, got {error}; restore it") from error


def lines_of(records: NDArray[np.void]) -> bytes:
    """Return records as lines for `parse_records`."""
    return binascii.hexlify(np.ascontiguousarray(records).data, b"\n", RECORD.itemsize) + b"\n" if len(records) else b""


def with_records(pictures: NDArray[np.void], records: NDArray[np.void]) -> tuple[NDArray[np.uint64], NDArray[np.void]]:
    """Return the hash of each picture, [n, 2], as it was first recorded or else its own, and new records.

    Args:
        pictures: an array with the fields of RECORD.
    """
    contents = pictures["content"]
    count = len(pictures)
    if np.array_equal(contents, records["content"][:count]):  # in the order in which they were recorded, which is fast
        return records["hash"][:count].copy(), NO_RECORDS
    place = indices_of(contents, records["content"])
    known = place >= 0
    hashes = pictures["hash"].copy()
    hashes[known] = records["hash"][place[known]]
    new = np.zeros(int((~known).sum()), RECORD)
    new["content"] = contents[~known]
    new["hash"] = hashes[~known]
    return hashes, new


def text_of(image_hash: NDArray[np.uint64]) -> str:
    """Return a hash, [2], as 32 hexadecimal digits."""
    return image_hash.tobytes().hex()


def hash_of_text(text: str) -> NDArray[np.uint64]:
    """Return the hash, [2], that `text_of` has written."""
    return np.frombuffer(bytes.fromhex(text), np.uint64)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What decoding the pictures of a listing gave."""

    images: Images  # [n]; the row of a picture that cannot be read is -1
    hashes: ImageHashes  # [n, 2]
    labels: Labels  # [n]
    errors: Mapping[int, ImageError] = field(default_factory=dict)  # by place: why a picture cannot be read
    notices: tuple[str, ...] = ()  # about pictures that are converted
    pictures: NDArray[np.void] | None = None  # of a folder: what its index knows of them next time
    new_records: NDArray[np.void] | None = None  # as in `Report`

    def notices_and_errors(self, listing: Listing) -> list[str]:
        """Return the notices, with one for each of the first pictures that cannot be read."""
        texts = [f"left out: {listing.paths[place]}: {error}" for place, error in self.errors.items()]
        more = [f"left out, cannot be read: {len(texts) - MAX_NAMED:,} more"] if len(texts) > MAX_NAMED else []
        return [*self.notices, *texts[:MAX_NAMED], *more]

    def unreadable(self, listing: Listing) -> tuple[str, ...]:
        """Return the paths of pictures and folders that cannot be read, as documents write them."""
        paths = (*(listing.paths[place] for place in self.errors), *listing.unreadable)
        return tuple(path.encode(errors="replace").decode() for path in paths)


def table_of(listing: Listing, decoded: Decoded) -> Table:
    """Return a table with a row for each picture of a listing, all of them to train on."""
    count = len(decoded.labels)
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(group, len(numbers)) for group in listing.groups] or [NO_GROUP] * count
    columns = {"files": _files(listing, count), "groups": np.array(groups, np.int32)}
    return Table.of(decoded.images, decoded.labels, decoded.hashes, **columns)


def with_splits(table: Table, listing: Listing) -> Table:
    """Return the table with the split and the rank of each image: as its folder says, or else its hash."""
    splits = np.array(listing.splits)
    in_test = splits == "test"
    if listing.version:
        ranks: Ranks = ranks_by_place(int((~in_test).sum()), int(in_test.sum()))
        return replace(table, splits=in_test.astype(np.uint8), ranks=ranks)
    keys = keys_of(table, listing)
    validation = splits == "validation"
    in_test |= (splits == "") & is_held_out(keys)
    ranks = signed_ranks(keys, validation)
    ranks = ranks % 1 if validation.any() else ranks
    return replace(table, splits=in_test.astype(np.uint8), ranks=ranks, validation=validation)


def with_conflicts(table: Table, listing: Listing) -> Table:
    """Return the table with a mark at each picture that is in several classes. Published labels are not questioned."""
    if listing.version:
        return table
    _, picture = np.unique(table.hashes, axis=0, return_inverse=True)
    pairs = np.unique(np.column_stack((picture, table.labels)), axis=0)
    return replace(table, conflicts=np.bincount(pairs[:, 0])[picture] > 1)


def without_copies(table: Table, listing: Listing) -> tuple[Table, list[str]]:
    """Return the table and notices. A picture is left out if another group has a copy of it nearer to training."""
    if not listing.groups:
        return table, []
    side = _side(table)
    _, picture = np.unique(table.hashes, axis=0, return_inverse=True)
    highest = np.full(len(table), -1.0)
    np.maximum.at(highest, picture, side)
    copies = side < highest[picture]
    if not copies.any():
        return table, []
    which = "left out of the hold-out, since another group has the same picture for training"
    paths = [table.file(row) or text_of(table.hashes[row]) for row in np.flatnonzero(copies).tolist()]
    return table.take(~copies), [f"{which}: {len(paths):,} ({listed(paths)})"]


def group_notices(table: Table, listing: Listing) -> list[str]:
    """Return notices about classes with one group, and about groups that the folders put on several sides."""
    names, classes = [*dict.fromkeys(listing.groups)], listing.classes
    if not names:
        return []
    known = table.take(table.labels < len(classes))
    in_class = np.unique(np.column_stack((known.labels, known.groups)), axis=0)[:, 0]
    on_sides = np.unique(np.column_stack((known.groups, _side(known))), axis=0)[:, 0].astype(np.int64)
    single = [classes[label] for label in np.flatnonzero(np.bincount(in_class) == 1)]
    several = [names[group] for group in np.flatnonzero(np.bincount(on_sides) > 1)]
    notices = []
    if single:
        which = f"{counted(len(single), 'class')} with all pictures in one group, so in one split"
        notices.append(f"{which}: {listed(single)}")
    if several:
        which = f"{counted(len(several), 'group')} in more than one of the folders train, validation and test"
        notices.append(f"{which}: {listed(several)}")
    return notices


def counter_example_notices(table: Table, listing: Listing, none: str | None) -> list[str]:
    """Return a notice about how many counter-examples there are."""
    train, test = np.bincount(table.splits[table.labels == len(listing.classes)], minlength=2)
    return [f"counter-examples in {none}: {train:,} for training, {test:,} for the test"] if train + test else []


def in_order(table: Table, listing: Listing) -> Table:
    """Return the train images, the test images and then all other rows, but no counter-example that is in a class."""
    classes = len(listing.classes)
    table = table.take(~(table.conflicts & (table.labels == classes)))
    return table.take(np.argsort(np.minimum(table.parts(classes), 2), kind="stable"))


def ranks_by_place(train: int, test: int) -> NDArray[np.float64]:
    """Return the ranks of images whose pixels do not decide, [train + test]: random, but always the same."""
    ranks = np.ones(train + test)
    ranks[np.random.default_rng(VALIDATION_SEED).permutation(train)] = np.arange(train) / max(train, 1)
    return ranks


def keys_of(table: Table, listing: Listing) -> ImageHashes:
    """Return the hashes that assign images to splits, [n, 2]: their own or, with groups, those of the groups."""
    names = dict.fromkeys(listing.groups)
    of_names = np.frombuffer(b"".join(map(hash_of_group, names)), np.uint64).reshape(-1, 2)
    return of_names[table.groups] if names else table.hashes


def signed_ranks(keys: ImageHashes, validation: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the ranks of images as fingerprints contain them, [n]: if a folder says which images are for validation,
    theirs are less by 1, and the others more by 1.
    """
    ranks = shares_of(keys)[:, 1]
    return (ranks + np.where(validation, -1, 1) if validation.any() else ranks).astype(np.float32)


def _side(table: Table) -> NDArray[np.float64]:
    """Return a number for each image, [n]: the higher, the nearer to training."""
    return np.where(table.splits == TEST, -1.0, table.ranks - table.validation)


def _files(listing: Listing, count: int) -> NDArray[np.uint8]:
    """Return the path of each file as in `Table`."""
    paths = [os.fsencode(path) for path in listing.paths]
    if not paths:
        return np.empty((count, 0), np.uint8)
    return np.array(paths).view(np.uint8).reshape(count, -1)
