"""Reading arrays and weights from untrusted files: no code in them is run, no file is extracted, no link is followed.

Every size, type and name that a file declares is compared with what the model expects before its data are read.
"""

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.errors import IntegrityError

Arrays = dict[str, NDArray[Any]]

KERAS_MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
MAX_JSON_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 16  # for a NumPy array, or for a layer in HDF5, whose header has a few KB
MAX_HDF5_OBJECTS = 10_000


def hash_arrays(arrays: Iterable[NDArray[Any]]) -> str:
    """Return the sha256 of the types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_npz(content: bytes, name: str, limits: Mapping[str, int]) -> Arrays:
    """Return the arrays of a .npz file. `limits` are the names of all arrays and the maximum size of each in bytes.

    Raises:
        IntegrityError: the file has other arrays, or larger ones, or is damaged.
    """
    members = _unzip(content, name, {f"{array}.npy": limit + MAX_HEADER_BYTES for array, limit in limits.items()})
    return {array: _read_npy(members[f"{array}.npy"], f"{name}: {array}") for array in limits}


def read_keras_weights(content: bytes, name: str, layers: Sequence[str], sizes: Sequence[int]) -> bytes:
    """Return the HDF5 file of weights in a `.keras` archive, after checking that it is safe for Keras.

    Args:
        layers: the class names of the layers of the expected model.
        sizes: of the weights of the expected model, in bytes.

    Raises:
        IntegrityError: the architecture differs, or the file contains something other than weights.
    """
    limits = dict.fromkeys(KERAS_MEMBERS, MAX_JSON_BYTES)
    limits["model.weights.h5"] = sum(sizes) + MAX_HEADER_BYTES * (len(layers) + len(sizes) + 1)
    members = _unzip(content, name, limits)
    try:
        found = [layer["class_name"] for layer in json.loads(members["config.json"])["config"]["layers"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{name}: config.json: expected the configuration of a Sequential model") from error
    if found != list(layers):
        raise IntegrityError(f"{name}: expected the layers {', '.join(layers)}, got {', '.join(map(str, found))[:300]}")
    _check_hdf5(members["model.weights.h5"], name, sum(sizes))
    return members["model.weights.h5"]


def _unzip(content: bytes, name: str, limits: Mapping[str, int]) -> dict[str, bytes]:
    """Return the members of a zip archive, which must be those named in `limits`, each within its limit in bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = sorted(archive.namelist())
            if found != sorted(limits):
                raise IntegrityError(f"{name}: expected {', '.join(sorted(limits))}, got {', '.join(found)[:300]}")
            for member, limit in limits.items():
                size = archive.getinfo(member).file_size  # zipfile never unpacks more than this size
                if size > limit:
                    raise IntegrityError(f"{name}: {member}: expected at most {limit:,} bytes, got {size:,}")
            return {member: archive.read(member) for member in limits}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise IntegrityError(f"{name}: expected a zip archive: {error}") from error


def _read_npy(content: bytes, name: str) -> NDArray[Any]:
    """Parse a .npy file. NumPy's own reader would allocate whatever size the header declares."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # NumPy evaluates the header as Python, which can raise anything
        raise IntegrityError(f"{name}: expected a NumPy header: {error}") from error
    numbers = content[file.tell() :]
    size = dtype.itemsize * math.prod(shape)
    if version != (1, 0) or in_fortran_order or dtype.kind not in "fiu" or len(numbers) != size:
        raise IntegrityError(f"{name}: expected {len(numbers):,} bytes of numbers, got {dtype} {shape}")
    return np.frombuffer(numbers, dtype).reshape(shape)


def _check_hdf5(content: bytes, name: str, weights: int) -> None:
    import h5py  # imported late because most processes never read a Keras file

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            size = 0
            for path, dataset in _hdf5_datasets(file):
                size += dataset.nbytes
                plain = not (dataset.external or dataset.is_virtual or dataset.chunks) and dataset.dtype.kind in "fiu"
                if not plain or size > weights:
                    got = f"{path} with {dataset.dtype} {dataset.shape}"
                    raise IntegrityError(f"{name}: model.weights.h5: expected {weights:,} bytes of numbers, got {got}")
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise IntegrityError(f"{name}: model.weights.h5: expected an HDF5 file: {error}") from error


def _hdf5_datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield each dataset by path. It follows no link to another file, and stops at a group that contains itself."""
    import h5py

    pending, seen = [file], 0
    while pending:
        group = pending.pop()
        for key in group:
            seen += 1
            path = f"{group.name}/{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink) or seen > MAX_HDF5_OBJECTS:
                raise ValueError(f"expected at most {MAX_HDF5_OBJECTS:,} objects and no links, got {path[:100]}")
            found = group[key]
            if isinstance(found, h5py.Dataset):
                yield path, found
            else:
                pending.append(found)
