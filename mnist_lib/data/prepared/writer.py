"""Write images into shards. With a journal, those that a killed preparation has written are used by the next one."""

import contextlib
import hashlib
import math
import os
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.prepared.folder import PART_SUFFIX, protect, remove_unused, require_space, writing
from mnist_lib.data.prepared.journal import IMAGE, Journal, JournalShard, find
from mnist_lib.data.shards import Images, Shards

MAX_SHARD_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The images that earlier preparations of a folder have read. `earlier_images` finds them."""

    journal: Journal
    shards: Shards  # those that stay
    open_images: int  # in the open shard, whose rows follow those of `shards`
    open_digest: Any  # the sha256 so far of the open shard
    rows: NDArray[np.int64]  # [pictures]: the row of each, or -1 if it is not in these files
    hashes: NDArray[np.uint64]  # [pictures, 2], 0 for a picture that was not read
    # Pictures whose images are in other files, to be copied so that there are not more and more of these; and images.
    copied: NDArray[np.int64]
    images: Images


def earlier_images(journal: Journal, keys: NDArray[np.bytes_], image_shape: Sequence[int], folder: Path) -> Earlier:
    """Return the images of some shape that the journal of a folder knows, and make it forget the other shards.

    Args:
        keys: of the pictures, see `index.picture_keys`.
    """
    shape = tuple(image_shape)
    if journal.shards and journal.open is None:  # a kill just before the last shard got its name
        last = Path(folder, journal.shards[-1].name)
        if journal.open_path.exists() and not last.exists():
            journal.open_path.replace(last)
    complete = [shard for shard in journal.shards if shard.image_shape == shape]
    complete = [shard for shard in complete if _shards(folder, shape, [shard]).is_complete()]
    images = [shard.images for shard in complete]
    open_images, digest = _intact(journal, shape)
    rows, counts = np.concatenate((*images, open_images)), [*map(len, images), len(open_images)]
    found = find(keys, rows["key"])
    known = found >= 0
    begins = np.cumsum((0, *counts))
    of_shard = np.searchsorted(begins, found, side="right") - 1  # the shard of each picture
    used = np.bincount(of_shard[known], minlength=len(counts)) * math.prod(shape)
    stays = used * 2 >= MAX_SHARD_BYTES
    stays[-1] = True  # the open one
    moved_to = np.cumsum(np.where(stays, counts, 0)) - np.where(stays, counts, 0)  # where each shard begins from now on
    is_there = known & stays[of_shard]
    copied = np.flatnonzero(known & ~is_there)
    journal.shards = [shard for shard, stay in zip(complete, stays, strict=False) if stay]
    hashes = np.zeros((len(keys), 2), np.uint64)
    hashes[known] = rows["hash"][found[known]]
    return Earlier(
        journal=journal,
        shards=_shards(folder, shape, journal.shards),
        open_images=len(open_images),
        open_digest=digest,
        rows=np.where(is_there, found - begins[of_shard] + moved_to[of_shard], -1),
        hashes=hashes,
        copied=copied,
        images=Images(_shards(folder, shape, complete), found[copied]),
    )


def _shards(folder: Path, image_shape: tuple[int, ...], shards: Sequence[JournalShard]) -> Shards:
    images = [shard.images for shard in shards]
    checksums = np.concatenate((np.empty(0, IMAGE), *images))["checksum"]
    return Shards(folder, image_shape, tuple(shard.name for shard in shards), tuple(map(len, images)), checksums)


def _intact(journal: Journal, image_shape: tuple[int, ...]) -> tuple[NDArray[np.void], Any]:
    """Return the first images of the open shard, as far as they are in its file, and the sha256 of these."""
    digest, count = hashlib.sha256(), 0
    if journal.open is None or journal.open.image_shape != image_shape:
        return np.empty(0, IMAGE), digest
    images = journal.open.images
    with contextlib.suppress(OSError), journal.open_path.open("rb") as file:
        for checksum in images["checksum"].tolist():
            image = file.read(math.prod(image_shape))
            if len(image) < math.prod(image_shape) or zlib.crc32(image) != checksum:
                break
            digest.update(image)
            count += 1
    if count < len(images):
        journal.reopen(images[:count])
    return images[:count], digest


class ShardWriter:
    """Writes images one after the other into shards of a folder.

    Raises:
        DataError: the folder has too little space for the images.
    """

    def __init__(self, folder: Path, image_shape: Sequence[int], images: int, earlier: Earlier | None = None) -> None:
        """Check the space, and continue the open shard of earlier preparations.

        Args:
            images: how many will be added, at most.
            earlier: images that are there; those that are added are noted in its journal.
        """
        self._folder, self._image_shape = folder, tuple(image_shape)
        self._per_shard = max(1, MAX_SHARD_BYTES // math.prod(self._image_shape))
        self._names, self._counts, self._checksums = list[str](), list[int](), list[int]()
        self._file: Any = None
        self._journal = None if earlier is None else earlier.journal
        remove_unused(folder)
        require_space(folder, images * math.prod(self._image_shape))
        if earlier is not None:
            self._names, self._counts = [*earlier.shards.names], [*earlier.shards.counts]
            self._checksums = earlier.shards.checksums.tolist()
            self._continue(earlier)

    def __len__(self) -> int:
        """Return the row of the next image."""
        return len(self._checksums)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:  # an error has ended the preparation
            with contextlib.suppress(OSError):  # the disk is full
                self._file.close()
            if self._journal is None:
                self._path.unlink(missing_ok=True)

    def add(self, images: NDArray[np.uint8], keys: Sequence[bytes] = (), hashes: Sequence[bytes] = ()) -> None:
        """Add images, [n, height, width, channels].

        Args:
            keys, hashes: of each image, for the journal.
        """
        with writing(self._folder):
            for index, image in enumerate(np.ascontiguousarray(images).reshape(len(images), -1)):
                if self._file is None:
                    self._begin_shard()
                self._file.write(image.data)
                self._digest.update(image.data)
                self._checksums.append(zlib.crc32(image.data))
                self._in_shard += 1
                if self._journal is not None:
                    self._journal.add_image(keys[index], hashes[index], self._checksums[-1])
                if self._in_shard >= self._per_shard:
                    self._finish_shard()
            if self._journal is not None and self._journal.is_due:
                if self._file is not None:
                    self._file.flush()
                self._journal.flush()

    def finish(self) -> Shards:
        """Complete the last file, and return all."""
        with writing(self._folder):
            if self._file is not None:
                self._finish_shard()
        checksums = np.array(self._checksums, np.uint32)
        return Shards(self._folder, self._image_shape, tuple(self._names), tuple(self._counts), checksums)

    def _continue(self, earlier: Earlier) -> None:
        if earlier.open_images:
            assert earlier.journal.open is not None
            self._path, self._in_shard = earlier.journal.open_path, earlier.open_images
            self._digest, self._file = earlier.open_digest, self._path.open("r+b")
            self._file.truncate(self._in_shard * math.prod(self._image_shape))
            self._file.seek(0, os.SEEK_END)
            self._checksums += earlier.journal.open.images["checksum"].tolist()

    def _begin_shard(self) -> None:
        if self._journal is None:
            # Other users may read it, unlike with mkstemp.
            self._path = self._folder / f"{uuid.uuid4().hex}{PART_SUFFIX}"
            self._file = self._path.open("xb")
        else:
            self._path = self._journal.open_path
            self._file = self._path.open("wb")
            self._journal.begin(self._image_shape)
        self._digest, self._in_shard = hashlib.sha256(), 0

    def _finish_shard(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        name = self._digest.hexdigest()
        protect(self._folder, [name])
        if self._journal is not None:
            self._journal.complete(name)  # before it has the name: `earlier_images` repeats what follows
        if (self._folder / name).exists():  # perhaps of another user, who may not allow to replace it
            self._path.unlink()
        else:
            self._path.replace(self._folder / name)
        self._names.append(name)
        self._counts.append(self._in_shard)
        self._file = None
