"""Formats of files with weights: how each is checked, emptied and read, as numbers and without running code.

A file that is checked contains only numbers, and as many as it declares.
"""

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, NamedTuple, TypedDict

import numpy as np

from mnist_lib.documents import Count, Json, Text, convert, decode
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.archives import (
    KERAS_WEIGHTS,
    MAX_HEADER_BYTES,
    MAX_JSON_BYTES,
    MAX_MEMBERS,
    Arrays,
    check_hdf5,
    hdf5_datasets,
    opened_zip,
    read_npy_header,
    read_npz,
    unpack,
)
from mnist_lib.objects.protocol import MAX_FILE_BYTES


class Format(NamedTuple):
    """A format of files. The names of files are for messages."""

    check: Callable[[IO[bytes], str], None]  # raises IntegrityError unless a file contains only numbers
    blank: Callable[[bytes], bytes]  # returns the file with zeros in place of its numbers
    arrays: Callable[[bytes, str], Arrays]  # by name


def _check_hdf5(content: IO[bytes], name: str) -> None:
    check_hdf5(content, name, content.seek(0, io.SEEK_END))


def _blank_hdf5(content: bytes) -> bytes:
    import h5py

    blank = bytearray(content)
    with h5py.File(io.BytesIO(content), "r") as file:
        for _, dataset in hdf5_datasets(file):
            begin = dataset.id.get_offset()  # None for a dataset that was never written, or that is in a header
            if begin is not None:
                blank[begin : begin + dataset.nbytes] = bytes(dataset.nbytes)
    return bytes(blank)


def _arrays_in_hdf5(content: bytes, name: str) -> Arrays:
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        return {path: dataset[()] for path, dataset in hdf5_datasets(file)}


def _check_npz(content: IO[bytes], name: str) -> None:
    with opened_zip(content, name) as archive:
        for member in _members(archive, name):
            with archive.open(member) as opened:
                read_npy_header(opened.read(MAX_HEADER_BYTES), member.file_size, f"{name}: {member.filename}")


def _blank_npz(content: bytes) -> bytes:
    def blank(name: str, member: bytes) -> bytes:
        header = read_npy_header(member, len(member), name)
        return member[: header.size] + bytes(len(member) - header.size)

    return _changed_members(content, blank)


def _arrays_in_npz(content: bytes, name: str) -> Arrays:
    with opened_zip(io.BytesIO(content), name) as archive:
        sizes = {member.filename.removesuffix(".npy"): member.file_size for member in _members(archive, name)}
    return read_npz(content, name, sizes)


def _check_keras(content: IO[bytes], name: str) -> None:
    with opened_zip(content, name) as archive:
        weights = [member for member in _members(archive, name) if member.filename == KERAS_WEIGHTS]
        if not weights:
            raise IntegrityError(f"{name}: expected a member {KERAS_WEIGHTS}, got none")
        if (
            weights[0].compress_type != zipfile.ZIP_STORED
        ):  # HDF5 reads to and fro, and each time unpacks from the start
            raise IntegrityError(f"{name}: {KERAS_WEIGHTS}: expected it stored, as Keras saves it, got it compressed")
        check_hdf5(archive.open(weights[0]), f"{name}: {KERAS_WEIGHTS}", weights[0].file_size)


def _blank_keras(content: bytes) -> bytes:
    # Without the configuration: Keras may run code that is in it.
    return _changed_members(content, lambda name, member: _blank_hdf5(member), only=KERAS_WEIGHTS)


def _arrays_in_keras(content: bytes, name: str) -> Arrays:
    with opened_zip(io.BytesIO(content), name) as archive:
        return _arrays_in_hdf5(unpack(archive, KERAS_WEIGHTS, MAX_FILE_BYTES, name), name)


