"""The table of a dataset, step by step: from a listing and its decoded pictures to splits, conflicts and copies.

Without a test folder, the hash of a picture's pixels, or of its group, decides whether it is for training or for the
test, and whether it may be for validation. So a picture stays in its split when others are added, and equal pictures
are in the same split. Of equal pictures in several groups, only those on the side of training are used.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.dataset import Dataset, ranks_by_place
from mnist_lib.data.groups import hash_of_group
from mnist_lib.data.images import Images
from mnist_lib.data.prepared.index import NO_PICTURES
from mnist_lib.data.sources.listing import Listing
from mnist_lib.data.sources.scan import MAX_NAMED, listed
from mnist_lib.data.table import NO_GROUP, TEST, ImageHashes, Labels, Ranks, Table, is_held_out, shares_of, text_of
from mnist_lib.errors import ImageError
from mnist_lib.wording import counted


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What decoding the pictures of a listing gave."""

    images: Images  # [n]; the row of a picture that cannot be read is -1
    hashes: ImageHashes  # [n, 2]
    labels: Labels  # [n]
    errors: Mapping[int, ImageError] = field(default_factory=dict)  # by place: why a picture cannot be read
    notices: tuple[str, ...] = ()  # about pictures that are converted
    pictures: NDArray[np.void] = field(default_factory=lambda: NO_PICTURES)  # what the index knows of them next time
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
    keys = _keys(table, listing)
    validation = splits == "validation"
    in_test |= (splits == "") & is_held_out(keys)
    ranks = _signed_ranks(keys, validation)
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
    """Return the table without pictures of which another group has a copy nearer to training, and notices."""
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


def with_fingerprint(dataset: Dataset, listing: Listing) -> Dataset:
    """Return the dataset with a fingerprint of its splits. That of one's own pictures, which have no other version,
    also covers ranks, classes and counter-examples.
    """
    fingerprint = dataset.fingerprint_of_splits()
    if listing.version:
        return replace(dataset, version=listing.version, fingerprint=fingerprint)
    train = dataset.train
    parts = dataset.table.parts(len(listing.classes))
    digest = hashlib.sha256(fingerprint.encode() + "\0".join(listing.classes).encode())
    digest.update(_signed_ranks(_keys(train, listing), train.validation).tobytes())
    digest.update(dataset.table.hashes[(parts == 2) | (parts == 3)].tobytes())
    return replace(dataset, version=digest.hexdigest()[:8], fingerprint=digest.hexdigest())


def _keys(table: Table, listing: Listing) -> ImageHashes:
    """Return the hashes that assign images to splits, [n, 2]: their own or, with groups, those of the groups."""
    names = dict.fromkeys(listing.groups)
    of_names = np.frombuffer(b"".join(map(hash_of_group, names)), np.uint64).reshape(-1, 2)
    return of_names[table.groups] if names else table.hashes


def _signed_ranks(keys: ImageHashes, validation: NDArray[np.bool_]) -> NDArray[np.float32]:
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
