"""Reading arrays and weights from untrusted files: no code in them is run, no file is extracted, no link is followed.

Every size, type and name that a file declares is compared with what the model expects before its data are read.
NumPy, zipfile and HDF5 trust what is declared, so what they would allocate for it is limited first.
"""

import contextlib
import hashlib
import io
import math
import re
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from mnist_lib.documents import Text, decode
from mnist_lib.errors import IntegrityError
from mnist_lib.objects.protocol import MAX_FILE_BYTES
from mnist_lib.wording import one_line

Arrays = dict[str, NDArray[Any]]

KERAS_WEIGHTS = "model.weights.h5"
KERAS_MEMBERS = ("config.json", "metadata.json", KERAS_WEIGHTS)
MAX_JSON_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 16  # for a NumPy array, or for a layer in HDF5, whose header has a few KB
MAX_HDF5_OBJECTS = 10_000
PART_BYTES = 1 << 20  # of a file that is searched
MAX_MEMBERS = 1_000  # of a zip archive; each takes 50 bytes in the archive, but 600 bytes of memory in zipfile
# What NumPy writes before the values of an array of numbers: a magic string, version 1.0, the length of the header.
NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|][fiu][1248])', 'fortran_order': (False|True), 'shape': \(([0-9, ]{0,60})\), "
    rb"\} *\n",
    re.DOTALL,
)


class _SavedLayer(TypedDict):
    class_name: Text


class _SavedLayers(TypedDict):
    layers: list[_SavedLayer]


class _SavedModel(TypedDict):
    """`config.json` in a `.keras` archive, as far as it is read."""

    config: _SavedLayers


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


def read_npz(
    content: bytes, name: str, limits: Mapping[str, int], optional: Collection[str] = (), total: int = MAX_FILE_BYTES
) -> Arrays:
    """Return the arrays of a .npz file.

    Args:
        limits: the names of all arrays, and the maximum size of each in bytes.
        optional: those that may be missing.
        total: the maximum size of all arrays together, since a small file may contain large ones.

    Raises:
        IntegrityError: the file has other arrays, or larger ones, or is damaged.
    """
    sizes = {f"{array}.npy": limit + MAX_HEADER_BYTES for array, limit in limits.items()}
    members = _unzip(content, name, sizes, {f"{array}.npy" for array in optional}, total)
    return {
        array: _read_npy(members[f"{array}.npy"], f"{name}: {array}") for array in limits if f"{array}.npy" in members
    }


def read_keras_weights(content: bytes, name: str, layers: Sequence[str], sizes: Sequence[int]) -> bytes:
    """Return the HDF5 file of weights in a `.keras` archive, after checking that it is safe for Keras.

    Args:
        layers: the class names of the layers of the expected model.
        sizes: of the weights of the expected model, in bytes.

    Raises:
        IntegrityError: the architecture differs, or the file contains something other than weights.
    """
    limits = dict.fromkeys(KERAS_MEMBERS, MAX_JSON_BYTES)
    limits[KERAS_WEIGHTS] = sum(sizes) + MAX_HEADER_BYTES * (len(layers) + len(sizes) + 1)
    members = _unzip(content, name, limits)
    what = "the configuration of a Sequential model"
    config = decode(members["config.json"], _SavedModel, f"{name}: config.json", what)["config"]
    found = [layer["class_name"] for layer in config["layers"]]
    if found != list(layers):
        raise IntegrityError(f"{name}: expected the layers {', '.join(layers)}, got {', '.join(found)[:300]}")
    check_hdf5(io.BytesIO(members[KERAS_WEIGHTS]), f"{name}: {KERAS_WEIGHTS}", sum(sizes))
    return members[KERAS_WEIGHTS]


def _unzip(
    content: bytes, name: str, limits: Mapping[str, int], optional: Collection[str] = (), total: int = MAX_FILE_BYTES
) -> dict[str, bytes]:
    """Return the members of a zip archive, which must be those named in `limits`, each within its limit in bytes.

    Args:
        optional: those that may be missing.
        total: the maximum size of all members together, besides headers.
    """
    with opened_zip(io.BytesIO(content), name) as archive:
        found = sorted(archive.namelist())
        if sorted({*found, *optional}) != sorted(limits) or len({*found}) != len(found):
            raise IntegrityError(f"{name}: expected {', '.join(sorted(limits))}, got {', '.join(found)[:300]}")
        size = sum(member.file_size for member in archive.infolist())
        if size > total + MAX_HEADER_BYTES * len(found):
            raise IntegrityError(f"{name}: expected at most {total:,} bytes, got {size:,} unpacked ones")
        return {member: unpack(archive, member, limits[member], name) for member in found}


