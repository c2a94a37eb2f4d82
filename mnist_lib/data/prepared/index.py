"""The index of a prepared dataset: all of its table but the pixels, which are in a file beside it, so that later runs
read a dataset without TensorFlow, and without decoding pictures.

It is used only as long as its sources have not changed: TFDS' files and version, or the pictures of a folder, whose
labels are elsewhere. Schedules ask here, too, whether the files of a dataset have changed.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import filelock
import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.corrections import LabelsFile
from mnist_lib.data.dataset import Dataset, NearCopies, Report
from mnist_lib.data.images import Images, PixelFile, writing
from mnist_lib.data.near_copies import near_copies
from mnist_lib.data.prepared.folder import INDEX_SUFFIX, prepared_folders, remove_unused
from mnist_lib.data.request import DEFAULT_SIDE, ClassNames, DataRequest
from mnist_lib.data.sources.availability import default_data_dir
from mnist_lib.data.sources.listing import Listing, listing_of
from mnist_lib.data.sources.mirror import wanted_tags
from mnist_lib.data.table import NO_RECORDS, Table, with_records
from mnist_lib.documents import Count, Text, decode, encode
from mnist_lib.environment import package_versions
from mnist_lib.errors import DataError, DataFolderError, IntegrityError
from mnist_lib.objects.archives import hash_arrays
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.output_file import replacement

INDEX_SCHEMA = 12
LOCK_SECONDS = 7_200.0  # for a preparation by another process
NEAR_COPIES_SCHEMA = 1
NEAR_COPIES = ("compared", "test", "train")
ABOUT, ROWS, PICTURES = "about", "rows", "pictures"  # arrays besides the columns
OF_REPORT = ("notices", "unreadable", "has_test_folder")
OF_FILE = ("image_shape", "count", "checksum")
OF_TABLE = ("labels", "hashes", "files", "groups", "splits", "ranks", "validation", "conflicts")

# What is known about a picture of a folder. The key changes with its path, its state and the code that reads it.
PICTURE = np.dtype(
    [
        ("key", "S16"),
        ("shape", "<i4", 3),  # height, width and channels of the picture
        ("content", "<u8", 2),  # as in RECORD
        ("hash", "<u8", 2),  # as in `Table`
        ("row", "<i8"),  # of its image in the file of pixels; -1 if it is not there
    ]
)

log = logging.getLogger(__name__)


class _About(TypedDict):
    version: Text
    classes: ClassNames
    fingerprint: Text
    notices: tuple[Text, ...]
    unreadable: tuple[Text, ...]
    has_test_folder: bool
    image_shape: tuple[Count, Count, Count]
    count: Count
    checksum: Count


class Index(NamedTuple):
    dataset: Dataset  # without corrections
    file: PixelFile
    pictures: NDArray[np.void]  # array of PICTURE: those whose images are in the file
    source: str  # changes with the sources of the images

    def serves(self, request: DataRequest, state: str) -> bool:
        """Return whether the sources have not changed, and the images have the requested shape.

        An index that was prepared without a requested shape also serves a request for the shape that it has.
        """
        unshaped = replace(request, image_size=None, channels=None)
        served = {request, unshaped} if request == unshaped.shaped(self.dataset.image_shape) else {request}
        return self.source in {_source(each, state) for each in served}


def _source(request: DataRequest, state: str) -> str:
    return f"{state} {request.image_size} {request.channels}"


def index_path(folder: Path, name: str) -> Path:
    """Return the path of an index. `folder`: as `prepared_folder` returns it."""
    return folder / f"{name}{INDEX_SUFFIX}"


def index_name(request: DataRequest) -> str:
    """Return the name of the index of a dataset."""
    if request.entry is not None:
        return request.tfds_name
    source = request.tfds_name.encode()
    if request.folder is not None:
        source = os.fsencode(request.folder.resolve() / (request.table or ""))
    return f"{request.name}-{hashlib.sha256(source).hexdigest()[:16]}"


def tfds_folder(request: DataRequest, data_dir: Path) -> Path:
    """Return TFDS' folder of a dataset, with all its configurations and versions."""
    return data_dir / re.split("[/:]", request.tfds_name)[0]


