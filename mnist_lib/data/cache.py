"""A cache of decoded arrays, so that later runs read a dataset without TensorFlow, and without decoding pictures.

A cache is used only as long as its sources have not changed: TFDS' files and version, or the pictures of a folder.
"""

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import numpy as np

from mnist_lib.archives import read_npz
from mnist_lib.data.availability import file_hashes
from mnist_lib.data.listing import Listing
from mnist_lib.data.request import ClassNames, DataRequest
from mnist_lib.data.split import Dataset, Split, Undecided
from mnist_lib.documents import Count, Text, decode, encode
from mnist_lib.errors import IntegrityError

CACHE_SCHEMA = 5
MAX_ARRAY_BYTES = 1 << 40  # in effect no limit, since the file is trusted
PARTS = ("train", "test", "undecided")
ARRAYS = (
    *(f"{part}_{values}" for part in PARTS for values in ("images", "labels", "hashes", "files")),
    *("ranks", "undecided_for_test", "undecided_ranks"),
)
ABOUT = "about"  # the array that holds JSON, as bytes
FIELDS = ("version", "classes", "fingerprint", "notices", "damaged")  # of a dataset

log = logging.getLogger(__name__)


class _About(TypedDict):
    source: Text
    version: Text
    classes: ClassNames
    fingerprint: Text
    notices: tuple[Text, ...]
    damaged: Count
    undecided: tuple[Text, ...] | None  # paths


def cache_path(data_dir: Path, name: str) -> Path:
    """Return the file of the cache. `data_dir`: the folder of prepared datasets."""
    return data_dir / ".decoded" / f"{name}.npz"


def write_cache(dataset: Dataset, path: Path, source: str) -> None:
    """Write the arrays of a dataset without corrections. Do nothing if the folder is not writable.

    Args:
        source: a text that changes with the arrays' sources; `read_cache` compares it.
    """
    undecided, none = dataset.undecided, np.empty(0, np.float32)
    about = {"source": source, **{field: getattr(dataset, field) for field in FIELDS}}
    about["undecided"] = undecided.paths if undecided else None
    parts = (dataset.train, dataset.test, undecided.split if undecided else dataset.train.take(np.empty(0, np.int64)))
    no_files = np.empty((0, 0), np.uint8)
    splits = [
        values
        for split in parts
        for values in (split.images, split.labels, split.hashes, no_files if split.files is None else split.files)
    ]
    ranks = none if dataset.ranks is None else dataset.ranks
    more = (undecided.for_test, undecided.ranks) if undecided else (none.astype(np.uint8), none)
    arrays = dict(zip(ARRAYS, (*splits, ranks, *more), strict=True))
    arrays[ABOUT] = np.frombuffer(encode(about), np.uint8)
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
        arrays = read_npz(path.read_bytes(), str(path), dict.fromkeys((*ARRAYS, ABOUT), MAX_ARRAY_BYTES))
        about = decode(arrays[ABOUT].tobytes(), _About, str(path))
        if about["source"] != source(about["version"]):
            return None
        train, test, undecided = (
            Split(*(arrays[f"{part}_{values}"] for values in ("images", "labels", "hashes", "files"))) for part in PARTS
        )
        if not arrays["train_files"].shape[1]:  # they are not known
            train, test, undecided = (replace(split, files=None) for split in (train, test, undecided))
        paths, more = about["undecided"], (arrays["undecided_for_test"], arrays["undecided_ranks"])
        return Dataset(
            name=name,
            version=about["version"],
            classes=about["classes"],
            train=train,
            test=test,
            fingerprint=about["fingerprint"],
            ranks=arrays["ranks"] if len(arrays["ranks"]) else None,
            notices=about["notices"],
            damaged=about["damaged"],
            undecided=None if paths is None else Undecided(undecided, *more, paths),
        )
    except (OSError, IntegrityError, ValueError) as error:  # ValueError: arrays that do not fit together
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
