"""Write images into a file of pixels: a new one, or that of an earlier preparation, whose rows stay.

Whoever waits for a preparation reads in another file how far it is. The first hash of a picture that a storage has
recorded stays: a decoder of another release may give a pixel another value, and without a record, the picture would
move to another split, and its correction would be lost.
"""

import contextlib
import math
import os
import tempfile
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.images import PixelFile
from mnist_lib.data.prepared.folder import prepared_folder, remove_unused, require_space, writing
from mnist_lib.data.request import DataRequest
from mnist_lib.data.table import indices_of
from mnist_lib.errors import DataError, IntegrityError
from mnist_lib.wording import Progress

LINE_BYTES = 200  # of a progress file: a line is padded, so that it replaces all of the one before

# What is recorded of a file: the first 16 bytes of a hash of its content, and the hash of the picture as in `Table`.
RECORD = np.dtype([("content", "<u8", 2), ("hash", "<u8", 2)])
NO_RECORDS = np.empty(0, RECORD)


def parse_records(lines: bytes, where: str) -> NDArray[np.void]:
    """Return the records in the lines of a file, an array of RECORD. Raises IntegrityError if the file is damaged."""
    try:
        return np.frombuffer(bytes.fromhex(lines.decode()), RECORD)
    except ValueError as error:
        raise IntegrityError(f"{where}: expected two hashes of 32 digits a line, got {error}; restore it") from error


def lines_of(records: NDArray[np.void]) -> bytes:
    """Return records as lines for `parse_records`."""
    text = records.tobytes().hex("\n", RECORD.itemsize)
    return f"{text}\n".encode() if text else b""


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
        remove_unused(folder)
        require_space(folder, images * math.prod(image_shape))
        self._is_new = earlier is None
        self._target = earlier or PixelFile(folder, uuid.uuid4().hex, tuple(image_shape), np.empty(0, np.uint32))
        self._checksums = self._target.checksums.tolist()
        with writing(folder):
            self._file = self._target.path.open("xb" if self._is_new else "r+b")
            if self._is_new:
                self._file.write(self._target.name.encode())
            else:
                self._file.seek(self._target.bytes)

    def __len__(self) -> int:
        """Return the row of the next image."""
        return len(self._checksums)

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
        flat = np.ascontiguousarray(images).reshape(len(images), -1)
        with writing(self._target.folder):
            self._file.write(flat.data)
        self._checksums += (zlib.crc32(image.data) for image in flat)

    def finish(self) -> PixelFile:
        """Write all of the file to the disk, and return it."""
        with writing(self._target.folder):
            self._file.flush()
            os.fsync(self._file.fileno())
        return replace(self._target, checksums=np.array(self._checksums, np.uint32))


class ProgressFile:
    """A file in which a task writes how far it is, for a process of the same node that waits for it.

    There is none if it cannot be written, or for a dataset of the catalog, which takes seconds.
    """

    def __init__(self, request: DataRequest) -> None:
        self.path: Path | None = None
        if request.entry is None:
            with contextlib.suppress(OSError, DataError):
                # Beside the images, where it is removed in time if this process is killed.
                descriptor, name = tempfile.mkstemp(dir=prepared_folder(request.data_dir))
                os.close(descriptor)
                self.path = Path(name)

    def write(self, progress: str) -> None:
        if self.path is not None and isinstance(progress, Progress):
            with contextlib.suppress(OSError), self.path.open("r+b", buffering=0) as file:
                file.write(progress.line().encode()[:LINE_BYTES].ljust(LINE_BYTES))

    def read(self) -> Progress | None:
        """Return the last progress, or None."""
        with contextlib.suppress(OSError, ValueError):
            return Progress.read(self.path.read_text().strip()) if self.path else None
        return None

    def remove(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
