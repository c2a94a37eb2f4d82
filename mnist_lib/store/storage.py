"""`--storage`: a folder, or the URL of a place in a bucket -> the objects there."""

import functools
import re
from pathlib import Path
from urllib.parse import urlsplit

from mnist_lib.errors import SpecError
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.objects import Objects

SCHEMES = ("s3", "gs", "az")


def is_url(storage: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", storage) is not None


def check_storage(storage: str) -> None:
    """Raises SpecError for a URL of a kind that is not known, or with a password in it."""
    if not is_url(storage):
        return
    try:
        parts = urlsplit(storage)  # which has the scheme in lower case
    except ValueError as error:
        raise SpecError(f"storage: expected a URL as in s3://bucket/folder: {error}") from error
    if parts.scheme not in (*SCHEMES, "file"):
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise SpecError(f"storage: expected a folder, or a URL with {known}, got {parts.scheme}://")
    if "@" in storage or parts.query:
        raise SpecError(
            "storage: expected a URL without credentials, as in s3://bucket/folder; they are taken from where the "
            "provider's own tools look (environment, identity of the machine)"
        )
    if parts.scheme in SCHEMES and not parts.netloc:
        raise SpecError(f"storage: expected a bucket, as in {parts.scheme}://bucket/folder")


def open_storage(storage: str) -> Objects:
    """Raises SpecError as `check_storage` does; StoreError where a bucket cannot be had."""
    if storage.startswith("memory://"):
        return _in_memory(storage)
    check_storage(storage)
    scheme, _, path = storage.partition("://")
    if is_url(storage) and scheme.lower() != "file":
        from mnist_lib.store.bucket import BucketObjects  # not everybody's

        return BucketObjects(storage)
    try:
        return LocalObjects(Path(path if is_url(storage) else storage).expanduser().absolute())
    except RuntimeError as error:  # ~somebody
        raise SpecError(f"storage: {error}") from error


@functools.cache
def _in_memory(storage: str) -> Objects:
    """For tests: it ends with this process, so `check_storage` refuses it to users."""
    from obstore.store import MemoryStore

    from mnist_lib.store.bucket import BucketObjects

    return BucketObjects(storage, MemoryStore())
