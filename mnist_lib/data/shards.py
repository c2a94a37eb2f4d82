"""Images in shards: files of pixels that never change, each named by its sha256 and read where they are needed.

Every image that is read is compared with its checksum, so that a damaged, cut or missing file is an error in place of
wrong pixels. The files are read, not mapped: access to a mapped file that has been cut ends a process by a signal.
"""

import contextlib
import errno
import functools
import itertools
import math
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mnist_lib.errors import DataReadError

# The images of a dataset that a lane holds in memory; of a larger one, it reads those that it needs from its files.
MAX_HELD_BYTES = 1 << 30
# Maximum of a chunk of training. The C library uses the memory of up to 32 MB again; more, the kernel clears each time.
CHUNK_BYTES = 30_000_000
CHUNKS_AHEAD = 2  # chunks that are read ahead, in a thread, while one is trained on
BLOCK_BYTES = 16 << 20  # of images that are processed at a time
ALIGNMENT = 64  # of an array, in bytes, with which TensorFlow uses it as a tensor without a copy
PREPARED = ".prepared"  # the folder of shards and indices, in that of prepared datasets


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
    """Provides the pixels of images."""

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
class PixelsInMemory:
    """A source in memory, which a thread fills."""

    image_shape: tuple[int, ...]
    pixels: Future[NDArray[np.uint8]]  # [n, height, width, channels]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        # With "raise", NumPy would make a copy, to leave the array as it was after an error.
        return self.pixels.result().take(rows, axis=0, out=_empty(len(rows), *self.image_shape), mode="wrap")


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
        """Set the time of the files to now, so that they are not removed before a run protects them."""
        for name in self.names:
            with contextlib.suppress(OSError):
                os.utime(self.path(name))

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pixels of some rows, [n, height, width, channels], in their order.

        Raises:
            DataReadError: a file is missing or cut, or an image is damaged. A damaged file is removed, so that the next
                run prepares its images again.
        """
        order = np.argsort(rows, kind="stable")  # that of the files
        pixels = _empty(len(rows), self.image_bytes)
        bounds = np.searchsorted(rows[order], self._ends).tolist()
        parts = [
            (shard, order[begin:end]) for shard, (begin, end) in enumerate(itertools.pairwise(bounds)) if begin < end
        ]
        if len(rows) > 1:
            for shard, places in parts:  # so that the disk reads those of all files at the same time
                self._announce(shard, rows[places])
        for shard, places in parts:
            self._read_shard(shard, rows[places], pixels, places)
        return pixels.reshape(len(rows), *self.image_shape)

    def _announce(self, shard: int, rows: NDArray[np.int64]) -> None:
        """Tell the kernel which images of one file will be read."""
        with contextlib.suppress(OSError), self.path(self.names[shard]).open("rb", buffering=0) as file:
            for position in (rows - self._ends[shard]).tolist():
                os.posix_fadvise(file.fileno(), position * self.image_bytes, self.image_bytes, os.POSIX_FADV_WILLNEED)

    def _read_shard(
        self, shard: int, rows: NDArray[np.int64], pixels: NDArray[np.uint8], places: NDArray[np.intp]
    ) -> None:
        """Read images of one file, whose rows ascend, into places of an array."""
        path, size, buffer = self.path(self.names[shard]), self.image_bytes, pixels.reshape(-1).data
        positions = rows - self._ends[shard]
        breaks = np.flatnonzero((np.diff(positions) != 1) | (np.diff(places) != 1)) + 1
        try:
            with path.open("rb", buffering=0) as file:
                # Neighbours in the file that are neighbours in the array, too, at once.
                for begin, end in itertools.pairwise((0, *breaks.tolist(), len(rows))):
                    part = buffer[places[begin] * size : (places[begin] + end - begin) * size]
                    _read_into(part, file.fileno(), int(positions[begin]) * size)
        except OSError as error:
            raise _not_read(path, error) from error
        expected = self.checksums[rows].tolist()
        for position, place, checksum in zip(positions.tolist(), places.tolist(), expected, strict=True):
            if zlib.crc32(buffer[place * size : (place + 1) * size]) == checksum:
                continue
            # Once more, since it may be the memory that is damaged, and other processes use the file.
            pixels[place] = read_part(path, position * size, size)
            if zlib.crc32(pixels[place].data) != checksum:
                with contextlib.suppress(OSError):
                    path.unlink()
                raise DataReadError(
                    f"{path}: expected the images that were written, got a damaged one at {position:,}; run again, and"
                    " check the disk"
                )


def read_part(path: Path, offset: int, size: int) -> NDArray[np.uint8]:
    """Return a part of a file of images, [size]. Raises DataReadError if it cannot be read."""
    part = np.empty(size, np.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            _read_into(part.data, file.fileno(), offset)
    except OSError as error:
        raise _not_read(path, error) from error
    return part


def _not_read(path: Path, error: OSError) -> DataReadError:
    if error.errno == errno.EIO:  # the disk is damaged there
        with contextlib.suppress(OSError):
            path.unlink()
    advice = "check its permissions" if error.errno == errno.EACCES else "run again"
    return DataReadError(f"{path}: expected the images of a dataset, got {error.strerror or error}; {advice}")


def _read_into(buffer: memoryview, descriptor: int, offset: int) -> None:
    while buffer:
        count = os.preadv(descriptor, [buffer], offset)
        if not count:
            raise OSError("a shorter file")
        buffer, offset = buffer[count:], offset + count


def _empty(*shape: int) -> NDArray[np.uint8]:
    """Return an array of any pixels, [*shape], that TensorFlow uses without a copy."""
    size = math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size].reshape(shape)


def blocks(images: ImageArray) -> Iterator[slice]:
    """Yield slices of images that take a few MB each."""
    count = max(1, BLOCK_BYTES // max(1, math.prod(images.shape[1:])))
    return (slice(first, first + count) for first in range(0, len(images), count))


def in_memory(images: ImageArray) -> ImageArray:
    """Return images whose pixels a thread reads into memory, in the order of their files, while a model is compiled.

    Whoever needs pixels waits for all of them, and gets the error if they cannot be read. More than MAX_HELD_BYTES of
    images stay where they are.
    """
    if not isinstance(images, Images) or math.prod(images.shape) > MAX_HELD_BYTES:
        return images
    rows, place = np.unique(images.rows, return_inverse=True)
    executor = ThreadPoolExecutor(max_workers=1)
    pixels = executor.submit(images.source.read, rows)
    executor.shutdown(wait=False)  # it ends when they are read
    return Images(PixelsInMemory(images.source.image_shape, pixels), place)