@contextlib.contextmanager
def opened_zip(file: IO[bytes], name: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive, and turn what zipfile raises within the block into an IntegrityError."""
    try:
        if _count(file, b"PK\1\2") > MAX_MEMBERS:
            raise IntegrityError(f"{name}: expected a zip archive of at most {MAX_MEMBERS:,} members, got more")
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise IntegrityError(f"{name}: expected a zip archive: {error}") from error


def _count(file: IO[bytes], mark: bytes) -> int:
    """Return how often a mark occurs in a file, of which a part at a time is in memory."""
    count, overlap = 0, b""
    file.seek(0)
    while part := file.read(PART_BYTES):
        count += (overlap + part).count(mark)
        overlap = part[1 - len(mark) :]
    return count


def unpack(archive: zipfile.ZipFile, member: str, limit: int, name: str) -> bytes:
    """Return a member. zipfile unpacks bzip2 and LZMA without a limit; `archive.read` does so for every method."""
    info = archive.getinfo(member)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise IntegrityError(f"{name}: {member}: expected it stored or deflated, got method {info.compress_type}")
    if info.file_size > limit:
        raise IntegrityError(f"{name}: {member}: expected at most {limit:,} bytes, got {info.file_size:,}")
    with archive.open(info) as file:
        unpacked = file.read(info.file_size)
    if len(unpacked) != info.file_size:
        raise IntegrityError(f"{name}: {member}: expected {info.file_size:,} bytes, got {len(unpacked):,}")
    return unpacked


class NpyHeader(NamedTuple):
    size: int  # bytes before the values
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]


def read_npy_header(content: bytes, size: int, name: str) -> NpyHeader:
    """Return the header of a .npy file of `size` bytes. NumPy's own reader evaluates it, and allocates what it says.

    Raises:
        IntegrityError: the file has another header than that of an array of numbers, or another size.
    """
    match = NPY_HEADER.match(content)
    if match is None or match.end() != 10 + int.from_bytes(content[8:10], "little"):
        raise IntegrityError(f"{name}: expected a NumPy header of numbers, got {content[:100]!r}")
    dtype = np.dtype(match[1].decode())
    try:
        shape = tuple(int(side) for side in match[3].split(b",") if side.strip())
        if size - match.end() != dtype.itemsize * math.prod(shape):
            raise ValueError(f"got {size - match.end():,}")
    except (ValueError, OverflowError) as error:
        raise IntegrityError(f"{name}: expected the bytes of {dtype} ({match[3].decode()}): {error}") from error
    return NpyHeader(match.end(), dtype, shape, "F" if match[2] == b"True" else "C")


def _read_npy(content: bytes, name: str) -> NDArray[Any]:
    header = read_npy_header(content, len(content), name)
    try:
        return np.frombuffer(memoryview(content)[header.size :], header.dtype).reshape(header.shape, order=header.order)
    except (ValueError, OverflowError) as error:  # no values, or too many axes
        raise IntegrityError(f"{name}: expected an array of the shape {header.shape}: {error}") from error


def check_hdf5(content: IO[bytes], name: str, limit: int) -> None:
    """Raise IntegrityError unless an HDF5 file contains only numbers, and at most `limit` bytes of them."""
    import h5py  # imported late because most processes never read a Keras file

    try:
        with h5py.File(content, "r") as file:
            size = 0
            for path, dataset in hdf5_datasets(file):
                size += dataset.nbytes
                plain = not (dataset.external or dataset.is_virtual or dataset.chunks) and dataset.dtype.kind in "fiu"
                if not plain or size > limit:
                    expected = f"at most {limit:,} bytes of numbers, neither compressed nor in another file"
                    raise IntegrityError(f"{name}: expected {expected}, got {path}: {dataset.dtype} {dataset.shape}")
    except (IntegrityError, MemoryError):
        raise
    except Exception as error:  # h5py raises many kinds, depending on the byte that is damaged
        raise IntegrityError(f"{name}: expected an HDF5 file: {one_line(error)}") from error


def hdf5_datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield each dataset by path. Raises ValueError at a link, and if there are too many objects, as in a cycle."""
    import h5py

    pending, seen = [file], 0
    while pending:
        group = pending.pop()
        for key in group:
            seen += 1
            path = f"{group.name.rstrip('/')}/{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink) or seen > MAX_HDF5_OBJECTS:
                raise ValueError(f"expected at most {MAX_HDF5_OBJECTS:,} objects and no links, got {path[:100]}")
            found = group[key]
            if isinstance(found, h5py.Dataset):
                yield path, found
            else:
                pending.append(found)
