"""What preparations have read of a folder of pictures: a file beside its index, to which a preparation appends.

So a preparation after a killed one continues where that was, and one after pictures were added reads only these. An
entry that a kill has cut, and all after it, do not count; images are compared with their checksums when they are read.
"""

import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_lib.objects.output_file import replacement

JOURNAL_SUFFIX = ".pictures"
FLUSH_SECONDS = 1.0  # of work that a killed preparation loses
OPEN_SUFFIX = ".open"  # of a shard that is not complete

# The key of a picture changes with its path, its state and the code that reads it, see `index.picture_keys`.
KEY = np.dtype("S16")
SIZE = np.dtype([("key", KEY), ("size", "<u4", 3)])  # height, width and channels of the file's picture
IMAGE = np.dtype([("key", KEY), ("hash", "<u8", 2), ("checksum", "<u4")])  # as in `Dataset.hashes` and `Shards`

ENTRY = np.dtype([("checksum", "<u4"), ("kind", "S1"), ("bytes", "<u4")])  # the checksum is that of all that follows
SIZES = b"s"  # an array of SIZE
BEGIN = b"b"  # of a shard: the shape of its images. What was open is no longer used.
IMAGES = b"i"  # of the open shard: an array of IMAGE
COMPLETE = b"c"  # the sha256 of the open shard, which may not have its name yet


@dataclass
class JournalShard:
    """The images of a file, in their order."""

    image_shape: tuple[int, ...]
    parts: list[NDArray[np.void]] = field(default_factory=list)  # arrays of IMAGE
    name: str = ""  # its sha256, or "" as long as it is open

    @property
    def images(self) -> NDArray[np.void]:
        """An array of IMAGE."""
        return np.concatenate((np.empty(0, IMAGE), *self.parts))


class Journal:
    """The journal of a folder. What was read is known after `flush`. Only one process at a time may write."""

    def __init__(self, path: Path) -> None:
        self.path, self.open_path = path, path.with_suffix(OPEN_SUFFIX)
        self.sizes = [np.empty(0, SIZE)]
        self.shards: list[JournalShard] = []  # without the open one
        self.open: JournalShard | None = None
        self._new_sizes, self._new_images = list[tuple[bytes, tuple[int, ...]]](), list[tuple[bytes, bytes, int]]()
        self._flushed_at = time.monotonic()
        self._end = 0  # of the entries that are not damaged
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        for kind, payload in self._entries(content):
            self._apply(kind, payload)

    def _entries(self, content: bytes) -> Iterator[tuple[bytes, bytes]]:
        while len(header := content[self._end : self._end + ENTRY.itemsize]) == ENTRY.itemsize:
            entry = np.frombuffer(header, ENTRY)[0]
            end = self._end + ENTRY.itemsize + int(entry["bytes"])
            payload = content[self._end + ENTRY.itemsize : end]
            if end > len(content) or entry["checksum"] != zlib.crc32(header[4:] + payload):
                return
            yield bytes(entry["kind"]), payload
            self._end = end

    def _apply(self, kind: bytes, payload: bytes) -> None:
        if kind == SIZES:
            self.sizes.append(np.frombuffer(payload, SIZE))
        elif kind == BEGIN:
            self.open = JournalShard(tuple(np.frombuffer(payload, "<u4").tolist()))
        elif self.open is not None and kind == IMAGES:
            self.open.parts.append(np.frombuffer(payload, IMAGE))
        elif self.open is not None and kind == COMPLETE:
            self.open.name = payload.hex()
            self.shards.append(self.open)
            self.open = None

    def known_sizes(self, keys: NDArray[np.bytes_]) -> NDArray[np.uint32]:
        """Return the size of each picture, or zeros, [keys, 3], and forget those of others."""
        sizes = np.concatenate(self.sizes)
        index = find(keys, sizes["key"])
        self.sizes = [sizes[index[index >= 0]]]
        known = np.zeros((len(keys), 3), np.uint32)
        known[index >= 0] = self.sizes[0]["size"]
        return known

    def add_size(self, key: bytes, size: tuple[int, int, int]) -> None:
        """Note the height, the width and the channels of a picture."""
        self._new_sizes.append((key, size))

    def add_image(self, key: bytes, image_hash: bytes, checksum: int) -> None:
        """Note the next image of the open shard."""
        self._new_images.append((key, image_hash, checksum))

    def begin(self, image_shape: tuple[int, ...]) -> None:
        """Begin an empty open shard."""
        self._append(BEGIN, np.array(image_shape, "<u4").tobytes())

    def reopen(self, images: NDArray[np.void]) -> None:
        """Reduce the open shard to its first images, an array of IMAGE."""
        assert self.open is not None
        self.begin(self.open.image_shape)
        self._append(IMAGES, images.tobytes())

    def complete(self, name: str) -> None:
        """Note the name of the open shard, which then gets it."""
        self.flush()
        self._append(COMPLETE, bytes.fromhex(name), durable=True)

    @property
    def is_due(self) -> bool:
        """Return whether it is time for a `flush`."""
        return time.monotonic() - self._flushed_at >= FLUSH_SECONDS

    def flush(self) -> None:
        """Write what was noted. The images must be in the open shard, since they may be read from now on.

        Raises:
            OSError: the file cannot be written.
        """
        if self._new_sizes:
            self._append(SIZES, np.array(self._new_sizes, SIZE).tobytes())
            self._new_sizes.clear()
        if self._new_images:
            images = np.empty(len(self._new_images), IMAGE)
            keys, hashes, checksums = zip(*self._new_images, strict=True)
            images["key"], images["checksum"] = keys, checksums
            images["hash"] = np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 2)
            self._append(IMAGES, images.tobytes())
            self._new_images.clear()
        self._flushed_at = time.monotonic()

    def _append(self, kind: bytes, payload: bytes, *, durable: bool = False) -> None:
        content = _entry(kind, payload)
        with self.path.open("r+b" if self._end else "wb") as file:
            file.seek(self._end)
            file.truncate()
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        self._end += len(content)
        self._apply(kind, payload)

    def rewrite(self) -> None:
        """Replace the file by one with the sizes and the complete shards that are in this object.

        Raises:
            OSError: the file cannot be written.
        """
        entries = [(SIZES, np.concatenate(self.sizes).tobytes())]
        for shard in self.shards:
            shape = np.array(shard.image_shape, "<u4").tobytes()
            entries += (BEGIN, shape), (IMAGES, shard.images.tobytes()), (COMPLETE, bytes.fromhex(shard.name))
        with replacement(self.path) as temporary:
            temporary.write_bytes(b"".join(_entry(*entry) for entry in entries))
        self._end = self.path.stat().st_size


def _entry(kind: bytes, payload: bytes) -> bytes:
    header = np.array([(0, kind, len(payload))], ENTRY)
    header["checksum"] = zlib.crc32(header.tobytes()[4:] + payload)
    return header.tobytes() + payload


def find(keys: NDArray[np.bytes_], among: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Return for each key the last index at which it is among others, or -1: [keys]."""
    if not len(among):
        return np.full(len(keys), -1)
    order = np.argsort(among, kind="stable")
    ordered = among[order]
    place = np.searchsorted(ordered, keys, side="right") - 1
    indices: NDArray[np.int64] = np.where((place >= 0) & (ordered[place] == keys), order[place], -1)
    return indices
