"""Read a folder of pictures as a dataset.

Without a test folder, the hash of a picture's pixels, or of its group, decides whether it is for training or for the
test, and whether it may be for validation. So a picture stays in its split when others are added, and equal pictures
are in the same split. Of equal pictures in several groups, only those on the side of training are used.
"""

import contextlib
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.groups import hash_of_group
from mnist_lib.data.images import Images, blocks
from mnist_lib.data.prepared.index import Index, known_pictures
from mnist_lib.data.prepared.writer import PixelWriter
from mnist_lib.data.request import DEFAULT_SIDE, MAX_SIDE, DataRequest
from mnist_lib.data.sources.listing import Listing
from mnist_lib.data.sources.scan import MAX_NAMED, listed, real_folders
from mnist_lib.data.split import (
    COUNTER_EXAMPLE,
    NO_GROUP,
    TEST,
    TRAIN,
    UNDECIDED,
    Dataset,
    ImageHashes,
    as_labels,
    is_held_out,
    shares_of,
)
from mnist_lib.errors import DataError, ImageError
from mnist_lib.pictures.reading import Layout, Picture, Shape, read_file, shape_of
from mnist_lib.pictures.sandbox import Sandboxes
from mnist_lib.wording import Progress, counted, reported

MAX_PATHS_BYTES = 1 << 28  # an array takes as many bytes for each path as for the longest
CHANNELS = {1: "grey", 3: "colour", 4: "colour with transparency"}
MAX_SAMPLE = 100  # pictures whose sizes say what that of a folder probably is


def read_folder(
    request: DataRequest, listing: Listing, prepared: Path, index: Index | None, progress: Callable[[str], object]
) -> tuple[Dataset, NDArray[np.void]]:
    """Read the pictures of a folder into a file of pixels, and return the dataset, without corrections.

    Args:
        prepared: as `prepared_folder` returns it.
        index: that of the last preparation. Pictures that it knows are not read again.

    Returns:
        the dataset, and an array of `index.PICTURE`: what has been read of each picture.

    Raises:
        DataError: there is too little space for the images, or no picture can be read.
    """
    images, pictures, errors, notices = _read(request, listing, prepared, index, progress)
    hashes = pictures["hash"]
    notices += _unreadable(listing, errors)
    labels, readable = np.array(listing.labels), images.rows >= 0
    names, groups = _groups(listing)
    of_names = np.frombuffer(b"".join(map(hash_of_group, names)), np.uint64).reshape(-1, 2)
    part, ranks = _parts_and_ranks(listing, of_names[groups] if names else hashes)
    undecided, rows = _in_several_classes(hashes[readable], labels[readable]), np.flatnonzero(readable)
    if names:
        side = np.where(part == TEST, -1.0, ranks)  # the higher, the nearer to training
        known = rows[labels[rows] < len(listing.classes)]
        notices += _group_notices(listing.classes, names, labels[known], groups[known], side[known])
        is_copy = _nearer_to_training(hashes[rows], side[rows])
        copies = [listing.paths[row] for row in rows[is_copy]]
        if copies:
            which = "left out of the hold-out, since another group has the same picture for training"
            notices.append(f"{which}: {len(copies):,} ({listed(copies)})")
    else:
        is_copy = np.zeros(len(rows), bool)
    is_none = labels == len(listing.classes)
    part[rows] += UNDECIDED * undecided.astype(np.uint8)
    rows = rows[~is_copy & ~(undecided & is_none[rows])]
    part[is_none] += COUNTER_EXAMPLE
    if is_none[rows].any():
        train, test = np.bincount(part[rows[is_none[rows]]] - COUNTER_EXAMPLE, minlength=2)
        notices.append(f"counter-examples in {request.none}: {train:,} for training, {test:,} for the test")
    rows = rows[np.argsort(np.minimum(part[rows], UNDECIDED), kind="stable")]
    progress(Progress.read("1 all pictures are read, and their images are hashed"))
    dataset = Dataset(
        name=request.name,
        version="",
        classes=listing.classes,
        fingerprint="",
        notices=(*listing.notices, *notices),
        # As documents write them, since the index does.
        unreadable=tuple(
            path.encode(errors="replace").decode()
            for path in (*(listing.paths[index] for index in errors), *listing.unreadable)
        ),
        has_test_folder="test" in listing.splits,
        images=images[rows],
        labels=as_labels(np.where(is_none, 0, labels)[rows], len(listing.classes)),
        hashes=hashes[rows],
        files=_files(listing)[rows],
        groups=groups[rows],
        ranks=ranks[rows],
        part=part[rows],
    ).with_fingerprint()
    digest = hashlib.sha256(dataset.fingerprint.encode() + "\0".join(listing.classes).encode())
    digest.update(dataset.ranks[: len(dataset.train)].tobytes())
    digest.update(hashes[rows[is_none[rows]]].tobytes())
    dataset = replace(dataset, version=digest.hexdigest()[:8], fingerprint=digest.hexdigest())
    return dataset, pictures[readable]