def _members(archive: zipfile.ZipFile, name: str) -> list[zipfile.ZipInfo]:
    members, size = archive.infolist(), sum(member.file_size for member in archive.infolist())
    if not 0 < len(members) <= MAX_MEMBERS or size > MAX_FILE_BYTES:
        expected = f"1 to {MAX_MEMBERS:,} members of at most {MAX_FILE_BYTES:,} bytes"
        raise IntegrityError(f"{name}: expected {expected}, got {len(members):,} of {size:,} bytes")
    return members


def _changed_members(content: bytes, change: Callable[[str, bytes], bytes], only: str | None = None) -> bytes:
    changed = io.BytesIO()
    with opened_zip(io.BytesIO(content), "weights") as archive, zipfile.ZipFile(changed, "w") as written:
        for name in [only] if only else dict.fromkeys(archive.namelist()):
            member = unpack(archive, name, MAX_FILE_BYTES, "weights")
            written.writestr(zipfile.ZipInfo(name), change(name, member))
    return changed.getvalue()


DTYPES = {
    f"{kind.upper()}{8 * size}": np.dtype(f"<{kind}{size}")
    for kind, sizes in (("f", (8, 4, 2)), ("i", (8, 4, 2, 1)), ("u", (8, 4, 2, 1)))
    for size in sizes
}


class Tensor(TypedDict):
    dtype: Text  # a key of `DTYPES`
    shape: list[Count]
    data_offsets: tuple[Count, Count]


def _tensors(content: IO[bytes], name: str) -> tuple[int, dict[str, Tensor]]:
    """Return where the numbers of a safetensors file begin, and its tensors by name.

    Our own, since the package of that name reads files only by copying them, or by their paths. The file has the length
    of the header in 8 bytes, the header as JSON, and the numbers.

    Raises:
        IntegrityError: the header is damaged, or is not that of a file of this size.
    """
    size = content.seek(0, io.SEEK_END) - 8
    content.seek(0)
    length = int.from_bytes(content.read(8), "little")
    if not 2 <= length <= min(size, MAX_JSON_BYTES):
        raise IntegrityError(f"{name}: expected a safetensors file, got a header of {length:,} of {size:,} bytes")
    header = decode(content.read(length), dict[str, Json], name, "the header of a safetensors file")
    header.pop("__metadata__", None)
    tensors = {key: convert(tensor, Tensor, name, key) for key, tensor in header.items()}
    end = 0
    for key, tensor in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        if tensor["dtype"] not in DTYPES:
            raise IntegrityError(f"{name}: {key}: expected a type of {', '.join(DTYPES)}, got {tensor['dtype'][:20]}")
        begin, end = end, end + math.prod(tensor["shape"]) * DTYPES[tensor["dtype"]].itemsize
        if tensor["data_offsets"] != (begin, end):
            raise IntegrityError(f"{name}: {key}: expected bytes {begin:,} to {end:,}, got {tensor['data_offsets']}")
    if end != size - length:
        raise IntegrityError(f"{name}: expected {end:,} bytes of numbers, got {size - length:,}")
    return 8 + length, tensors


def _check_safetensors(content: IO[bytes], name: str) -> None:
    _tensors(content, name)


def _blank_safetensors(content: bytes) -> bytes:
    begin, _ = _tensors(io.BytesIO(content), "")
    return content[:begin] + bytes(len(content) - begin)


def _arrays_in_safetensors(content: bytes, name: str) -> Arrays:
    begin, tensors = _tensors(io.BytesIO(content), name)
    numbers = memoryview(content)[begin:]
    return {
        key: np.frombuffer(numbers[slice(*tensor["data_offsets"])], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for key, tensor in tensors.items()
    }


HDF5 = Format(_check_hdf5, _blank_hdf5, _arrays_in_hdf5)
FORMATS: Mapping[str, Format] = {
    ".weights.h5": HDF5,
    ".h5": HDF5,  # of earlier versions of Keras, such as the files of keras.applications
    ".keras": Format(_check_keras, _blank_keras, _arrays_in_keras),
    ".npz": Format(_check_npz, _blank_npz, _arrays_in_npz),
    ".safetensors": Format(_check_safetensors, _blank_safetensors, _arrays_in_safetensors),
}
