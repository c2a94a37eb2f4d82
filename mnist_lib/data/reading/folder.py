"""Decode a folder of pictures: find a size that most of them have, and read each that the last index does not know.

A `Volume` says how much space the images of a dataset take, as far as it is known beforehand.
"""

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.images import CHUNK_BYTES, CHUNKS_AHEAD, MAX_HELD_BYTES, Images, PixelWriter
from mnist_lib.data.prepared.index import Index, known_pictures, pictures_hash, prepared_dataset, tfds_folder, tfds_hash
from mnist_lib.data.request import DEFAULT_SIDE, MAX_SIDE, DataRequest
from mnist_lib.data.sources.availability import default_data_dir
from mnist_lib.data.sources.listing import Listing, listing_of
from mnist_lib.data.sources.scan import listed
from mnist_lib.data.table import TEST_SHARE, Decoded, as_labels, with_records
from mnist_lib.errors import DataError, ImageError
from mnist_lib.pictures.reading import Layout, Picture, Shape, read_file, shape_of
from mnist_lib.pictures.sandbox import Sandboxes
from mnist_lib.wording import Progress, bytes_text, counted, reported

CHANNELS = {1: "grey", 3: "colour", 4: "colour with transparency"}
MAX_SAMPLE = 100  # pictures whose sizes say what that of a folder probably is


@dataclass(frozen=True, kw_only=True)
class Volume:
    """The images of a dataset."""

    images: int
    train: int  # those for training and validation
    image_shape: tuple[int, ...]  # height, width, channels
    exact: bool  # False if the pictures of a folder are not read yet

    @property
    def disk_bytes(self) -> int:
        return self.images * math.prod(self.image_shape)

    @property
    def is_held(self) -> bool:
        """Return whether each lane holds all images in its memory."""
        return self.disk_bytes <= MAX_HELD_BYTES

    @property
    def lane_bytes(self) -> int:
        """The memory that images take in each lane, at most."""
        return self.disk_bytes if self.is_held else (CHUNKS_AHEAD + 2) * CHUNK_BYTES

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "disk_bytes": self.disk_bytes, "lane_bytes": self.lane_bytes}

    def __str__(self) -> str:
        of, about = (" of", "") if self.exact else (", probably of", "about ")
        shape = " x ".join(map(str, self.image_shape))
        if self.is_held:
            use = "held in the memory of each lane"
        else:
            use = f"read as needed; each lane holds up to {bytes_text(self.lane_bytes)} of them"
        return f"{self.images:,}{of} {shape}, {about}{bytes_text(self.disk_bytes)} on disk, {use}"


def volume_of(request: DataRequest) -> Volume | None:
    """Return the volume of a dataset, or None if it is not known before the dataset is prepared, or in this package.

    Raises:
        DataError: a folder cannot be listed, or none of its pictures can be read.
    """
    if request.folder is not None:
        listing = listing_of(request)
        state = pictures_hash(listing)
    elif request.entry is None or request.entry.embedded:
        return None
    else:
        state = tfds_hash(request, tfds_folder(request, request.data_dir or default_data_dir()))
    dataset = prepared_dataset(request, state)
    if dataset is None:
        return _expected(request, listing) if request.folder is not None else None
    train = len(dataset.train)
    shape = dataset.image_shape
    return Volume(images=len(dataset.table), train=train, image_shape=shape, exact=True)


def _expected(request: DataRequest, listing: Listing) -> Volume:
    """Return the volume of a folder that is not prepared, by the sizes of some of its pictures."""
    images = len(listing.paths)
    shape = probable_shape(request, listing)
    splits = Counter(listing.splits[: listing.in_classes])
    train = splits.total() - splits["test"] - round(TEST_SHARE * splits[""])
    return Volume(images=images, train=train, image_shape=shape, exact=False)


def decode_folder(
    request: DataRequest,
    listing: Listing,
    prepared: Path,
    index: Index | None,
    records: NDArray[np.void],
    progress: Callable[[str], object],
) -> Decoded:
    """Read the pictures of a folder into a file of pixels.

    Args:
        prepared: as `prepared_folder` returns it.
        index: that of the last preparation. Pictures that it knows are not read again.
        records: the hashes that a storage has recorded for its pictures.

    Raises:
        DataError: there is too little space for the images, or no picture can be read.
    """
    folder = request.folder
    assert folder is not None
    paths = [folder / path for path in listing.paths]
    pictures = known_pictures(paths, index)
    rows = pictures["row"]  # a view
    with contextlib.ExitStack() as stack:
        unknown = np.flatnonzero(rows < 0)
        sandboxes = stack.enter_context(Sandboxes(len(unknown)))
        found: list[Shape | ImageError] = [Shape(*shape) for shape in pictures["shape"].tolist()]
        measured = sandboxes.map(shape_of, [paths[place] for place in unknown])
        measured = reported(measured, len(unknown), "sizes", progress)
        for place, shape_or_error in zip(unknown.tolist(), measured, strict=True):
            found[place] = shape_or_error
            if isinstance(shape_or_error, Shape):
                pictures["shape"][place] = shape_or_error
        shape, notices = _shape(request, dict(zip(listing.paths, found, strict=True)))
        earlier = index.file if index is not None and index.file.image_shape == shape else None
        if earlier is None or 2 * (len(paths) - len(unknown)) < earlier.count:  # most of it is not in use
            earlier = None
            rows[:] = -1
        unread = np.flatnonzero(rows < 0)
        writer = stack.enter_context(PixelWriter(prepared, shape, len(unread), earlier))
        if len(unread) > len(unknown):
            sandboxes = stack.enter_context(Sandboxes(len(unread)))
        read = functools.partial(read_file, layout=Layout(shape=shape))
        results = sandboxes.map(read, [paths[place] for place in unread])
        results = reported(results, len(unread), "pictures", progress)
        errors = dict[int, ImageError]()
        for place, picture in zip(unread.tolist(), results, strict=True):
            if isinstance(picture, Picture):
                rows[place] = len(writer)
                pictures["hash"][place] = np.frombuffer(picture.sha256[:16], np.uint64)
                pictures["content"][place] = np.frombuffer(picture.content, np.uint64)
                writer.add(picture.image[None])
            else:
                errors[place] = picture
        file = writer.finish()
    progress(Progress.read("1 all pictures are read, and their images are hashed"))
    readable = rows >= 0
    pictures["hash"][readable], new_records = with_records(pictures[readable], records)
    return Decoded(
        images=Images(file, rows),
        hashes=pictures["hash"],
        labels=as_labels(np.array(listing.labels), max(listing.labels) + 1),
        errors=errors,
        notices=tuple(notices),
        pictures=pictures[readable],
        new_records=new_records,
    )


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
        found = sandboxes.map(shape_of, [request.folder / name for name in names])
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
