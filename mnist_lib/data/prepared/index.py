"""The index of a prepared dataset: all of its table but the pixels, which are in shards, so that later runs read a
dataset without TensorFlow, and without decoding pictures.

It is used only as long as its sources have not changed: TFDS' files and version, or the pictures of a folder. Schedules
ask here, too, whether the files of a dataset have changed.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

import filelock
import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.availability import default_data_dir
from mnist_lib.data.corrections import LabelsFile
from mnist_lib.data.listing import Listing, list_folder
from mnist_lib.data.mirror import wanted_tags
from mnist_lib.data.near_copies import near_copies
from mnist_lib.data.prepared.folder import remove_unused, writing
from mnist_lib.data.prepared.journal import KEY, Journal
from mnist_lib.data.request import DEFAULT_SIDE, ClassNames, DataRequest
from mnist_lib.data.shards import PREPARED, Images, Shards
from mnist_lib.data.split import COLUMNS, Dataset, NearCopies
from mnist_lib.documents import Count, Text, decode, encode, reading
from mnist_lib.environment import package_versions
from mnist_lib.errors import DataError, DataFolderError, IntegrityError
from mnist_lib.objects.archives import hash_arrays, read_npz
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.output_file import replacement

INDEX_SCHEMA = 9
LOCK_SECONDS = 7_200.0  # for a preparation by another process
MAX_ARRAY_BYTES = 1 << 40  # in effect no limit, since the file is trusted
NEAR_COPIES_SCHEMA = 1
NEAR_COPIES = ("compared", "test", "train")
SOURCE, ABOUT = "source", "about"  # arrays that hold text and JSON, as bytes
# In place of the images: their rows in the shards, the sha256 of these, the number of images in each, and checksums.
IN_SHARDS = (ROWS, SHARDS, COUNTS, CHECKSUMS) = ("rows", "shards", "counts", "checksums")
OF_TABLE = tuple(column for column in COLUMNS if column != "images")

log = logging.getLogger(__name__)


class _About(TypedDict):
    version: Text
    classes: ClassNames
    fingerprint: Text
    notices: tuple[Text, ...]
    unreadable: tuple[Text, ...]
    has_test_folder: bool
    image_shape: tuple[Count, Count, Count]


def index_path(folder: Path, name: str) -> Path:
    """Return the path of an index. `folder`: as `shards_folder` returns it."""
    return folder / f"{name}.npz"


def folder_index_path(request: DataRequest, folder: Path, prepared: Path) -> Path:
    """Return the path of the index of a folder of pictures. `prepared`: as `shards_folder` returns it."""
    number = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return index_path(prepared, f"{request.name}-{number}")


def tfds_index_path(request: DataRequest, prepared: Path) -> Path:
    """Return the path of the index of a dataset of TFDS. `prepared`: as `shards_folder` returns it."""
    number = hashlib.sha256(request.tfds_name.encode()).hexdigest()[:16]
    return index_path(prepared, request.tfds_name if request.entry else f"{request.name}-{number}")


def tfds_folder(request: DataRequest, data_dir: Path) -> Path:
    """Return TFDS' folder of a dataset, with all its configurations and versions."""
    return data_dir / re.split("[/:]", request.tfds_name)[0]


