"""Read a folder of pictures as a dataset.

Without a test folder, the hash of a picture's pixels decides whether it is for training or for the test, and whether it
may be for validation. So a picture stays in its split when others are added, and equal pictures are in the same split.
"""

import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.listing import MAX_NAMED, Listing, real_folders
from mnist_lib.data.request import MAX_SIDE, DataRequest
from mnist_lib.data.split import Dataset, ImageHashes, Split, Undecided, as_labels, is_held_out, shares_of
from mnist_lib.errors import DataError, ImageError
from mnist_lib.pictures.processes import picture_reader
from mnist_lib.pictures.reading import Layout, Picture, Shape
from mnist_lib.wording import counted

DEFAULT_SIDE = 64  # pixels, for pictures that differ in size or are larger than MAX_SIDE
MAX_PATHS_BYTES = 1 << 28  # an array takes as many bytes for each path as for the longest
PICTURES_PER_REPORT = 100  # pictures between two reports of progress


@dataclass(frozen=True)
class _Read:
    """What was read: a row for each file of the listing."""

    images: NDArray[np.uint8]  # [files, height, width, channels]
    labels: NDArray[np.int64]  # [files]
    hashes: ImageHashes  # [files, 2]
    errors: dict[int, ImageError]  # by the number of the file


def read_folder(request: DataRequest, listing: Listing, max_bytes: float, progress: Callable[[str], object]) -> Dataset:
    """Read the pictures of a folder, without corrections.

    Raises:
        DataError: the images need more than `max_bytes` or, with `strict`, a picture cannot be read.
    """
    folder = request.folder
    assert folder is not None
    paths = [folder / file.path for file in listing.files]
    with picture_reader(paths, real_folders([folder])) as reader:
        shape, notices = _shape(request, list(reader.shapes()))
        require_memory(request.name, len(paths), shape, max_bytes)
        labels = np.array([file.label for file in listing.files])
        read = _Read(np.zeros((len(paths), *shape), np.uint8), labels, np.zeros((len(paths), 2), np.uint64), {})
        for index, picture in enumerate(reader.pictures(Layout(shape=shape))):
            if isinstance(picture, Picture):
                read.images[index] = picture.image
                read.hashes[index] = np.frombuffer(picture.sha256[:16], np.uint64)
            else:
                read.errors[index] = picture
            if index % PICTURES_PER_REPORT == 0:
                progress(f"{index:,} of {counted(len(paths), 'picture')}")
    notices += _unreadable(request, listing, read.errors)
    return _split(request, listing, read, (*listing.notices, *notices))


def require_memory(name: str, pictures: int, shape: Sequence[int], max_bytes: float) -> None:
    """Raise DataError if so many pictures of that shape need more than `max_bytes`."""
    size = pictures * math.prod(shape)
    if size > max_bytes:
        got = f"{counted(pictures, 'picture')} of {' x '.join(map(str, shape))} bytes, {size / 1e9:,.2f} GB"
        raise DataError(
            f"{name}: expected at most {max_bytes / 1e9:,.2f} GB of images, got {got}; choose a smaller --image-size,"
            " or start Ray with a larger --object-store-memory"
        )


def _split(request: DataRequest, listing: Listing, read: _Read, notices: tuple[str, ...]) -> Dataset:
    readable, contradicting = np.ones(len(read.labels), bool), _contradicting(read)
    readable[[*read.errors]] = False
    usable = readable & ~contradicting
    splits, shares = np.array([file.split for file in listing.files]), shares_of(read.hashes)
    for_test = (splits == "test") | ((splits == "") & is_held_out(read.hashes))
    train, test = np.flatnonzero(usable & ~for_test), np.flatnonzero(usable & for_test)
    every = Split(read.images, as_labels(read.labels, len(listing.classes)), read.hashes, _files(listing))
    dataset = Dataset.of(request.name, "", every.take(train), every.take(test), listing.classes)
    given = splits == "validation"
    # If there is a folder for validation, any share above 0 selects its pictures and no others.
    ranks = np.where(given, 0.0, 1.0 if given.any() else shares[:, 1]).astype(np.float32)
    digest = hashlib.sha256(dataset.fingerprint.encode() + "\0".join(listing.classes).encode() + ranks[train].tobytes())
    fingerprint, damaged = digest.hexdigest(), len(read.errors) + len(listing.unreadable)
    several = np.flatnonzero(contradicting)
    undecided = Undecided(
        every.take(several),
        for_test[several].astype(np.uint8),
        ranks[several],
        tuple(listing.files[index].path for index in several),
    )
    return replace(
        dataset,
        version=fingerprint[:8],
        fingerprint=fingerprint,
        ranks=ranks[train],
        notices=notices,
        damaged=damaged,
        undecided=undecided,
    )


def _files(listing: Listing) -> NDArray[np.uint8] | None:
    """Return the path of each file as in `Split`, or None if they take too much memory, since one is very long."""
    paths = [os.fsencode(file.path) for file in listing.files]
    if max(map(len, paths)) * len(paths) > MAX_PATHS_BYTES:
        return None
    return np.array(paths).view(np.uint8).reshape(len(paths), -1)


def _shape(request: DataRequest, found: Sequence[Shape | None]) -> tuple[Shape, list[str]]:
    """Return the shape of the images: what is asked for, or else what the pictures have in common."""
    notices: list[str] = []
    shapes = [shape for shape in found if shape is not None]
    if not shapes:
        raise DataError(f"{request.name}: none of {counted(len(found), 'picture')} can be read; name another folder")
    channels = request.channels or min(max(shape.channels for shape in shapes), 3)
    if request.channels is None and all(shape.channels == 4 for shape in shapes):
        channels = 4
    if request.image_size is not None:
        return Shape(*request.image_size, channels), notices
    sizes = Counter((shape.height, shape.width) for shape in shapes)
    (size, *others), largest = list(sizes), max(max(size) for size in sizes)
    if others or largest > MAX_SIDE:
        side = min(DEFAULT_SIDE, largest)
        which = f"pictures of {len(sizes):,} sizes" if others else "pictures of {} x {}".format(*size)
        notices.append(f"{which} are resized to {side} x {side} and cropped; choose another size with --image-size")
        size = (side, side)
    return Shape(*size, channels), notices


def _unreadable(request: DataRequest, listing: Listing, errors: dict[int, ImageError]) -> list[str]:
    """Return a notice for the first pictures that could not be read. Raises DataError with `strict`."""
    texts = [f"{listing.files[index].path}: {error}" for index, error in errors.items()]
    if request.strict and (texts or listing.unreadable):
        count, first = len(texts) + len(listing.unreadable), [*texts, *listing.unreadable][0]
        raise DataError(f"{request.name}: {counted(count, 'picture')} cannot be read, such as {first}")
    more = [f"left out, cannot be read: {len(texts) - MAX_NAMED:,} more"] if len(texts) > MAX_NAMED else []
    return [*(f"left out: {text}" for text in texts[:MAX_NAMED]), *more]


def _contradicting(read: _Read) -> NDArray[np.bool_]:
    """Return whether each picture is in several classes: [files]."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for index, row in enumerate(read.hashes):
        if index not in read.errors:
            same[row.tobytes()].append(index)
    contradicting = np.zeros(len(read.labels), bool)
    for group in same.values():
        if len({int(read.labels[index]) for index in group}) > 1:
            contradicting[group] = True
    return contradicting
