"""Copy a folder of pictures from a bucket to this machine; later, only what has changed since."""

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mnist_lib.data.availability import default_data_dir
from mnist_lib.data.request import DataRequest
from mnist_lib.errors import DataMissingError, StoreError
from mnist_lib.store.objects import concurrently

if TYPE_CHECKING:
    from mnist_lib.store.bucket import BucketObjects

STATE = ".mirror.json"  # the size and the tag of each copied object; readers of pictures ignore hidden files


def with_local_files(request: DataRequest) -> DataRequest:
    """Return the request for a copy of the pictures on this machine, if they are in a bucket.

    Raises:
        DataMissingError, StoreError: as `mirror`.
        DataFolderError: there is no folder for the copy.
    """
    if request.url is None:
        return request
    number = hashlib.sha256(request.url.encode()).hexdigest()[:16]
    folder = (request.data_dir or default_data_dir()) / ".buckets" / number / request.name
    mirror(request.url, folder)
    return replace(request, dataset=str(folder))


def mirror(url: str, folder: Path) -> None:
    """Make a local folder equal to a folder in a bucket.

    Raises:
        DataMissingError: the bucket cannot be listed.
        StoreError: an object cannot be read, or the folder cannot be written.
    """
    from mnist_lib.store.bucket import BucketObjects  # obstore takes time to load, and folders do not need it

    try:
        bucket = BucketObjects(url)
        listed = {name: tag for name, tag in bucket.tags().items() if _is_relative(name)}
    except StoreError as error:
        reason = str(error).partition(";")[0]
        raise DataMissingError(f"expected a folder of pictures in a bucket, got: {reason}; check --dataset") from error
    state = folder / STATE
    try:
        known = json.loads(state.read_text()) if state.exists() else {}
        state.unlink(missing_ok=True)  # so that a copy that is interrupted is not believed
        for name in known.keys() - listed.keys():
            (folder / name).unlink(missing_ok=True)
        changed = [name for name, tag in listed.items() if known.get(name) != tag or not (folder / name).exists()]
        for _ in concurrently(partial(_copy, bucket, folder), changed):
            pass
        folder.mkdir(parents=True, exist_ok=True)
        state.write_text(json.dumps(listed))
    except OSError as error:
        raise StoreError(f"{url} cannot be copied to {folder} ({error.strerror or error}); check --data-dir") from error


def _copy(bucket: "BucketObjects", folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bucket.content(name))


def _is_relative(name: str) -> bool:
    """Return whether a name stays within the folder, which any object of a bucket may try to leave."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and "\0" not in name and not {".", ".."} & set(parts)
