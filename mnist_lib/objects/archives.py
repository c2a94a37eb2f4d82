"""Arrays in files: .npz files, and the formats of files with weights. They are read without running code.

A small archive may hold gigabytes, so the size of what is unpacked is limited first.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mnist_lib.documents import reading
from mnist_lib.objects.protocol import MAX_DOCUMENT_BYTES, MAX_FILE_BYTES

Arrays = dict[str, NDArray[Any]]
NamedArrays = Iterable[tuple[str, NDArray[Any]]]

PART_BYTES = 1 << 20  # of an array that is hashed
KERAS_WEIGHTS = "model.weights.h5"  # a member of a `.keras` file
DTYPES = {
    f"{kind.upper()}{8 * size}": np.dtype(f"<{kind}{size}")
    for kind, sizes in (("f", (8, 4, 2)), ("i", (8, 4, 2, 1)), ("u", (8, 4, 2, 1)))
    for size in sizes
}


def hash_arrays(arrays: Iterable[Any]) -> str:
    """Return the sha256 of the types, shapes and values of arrays, also of those whose values are in files."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        rows = max(1, PART_BYTES // max(1, array.dtype.itemsize * math.prod(array.shape[1:])))
        for begin in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[begin : begin + rows]).data)
    return digest.hexdigest()


def npz(arrays: Mapping[str, Any], *, compressed: bool = False) -> bytes:
    """Return a .npz file of arrays, for `read_npz`."""
    content = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(content, allow_pickle=False, **arrays)
    return content.getvalue()


def read_npz(content: bytes, limit: int = MAX_FILE_BYTES) -> Arrays:
    """Return the arrays of a .npz file, by name.

    Raises some error if the file is damaged, or holds more than `limit` bytes: call it within `documents.reading`.
    """
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _require_members(archive, limit)
        for name in archive.namelist():
            with archive.open(name) as member:
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def _require_members(archive: zipfile.ZipFile, limit: int = MAX_FILE_BYTES) -> None:
    """Raise ValueError if the members of a zip archive hold more than `limit` bytes together.

    zipfile unpacks as many bytes as a member declares, but any number with bzip2 and LZMA.
    """
    members = archive.infolist()
    _require_size(sum(member.file_size for member in members), limit)
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ValueError("expected members that are stored or deflated")


def _require_size(size: int, limit: int = MAX_FILE_BYTES) -> None:
    if size > limit:
        raise ValueError(f"expected at most {limit:,} unpacked bytes, got {size:,}")


def numbers_in(content: bytes, suffix: str, name: str) -> NamedArrays:
    """Yield the arrays of a file with weights, by name.

    Args:
        suffix: of the file, one of `FORMATS`.
        name: of the file, for messages.

    Raises:
        IntegrityError: the file is damaged, contains something but numbers, or more of them than a file may have.
    """
    with reading(name, "a file of numbers"):
        for key, array in FORMATS[suffix](content):
            if array.dtype.kind not in "fiu":
                raise ValueError(f"{key} has the type {array.dtype}")
            yield key, array


def keras_weights(content: bytes) -> bytes:
    """Return the HDF5 file with the weights of a `.keras` file, whose configuration is not read.

    Raises some error if the file is damaged: call it within `documents.reading`.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _require_members(archive)
        return archive.read(KERAS_WEIGHTS)


def _in_hdf5(content: bytes) -> NamedArrays:
    import h5py  # imported late because most processes never read such a file

    links = dict[str, Any]()
    objects = dict[str, Any]()
    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems_links(links.__setitem__)
        file.visititems(objects.__setitem__)
        if not all(isinstance(link, h5py.HardLink) for link in links.values()):
            raise ValueError("it has links, perhaps to other files")
        datasets = {f"/{path}": found for path, found in objects.items() if isinstance(found, h5py.Dataset)}
        if any(dataset.external or dataset.is_virtual or dataset.chunks for dataset in datasets.values()):
            raise ValueError("it has numbers that are compressed, or in other files")
        _require_size(sum(dataset.nbytes for dataset in datasets.values()))
        for path, dataset in datasets.items():
            yield path, dataset[()]


def _in_keras(content: bytes) -> NamedArrays:
    return _in_hdf5(keras_weights(content))


def _in_npz(content: bytes) -> NamedArrays:
    return read_npz(content).items()


class _Tensor(msgspec.Struct):
    dtype: str = ""  # a key of `DTYPES`
    shape: tuple[int, ...] = ()
    data_offsets: tuple[int, int] = (0, 0)


def _in_safetensors(content: bytes) -> NamedArrays:
    """Read the length of the header in 8 bytes, the header as JSON, and the numbers."""
    begin = 8 + min(int.from_bytes(content[:8], "little"), MAX_DOCUMENT_BYTES)
    tensors = msgspec.json.decode(content[8:begin], type=dict[str, _Tensor])
    tensors.pop("__metadata__", None)
    for name, tensor in tensors.items():
        offset = begin + tensor.data_offsets[0]
        numbers = np.frombuffer(content, DTYPES[tensor.dtype], math.prod(tensor.shape), offset)
        yield name, numbers.reshape(tensor.shape)


FORMATS: Mapping[str, Callable[[bytes], NamedArrays]] = {
    ".weights.h5": _in_hdf5,
    ".h5": _in_hdf5,  # of earlier versions of Keras, such as the files of keras.applications
    ".keras": _in_keras,
    ".npz": _in_npz,
    ".safetensors": _in_safetensors,
}
