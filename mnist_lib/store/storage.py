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
    parts = urlsplit(storage)
    if parts.scheme not in (*SCHEMES, "file", "memory"):
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise SpecError(f"storage: expected a folder, or a URL with {known}, got {parts.scheme}://")
    if "@" in parts.netloc or parts.query:
        raise SpecError(
            "storage: expected a URL without credentials, as in s3://bucket/folder; they are taken from where the "
            "provider's own tools look (environment, identity of the machine)"
        )
    if parts.scheme in SCHEMES and not parts.netloc:
        raise SpecError(f"storage: expected a bucket, as in {parts.scheme}://bucket/folder, got {storage}")


def open_storage(storage: str) -> Objects:
    """Raises SpecError as `check_storage` does; StoreError where a bucket cannot be had."""
    check_storage(storage)
    if storage.startswith("memory://"):
        return _in_memory(storage)
    if is_url(storage) and not storage.startswith("file://"):
        from mnist_lib.store.bucket import BucketObjects  # not everybody's

        return BucketObjects(storage)
    return LocalObjects(Path(storage.removeprefix("file://")).expanduser().absolute())


@functools.cache
def _in_memory(storage: str) -> Objects:
    """Of this process: for tests."""
    from obstore.store import MemoryStore

    from mnist_lib.store.bucket import BucketObjects

    return BucketObjects(storage, MemoryStore())
