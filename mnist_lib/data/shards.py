"""Images in shards: files of pixels that never change, each named by its sha256 and read where they are needed.

Every image that is read is compared with its checksum, so that a damaged, cut or missing file is an error in place of
wrong pixels. The files are read, not mapped: access to a mapped file that has been cut ends a process by a signal.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import itertools
import math
import os
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import filelock
import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.availability import default_data_dir
from mnist_lib.data.journal import JOURNAL_SUFFIX, Journal
from mnist_lib.errors import DataError, DataFolderError

# The images of a dataset that a lane holds in memory; of a larger one, it reads those that it needs from its files.
MAX_HELD_BYTES = 1 << 30
CHUNK_BYTES = 64_000_000  # maximum of a chunk of training
CHUNKS_AHEAD = 2  # chunks that are read ahead, in a thread, while one is trained on
FETCH_BYTES = 16 << 20  # that a node gets from another at a time
FETCH_SECONDS = 7_200.0  # for a shard, while another process of this node fetches it
BLOCK_BYTES = 16 << 20  # of images that are processed at a time
UNUSED_SECONDS = 3_600.0  # minimum age of a shard that is removed: a run that has just begun does not hold it yet
PREPARED = ".prepared"  # the folder of shards and indices, in that of prepared datasets
HOLD_SUFFIX, PART_SUFFIX = ".held", ".part"


class ImageArray(Protocol):
    """Images, [n, height, width, channels] uint8, 0-255: a NumPy array, or `Images`. `np.asarray` returns pixels."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Any: ...  # a part of them or, for a number, the pixels of one
    def __array__(self) -> NDArray[Any]: ...
    def __iter__(self) -> Iterator[NDArray[np.uint8]]: ...


