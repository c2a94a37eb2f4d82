"""Weights out of files that anybody may have written. Nothing in them is run, unpacked to a path, or followed.

Everything that a file says of itself is held against what the model expects, before it is read.
"""

import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.errors import IntegrityError

Arrays = dict[str, NDArray[Any]]

KERAS_MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
LARGEST_JSON = 1 << 20
HEADERS = 1 << 16  # of HDF5 or NumPy, beside the numbers; HDF5 takes some KB for a layer
MOST_HDF5_OBJECTS = 1_000


def read_npz(content: bytes, name: str, limits: Mapping[str, int]) -> Arrays:
    """Exactly the arrays of these names, of plain numbers, each of at most so many bytes.

    Raises:
        IntegrityError: naming what was expected and what came.
    """
    members = _unzip(content, name, {f"{array}.npy": limit + HEADERS for array, limit in limits.items()})
    return {array: _read_npy(members[f"{array}.npy"], f"{name}: {array}") for array in limits}


def read_keras_weights(content: bytes, name: str, layers: Sequence[str], weights: int) -> bytes:
    """The HDF5 file of weights in a `.keras` archive, safe to be handed to Keras.

    Args:
        layers: the class names of the model's layers, as this program builds it.
        weights: how many bytes the model's weights take.

    Raises:
        IntegrityError: it is of another architecture, or has something in it that weights do not need.
    """
    limits = dict.fromkeys(KERAS_MEMBERS, LARGEST_JSON) | {"model.weights.h5": weights + HEADERS * (len(layers) + 1)}
    members = _unzip(content, name, limits)
    try:
        found = [layer["class_name"] for layer in json.loads(members["config.json"])["config"]["layers"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{name}: config.json: expected that of a Sequential of layers") from error
    if found != list(layers):
        raise IntegrityError(f"{name}: expected the layers {', '.join(layers)}, got {', '.join(map(str, found))[:300]}")
    _check_hdf5(members["model.weights.h5"], name, weights)
    return members["model.weights.h5"]


def _unzip(content: bytes, name: str, limits: Mapping[str, int]) -> dict[str, bytes]:
    """Exactly these members, none of them larger than its limit."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = sorted(archive.namelist())
            if found != sorted(limits):
                raise IntegrityError(f"{name}: expected {', '.join(sorted(limits))}, got {', '.join(found)[:300]}")
            for member, limit in limits.items():
                size = archive.getinfo(member).file_size  # more than that zipfile does not unpack
                if size > limit:
                    raise IntegrityError(f"{name}: {member}: expected at most {limit:,} bytes, got {size:,}")
            return {member: archive.read(member) for member in limits}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise IntegrityError(f"{name}: expected a zip archive: {error}") from error


def _read_npy(content: bytes, name: str) -> NDArray[Any]:
    """By its header and its bytes: NumPy's own reader takes the memory that the header asks for."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # it parses Python, and raises what that does
        raise IntegrityError(f"{name}: expected a header of NumPy's: {error}") from error
    numbers = content[file.tell() :]
    size = dtype.itemsize * math.prod(shape)
    if version != (1, 0) or in_fortran_order or dtype.kind not in "fiu" or len(numbers) != size:
        raise IntegrityError(f"{name}: expected plain numbers, {len(numbers):,} bytes, got {dtype} {shape}")
    return np.frombuffer(numbers, dtype).reshape(shape)


def _check_hdf5(content: bytes, name: str, weights: int) -> None:
    import h5py  # with Keras, whose files these are

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            size = 0
            for path, dataset in _hdf5_datasets(file):
                size += dataset.nbytes
                plain = not (dataset.external or dataset.is_virtual or dataset.chunks) and dataset.dtype.kind in "fiu"
                if not plain or size > weights:
                    raise IntegrityError(
                        f"{name}: model.weights.h5: expected plain numbers, {weights:,} bytes in all, got {path} with "
                        f"{dataset.dtype} {dataset.shape}"
                    )
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise IntegrityError(f"{name}: model.weights.h5: expected an HDF5 file: {error}") from error


def _hdf5_datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Over hard links alone, and not for ever: other links lead to other files, and a group may contain itself."""
    import h5py

    pending, seen = [file], 0
    while pending:
        group = pending.pop()
        for key in group:
            seen += 1
            path = f"{group.name}/{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink) or seen > MOST_HDF5_OBJECTS:
                raise ValueError(f"{path[:100]} is a link to elsewhere, or one too many")
            found = group[key]
            if isinstance(found, h5py.Dataset):
                yield path, found
            else:
                pending.append(found)
