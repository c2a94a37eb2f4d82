"""Images whose pixels are in a file, and are read where they are needed; and the writer of such a file.

A truncated, replaced or missing file is an error. Flipped bytes are noticed when images are held in memory, not when
they are streamed. The file is read, not mapped: access to a mapped file that was truncated kills a process by a signal.
"""

import contextlib
import errno
import itertools
import math
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.errors import DataError, DataReadError

# The largest dataset whose images a lane holds in memory; images of a larger one are read from its files when needed.
MAX_HELD_BYTES = 1 << 30
# Maximum size of a training chunk. The C library reuses blocks of up to 32 MB; the kernel clears larger ones each time.
CHUNK_BYTES = 30_000_000
CHUNKS_AHEAD = 2  # chunks that are read ahead, in a thread, while one is trained on
BLOCK_BYTES = 16 << 20  # of images that are processed at a time
ALIGNMENT = 64  # of an array, in bytes, with which TensorFlow uses it as a tensor without a copy
PREPARED = ".prepared"  # the folder of pixel files and their indices, in the folder of prepared datasets
PIXELS_SUFFIX = ".pixels"
NAME_BYTES = 32  # of the name of a file of pixels


@dataclass(frozen=True, eq=False)
class Images:
    """Images, [n, height, width, channels] uint8, 0-255. Only `np.asarray`, a loop or an integer index reads pixels."""

    file: "PixelFile"
    rows: NDArray[np.int64]  # [n]: indices into the file or, if it is not None, into `held`
    held: Future[NDArray[np.uint8]] | None = None  # pixels of the file that a thread reads into memory

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.file.image_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any, /) -> Any:
        """Return some of the images or, for an integer, the pixels of one."""
        if isinstance(rows, tuple):
            raise TypeError(f"expected one index, got {rows}; read the pixels with np.asarray first")
        chosen = self.rows[rows]
        return replace(self, rows=chosen) if chosen.ndim else np.asarray(replace(self, rows=chosen[None]))[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (image for block in blocks(self) for image in np.asarray(self[block]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if self.held is None:
            pixels = self.file.read(self.rows)
        else:  # in mode "raise", NumPy makes a copy, so that an error leaves `out` unchanged
            pixels = self.held.result().take(self.rows, axis=0, out=_empty(*self.shape), mode="wrap")
        return pixels if dtype is None else pixels.astype(dtype, copy=False)


ImageArray = Images | NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PixelFile:
    """A file: its own name, then the images of all rows. Later preparations may append images to it."""

    folder: Path
    name: str  # of NAME_BYTES characters
    image_shape: tuple[int, ...]
    count: int  # number of images, without those that were appended later
    checksum: int  # the CRC of these images

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}{PIXELS_SUFFIX}"

    @property
    def image_bytes(self) -> int:
        return math.prod(self.image_shape)

    @property
    def bytes(self) -> int:
        """Size of the file, without images that were appended later."""
        return NAME_BYTES + self.count * self.image_bytes

    def is_complete(self) -> bool:
        """Return whether the file is there, and has all images."""
        try:
            with self._opened() as file:
                return os.fstat(file.fileno()).st_size >= self.bytes
        except DataReadError:
            return False

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pixels of some rows, [n, height, width, channels], in their order.

        Raises:
            DataReadError: the file is missing, cut or exchanged.
        """
        size = self.image_bytes
        pixels = _empty(len(rows), *self.image_shape)
        buffer = pixels.reshape(-1).data
        order = np.argsort(rows, kind="stable")  # the order in the file
        # Images that are adjacent both in the file and in the array are read at once.
        breaks = np.flatnonzero((np.diff(rows[order]) != 1) | (np.diff(order) != 1)) + 1
        ordered = rows[order].tolist()
        places = order.tolist()
        runs: list[tuple[int, memoryview]] = []
        for begin, end in itertools.pairwise((0, *breaks.tolist(), len(rows))):
            if begin < end:
                part = buffer[places[begin] * size : (places[begin] + end - begin) * size]
                runs.append((NAME_BYTES + ordered[begin] * size, part))
        with self._opened() as file:
            if len(runs) > 1 and hasattr(os, "posix_fadvise"):  # so that the disk can read all of them in parallel
                for offset, part in runs:
                    os.posix_fadvise(file.fileno(), offset, len(part), os.POSIX_FADV_WILLNEED)
            for offset, part in runs:
                _read_into(part, file, offset)
        return pixels

    def read_checked(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the same as `read`, after comparing the file with its checksum.

        Raises:
            DataReadError: as in `read`, or an image is damaged. The file is removed, so that the next run prepares the
                images again.
        """
        pixels = self.read(rows)
        checksum = 0
        for offset in range(NAME_BYTES, self.bytes, BLOCK_BYTES):
            part = read_part(self.path, offset, min(BLOCK_BYTES, self.bytes - offset))
            checksum = zlib.crc32(part.data, checksum)
        if checksum != self.checksum:
            with contextlib.suppress(OSError):
                self.path.unlink()
            expected = "expected the images that were written, got a damaged one"
            raise DataReadError(f"{self.path}: {expected}; run again, and check the disk")
        return pixels

    @contextlib.contextmanager
    def _opened(self) -> Iterator[FileIO]:
        """Yield the file, opened, and turn each OSError in the block into a DataReadError."""
        try:
            with self.path.open("rb", buffering=0) as file:
                if file.read(NAME_BYTES) != self.name.encode():
                    raise OSError(errno.EIO, "another file")
                with contextlib.suppress(OSError):  # only the owner may do this
                    os.utime(file.fileno())  # so that `remove_unused` leaves it
                yield file
        except OSError as error:
            raise _not_read(self.path, error) from error


class PixelWriter:
    """Writes images one after the other. After an error, a new file is gone, and an earlier one is as before.

    Raises:
        DataError: the folder has too little space for the images, or cannot be written.
    """

    def __init__(self, folder: Path, image_shape: Sequence[int], images: int, earlier: PixelFile | None = None) -> None:
        """Check the space, and open the file.

        Args:
            images: how many will be added, at most.
            earlier: the file to append to. What a killed process has appended, which no index knows, is overwritten.
        """
        require_space(folder, images * math.prod(image_shape))
        self._is_new = earlier is None
        self._target = earlier or PixelFile(folder, uuid.uuid4().hex, tuple(image_shape), count=0, checksum=0)
        self._count = self._target.count
        self._checksum = self._target.checksum
        with writing(folder):
            self._file = self._target.path.open("xb" if self._is_new else "r+b")
            if self._is_new:
                self._file.write(self._target.name.encode())
            else:
                self._file.seek(self._target.bytes)

    def __len__(self) -> int:
        """Return the row of the next image."""
        return self._count

    def __enter__(self) -> "PixelWriter":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        with contextlib.suppress(OSError):  # the disk is full
            self._file.close()
        if error is not None and self._is_new:
            self._target.path.unlink(missing_ok=True)
        elif error is not None:
            os.truncate(self._target.path, self._target.bytes)

    def add(self, images: NDArray[np.uint8]) -> None:
        """Add images, [n, height, width, channels]."""
        pixels = np.ascontiguousarray(images).reshape(-1).data
        with writing(self._target.folder):
            self._file.write(pixels)
        self._count += len(images)
        self._checksum = zlib.crc32(pixels, self._checksum)

    def finish(self) -> PixelFile:
        """Write all of the file to the disk, and return it."""
        with writing(self._target.folder):
            self._file.flush()
            os.fsync(self._file.fileno())
        return replace(self._target, count=self._count, checksum=self._checksum)


def require_space(folder: Path, size: int) -> None:
    """Raise DataError if a folder has less free space than a number of bytes."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise _no_space(folder, f"{size / 1e9:,.2f} GB of", f"{free / 1e9:,.2f} GB")


def _no_space(folder: Path, expected: str, got: str) -> DataError:
    advice = "free some, name another folder with --data-dir or TFDS_DATA_DIR, or choose a smaller --image-size"
    return DataError(f"{folder}: expected {expected} free space for images, got {got}; {advice}")


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


def read_part(path: Path, offset: int, size: int) -> NDArray[np.uint8]:
    """Return a part of a file of images, [size]. Raises DataReadError if it cannot be read."""
    part = np.empty(size, np.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            _read_into(part.data, file, offset)
    except OSError as error:
        raise _not_read(path, error) from error
    return part


def _not_read(path: Path, error: OSError) -> DataReadError:
    if error.errno == errno.EIO:  # the disk is damaged there
        with contextlib.suppress(OSError):
            path.unlink()
    advice = "check its permissions" if error.errno == errno.EACCES else "run again"
    return DataReadError(f"{path}: expected the images of a dataset, got {error.strerror or error}; {advice}")


def _read_into(buffer: memoryview, file: FileIO, offset: int) -> None:
    file.seek(offset)
    while buffer:
        count = file.readinto(buffer)
        if not count:
            raise OSError("a shorter file")
        buffer = buffer[count:]


def _empty(*shape: int) -> NDArray[np.uint8]:
    """Return an uninitialized array, [*shape], that TensorFlow uses without a copy."""
    size = math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size].reshape(shape)


def blocks(images: ImageArray) -> Iterator[slice]:
    """Yield slices of images that take a few MB each."""
    count = max(1, BLOCK_BYTES // max(1, math.prod(images.shape[1:])))
    return (slice(first, first + count) for first in range(0, len(images), count))


def in_memory(images: ImageArray) -> ImageArray:
    """Return images whose pixels a thread reads into memory, in the order of their file, while a model is compiled.

    Whoever needs pixels waits for all of them, and gets the error if they cannot be read or one is damaged. More than
    MAX_HELD_BYTES of images stay where they are.
    """
    if not isinstance(images, Images) or images.held is not None or math.prod(images.shape) > MAX_HELD_BYTES:
        return images
    rows, place = np.unique(images.rows, return_inverse=True)
    executor = ThreadPoolExecutor(max_workers=1)
    held = executor.submit(images.file.read_checked, rows)
    executor.shutdown(wait=False)  # it ends when they are read
    return Images(images.file, place, held)