def _read(
    request: DataRequest, listing: Listing, prepared: Path, index: Index | None, progress: Callable[[str], object]
) -> tuple[Images, NDArray[np.void], dict[int, ImageError], list[str]]:
    """Return the image of each picture, what is known of it, the errors of those that cannot be read, and notices.

    The row of a picture that cannot be read is -1.
    """
    folder = request.folder
    assert folder is not None
    paths = [folder / path for path in listing.paths]
    pictures, folders = known_pictures(paths, index), real_folders([folder])
    rows = pictures["row"]  # a view, as the next one
    hashes = pictures["hash"]
    with contextlib.ExitStack() as stack:
        unknown = np.flatnonzero(rows < 0)
        sandboxes = stack.enter_context(Sandboxes(len(unknown)))
        found: list[Shape | ImageError] = [Shape(*shape) for shape in pictures["shape"].tolist()]
        measured = sandboxes.map(functools.partial(shape_of, folders=folders), [paths[place] for place in unknown])
        measured = reported(measured, len(unknown), "sizes", progress)
        for place, shape_or_error in zip(unknown.tolist(), measured, strict=True):
            found[place] = shape_or_error
            if isinstance(shape_or_error, Shape):
                pictures["shape"][place] = shape_or_error
        shape, notices = _shape(request, dict(zip(listing.paths, found, strict=True)))
        earlier = index.file if index is not None and index.file.image_shape == shape else None
        if earlier is None:
            rows[:] = -1
        known, unread = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
        copied = Images(earlier, rows[known]) if earlier and 2 * len(known) < len(earlier.checksums) else None
        count = len(unread) if copied is None else len(paths)
        writer = stack.enter_context(PixelWriter(prepared, shape, count, earlier if copied is None else None))
        if copied is not None:  # since less than half of the file is in use
            for block in blocks(copied):
                rows[known[block]] = len(writer) + np.arange(len(known[block]))
                writer.add(np.asarray(copied[block]))
        if len(unread) > len(unknown):  # for the other pictures, the shape was another one
            sandboxes = stack.enter_context(Sandboxes(len(unread)))
        read = functools.partial(read_file, layout=Layout(shape=shape), folders=folders)
        results = sandboxes.map(read, [paths[place] for place in unread])
        results = reported(results, len(unread), "pictures", progress)
        errors = dict[int, ImageError]()
        for place, picture in zip(unread.tolist(), results, strict=True):
            if isinstance(picture, Picture):
                rows[place], hashes[place] = len(writer), np.frombuffer(picture.sha256[:16], np.uint64)
                writer.add(picture.image[None])
            else:
                errors[place] = picture
        return Images(writer.finish(), rows), pictures, errors, notices


def _parts_and_ranks(listing: Listing, hashes: ImageHashes) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return TRAIN or TEST and the rank for each file of a listing: as its folder says, or else the hash, [n, 2]."""
    splits = np.array(listing.splits)
    part = np.where((splits == "test") | ((splits == "") & is_held_out(hashes)), TEST, TRAIN).astype(np.uint8)
    given, ranks = splits == "validation", shares_of(hashes)[:, 1]
    if given.any():  # then any share above 0 selects the pictures in that folder and no others
        ranks = ranks + np.where(given, -1, 1)
    return part, ranks.astype(np.float32)


def _groups(listing: Listing) -> tuple[list[str], NDArray[np.int32]]:
    """Return the names of the groups, none without groups, and the number of the group of each file: [files]."""
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(group, len(numbers)) for group in listing.groups] or [NO_GROUP] * len(listing.paths)
    return [*numbers], np.array(groups, np.int32)


def _nearer_to_training(hashes: ImageHashes, side: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each picture whether the same one has a higher `side`: [pictures]."""
    _, picture = np.unique(hashes, axis=0, return_inverse=True)
    highest = np.full(len(hashes), -1.0)
    np.maximum.at(highest, picture, side)
    nearer: NDArray[np.bool_] = side < highest[picture]
    return nearer


def _group_notices(
    classes: Sequence[str],
    names: Sequence[str],
    labels: NDArray[np.int64],
    groups: NDArray[np.int32],
    side: NDArray[np.float64],
) -> list[str]:
    """Return notices about classes with one group, and about groups that the folders put on several sides."""
    in_class = np.unique(np.column_stack((labels, groups)), axis=0)
    single = [
        name
        for name, count in zip(classes, np.bincount(in_class[:, 0], minlength=len(classes)), strict=True)
        if count == 1
    ]
    on_sides = np.unique(np.column_stack((groups, side)), axis=0)[:, 0].astype(np.int64)
    several = [
        name for name, count in zip(names, np.bincount(on_sides, minlength=len(names)), strict=True) if count > 1
    ]
    notices = []
    if single:
        which = f"{counted(len(single), 'class')} with all pictures in one group, so in one split"
        notices.append(f"{which}: {listed(single)}")
    if several:
        which = f"{counted(len(several), 'group')} in more than one of the folders train, validation and test"
        notices.append(f"{which}: {listed(several)}")
    return notices