class Source(Protocol):
    """Where the pixels of images are."""

    @property
    def image_shape(self) -> tuple[int, ...]: ...

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pixels of some rows, [n, height, width, channels]."""


@dataclass(frozen=True, eq=False)
class Images:
    """Some rows of a source. Only `np.asarray`, or the number of one image, reads pixels."""

    source: Source
    rows: NDArray[np.int64]  # [n]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.source.image_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any, /) -> Any:
        if isinstance(rows, tuple):
            raise TypeError(f"expected one index, got {rows}; read the pixels with np.asarray first")
        chosen = self.rows[rows]
        return Images(self.source, chosen) if chosen.ndim else self.source.read(chosen[None])[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (image for block in blocks(self) for image in np.asarray(self[block]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self.source.read(self.rows)
        return pixels if dtype is None else pixels.astype(dtype, copy=False)


@dataclass(frozen=True, eq=False)
class HeldPixels:
    """A source in memory, which a thread fills."""

    image_shape: tuple[int, ...]
    pixels: Future[NDArray[np.uint8]]  # [n, height, width, channels]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.pixels.result()[rows]


@dataclass(frozen=True, eq=False)
class Shards:
    """A source in files of a folder. A row counts the images of all of them, in their order."""

    folder: Path
    image_shape: tuple[int, ...]
    names: tuple[str, ...]  # the sha256 of each file
    counts: tuple[int, ...]  # images in each
    checksums: NDArray[np.uint32]  # [rows]: the CRC of each image

    @functools.cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum((0, *self.counts))  # [shards + 1]: the row at which each begins, and the last one ends

    @property
    def digests(self) -> NDArray[np.uint8]:
        """The sha256 of each file, [shards, 32]."""
        return np.frombuffer(bytes.fromhex("".join(self.names)), np.uint8).reshape(-1, 32)

    @property
    def image_bytes(self) -> int:
        return math.prod(self.image_shape)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(self.counts) * self.image_bytes

    def path(self, name: str) -> Path:
        return self.folder / name

    def is_complete(self) -> bool:
        """Return whether each file is in the folder and has its size."""
        return not any(self.missing())

    def missing(self) -> Iterator[tuple[str, int]]:
        """Yield the name and the size of each file that is not in the folder, or has another size."""
        for name, count in zip(self.names, self.counts, strict=True):
            size = count * self.image_bytes
            try:
                if self.path(name).stat().st_size == size:
                    continue
            except OSError:
                pass
            yield name, size

    def touch(self) -> None:
        """Make the files young, so that they are not removed before a run holds them."""
        for name in self.names:
            with contextlib.suppress(OSError):
                os.utime(self.path(name))

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pixels of some rows, [n, height, width, channels], in their order.

        Raises:
            DataError: a file is missing or cut, or an image is damaged. A damaged file is removed.
        """
        # In the order of the files, each image once: neighbours are read together.
        ordered, place = np.unique(rows, return_inverse=True)
        pixels = np.empty((len(ordered), self.image_bytes), np.uint8)
        bounds = np.searchsorted(ordered, self._ends)
        for shard, (begin, end) in enumerate(itertools.pairwise(bounds.tolist())):
            if begin < end:
                self._read_shard(shard, ordered[begin:end], pixels[begin:end])
        in_order = len(ordered) == len(rows) and bool((place == np.arange(len(place))).all())
        return (pixels if in_order else pixels[place]).reshape(len(rows), *self.image_shape)

    def _read_shard(self, shard: int, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        """Read images of one file, whose rows ascend, into an array of their number."""
        path, size = self.path(self.names[shard]), self.image_bytes
        positions = rows - self._ends[shard]
        breaks = [0, *(np.flatnonzero(np.diff(positions) != 1) + 1).tolist(), len(rows)]
        runs = [(begin, end, int(positions[begin]) * size) for begin, end in itertools.pairwise(breaks)]
        buffer = pixels.reshape(-1).data
        try:
            with path.open("rb", buffering=0) as file:
                if len(runs) > 1:
                    for begin, end, offset in runs:  # the kernel reads them at the same time
                        os.posix_fadvise(file.fileno(), offset, (end - begin) * size, os.POSIX_FADV_WILLNEED)
                for begin, end, offset in runs:
                    _read_into(buffer[begin * size : end * size], file.fileno(), offset)
        except OSError as error:
            raise _not_read(path, error) from error
        expected = self.checksums[rows].tolist()
        for index, checksum in enumerate(expected):
            if zlib.crc32(buffer[index * size : (index + 1) * size]) != checksum:
                with contextlib.suppress(OSError):
                    path.unlink()  # so that the next run prepares its images again
                raise DataError(
                    f"{path}: expected the images that were written, got a damaged one at {positions[index]:,}; run"
                    " again, and check the disk"
                )


def _not_read(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: expected the images of a dataset, got {error.strerror or error}; run again")


def _read_into(buffer: memoryview, descriptor: int, offset: int) -> None:
    while buffer:
        count = os.preadv(descriptor, [buffer], offset)
        if not count:
            raise OSError("a shorter file")
        buffer, offset = buffer[count:], offset + count


def blocks(images: ImageArray) -> Iterator[slice]:
    """Yield slices of images that take a few MB each."""
    count = max(1, BLOCK_BYTES // max(1, math.prod(images.shape[1:])))
    return (slice(first, first + count) for first in range(0, len(images), count))


def held(images: ImageArray) -> ImageArray:
    """Return images whose pixels a thread reads into memory, in the order of their files, while a model is compiled.

    Whoever needs pixels waits for all of them, and gets the error if they cannot be read.
    """
    if not isinstance(images, Images):
        return images
    rows, place = np.unique(images.rows, return_inverse=True)
    executor = ThreadPoolExecutor(max_workers=1)
    pixels = executor.submit(images.source.read, rows)
    executor.shutdown(wait=False)  # it ends when they are read
    return Images(HeldPixels(images.source.image_shape, pixels), place)


def require_space(folder: Path, size: int) -> None:
    """Raise DataError if a folder has less free space than a number of bytes."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise _no_space(folder, f"{size / 1e9:,.2f} GB", f"{free / 1e9:,.2f} GB")


def _no_space(folder: Path, expected: str, got: str) -> DataError:
    advice = "free some, name another folder with --data-dir, or choose a smaller --image-size"
    return DataError(f"{folder}: expected {expected} of free space for images, got {got}; {advice}")


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn each OSError in a block that writes images into a folder into a DataError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(folder, "more", "none") from error
        reason = error.strerror or error
        raise DataError(f"{folder}: images cannot be written ({reason}); name another --data-dir") from error


def shards_folder(data_dir: Path | None = None) -> Path:
    """Return a folder for shards and their indices: in the folder of prepared datasets or, if that cannot be written,
    one of this user's among the temporary files.

    Args:
        data_dir: the folder of prepared datasets; by default that of TFDS.

    Raises:
        DataFolderError: neither can be written.
    """
    with contextlib.suppress(OSError, DataFolderError):
        folder = (data_dir or default_data_dir()) / PREPARED
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    folder = Path(tempfile.gettempdir(), f"mnist_lib-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PermissionError(errno.EPERM, "it is not of this user alone")
    except OSError as error:
        raise DataFolderError(
            f"{folder}: expected a folder for images that can be written ({error.strerror}); name one with --data-dir"
        ) from error
    return folder


def shards_of(images: ImageArray) -> Shards | None:
    """Return where the pixels of images are, or None if they are in memory, as those in this package."""
    source = images.source if isinstance(images, Images) else None
    return source if isinstance(source, Shards) else None


def hold(images: ImageArray) -> None:
    """Keep the files of images from being removed until this process ends, if their folder can be written."""
    shards = shards_of(images)
    if shards is None:
        return
    with contextlib.suppress(OSError):
        _held(shards.folder)
        descriptor, name = tempfile.mkstemp(dir=shards.folder, suffix=PART_SUFFIX)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # it stays open, and the kernel unlocks it when this process ends
        os.write(descriptor, "\n".join(shards.names).encode())
        Path(name).replace(Path(name).with_suffix(HOLD_SUFFIX))


def remove_unused(folder: Path) -> None:
    """Remove old shards of a folder that no index and no journal names, and no process holds."""
    used = _held(folder) | {name for index in folder.glob("*.npz") for name in _indexed(index)}
    used |= {shard.name for path in folder.glob(f"*{JOURNAL_SUFFIX}") for shard in Journal(path).shards}
    oldest = time.time() - UNUSED_SECONDS
    for path in folder.iterdir():
        is_shard = len(path.name) == 64 or path.suffix == PART_SUFFIX
        if is_shard and path.name not in used:
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _held(folder: Path) -> set[str]:
    """Return the names of the shards that processes hold, and remove what those have left that have ended."""
    names = set[str]()
    for path in folder.glob(f"*{HOLD_SUFFIX}"):
        with contextlib.suppress(OSError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                names.update(file.read().split())
            else:
                path.unlink()
    return names


def _indexed(index: Path) -> list[str]:
    """Return the names of the shards in an index, see `write_index`; none if it is damaged, or of another kind."""
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(index) as arrays:
        return [digest.tobytes().hex() for digest in arrays["shards"]]
    return []


def on_this_node(images: ImageArray, read: Callable[[Path, int, int], Any]) -> ImageArray:
    """Return images whose files this node has, after getting those that it lacks, and hold these.

    An interrupted transfer goes on where it was. If several processes of a node need a file, one of them gets it.

    Args:
        read: calls `read_part` on the node that prepared the images.

    Raises:
        DataError: what was received is damaged, or cannot be written.
    """
    shards = shards_of(images)
    if isinstance(images, Images) and shards is not None and not shards.is_complete():
        images = Images(_fetched(shards, shards_folder(), read), images.rows)
    hold(images)
    return images


def read_part(path: Path, offset: int, size: int) -> NDArray[np.uint8]:
    """Return a part of a file of images. Raises DataError if it is missing or cut."""
    part = np.empty(size, np.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            _read_into(part.data, file.fileno(), offset)
    except OSError as error:
        raise _not_read(path, error) from error
    return part


def _fetched(shards: Shards, folder: Path, read: Callable[[Path, int, int], Any]) -> Shards:
    here = replace(shards, folder=folder)
    with writing(folder):  # turns also a lock that another process has held for too long into a DataError
        with filelock.FileLock(folder / ".lock", timeout=FETCH_SECONDS):
            for name, size in here.missing():
                _fetch(shards.path(name), here.path(name), size, read)
        remove_unused(folder)
    return here


def _fetch(there: Path, path: Path, size: int, read: Callable[[Path, int, int], Any]) -> None:
    part = path.with_suffix(PART_SUFFIX)
    require_space(path.parent, size)
    with part.open("ab") as file:
        while (offset := file.tell()) < size:
            file.write(read(there, offset, min(FETCH_BYTES, size - offset)))
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != path.name:
        part.unlink()
        raise DataError(f"{path}: expected the same bytes as in {there}, got others; run again")
    part.replace(path)
