"""Objects as files below a folder. A temporary name begins with a dot and is no object.

Why not a library: obstore, which serves the buckets, does not fsync on a local disk.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mnist_lib.errors import StoreError, StoreFullError
from mnist_lib.store.objects import check_name


class LocalObjects:
    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> bytes | None:
        with self._told(name):
            try:
                return self._path(name).read_bytes()
            except FileNotFoundError:
                return None

    def exists(self, name: str) -> bool:
        with self._told(name):
            return self._path(name).is_file()

    def create(self, name: str, content: bytes) -> bool:
        path = self._path(name)
        with self._told(name, len(content)), _synced_file(path, content) as temporary:
            try:
                path.hardlink_to(temporary)  # refused when the name is taken
            except FileExistsError:
                return False
            _sync_folder(path.parent)
            return True

    def replace(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with self._told(name, len(content)), _synced_file(path, content) as temporary:
            temporary.replace(path)
            _sync_folder(path.parent)

    def append(self, name: str, content: bytes) -> None:
        with self._told(name, len(content)), self._path(name).open("ab") as file:
            file.write(content)

    def flush(self) -> None:
        """Nothing is kept back."""

    def names(self, prefix: str) -> Iterator[str]:
        with self._told(prefix):
            folder = self._path(prefix) if prefix else self._root
            found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
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

    def where(self, name: str) -> str:
        return str(self._path(name))

    def _path(self, name: str) -> Path:
        check_name(name)
        return self._root / name

    @contextlib.contextmanager
    def _told(self, name: str, needed: int = 0) -> Iterator[None]:
        path = self._root / name
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(self._root).free
                raise StoreFullError(
                    f"{path} needs {needed:,} bytes, {free:,} are free; free some (jobs.models gc) or use --storage"
                ) from error
            # Not str(error): it names a temporary file.
            raise StoreError(
                f"{path} cannot be read or written ({error.strerror}); name another with --storage"
            ) from error


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