def lock_preparation(name: str, path: Path) -> AbstractContextManager[Any]:
    """Acquire a lock among the processes of this machine. The kernel releases it if its holder dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(path).acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as error:
        raise DataError(f"{name}: another process has held {path} for {LOCK_SECONDS:.0f} s; stop it") from error
    except OSError as error:
        folder = f"{path.parent} cannot be written ({error.strerror})"
        raise DataFolderError(f"{name}: {folder}; name another folder with --data-dir") from error


def write_index(dataset: Dataset, path: Path, source: str, journal: Journal | None = None) -> None:
    """Write the index of a dataset without corrections, whose images are in shards beside it, and remove unused shards.

    Args:
        source: a text that changes with the sources of the images; `read_index` compares it.
        journal: that of its preparation, which is reduced to what is used.
    """
    images: Any = dataset.images
    shards: Shards = images.source
    columns = {column: getattr(dataset, column) for column in OF_TABLE}
    in_shards = (images.rows, shards.digests, np.array(shards.counts), shards.checksums)
    about = encode({field: getattr(dataset, field) for field in _About.__annotations__})
    own = {**dict(zip(IN_SHARDS, in_shards, strict=True)), ABOUT: np.frombuffer(about, np.uint8)}
    with writing(path.parent):
        write_arrays(path, source, {**columns, **own})
    if journal is not None:
        with contextlib.suppress(OSError):
            journal.rewrite()
    remove_unused(path.parent)
    if path.parent.name == PREPARED:
        shutil.rmtree(path.parent.with_name(".decoded"), ignore_errors=True)  # of earlier releases


def write_arrays(path: Path, source: str, arrays: dict[str, Any]) -> None:
    """Write arrays as `write_index` does. Raises OSError if they cannot be written."""
    arrays = {**arrays, SOURCE: np.frombuffer(source.encode(), np.uint8)}
    with replacement(path) as temporary, temporary.open("wb") as file:  # a name would get the suffix .npz
        np.savez(file, allow_pickle=False, **arrays)


def read_index(name: str, path: Path, states: Callable[[_About], Collection[str]]) -> Dataset | None:
    """Return the prepared dataset, or None if there is none, it is stale or damaged, or a shard is missing or cut.

    Args:
        states: takes what the index says about the dataset, and returns the states of its sources that it may have.
    """
    try:
        with reading(str(path)):
            arrays = read_npz(path.read_bytes(), MAX_ARRAY_BYTES)
            about: Any = decode(arrays[ABOUT].tobytes(), _About, str(path))
            if arrays[SOURCE].tobytes().decode() not in states(about):
                return None
            rows, digests, counts, checksums = (arrays[name] for name in IN_SHARDS)
            columns: dict[str, Any] = {name: arrays[name] for name in OF_TABLE}
    except IntegrityError as error:
        log.debug("%s: %s", path, error)
        return None
    names = tuple(digest.tobytes().hex() for digest in digests)
    shards = Shards(path.parent, about.pop("image_shape"), names, tuple(counts.tolist()), checksums)
    if not shards.is_complete():
        return None
    shards.touch()
    return Dataset(name=name, **about, **columns, images=Images(shards, rows))


def states_for(request: DataRequest, state: Callable[[DataRequest, str], str]) -> Callable[[_About], list[str]]:
    """Return, for `read_index`, which states of the sources serve a request.

    An index that was prepared without a requested shape also serves a request for the shape that it has.

    Args:
        state: returns the state of the sources for a request and a version of the dataset.
    """
    unshaped = replace(request, image_size=None, channels=None)

    def states(about: _About) -> list[str]:
        served = {request, unshaped} if request == unshaped.shaped(about["image_shape"]) else {request}
        return [state(each, about["version"]) for each in served]

    return states


def cached_near_copies(dataset: Dataset, path: Path, progress: Callable[[str], object]) -> NearCopies:
    """Return the near-copies of a dataset: from a file if images and splits are the same, or else computed."""
    columns = [part.hashes for part in (dataset.train, dataset.test)]
    source = f"{NEAR_COPIES_SCHEMA} {dataset.image_shape} {hash_arrays(columns)}"
    try:
        with reading(str(path)):
            arrays = read_npz(path.read_bytes(), MAX_ARRAY_BYTES)
            if arrays[SOURCE].tobytes().decode() == source:
                return NearCopies(compared=int(arrays["compared"]), test=arrays["test"], train=arrays["train"])
    except IntegrityError as error:
        log.debug("%s: %s", path, error)
    found = near_copies(dataset, progress)
    with contextlib.suppress(OSError):  # they are computed again
        write_arrays(path, source, {name: np.asarray(getattr(found, name)) for name in NEAR_COPIES})
    return found


def pictures_hash(listing: Listing, request: DataRequest) -> str:
    """Return the sha256 of all that the arrays of a folder depend on: its files, the options and the reading code."""
    pillow = metadata.version("pillow")
    shape = request.image_size, request.channels, DEFAULT_SIDE
    parts = (INDEX_SCHEMA, pillow, listing.state, listing.notices, *shape)
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()


def picture_keys(paths: Sequence[Path]) -> NDArray[np.bytes_]:
    """Return for each picture what changes with its path, its state and the code that reads it: [paths] of `KEY`."""
    code, keys = f"{INDEX_SCHEMA} {metadata.version('pillow')}", list[bytes]()
    for path in paths:
        try:
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except OSError as error:  # reading it will be an error, too
            state = str(error)
        text = os.fsencode(f"{code}\0{state}\0{path}")
        keys.append(hashlib.blake2b(text, digest_size=KEY.itemsize).digest())
    return np.array(keys, KEY)


def source_hash(prepared: Path) -> str:
    """Return the sha256 of all sources of the arrays: TFDS' files and version.

    Args:
        prepared: TFDS' folder of a version, such as `~/tensorflow_datasets/mnist/3.0.1`.
    """
    versions = f"{INDEX_SCHEMA} {metadata.version('tensorflow-datasets')}\n".encode()
    return hashlib.sha256(b"".join((versions, *_file_hashes(prepared)))).hexdigest()


def builder_hash(request: DataRequest, folder: Path) -> str:
    """Return the sha256 of all that a dataset of TFDS outside the catalog depends on, or "" if it has no files.

    Args:
        folder: as `tfds_folder` returns it. All configurations and versions count, since only TFDS knows, after a slow
            import, which of them it chooses.
    """
    files = [*_file_hashes(folder)]
    code = request.tfds_import and request.tfds_import.sha256
    options = request.tfds_name, code, request.splits, request.image_size, request.channels, DEFAULT_SIDE
    versions = package_versions(), metadata.version("pillow")  # of what decodes and resizes images
    parts = repr((INDEX_SCHEMA, versions, options)).encode()
    return hashlib.sha256(b"".join((parts, *files))).hexdigest() if files else ""


def fingerprint_of_files(request: DataRequest, labels: bytes = b"") -> str | None:
    """Return a hash of a dataset's files and corrections as they are now, or None if there are no files.

    If it is unchanged, no run is needed.

    Args:
        labels: the corrections in the storage, of a dataset that is not a folder.

    Raises:
        DataError: a folder cannot be listed.
        StoreError: a bucket cannot be listed, or corrections cannot be read.
    """
    state: Any
    if request.url is not None:
        from mnist_lib.objects.bucket import BucketObjects  # obstore takes time to load, and folders do not need it

        state = wanted_tags(BucketObjects(request.url))
    elif request.folder is not None:
        state, labels = (
            list_folder(request.folder, group_by=request.group_by).state,
            LabelsFile(LocalObjects(request.folder)).content(),
        )
    elif request.entry is not None and request.entry.embedded:
        state = request.dataset
    else:
        folder = tfds_folder(request, request.data_dir or default_data_dir())
        state = [os.fsdecode(line) for line in _file_hashes(folder, ignored_suffix=".json")]
        if not state:
            return None
    document = json.dumps([state, hashlib.sha256(labels).hexdigest()], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


def _file_hashes(folder: Path, ignored_suffix: str | None = None) -> Iterator[bytes]:
    """Yield a line "path sha256" for each file below the folder, in the order of the paths."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ignored_suffix:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            yield os.fsencode(f"{path.relative_to(folder).as_posix()} {sha256}\n")
