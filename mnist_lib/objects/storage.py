"""The option `--storage`: opens a folder, or the bucket and path that a URL names, as `Objects`."""

import functools
import re
from pathlib import Path
from urllib.parse import urlsplit

from mnist_lib.errors import SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects

SCHEMES = ("s3", "gs", "az")


def is_url(storage: str) -> bool:
    """Return whether a storage is given as a URL of any scheme rather than as a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", storage) is not None


def folder_of(storage: str) -> Path | None:
    """Return the path of a storage; None if it is a bucket. Raises SpecError for the home of an unknown user."""
    scheme, _, path = storage.partition("://")
    if is_url(storage) and scheme.lower() != "file":
        return None
    try:
        return Path(path if is_url(storage) else storage).expanduser().absolute()
    except RuntimeError as error:  # the user in ~user is unknown
        raise SpecError(f"storage: {error}") from error


def check_storage(storage: str) -> None:
    """Raise SpecError for a URL of an unknown scheme, or one that contains credentials."""
    if not is_url(storage):
        return
    try:
        parts = urlsplit(storage)  # makes the scheme lower case
    except ValueError as error:
        raise SpecError(f"storage: expected a URL such as s3://bucket/folder: {error}") from error
    if parts.scheme not in (*SCHEMES, "file"):
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise SpecError(f"storage: expected a folder, or a URL with {known}, got {parts.scheme}://")
    if "@" in storage or parts.query:
        raise SpecError(
            "storage: expected a URL without credentials, such as s3://bucket/folder; configure them as for the "
            "provider's own tools (in the environment, or as the machine's identity)"
        )
    if parts.scheme in SCHEMES and not parts.netloc:
        raise SpecError(f"storage: expected a bucket, such as {parts.scheme}://bucket/folder, got no name")


def open_storage(storage: str) -> Objects:
    """Open a storage without creating anything. Raises SpecError or StoreError if it cannot be opened."""
    if storage.startswith("memory://"):
        return _open_memory(storage)
    check_storage(storage)
    if (folder := folder_of(storage)) is None:
        from mnist_lib.objects.bucket import BucketObjects  # obstore takes time to load, and folders do not need it

        return BucketObjects(storage)
    return LocalObjects(folder, mode=0o700)  # a storage is private, unless its user shares it


@functools.cache
def _open_memory(storage: str) -> Objects:
    """Return a storage in the memory of this process, for tests only: `check_storage` refuses its URL."""
    from obstore.store import MemoryStore

    from mnist_lib.objects.bucket import BucketObjects

    return BucketObjects(storage, MemoryStore())
