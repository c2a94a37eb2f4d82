"""Copy a folder of pictures, with its corrections and groups, from a bucket to this machine. Only changes are read."""

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import filelock

from mnist_lib.catalog import MAX_PICTURE_BYTES, PICTURE_SUFFIXES
from mnist_lib.data.corrections import LABELS, MAX_LABELS_BYTES
from mnist_lib.data.csv_file import MAX_CSV_BYTES
from mnist_lib.data.groups import BY_FILE
from mnist_lib.data.request import TABLE, DataRequest
from mnist_lib.data.sources.availability import default_data_dir
from mnist_lib.documents import decode
from mnist_lib.errors import DataMissingError, IntegrityError, StoreError
from mnist_lib.objects.protocol import concurrently

if TYPE_CHECKING:
    from mnist_lib.objects.bucket import BucketObjects

# The maximum size of each file that is no picture.
MAX_BYTES = {LABELS: MAX_LABELS_BYTES, BY_FILE: MAX_CSV_BYTES, TABLE: MAX_CSV_BYTES}
# Hidden files, which readers of pictures ignore: the size and the tag of each copied object, and a lock.
STATE = ".mirror.json"
LOCK = ".mirror.lock"


def with_local_files(request: DataRequest) -> DataRequest:
    """If the pictures are in a bucket, copy them here and return a request for the copy.

    Raises:
        DataMissingError, StoreError: as `mirror`.
    """
    if request.url is None:
        return request
    number = hashlib.sha256(request.url.encode()).hexdigest()[:16]
    folder = (request.data_dir or default_data_dir()) / ".buckets" / number / request.name
    mirror(request.url, folder)
    return replace(request, dataset=str(folder))


def mirror(url: str, folder: Path) -> None:
    """Mirror a folder of pictures in a bucket: the local folder then holds exactly the same pictures.

    Raises:
        DataMissingError: the bucket cannot be listed, or has no pictures there.
        StoreError: an object cannot be read, or the folder cannot be written.
    """
    from mnist_lib.objects.bucket import BucketObjects  # obstore takes time to load, and folders do not need it

    try:
        bucket = BucketObjects(url)
        tags = wanted_tags(bucket)
    except StoreError as error:
        reason = str(error).partition(";")[0]
        raise DataMissingError(f"expected a folder of pictures in a bucket, got: {reason}; check --dataset") from error
    if not tags.keys() - MAX_BYTES.keys():
        raise DataMissingError(f"expected a folder of pictures in a bucket, got none in {url}; check --dataset")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / LOCK):
            known, kept = dict[str, list[Any]](), {*tags, STATE, LOCK}
            with contextlib.suppress(OSError, IntegrityError):  # an interrupted copy leaves the old tags
                known = decode((folder / STATE).read_bytes(), dict[str, list[Any]], STATE)
            for path in folder.rglob("*"):  # also leftovers of an interrupted copy
                if path.is_file() and path.relative_to(folder).as_posix() not in kept:
                    path.unlink()
            changed = [name for name, tag in tags.items() if known.get(name) != tag or _size(folder / name) != tag[0]]
            large = {name for name in changed if tags[name][0] > MAX_PICTURE_BYTES and name not in MAX_BYTES}
            for (
                name
            ) in large:  # not copied: a file of its size, but without content, so that it is reported as too large
                _replace(folder / name, b"")
                os.truncate(folder / name, tags[name][0])
            for _ in concurrently(
                bucket, partial(_copy, bucket, folder), [name for name in changed if name not in large]
            ):
                pass
            _replace(folder / STATE, json.dumps(tags).encode())
    except OSError as error:
        raise StoreError(f"{url} cannot be copied to {folder} ({error.strerror or error}); check --data-dir") from error


def wanted_tags(bucket: "BucketObjects") -> dict[str, list[Any]]:
    """Return the size and the tag of each picture in a bucket, and of the files in `MAX_BYTES`. Raises StoreError."""
    return {name: tag for name, tag in bucket.tags().items() if name in MAX_BYTES or _is_picture(name)}


def _size(path: Path) -> int | None:
    """Return the size of a file, which a power loss may have cut, or None if there is none."""
    return path.stat().st_size if path.exists() else None


def _copy(bucket: "BucketObjects", folder: Path, name: str) -> None:
    _replace(folder / name, bucket.content(name, MAX_BYTES.get(name, MAX_PICTURE_BYTES)))


def _replace(path: Path, content: bytes) -> None:
    """Write a file; other processes see it either old or new, never partial."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)


def _is_picture(name: str) -> bool:
    """Return whether a name is that of a picture inside the folder; a name from a bucket may be `../x.png`."""
    parts = PurePosixPath(name).parts
    inside = bool(parts) and not name.startswith("/") and "\0" not in name and not {".", ".."} & set(parts)
    return inside and name.lower().endswith(PICTURE_SUFFIXES)
