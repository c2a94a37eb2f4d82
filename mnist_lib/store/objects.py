"""Named bytes under one root, each written whole or not at all, and never half seen.

What a store needs of a disk or a bucket is little: read, create if absent, replace, list, delete. Creating is the one
operation that decides between writers: of those at once, exactly one is told that it did.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from mnist_lib.errors import StoreError


class Objects(Protocol):
    """Names are relative, their parts joined by "/". Every method raises StoreError when the storage refuses it."""

    def read(self, name: str) -> bytes | None:
        """None if there is none of that name."""
        ...

    def exists(self, name: str) -> bool: ...

    def create(self, name: str, content: bytes) -> bool:
        """False, and nothing done, if there is one already. When it returns, the object survives a power loss."""
        ...

    def replace(self, name: str, content: bytes) -> None:
        """Creates it, or puts it in place of what was there, in one instant; durable as `create`."""
        ...

    def names(self, prefix: str) -> Iterator[str]:
        """Every object below `prefix + "/"`, in order."""
        ...

    def delete(self, name: str) -> None:
        """Nothing if there is none."""
        ...

    def delete_below(self, prefix: str) -> None:
        """Every object below `prefix + "/"`; nothing if there is none."""
        ...


class LocalObjects:
    """Files below a folder. A temporary name begins with a dot and is no object."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> bytes | None:
        with self._told(name):
            try:
                return self._path(name).read_bytes()
            except FileNotFoundError:
                return None

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def create(self, name: str, content: bytes) -> bool:
        path = self._path(name)
        with self._told(name), _synced_file(path, content) as temporary:
            try:
                path.hardlink_to(temporary)  # refused when the name is taken
            except FileExistsError:
                return False
            _sync_folder(path.parent)
            return True

    def replace(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with self._told(name), _synced_file(path, content) as temporary:
            temporary.replace(path)
            _sync_folder(path.parent)

    def names(self, prefix: str) -> Iterator[str]:
        with self._told(prefix):
            found = [path for path in self._path(prefix).rglob("*") if path.is_file() and not path.name.startswith(".")]
        yield from sorted(path.relative_to(self._root).as_posix() for path in found)

    def delete(self, name: str) -> None:
        with self._told(name):
            self._path(name).unlink(missing_ok=True)

    def delete_below(self, prefix: str) -> None:
        folder = self._path(prefix)
        with self._told(prefix):
            if folder.is_dir():
                shutil.rmtree(folder)
                _sync_folder(folder.parent)

    def _path(self, name: str) -> Path:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name:
            raise StoreError(f"{name!r} is no name of an object; expected parts joined by '/', none of them '..'")
        return self._root / pure

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self._root / name
            raise StoreError(f"{path} cannot be written ({error.strerror}); name another with --storage") from error


@contextlib.contextmanager
def _synced_file(path: Path, content: bytes) -> Iterator[Path]:
    """A temporary file beside `path` with that content, on the disk; removed at the end if it is still there."""
    _make_folders(path.parent)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o666 & ~_umask())  # a temporary file is its owner's alone
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _make_folders(folder: Path) -> None:
    """With its parents, each of them there after a power loss."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """It can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