def lock_preparation(name: str, path: Path) -> AbstractContextManager[Any]:
    """Acquire a lock among the processes of this machine. The kernel releases it if its holder dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(path, mode=0o666).acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as error:
        raise DataError(f"{name}: another process has held {path} for {LOCK_SECONDS:.0f} s; stop it") from error
    except OSError as error:
        folder = f"{path.parent} cannot be written ({error.strerror})"
        raise DataFolderError(f"{name}: {folder}; name another folder with --data-dir") from error


def write_index(
    dataset: Dataset, path: Path, request: DataRequest, state: str, pictures: NDArray[np.void] | None = None
) -> None:
    """Write the index of a dataset without corrections, whose images are in a file beside it, and remove unused files.

    Args:
        state: a text that changes with the sources of the images; `Index.serves` compares it.
        pictures: those of a folder, an array of PICTURE.
    """
    images: Any = dataset.table.images
    has = dict.fromkeys(OF_REPORT, dataset.report) | dict.fromkeys(OF_FILE, images.file)
    about = encode({field: getattr(has.get(field, dataset), field) for field in _About.__annotations__})
    arrays = {column: getattr(dataset.table, column) for column in OF_TABLE}
    arrays |= {ROWS: images.rows, ABOUT: np.frombuffer(about, np.uint8)}
    arrays[PICTURES] = np.empty(0, PICTURE) if pictures is None else pictures
    with writing(path.parent):
        _write_arrays(path, _source(request, state), arrays, images.file.path.name)
    remove_unused(path.parent)


def _write_arrays(path: Path, source: str, arrays: dict[str, Any], pixels: str = "") -> None:
    """Write a line (sha256 and source of the arrays, name of their file of pixels), and then the arrays.

    Raises:
        OSError: they cannot be written.
    """
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    header = f"{hashlib.sha256(content.getbuffer()).hexdigest()}\t{source}\t{pixels}\n"
    with replacement(path) as temporary, temporary.open("wb") as file:
        file.write(header.encode())
        file.write(content.getbuffer())


def _read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], str, str]:
    """Return the arrays, the source and the name of the file of pixels from a file of `_write_arrays`.

    Raises:
        OSError: it cannot be read.
        IntegrityError: it is damaged.
    """
    with path.open("rb") as file:  # the arrays of a million pictures take 124 MB, so they are not in memory twice
        header = file.readline().decode(errors="replace").removesuffix("\n")
        begin = file.tell()
        digest, _, rest = header.partition("\t")
        source, _, pixels = rest.partition("\t")
        got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != digest:
            raise IntegrityError(f"{path}: expected arrays with sha256 {digest[:64]}, got {got}")
        file.seek(begin)
        return dict(np.load(file, allow_pickle=False)), source, pixels


def read_index(name: str, path: Path) -> Index | None:
    """Return the index, or None if there is none, it is damaged, or its file of pixels is missing or cut."""
    try:
        arrays, source, pixels = _read_arrays(path)
        about: Any = decode(arrays.pop(ABOUT).tobytes(), _About, str(path))
    except (OSError, IntegrityError) as error:
        log.debug("%s: %s", path, error)
        return None
    rows, pictures = arrays.pop(ROWS), arrays.pop(PICTURES)
    file = PixelFile(path.parent, Path(pixels).stem, **{field: about.pop(field) for field in OF_FILE})
    if not file.is_complete() or arrays.keys() != {*OF_TABLE}:  # or it is of another release
        return None
    report = Report(**{field: about.pop(field) for field in OF_REPORT})
    dataset = Dataset(name=name, table=Table.of(Images(file, rows), **arrays), report=report, **about)
    return Index(dataset, file, pictures, source)


def prepared_dataset(request: DataRequest, state: str, records: NDArray[np.void] = NO_RECORDS) -> Dataset | None:
    """Return a dataset if it is prepared, even in a folder that this process may only read; otherwise None.

    Args:
        state: that of its sources, see `pictures_hash` and `tfds_hash`.
        records: the hashes that a storage has recorded for its pictures.
    """
    for folder in prepared_folders(request.data_dir):
        index = read_index(request.name, index_path(folder, index_name(request)))
        if index is not None and index.serves(request, state):
            hashes, new = with_records(index.pictures, records)
            if np.array_equal(hashes, index.pictures["hash"]):  # otherwise, its splits are not by the recorded ones
                return index.dataset.reporting(new_records=new)
    return None


def cached_near_copies(dataset: Dataset, path: Path, progress: Callable[[str], object]) -> NearCopies:
    """Return the near-copies of a dataset: from a file if images and splits are the same, or else computed."""
    columns = [part.hashes for part in (dataset.train, dataset.test)]
    source = f"{NEAR_COPIES_SCHEMA} {dataset.image_shape} {hash_arrays(columns)}"
    try:
        arrays, cached, _ = _read_arrays(path)
        if cached == source:
            return NearCopies(compared=int(arrays["compared"]), test=arrays["test"], train=arrays["train"])
    except (OSError, IntegrityError) as error:
        log.debug("%s: %s", path, error)
    found = near_copies(dataset, progress)
    with contextlib.suppress(OSError):  # they are computed again
        _write_arrays(path, source, {name: np.asarray(getattr(found, name)) for name in NEAR_COPIES})
    return found


def pictures_hash(listing: Listing) -> str:
    """Return the sha256 of all that the arrays of a folder depend on: its files and the reading code."""
    parts = (INDEX_SCHEMA, metadata.version("pillow"), listing.state, listing.notices, DEFAULT_SIDE)
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()


def known_pictures(paths: Sequence[Path], index: Index | None) -> NDArray[np.void]:
    """Return what an index knows about each picture, an array of PICTURE: only the key if it does not know one."""
    code = f"{INDEX_SCHEMA} {metadata.version('pillow')}"
    places = {} if index is None else {key: place for place, key in enumerate(index.pictures["key"].tolist())}
    pictures = np.zeros(len(paths), PICTURE)
    keys = list[bytes]()
    for path in paths:
        try:
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except OSError as error:  # reading it will be an error, too
            state = str(error)
        text = os.fsencode(f"{code}\0{state}\0{path}")
        keys.append(hashlib.blake2b(text, digest_size=PICTURE["key"].itemsize).digest())
    pictures["key"] = keys
    pictures["row"] = -1
    known = np.array([places.get(key, -1) for key in pictures["key"].tolist()], np.int64)
    if index is not None:
        pictures[known >= 0] = index.pictures[known[known >= 0]]
    return pictures


def tfds_hash(request: DataRequest, folder: Path) -> str:
    """Return the sha256 of all that a dataset of TFDS depends on, or "" if it has no files.

    Args:
        folder: as `tfds_folder` returns it. All configurations and versions count, since only TFDS knows, after a slow
            import, which of them it chooses.
    """
    files = [*_file_hashes(folder)]
    code = request.tfds_import and request.tfds_import.sha256
    versions = package_versions(), metadata.version("pillow")  # of what decodes and resizes images
    parts = repr((INDEX_SCHEMA, versions, request.tfds_name, code, request.splits, DEFAULT_SIDE)).encode()
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
            listing_of(request).state,
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
