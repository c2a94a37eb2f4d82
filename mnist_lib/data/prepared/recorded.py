"""The hash of each picture by the bytes of its file: the first that a storage has recorded stays.

A decoder of another release may give a pixel another value. Without a record, the picture would move to another split,
and its correction would be lost.
"""

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.table import indices_of
from mnist_lib.errors import IntegrityError

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
