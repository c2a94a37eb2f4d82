"""Objects as files below a folder. A temporary name begins with a dot and is no object.

Why not a library: obstore, which serves the buckets, does not fsync on a local disk.
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
from mnist_lib.errors import BusyError, IntegrityError, SpecError, StoreError, StoreFullError
from mnist_lib.store.objects import check_name

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")
SECONDS_OF_A_DAY = 86_400


class LocalObjects:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable: set[Path] = set()  # folders whose names were synced by this process

    def read(self, name: str) -> bytes | None:
        with self._reported(name):
            try:
                descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NONBLOCK)  # or a pipe would be waited for
            except FileNotFoundError:
                return None
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise IntegrityError(f"{self._path(name)}: expected a file, got something else; remove it")
            with os.fdopen(descriptor, "rb") as file:
                return file.read()

    def exists(self, name: str) -> bool:
        with self._reported(name):
            return os.path.lexists(self._path(name))  # whatever it is: `create` is refused

    def create(self, name: str, content: bytes) -> bool:
        path = self._path(name)
        with self._reported(name, len(content)), self._synced_file(path, content) as temporary:
            try:
                path.hardlink_to(temporary)  # refused when the name is taken
            except FileExistsError:
                sync(path.parent)  # who made it may have died before
                return False
            sync(path.parent)
            return True

    def replace(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with self._reported(name, len(content)), self._synced_file(path, content) as temporary:
            temporary.replace(path)
            sync(path.parent)

    def append(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with self._reported(name, len(content)):
            self._make_folder(path.parent)
            with path.open("ab") as file:
                file.write(content)

    def flush(self) -> None:
        """Nothing is kept back."""

    def names(self, prefix: str) -> Iterator[str]:
        if not self._root.is_dir():
            raise StoreError(f"{self._root}: expected a folder, there is none; name another with --storage")
        folder = self._path(prefix) if prefix else self._root
        with self._reported(prefix):
            found = [path for path in _paths_below(folder) if not TEMPORARY.fullmatch(path.name)]
        yield from sorted(path.relative_to(self._root).as_posix() for path in found)

    def delete(self, name: str) -> None:
        with self._reported(name):
            self._path(name).unlink(missing_ok=True)

    def delete_below(self, prefix: str) -> None:
        """Of two at once, each may find gone what it was about to remove."""
        folder = self._path(prefix)
        with self._reported(prefix):
            self._durable.clear()
            for path in _paths_below(folder):
                path.unlink(missing_ok=True)
            for below, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(FileNotFoundError):
                    Path(below).rmdir()
            if folder.parent.is_dir():
                sync(folder.parent)

    def delete_leftovers(self, prefix: str) -> None:
        folder = self._path(prefix)
        with self._reported(prefix):
            for below, _, files in os.walk(folder):
                for path in (Path(below, file) for file in files if TEMPORARY.fullmatch(file)):
                    with contextlib.suppress(FileNotFoundError):
                        if time.time() - path.stat().st_mtime > SECONDS_OF_A_DAY:
                            path.unlink()

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        path = self._path(name)
        with self._reported(name):
            self._make_folder(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise BusyError(f"{path}: held by {holder}; wait for it to end, or end it") from None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now_text()}".encode())
        try:
            yield
        finally:
            os.close(descriptor)

    def where(self, name: str) -> str:
        return str(self._path(name))

    def _path(self, name: str) -> Path:
        check_name(name)
        return self._root / name

    @contextlib.contextmanager
    def _synced_file(self, path: Path, content: bytes) -> Iterator[Path]:
        """A temporary file beside `path` with that content, on the disk; removed at the end if it is still there."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            self._make_folder(path.parent)
            try:
                file = temporary.open("xb")
            except FileNotFoundError:  # another has deleted the folder meanwhile
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
        """With its parents, each of them there after a power loss, also when another made it and died."""
        if folder in self._durable:
            return
        if folder == self._root:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # the root may lie in a folder that cannot be read
            sync(folder.parent)
        self._durable.add(folder)

    @contextlib.contextmanager
    def _reported(self, name: str, needed: int = 0) -> Iterator[None]:
        path = self._root / name
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                there = next(folder for folder in (self._root, *self._root.parents) if folder.exists())
                free = shutil.disk_usage(there).free
                raise StoreFullError(
                    f"{path} needs {needed:,} bytes, {free:,} are free; free some (jobs.models gc) or use --storage"
                ) from error
            # Not str(error): it names a temporary file.
            reason = error.strerror or type(error).__name__
            raise StoreError(f"{path} cannot be read or written ({reason}); name another with --storage") from error


def _paths_below(folder: Path) -> list[Path]:
    """All that is not a folder; links are not followed."""

    def refused(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    if folder.is_symlink() or folder.is_file():
        return [folder]
    found = []
    for below, folders, files in os.walk(folder, onerror=refused):
        links = [name for name in folders if Path(below, name).is_symlink()]
        found += [Path(below, name) for name in (*files, *links)]
    return found


def sync(path: Path) -> None:
    """Of a folder: the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_free(target: Path) -> None:
    """Raises SpecError when something is there already."""
    if os.path.lexists(target):
        raise SpecError(f"{target}: expected nothing there yet; remove it, or name another place")


@contextlib.contextmanager
def whole_at(target: Path) -> Iterator[Path]:
    """A place beside `target` to write a file or a folder to. It is moved there at the end; after an exception it is
    gone.

    Raises:
        StoreError: it cannot be written.
    """
    if not target.parent.is_dir():  # TensorFlow would make it
        raise StoreError(f"{target}: expected a folder {target.parent}; name another place")
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        for path in [temporary, *temporary.rglob("*")]:
            sync(path)
        temporary.rename(target)
        sync(target.parent)
    except OSError as error:
        raise StoreError(f"{target} cannot be written ({error.strerror or error}); name another place") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
