"""A cache of decoded arrays, so that later runs read a dataset without TensorFlow, and without decoding pictures.

A cache is used only as long as its sources have not changed: TFDS' files and version, or the pictures of a folder.
"""

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from mnist_lib.archives import read_npz
from mnist_lib.data.availability import file_hashes
from mnist_lib.data.listing import Listing
from mnist_lib.data.request import ClassNames, DataRequest
from mnist_lib.data.split import COLUMNS, Dataset
from mnist_lib.documents import Count, Text, decode, encode
from mnist_lib.errors import IntegrityError

CACHE_SCHEMA = 6
MAX_ARRAY_BYTES = 1 << 40  # in effect no limit, since the file is trusted
SOURCE, ABOUT = "source", "about"  # arrays that hold text and JSON, as bytes

log = logging.getLogger(__name__)


class _About(TypedDict):
    version: Text
    classes: ClassNames
    fingerprint: Text
    notices: tuple[Text, ...]
    damaged: Count


def cache_path(data_dir: Path, name: str) -> Path:
    """Return the file of the cache. `data_dir`: the folder of prepared datasets."""
    return data_dir / ".decoded" / f"{name}.npz"


def write_cache(dataset: Dataset, path: Path, source: str) -> None:
    """Write the arrays of a dataset without corrections. Do nothing if the folder is not writable.

    Args:
        source: a text that changes with the arrays' sources; `read_cache` compares it.
    """
    arrays = {column: getattr(dataset, column) for column in COLUMNS}
    about = encode({field: getattr(dataset, field) for field in _About.__annotations__})
    arrays |= {ABOUT: np.frombuffer(about, np.uint8), SOURCE: np.frombuffer(source.encode(), np.uint8)}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            temporary = Path(folder, path.name)
            np.savez(temporary, allow_pickle=False, **arrays)
            temporary.replace(path)


def read_cache(name: str, path: Path, source: Callable[[str], str]) -> Dataset | None:
    """Return the cached dataset, or None if there is no cache or it is damaged or stale.

    Args:
        source: takes the version of the dataset, and returns the current state of its sources.
    """
    try:
        arrays = read_npz(path.read_bytes(), str(path), dict.fromkeys((*COLUMNS, ABOUT, SOURCE), MAX_ARRAY_BYTES))
        about = decode(arrays.pop(ABOUT).tobytes(), _About, str(path))
        if arrays.pop(SOURCE).tobytes().decode() != source(about["version"]):
            return None
        columns: dict[str, Any] = arrays
        return Dataset(name=name, **about, **columns)
    except (OSError, IntegrityError) as error:
        log.debug("%s: %s", path, error)
        return None


def pictures_hash(listing: Listing, request: DataRequest) -> str:
    """Return the sha256 of all that the arrays of a folder depend on: its files, the options and the reading code."""
    pillow = metadata.version("pillow")
    parts = (CACHE_SCHEMA, pillow, listing.state, listing.notices, request.image_size, request.channels)
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()


def source_hash(prepared: Path) -> str:
    """Return the sha256 of all sources of the arrays: TFDS' files and version.

    Args:
        prepared: TFDS' folder of a version, such as `~/tensorflow_datasets/mnist/3.0.1`.
    """
    digest = hashlib.sha256(f"{CACHE_SCHEMA} {metadata.version('tensorflow-datasets')}\n".encode())
    for line in file_hashes(prepared):
        digest.update(line)
    return digest.hexdigest()
