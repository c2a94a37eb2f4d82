"""Files on this machine: objects below a folder, and single output files outside of any storage.

Both are written to a temporary file, synced, and then given their name, so a file is complete or absent. The folder is
synced too; otherwise a power loss can remove the name of a file whose content is on the disk. obstore, which is used
for buckets, is not used here because it does not sync local files.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from mnist_lib.clock import now_text
from mnist_lib.errors import BusyError, IntegrityError, OutputError, SpecError, StoreError, StoreFullError
from mnist_lib.objects.protocol import MAX_RECORD_BYTES, check_name, require_size

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")  # no valid name of an object begins with a dot
LEFTOVER_AGE_SECONDS = 86_400


class LocalObjects:
    """Objects as files below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable: set[Path] = set()  # folders that this process has created or found, and synced

    def read(self, name: str, limit: int = MAX_RECORD_BYTES) -> bytes | None:
        with self._store_errors(name):
            try:
                descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NONBLOCK)  # do not wait if it is a pipe
            except FileNotFoundError:
                return None
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                os.close(descriptor)
                raise IntegrityError(f"{self._path(name)}: expected a regular file, got something else; remove it")
            with os.fdopen(descriptor, "rb") as file:
                require_size(self.where(name), status.st_size, limit)
                return file.read(limit)

    def exists(self, name: str) -> bool:
        with self._store_errors(name):
            return os.path.lexists(self._path(name))  # also for a folder or a broken link: `create` would fail

    def create(self, name: str, content: bytes) -> bool:
        path = self._path(name)
        with self._store_errors(name, len(content)), self._synced_file(path, content) as temporary:
            try:
                path.hardlink_to(temporary)  # fails if the name is taken
            except FileExistsError:
                _sync(path.parent)  # its creator may have died before this sync
                return False
            _sync(path.parent)
            return True

    def replace(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with self._store_errors(name, len(content)), self._synced_file(path, content) as temporary:
            temporary.replace(path)
            _sync(path.parent)

    def append(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with self._store_errors(name, len(content)):
            self._make_folder(path.parent)
            with path.open("ab") as file:
                file.write(content)

    def flush(self) -> None:
        """Do nothing: `append` buffers nothing."""

    def names(self, prefix: str) -> Iterator[str]:
        self._require_root()
        folder = self._path(prefix) if prefix else self._root
        with self._store_errors(prefix):
            found = [path for path in _paths_below(folder) if not TEMPORARY.fullmatch(path.name)]
        yield from sorted(path.relative_to(self._root).as_posix() for path in found)

    def folders(self, prefix: str) -> list[str]:
        self._require_root()
        with self._store_errors(prefix), contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self._path(prefix)) if entry.is_dir(follow_symlinks=False))
        return []

    def delete(self, name: str) -> None:
        with self._store_errors(name):
            self._path(name).unlink(missing_ok=True)

    def delete_below(self, prefix: str) -> None:
        folder = self._path(prefix)
        with self._store_errors(prefix):
            self._durable.clear()
            for path in _paths_below(folder):
                path.unlink(missing_ok=True)  # another process may be deleting the same files
            for below, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(FileNotFoundError):
                    Path(below).rmdir()
            if folder.parent.is_dir():
                _sync(folder.parent)

    def delete_leftovers(self, prefix: str) -> None:
        with self._store_errors(prefix):
            for path in _paths_below(self._path(prefix)):
                with contextlib.suppress(FileNotFoundError):
                    old = time.time() - path.lstat().st_mtime > LEFTOVER_AGE_SECONDS
                    if old and TEMPORARY.fullmatch(path.name):
                        path.unlink()

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator["LocalObjects"]:
        path = self._path(name)
        with self._store_errors(name):
            self._make_folder(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise BusyError(
                    f"{path}: expected no lock, got one held by {holder}; wait for that process, or end it"
                ) from None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now_text()}".encode())
        try:
            yield self
        finally:
            os.close(descriptor)

    def where(self, name: str) -> str:
        return str(self._path(name))

    def _path(self, name: str) -> Path:
        check_name(name)
        return self._root / name

    @contextlib.contextmanager
    def _synced_file(self, path: Path, content: bytes) -> Iterator[Path]:
        """Yield a synced temporary file beside `path` with that content; delete it afterwards if it still exists."""
        temporary = _temporary_beside(path)
        try:
            self._make_folder(path.parent)
            try:
                file = temporary.open("xb")
            except FileNotFoundError:  # another process has deleted the folder since
                self._durable.clear()
                self._make_folder(path.parent)
                file = temporary.open("xb")
            with file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        """Create and sync a folder and its parents, even existing ones: their creator may have died before syncing."""
        if folder in self._durable:
            return
        if folder == self._root:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # the parent of the root may be unreadable
            _sync(folder.parent)
        self._durable.add(folder)

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise StoreError(f"{self._root}: expected a folder, got none; name another with --storage")

    @contextlib.contextmanager
    def _store_errors(self, name: str, needed: int = 0) -> Iterator[None]:
        """Turn an OSError into a StoreError; `needed`: the number of bytes to write."""
        path = self._root / name
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__  # str(error) would name a temporary file
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                disk = next(folder for folder in (self._root, *self._root.parents) if folder.exists())
                raise StoreFullError(
                    f"{path}: expected {needed:,} bytes of free space, got {shutil.disk_usage(disk).free:,} ({reason})"
                    "; delete old versions (jobs.models gc) or choose another storage with --storage"
                ) from error
            raise StoreError(f"{path} cannot be read or written ({reason}); name another with --storage") from error


@contextlib.contextmanager
def atomic_output(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write a file or a folder to. It becomes `target`, or is deleted on an exception.

    Raises OutputError if it cannot be written.
    """
    if not target.parent.is_dir():  # TensorFlow would create it
        raise OutputError(f"{target}: expected a folder {target.parent}, got none; name another place")
    temporary = _temporary_beside(target)
    try:
        yield temporary
        for path in [temporary, *temporary.rglob("*")]:
            _sync(path)
        temporary.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror or error}); name another place") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def require_absent(target: Path) -> None:
    """Raise SpecError if something exists at that path."""
    if os.path.lexists(target):
        raise SpecError(f"{target}: expected nothing at this path, got a file or folder; remove it, or name another")


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _paths_below(folder: Path) -> list[Path]:
    """Return the paths of everything that is not a folder. Links are returned, not followed."""

    def raise_unless_absent(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    if folder.is_symlink() or folder.is_file():
        return [folder]
    found = []
    for below, folders, files in os.walk(folder, onerror=raise_unless_absent):
        links = [name for name in folders if Path(below, name).is_symlink()]
        found += [Path(below, name) for name in (*files, *links)]
    return found


def _sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
