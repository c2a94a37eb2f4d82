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
from typing import BinaryIO

from mnist_lib.clock import now_text
from mnist_lib.documents import complete_lines
from mnist_lib.errors import BusyError, IntegrityError, SpecError, StoreError, StoreFullError
from mnist_lib.objects.protocol import MAX_DOCUMENT_BYTES, MAX_RECORD_BYTES, Fence, check_name, require_size

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")  # no valid name of an object begins with a dot
LEFTOVER_AGE_SECONDS = 86_400
# A lock is held while a file gets its name, or lines are appended to it.
MAX_FENCED_SECONDS, FENCED_POLL_SECONDS = 60.0, 0.005
MAX_LINE_BYTES = MAX_DOCUMENT_BYTES
MAX_DEPTH = 50  # of folders; each takes a descriptor while the folders in it are listed
FOLDER = os.O_RDONLY | os.O_DIRECTORY
INSIDE = FOLDER | os.O_NOFOLLOW
LINKS = "links inside a storage are not followed"


class LocalObjects:
    """Objects as files below a folder, which may be a link.

    Inside it no link is followed: each folder is opened relative to the one before it, and files relative to the last.
    So nothing outside is read, changed or deleted, even if a folder is replaced by a link meanwhile.

    Args:
        below: a folder inside of `root`, whose path may contain any characters; the objects are in it.
    """

    max_concurrent_requests = 1

    def __init__(self, root: Path, below: str = "") -> None:
        self._root, self._below = root, [part for part in below.split("/") if part]
        if ".." in self._below:
            raise SpecError(f"folder: expected one inside of {root}, got {below[:100]!r}; choose another")
        self._durable: set[str] = set()  # folders that this process has created or found, and synced; "": the root
        self._unsynced: set[str] = set()  # files to which this process has appended

    def read(self, name: str, limit: int = MAX_RECORD_BYTES) -> bytes | None:
        with self._store_errors(name), self._reading(name) as file:
            if file is None:
                return None
            size = os.fstat(file.fileno()).st_size
            require_size(self.where(name), size, limit)
            return file.read(size)  # not `limit`, for which Python would allocate memory

    def lines(self, name: str, limit: int = MAX_RECORD_BYTES) -> Iterator[bytes]:
        with self._store_errors(name), self._reading(name) as file:
            while file is not None and (line := file.readline(limit + 1)):
                if line.endswith(b"\n"):
                    yield line[:-1]
                else:  # too long, or the last one
                    require_size(f"{self.where(name)}: a line", len(line), limit)

    def exists(self, name: str) -> bool:
        with self._store_errors(name):
            try:
                with self._parent(name) as (folder, last):
                    os.lstat(last, dir_fd=folder)  # also finds a folder or a broken link, where `create` would fail
            except FileNotFoundError:
                return False
            return True

    def create(self, name: str, content: bytes) -> bool:
        with self._store_errors(name, len(content)), self._synced_file(name, content) as (folder, temporary, last):
            try:
                os.link(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)  # fails if the name is taken
            except FileExistsError:
                os.fsync(folder)  # its creator may have died before this sync
                return False
            os.fsync(folder)
            return True

    def replace(self, name: str, content: bytes, fence: Fence | None = None) -> None:
        with self._store_errors(name, len(content)), self._synced_file(name, content) as (folder, temporary, last):
            with contextlib.nullcontext() if fence is None else self._fenced(fence):
                os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    def append(self, name: str, content: bytes, fence: Fence | None = None) -> None:
        self._append(name, content)  # without the fence, since this replaces nothing
        self._unsynced.add(name)

    def add(self, name: str, content: bytes) -> None:
        self._append(name, content, durably=True)

    def _append(self, name: str, content: bytes, *, durably: bool = False) -> None:
        """Append all of the content or, if that fails, nothing. A killed process can leave a part of it."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        with self._store_errors(name, len(content)), _closing(self._open(name, flags, make=True)) as descriptor:
            self._wait_for_lock(name, descriptor)  # several writes may be needed
            if durably:
                with self._parent(name) as (folder, _):
                    os.fsync(folder)  # first: an error must not follow when the lines are stored
            size = os.fstat(descriptor).st_size
            left = self._last_line(name, descriptor, size)
            kept = complete_lines(left)
            end = size - len(left) + min(len(kept), len(left))
            if end < size:
                os.ftruncate(descriptor, end)
            unwritten = kept[len(left) :] + content  # begins with the end of a last line that lacks it
            try:
                while unwritten:
                    unwritten = unwritten[os.write(descriptor, unwritten) :]
                if durably:
                    os.fsync(descriptor)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, end)
                raise

    def _last_line(self, name: str, descriptor: int, size: int) -> bytes:
        """Return what follows the last line end of a file. Raises IntegrityError if it is too long for a line."""
        if not size or os.pread(descriptor, 1, size - 1) == b"\n":
            return b""
        length = min(size, MAX_LINE_BYTES)
        found = os.pread(descriptor, length, size - length)
        if length < size and b"\n" not in found:
            raise IntegrityError(
                f"{self._path(name)}: expected a last line of at most {MAX_LINE_BYTES:,} bytes, got more; remove it"
            )
        return found[found.rfind(b"\n") + 1 :]

    def flush(self) -> None:
        for name in [*self._unsynced]:
            self._append(name, b"", durably=True)
            self._unsynced.discard(name)

    def names(self, prefix: str) -> Iterator[str]:
        self._require_root()
        found: list[str] = []
        with self._store_errors(prefix), contextlib.suppress(FileNotFoundError), self._folder(prefix) as top:
            for _, path, files, _ in _walk(top, f"{prefix}/" if prefix else ""):
                found += [path + file for file in files if not TEMPORARY.fullmatch(file)]
        yield from sorted(found)

    def folders(self, prefix: str) -> list[str]:
        self._require_root()
        with self._store_errors(prefix), contextlib.suppress(FileNotFoundError), self._folder(prefix) as folder:
            return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
        return []

    def delete(self, name: str) -> None:
        with self._store_errors(name), contextlib.suppress(FileNotFoundError), self._parent(name) as (folder, last):
            os.unlink(last, dir_fd=folder)

    def delete_below(self, prefix: str) -> None:
        with self._store_errors(prefix), contextlib.suppress(FileNotFoundError), self._parent(prefix) as (parent, last):
            self._durable.clear()
            try:
                top = os.open(last, INSIDE, dir_fd=parent)
            except NotADirectoryError:
                os.unlink(last, dir_fd=parent)  # a link, or a file
            else:
                with _closing(top):
                    for folder, _, files, folders in _walk(top):
                        for remove, names in ((os.unlink, files), (os.rmdir, folders)):
                            for name in names:
                                with contextlib.suppress(FileNotFoundError):  # another process deletes them, too
                                    remove(name, dir_fd=folder)
                try:
                    os.rmdir(last, dir_fd=parent)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # another process deletes, or creates files
                        raise
            os.fsync(parent)

    def delete_leftovers(self, prefix: str) -> None:
        with self._store_errors(prefix), contextlib.suppress(FileNotFoundError), self._folder(prefix) as top:
            for folder, _, files, _ in _walk(top):
                for file in filter(TEMPORARY.fullmatch, files):
                    with contextlib.suppress(FileNotFoundError):
                        if time.time() - os.lstat(file, dir_fd=folder).st_mtime > LEFTOVER_AGE_SECONDS:
                            os.unlink(file, dir_fd=folder)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator["LocalObjects"]:
        own = f"process {os.getpid()} on {socket.gethostname()} since {now_text()}"
        with self._store_errors(name):
            descriptor = self._open(name, os.O_RDWR | os.O_CREAT, make=True)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise BusyError(
                    f"{self._path(name)}: expected no lock, got one held by {holder}; wait for that process, or end it"
                ) from None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, own.encode())
        try:
            yield self
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _fenced(self, fence: Fence) -> Iterator[None]:
        """Check the fence, and keep the holders of later terms from writing until the context ends."""
        with _closing(self._open(fence.lock, os.O_RDWR | os.O_CREAT, make=True)) as descriptor:
            self._wait_for_lock(fence.lock, descriptor)
            fence.check()
            yield

    def _wait_for_lock(self, name: str, descriptor: int) -> None:
        """Lock an open file until it is closed. Raises StoreError if another process holds its lock for too long."""
        deadline = time.monotonic() + MAX_FENCED_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{self._path(name)}: expected no lock for {MAX_FENCED_SECONDS:.0f} s or longer,"
                        " got one of a process that may be suspended; end that process"
                    ) from None
                time.sleep(FENCED_POLL_SECONDS)

    def where(self, name: str) -> str:
        return str(self._path(name))

    def _path(self, name: str) -> Path:
        check_name(name)
        return self._root.joinpath(*self._below, name)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[BinaryIO | None]:
        """Open a regular file; None if it does not exist."""
        try:
            descriptor = self._open(name, os.O_RDONLY | os.O_NONBLOCK)  # do not wait if it is a pipe
        except FileNotFoundError:
            yield None
            return
        with _closing(descriptor):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # `fdopen` refuses a folder in other words
                raise IntegrityError(f"{self._path(name)}: expected a regular file, got something else; remove it")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                yield file

    def _open(self, name: str, flags: int, *, make: bool = False) -> int:
        """Return a descriptor of a file; `make`: whether to create its folders."""
        with self._parent(name, make=make) as (folder, last):
            try:
                return os.open(last, flags | os.O_NOFOLLOW, 0o666, dir_fd=folder)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                raise IntegrityError(
                    f"{self._path(name)}: expected a regular file, got a link; {LINKS}: remove it"
                ) from error

    @contextlib.contextmanager
    def _parent(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Provide a descriptor of the folder of an object, and the last part of its name."""
        parent, separator, last = name.rpartition("/")
        check_name(last if parent else separator + last)  # `_folder` checks the others
        with self._folder(parent, make=make) as folder:
            yield folder, last

    @contextlib.contextmanager
    def _folder(self, name: str, *, make: bool = False) -> Iterator[int]:
        """Provide a descriptor of a folder, of the root for "".

        Args:
            make: whether to create it and its parents. Existing ones are synced, too, since their creator may have died
                before it synced them.
        """
        if name:
            check_name(name)
        path = ""
        if make and path not in self._durable:
            self._root.mkdir(parents=True, exist_ok=True)
            # The parent of the root may be unreadable.
            with contextlib.suppress(PermissionError), _closing(os.open(self._root.parent, FOLDER)) as parent:
                os.fsync(parent)
            self._durable.add(path)
        folder = os.open(self._root, FOLDER)
        try:
            for part in [*self._below, *(name.split("/") if name else ())]:
                path = f"{path}/{part}"
                if make and path not in self._durable:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                    os.fsync(folder)
                    self._durable.add(path)
                try:
                    inner = os.open(part, INSIDE, dir_fd=folder)
                except NotADirectoryError as error:
                    raise IntegrityError(
                        f"{self._root}{path}: expected a folder, got a link or a file; {LINKS}: put the folder itself"
                        " there, or mount it there"
                    ) from error
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _synced_file(self, name: str, content: bytes) -> Iterator[tuple[int, str, str]]:
        """Provide the folder of an object, a synced temporary file in it, and the last part of the object's name.

        The temporary file is deleted afterwards if it still exists.
        """
        temporary, flags = f".{name.rpartition('/')[2]}.{uuid.uuid4().hex}", os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with contextlib.ExitStack() as stack:
            try:
                folder, last = stack.enter_context(self._parent(name, make=True))
                descriptor = os.open(temporary, flags, 0o666, dir_fd=folder)
            except FileNotFoundError:  # another process has deleted the folder since
                self._durable.clear()
                folder, last = stack.enter_context(self._parent(name, make=True))
                descriptor = os.open(temporary, flags, 0o666, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                yield folder, temporary, last
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise StoreError(f"{self._root}: expected a folder, got none; name another with --storage")

    @contextlib.contextmanager
    def _store_errors(self, name: str, needed: int = 0) -> Iterator[None]:
        """Turn an OSError into a StoreError; `needed`: the number of bytes to write."""
        try:
            yield
        except OSError as error:
            path = self._root.joinpath(*self._below, name)
            reason = error.strerror or type(error).__name__  # str(error) would name a temporary file
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                disk = next(folder for folder in (self._root, *self._root.parents) if folder.exists())
                raise StoreFullError(
                    f"{path}: expected {needed:,} bytes of free space, got {shutil.disk_usage(disk).free:,} ({reason})"
                    "; delete old versions (jobs.models gc) or choose another storage with --storage"
                ) from error
            raise StoreError(f"{path} cannot be read or written ({reason}); name another with --storage") from error


def _walk(folder: int, path: str = "", depth: int = 0) -> Iterator[tuple[int, str, list[str], list[str]]]:
    """Yield every folder, innermost first: descriptor, path with a final slash, names of its files and folders.

    The files include everything that is not a folder. Links are not followed. Folders that another process deletes
    meanwhile are left out.
    """
    if depth > MAX_DEPTH:
        raise OSError(errno.ENAMETOOLONG, f"folders nested more than {MAX_DEPTH} deep")
    with os.scandir(folder) as entries:
        kinds = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    folders = [name for name, is_folder in kinds if is_folder]
    for name in folders:
        with contextlib.suppress(FileNotFoundError), _closing(os.open(name, INSIDE, dir_fd=folder)) as inner:
            yield from _walk(inner, f"{path}{name}/", depth + 1)
    yield folder, path, [name for name, is_folder in kinds if not is_folder], folders


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