def _in_several_classes(hashes: ImageHashes, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each picture whether there is the same one in another class: [pictures]."""
    _, picture = np.unique(hashes, axis=0, return_inverse=True)
    pairs = np.unique(np.column_stack((picture, labels)), axis=0)
    several: NDArray[np.bool_] = np.bincount(pairs[:, 0])[picture] > 1
    return several


def _files(listing: Listing) -> NDArray[np.uint8]:
    """Return the path of each file as in `Dataset`, or none if they take too much memory, since one is very long."""
    paths = [os.fsencode(path) for path in listing.paths]
    if max(map(len, paths)) * len(paths) > MAX_PATHS_BYTES:
        return np.empty((len(paths), 0), np.uint8)
    return np.array(paths).view(np.uint8).reshape(len(paths), -1)


def _shape(request: DataRequest, found: Mapping[str, Shape | ImageError]) -> tuple[Shape, list[str]]:
    """Return the shape of the images: what is asked for, or else what more than half of the pictures have in common.

    Without such a size it is the default one, and without such a number of channels the highest.

    Args:
        found: by path, the shape of each picture.

    Returns:
        the shape, and notices about the pictures that are converted to what most of the others are.
    """
    shapes = {path: shape for path, shape in found.items() if isinstance(shape, Shape)}
    if not shapes:
        raise DataError(f"{request.name}: none of {counted(len(found), 'picture')} can be read; name another folder")
    sizes = {path: (each.height, each.width) for path, each in shapes.items()}
    counts, modes = Counter(sizes.values()), Counter(each.channels for each in shapes.values())
    size, mode = _of_most(counts), _of_most(modes)
    channels = request.channels or mode or min(max(modes), 3)
    which = f"pictures of {len(counts):,} sizes" if len(counts) > 1 else "pictures of {} x {}".format(*size or ())
    side = min(DEFAULT_SIDE, max(map(max, counts)))
    shape, notices = chosen_shape(request, size, channels, which, side)
    if (shape.height, shape.width) == size:
        others = [path for path in shapes if sizes[path] != size]
        notices += _converted(
            f"resized and cropped to {shape.height} x {shape.width}, the size of most pictures", others
        )
    if channels == mode:
        others = [path for path, each in shapes.items() if each.channels != channels]
        notices += _converted(f"converted to {CHANNELS[channels]}, as most pictures are", others)
    return shape, notices


def _of_most(counts: "Counter[Any]") -> Any:
    """Return what is counted more often than all others together, or None."""
    ((most, count),) = counts.most_common(1)
    return most if 2 * count > counts.total() else None


def _converted(how: str, paths: Sequence[str]) -> list[str]:
    return [f"{how}: {len(paths):,} ({listed(paths)})"] if paths else []


def probable_shape(request: DataRequest, listing: Listing) -> Shape:
    """Return the shape of the images of a folder, by the sizes of some of its pictures.

    Raises:
        DataError: none of these can be read.
    """
    assert request.folder is not None
    names = listing.paths[:: -(-len(listing.paths) // MAX_SAMPLE)]
    with Sandboxes(len(names)) as sandboxes:
        shape = functools.partial(shape_of, folders=real_folders([request.folder]))
        found = sandboxes.map(shape, [request.folder / name for name in names])
        return _shape(request, dict(zip(names, found, strict=True)))[0]


def chosen_shape(
    request: DataRequest, size: tuple[int, int] | None, channels: int, which: str, side: int = DEFAULT_SIDE
) -> tuple[Shape, list[str]]:
    """Return the shape of images, and a notice if nobody has asked for their new size.

    Args:
        size: height and width of more than half of them; None if there are none.
        which: the images, for the notice.
        side: of those that differ or are too large.
    """
    if request.image_size is not None:
        return Shape(*request.image_size, channels), []
    if size is not None and max(size) <= MAX_SIDE:
        return Shape(*size, channels), []
    return Shape(side, side, channels), [
        f"{which} are resized to {side} x {side} and cropped; choose another size with --image-size"
    ]


def _unreadable(listing: Listing, errors: dict[int, ImageError]) -> list[str]:
    """Return a notice for each of the first pictures that could not be read."""
    texts = [f"left out: {listing.paths[place]}: {error}" for place, error in errors.items()]
    more = [f"left out, cannot be read: {len(texts) - MAX_NAMED:,} more"] if len(texts) > MAX_NAMED else []
    return [*texts[:MAX_NAMED], *more]


def require_all_readable(dataset: Dataset) -> None:
    """Raise DataError if pictures of a folder cannot be read."""
    if dataset.unreadable:
        first = dataset.unreadable[0]
        named = (text.removeprefix("left out: ") for text in dataset.notices if text.startswith(f"left out: {first}: "))
        count = counted(len(dataset.unreadable), "picture")
        raise DataError(f"{dataset.name}: {count} cannot be read, such as {next(named, first)}")
