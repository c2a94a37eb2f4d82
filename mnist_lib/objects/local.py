"""Objects as files below a folder of this machine.

Each is written to a temporary file, synced, and then given its name, so it is complete or absent. The folder is synced,
too; otherwise a power loss can remove the name of a file whose content is on the disk. obstore, which is used for
buckets, is not used here because it does not sync local files.
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
from typing import IO

from mnist_lib.documents import complete_lines
from mnist_lib.environment import now_text
from mnist_lib.errors import BusyError, IntegrityError, StoreError, StoreFullError
from mnist_lib.objects.output_file import sync
from mnist_lib.objects.protocol import MAX_DOCUMENT_BYTES, MAX_RECORD_BYTES, check_name, require_size

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")  # no valid name of an object begins with a dot
MAX_LOCKED_SECONDS = 60.0  # to wait for a process that appends to the same file
LOCK_POLL_SECONDS = 0.005
MAX_LINE_BYTES = MAX_DOCUMENT_BYTES


class LocalObjects:
    """Objects as files below a folder.

    Links to folders are followed when an object is read or written, but not when all objects are listed or deleted. A
    link in place of a file is refused: in a folder of pictures that others supply, `labels.jsonl` could lead anywhere.

    Args:
        mode: permissions of the folder if it is created here; those of everything below it follow from the umask.
    """

    max_concurrent_requests = 1

    def __init__(self, root: Path, *, mode: int = 0o777) -> None:
        self._root = root
        self._mode = mode
        self._durable: set[Path] = set()  # folders that this process has created or found, and synced
        self._unsynced: set[str] = set()  # files to which this process has appended

    def read(self, name: str, limit: int = MAX_RECORD_BYTES) -> bytes | None:
        with self._store_errors(name), self._reading(name) as file:
            if file is None:
                return None
            size = os.fstat(file.fileno()).st_size
            require_size(self.where(name), size, limit)
            return file.read(size)  # not `limit`, for which Python would allocate memory

    def exists(self, name: str) -> bool:
        with self._store_errors(name):
            try:
                self._path(name).lstat()  # also finds a folder or a broken link, where `create` would fail
            except FileNotFoundError:
                return False
            return True

    def create(self, name: str, content: bytes) -> bool:
        path = self._path(name)
        with self._store_errors(name, len(content)), self._temporary(path, content) as temporary:
            try:
                os.link(temporary, path)  # fails if the name is taken
                is_new = True
            except FileExistsError:
                is_new = False
            sync(path.parent)  # even if it is not new: its creator may have died before it synced
            return is_new

    def replace(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with self._store_errors(name, len(content)), self._temporary(path, content) as temporary:
            temporary.replace(path)
            sync(path.parent)

    def append(self, name: str, content: bytes) -> None:
        self._append(name, content)
        self._unsynced.add(name)

    def add(self, name: str, content: bytes) -> None:
        self._append(name, content, durably=True)

    def _append(self, name: str, content: bytes, *, durably: bool = False) -> None:
        """Append all of the content or, if that fails, nothing. A killed process can leave a part of it."""
        with self._store_errors(name, len(content)), self._open_or_create(name, os.O_APPEND) as file:
            descriptor = file.fileno()
            self._wait_for_lock(name, descriptor)  # several writes may be needed
            if durably:
                sync(self._path(name).parent)  # first, so that no error can follow once the lines are stored
            size = os.fstat(descriptor).st_size
            left = self._last_line(descriptor, size)
            kept = complete_lines(left)
            end = size - len(left) + min(len(kept), len(left))
            if end < size:
                os.ftruncate(descriptor, end)
            unwritten = kept[len(left) :] + content  # begins with a line end if the last line lacks it
            try:
                while unwritten:
                    unwritten = unwritten[os.write(descriptor, unwritten) :]
                if durably:
                    os.fsync(descriptor)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, end)
                raise

    def _last_line(self, descriptor: int, size: int) -> bytes:
        """Return what follows the last line end of a file: at most as much as a line may have."""
        length = min(size, MAX_LINE_BYTES)
        return os.pread(descriptor, length, size - length).rpartition(b"\n")[2]

    def flush(self) -> None:
        for name in [*self._unsynced]:
            self._append(name, b"", durably=True)
            self._unsynced.discard(name)

    def names(self, prefix: str) -> Iterator[str]:
        self._require_root()
        found: list[str] = []
        with self._store_errors(prefix):
            for folder, files in self._walk(prefix):
                path = "" if folder == self._root else f"{folder.relative_to(self._root)}/"
                found += [path + file for file in files if not TEMPORARY.fullmatch(file)]
        yield from sorted(found)

    def folders(self, prefix: str) -> list[str]:
        self._require_root()
        with self._store_errors(prefix), contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self._path(prefix)) if entry.is_dir())
        return []

    def delete(self, name: str) -> None:
        with self._store_errors(name):
            self._path(name).unlink(missing_ok=True)

    def delete_below(self, prefix: str) -> None:
        path = self._path(prefix)
        with self._store_errors(prefix), contextlib.suppress(FileNotFoundError):
            if path.is_symlink():
                path.unlink()
            for folder, files in self._walk(prefix):
                for file in files:
                    (folder / file).unlink(missing_ok=True)  # another process deletes them, too
                try:
                    folder.rmdir()
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # another process deletes, or creates files
                        raise
            sync(path.parent)

    def _walk(self, prefix: str) -> Iterator[tuple[Path, list[str]]]:
        """Yield every folder below a prefix, innermost first, and the names of its files, links to folders included."""
        if prefix:
            check_name(prefix)
        for path, folders, files in os.walk(self._root / prefix, topdown=False, onerror=_raise):
            folder = Path(path)
            yield folder, files + [name for name in folders if (folder / name).is_symlink()]

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        own = f"process {os.getpid()} on {socket.gethostname()} since {now_text()}"
        with self._store_errors(name):
            file = self._open_or_create(name)
        with file:
            with self._store_errors(name):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = os.read(file.fileno(), 200).decode(errors="replace") or "another process"
                    raise BusyError(
                        f"{self._path(name)}: expected no lock, got one held by {holder}; wait for that process, or"
                        " end it"
                    ) from None
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), own.encode())
            yield

    def is_locked(self, name: str) -> bool:
        with self._store_errors(name), self._reading(name) as file:
            try:
                if file is not None:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def _wait_for_lock(self, name: str, descriptor: int) -> None:
        """Lock an open file until it is closed. Raises StoreError if another process holds its lock for too long."""
        deadline = time.monotonic() + MAX_LOCKED_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            time.sleep(LOCK_POLL_SECONDS)
        expected = f"no lock for {MAX_LOCKED_SECONDS:.0f} s or longer"
        raise StoreError(f"{self._path(name)}: expected {expected}, got one of another process; end that process")

    def where(self, name: str) -> str:
        return str(self._path(name))

    def _path(self, name: str) -> Path:
        check_name(name)
        return self._root / name

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[IO[bytes] | None]:
        """Open a file; None if it does not exist."""
        try:
            file = self._open(name, os.O_RDONLY | os.O_NONBLOCK, "rb")  # do not wait if it is a pipe
        except FileNotFoundError:
            yield None
            return
        with file:
            yield file

    def _open_or_create(self, name: str, flags: int = 0) -> IO[bytes]:
        self._make_folder(self._path(name).parent)
        return self._open(name, os.O_RDWR | os.O_CREAT | flags, "r+b")

    def _open(self, name: str, flags: int, mode: str) -> IO[bytes]:
        """Open a regular file. Raises IntegrityError if it is something else, or a link."""
        path = self._path(name)
        try:
            descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise IntegrityError(f"{path}: expected a regular file, got a link; remove it") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise IntegrityError(f"{path}: expected a regular file, got something else; remove it")
        return os.fdopen(descriptor, mode)

    def _make_folder(self, folder: Path) -> None:
        """Create a folder and those above it durably.

        Existing ones are synced, too, since their creator may have died before it synced them.
        """
        if folder in self._durable and folder.is_dir():
            return
        if folder == self._root:
            folder.mkdir(self._mode, parents=True, exist_ok=True)
        else:
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # the parent of the root may be unreadable
            sync(folder.parent)
        self._durable.add(folder)

    @contextlib.contextmanager
    def _temporary(self, path: Path, content: bytes) -> Iterator[Path]:
        """Provide a synced file with this content beside `path`, and delete it at the end if it still exists."""
        self._make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise StoreError(f"{self._root}: expected a folder, got none; name another with --storage")

    @contextlib.contextmanager
    def _store_errors(self, name: str, needed: int = 0) -> Iterator[None]:
        """Turn an OSError into a StoreError; `needed`: the number of bytes to write."""
        try:
            yield
        except OSError as error:
            path = self._root / name
            reason = error.strerror or type(error).__name__  # str(error) would name a temporary file
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                disk = next(folder for folder in (self._root, *self._root.parents) if folder.exists())
                raise StoreFullError(
                    f"{path}: expected {needed:,} bytes of free space, got {shutil.disk_usage(disk).free:,} ({reason})"
                    "; delete old versions (jobs.models gc) or choose another storage with --storage"
                ) from error
            raise StoreError(f"{path} cannot be read or written ({reason}); name another with --storage") from error


def _raise(error: OSError) -> None:
    """Raise an error of `os.walk`, unless there is no such folder, perhaps because another process has deleted it."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
